"""The comparison of losses: means over seeds, and differences seed by seed."""

import io
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from experiments import loss_comparison
from experiments.cifar10.config import PRESETS
from experiments.cifar10.training.run import TrainingStopped
from experiments.loss_comparison import BASELINE, LOSSES, Config, compare, draw, main, settings_of
from tests.support.run_folders import check_figures, error_line, only_run, read_summary
from tests.support.tiny_training import CONFIG, DATASET

ACCURACIES = {loss: (0.8 + 0.01 * i, 0.82 + 0.02 * i) for i, loss in enumerate(LOSSES)}
RESULTS = compare(
    {
        loss: [
            {
                "test_accuracy": accuracy,
                "test_nll": 1 - accuracy,
                "test_calibration_error": 0.1,
                "temperature": 0.5 if loss != "Brier" else None,
            }
            for accuracy in by_seed
        ]
        for loss, by_seed in ACCURACIES.items()
    }
)


def test_differences_are_taken_seed_by_seed():
    assert RESULTS[BASELINE].difference.mean == 0
    for i, loss in enumerate(LOSSES):
        difference = RESULTS[loss].difference
        assert difference.n == 2
        np.testing.assert_allclose(difference.mean, 0.015 * i, atol=1e-12)
        np.testing.assert_allclose(difference.sd, 0.01 * i / np.sqrt(2), atol=1e-12)
        np.testing.assert_allclose(
            RESULTS[loss].figures["test_nll"].mean, 1 - np.mean(ACCURACIES[loss])
        )


def test_a_figure_that_not_all_runs_have_is_left_out_of_table_and_plot():
    assert "temperature" not in RESULTS["Brier"].figures
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(loss_comparison.table(RESULTS))
    shown = console.export_text()
    (row,) = (line for line in shown.splitlines() if line.startswith("│ temperature T "))
    assert [cell.strip() for cell in row.split("│")[2:-1]] == ["0.500"] * 4 + [""]
    axes = draw(RESULTS).axes
    assert [ax.get_xlabel() for ax in axes] == [
        "test accuracy",
        "test NLL (nats)",
        "calibration error",
    ]
    assert [label.get_text() for label in axes[0].get_yticklabels()] == list(LOSSES)[::-1]


def test_settings_differ_in_the_loss_alone():
    settings = settings_of(Config(preset="digits", epochs=2.0))
    assert {s.epochs for s in settings.values()} == {2.0}
    for name, other in settings.items():
        assert set(settings[BASELINE].changes(other)) <= {"loss", "label_smoothing"}
        assert other.label_smoothing == (0.2 if name == "label smoothing" else 0)


def test_one_seed_is_one_line_and_no_run(tmp_path, capsys):
    arguments = ["--preset", "digits", "--seeds", "3", "--runs-dir", str(tmp_path / "runs")]
    assert "--seeds: expected at least 2" in error_line(main, arguments, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_the_command_trains_compares_and_goes_on(tmp_path, capsys, monkeypatch):
    losses = {name: LOSSES[name] for name in (BASELINE, "Brier")}
    monkeypatch.setattr(loss_comparison, "LOSSES", losses)
    monkeypatch.setattr(loss_comparison, "load", lambda *place: DATASET)
    monkeypatch.setitem(PRESETS, "cpu89", CONFIG)
    main(["--seeds", "0:2", "--runs-dir", str(tmp_path)])
    folder = only_run(tmp_path, loss_comparison.NAME)
    summary = read_summary(folder)
    for name in losses:
        seeds = [read_summary(folder / name / f"seed-{seed}") for seed in (0, 1)]
        for figure in ("test_accuracy", "test_calibrated_nll"):
            mean = np.mean([seed[figure] for seed in seeds])
            assert summary[name]["figures"][figure]["mean"] == pytest.approx(mean)
    check_figures(folder, ("losses",))
    assert "NLL at T" in capsys.readouterr().out

    (folder / "summary.json").unlink()
    monkeypatch.setattr("experiments.cifar10.commands.seeds.run", None)  # must not be called
    main(["--resume", str(folder)])
    assert read_summary(folder) == summary
    capsys.readouterr()
    other = ["--resume", str(folder), "--seeds", "0:4"]
    assert "--seeds: expected 0:2 as in the resumed run, got 0:4" in error_line(main, other, capsys)
    sweep = ["--resume", str(folder / BASELINE)]
    assert "expected a run of loss_comparison, got one of" in error_line(main, sweep, capsys)


def test_settings_that_do_not_suit_the_images_leave_no_folder(tmp_path, capsys, monkeypatch):
    held_out = PRESETS["cpu89"].held_out
    images = np.zeros((held_out, 32, 32, 3), np.uint8)
    dataset = SimpleNamespace(train_images=images)
    monkeypatch.setattr(loss_comparison, "load", lambda *place: dataset)
    line = error_line(main, ["--runs-dir", str(tmp_path / "runs")], capsys)
    assert line.startswith(f"error: held_out: expected less than {held_out}, the number of")
    assert not (tmp_path / "runs").exists()


def test_a_stop_names_the_command_that_goes_on(tmp_path, capsys, monkeypatch):
    def stopped_at_once(*args, **kwargs):
        raise TrainingStopped("stopped after step 0 of 9")

    monkeypatch.setattr(loss_comparison, "run", stopped_at_once)
    monkeypatch.setattr(loss_comparison, "load", lambda *place: None)
    monkeypatch.setattr(loss_comparison, "check", lambda *settings: None)
    runs = tmp_path / "my runs"
    with pytest.raises(SystemExit):
        main(["--data-dir", "some where", "--runs-dir", str(runs)])
    folder: Path = only_run(runs, loss_comparison.NAME)
    expected = f"stopped after step 0 of 9; resume with: {loss_comparison.PROGRAM} "
    assert capsys.readouterr().err == f"{expected}--resume '{folder}' --data-dir 'some where'\n"
