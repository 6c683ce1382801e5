"""Whole commands over seeds: each once, what Ctrl-C leaves, and the seconds with torch's steps."""

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cifar10.commands import pareto, torch_times, whole_command
from experiments.cifar10.commands.figures import draw_pareto
from experiments.cifar10.commands.pareto import FOR_CPUS, Plan, main
from experiments.cifar10.commands.speed import Speed
from experiments.cifar10.commands.torch_times import Phase, relative_time, time_phases
from experiments.cifar10.commands.whole_command import CommandFailed, train_alone
from experiments.cifar10.config import PRESETS, Config
from experiments.cifar10.torch_step import not_written_for
from experiments.common.estimates import Estimate
from tests.support.run_folders import check_figures, error_line, only_run

NAMES = ("digits", "digits --epochs 4")
SEEDS = (5, 3)
RUNS = [(name, seed) for seed in SEEDS for name in NAMES]
ARGUMENTS = [*NAMES, "--seeds", "5,3"]
PHASES = [Phase(25, True, 3.0, 1.0, 9.0, 2.0), Phase(32, False, 1.0, 5.0, 9.0, 4.0)]


def finished(name: str, seed: int) -> dict[str, Any]:
    """A run of 100 or 200 seconds, whose accuracy depends on the seed too."""
    slow = name == NAMES[1]
    return {
        "settings": name,
        "seed": seed,
        "accuracy": 0.9 + 0.01 * seed,
        "accuracy_without_views": 0.8,
        "nll_at_temperature": 0.25,
        "calibration_error_at_temperature": None,
        "temperature": 0.5,
        "whole_seconds": 200.0 if slow else 100.0 + seed,
        "cpu_seconds": 150.0,
        "seconds": {"starting": 10.0, "compiling": 20.0, "training": 60.0, "ending": 10.0},
    }


class Trainings:
    """Pretends to train, and notes what; raises the errors that are planned for a run."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.trained: list[tuple[str, int]] = []
        self.errors: dict[tuple[str, int], BaseException] = {}
        monkeypatch.setattr(pareto, "train_alone", self)
        monkeypatch.setattr(pareto, "load_torch", lambda: None)

    def __call__(self, name: str, seed: int, folder: Path, options: Any, **_: Any) -> Any:
        self.trained.append((name, seed))
        if error := self.errors.get((name, seed)):
            raise error
        return finished(name, seed)


@pytest.fixture
def trainings(monkeypatch):
    return Trainings(monkeypatch)


def test_all_settings_are_trained_with_one_seed_before_the_next(trainings, tmp_path, capsys):
    main([*ARGUMENTS, "--runs-dir", str(tmp_path)])
    assert trainings.trained == RUNS
    folder = only_run(tmp_path, "cifar10-pareto")
    values = json.loads((folder / "summary.json").read_text())
    assert [(run["settings"], run["seed"]) for run in values["runs"]] == RUNS
    assert values["missing"] == []
    accuracies = [finished(*run)["accuracy"] for run in RUNS[::2]]
    mean = Estimate.of(accuracies, least=0.0, most=1.0)
    found = values["settings"]["digits"]["means"]["accuracy"]
    assert (found["mean"], found["lower"], found["upper"]) == (mean.mean, mean.lower, mean.upper)
    assert "calibration_error_at_temperature" not in values["settings"]["digits"]["means"]
    assert values["machine"]["cores"] >= 1
    check_figures(folder, ("pareto",))
    table = (folder / "pareto.md").read_text()
    assert "| `digits` | 2 | 94.00 [81.29, 100.00] | 0.2500 |  | 104.0 [91.3, 116.7] |" in table
    printed = capsys.readouterr().out
    assert "torch is not installed: pip install" in printed
    assert "run 2 of 4: digits --epochs 4, seed 5: accuracy 95.00%, 100.0 s in all" in printed


def test_ctrl_c_leaves_a_table_and_a_command_that_goes_on(trainings, tmp_path, capsys):
    trainings.errors[RUNS[2]] = KeyboardInterrupt()
    with pytest.raises(SystemExit) as caught:
        main([*ARGUMENTS, "--runs-dir", str(tmp_path)])
    assert caught.value.code == 130
    folder = only_run(tmp_path, "cifar10-pareto")
    values = json.loads((folder / "summary.json").read_text())
    assert values["missing"] == [list(run) for run in RUNS[2:]]
    printed = capsys.readouterr()
    assert f"python -m experiments.cifar10 pareto --resume {folder}" in printed.err
    assert "95.00" in printed.out

    trainings.errors.clear()
    trainings.trained.clear()
    main(["--resume", str(folder)])
    assert trainings.trained == RUNS[2:]
    trainings.trained.clear()
    main(["--resume", str(folder)])
    assert trainings.trained == []


def test_a_run_that_fails_is_said_at_the_end_and_trained_again(trainings, tmp_path, capsys):
    trainings.errors[RUNS[1]] = CommandFailed("digits: expected a finished run, got nan")
    with pytest.raises(SystemExit) as caught:
        main([*ARGUMENTS, "--runs-dir", str(tmp_path)])
    assert caught.value.code == 2
    assert trainings.trained == RUNS
    assert "error: digits: expected a finished run" in capsys.readouterr().err
    trainings.errors.clear()
    main(["--resume", str(only_run(tmp_path, "cifar10-pareto"))])
    assert trainings.trained[len(RUNS) :] == [RUNS[1]]


def test_where_the_first_run_fails_no_other_is_tried(trainings, tmp_path, capsys):
    trainings.errors[RUNS[0]] = CommandFailed("digits: expected a finished run, got nan")
    line = error_line(main, [*ARGUMENTS, "--runs-dir", str(tmp_path)], capsys)
    assert line == "error: digits: expected a finished run, got nan"
    assert trainings.trained == RUNS[:1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["huge"], "settings: expected one of cpu89, cpu92"),
        (["digits", "digits"], "settings: expected different ones, got digits, digits"),
        (["digits --seed 3"], "settings: expected --seeds for all of them, got --seed in"),
        (["digits", "--seeds", "3:1"], "--seeds: expected FIRST:END or a list"),
        (["digits", "--epochs", "3"], "--epochs: expected --seeds, --cold, --data-dir"),
        (["digits", "--resume", "x"], "--resume: expected no settings, --seeds or --cold with it"),
        (["--resume", "no/such"], "no/such: expected a run folder holding config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_one_line_and_no_folder(tmp_path, capsys, arguments, message):
    runs = tmp_path / "runs"
    assert message in error_line(main, [*arguments, "--runs-dir", str(runs)], capsys)
    assert not runs.exists()


def test_a_preset_that_has_changed_is_not_mixed_with_its_runs(
    trainings, tmp_path, capsys, monkeypatch
):
    main(["digits", "--seeds", "1", "--runs-dir", str(tmp_path)])
    capsys.readouterr()
    monkeypatch.setitem(PRESETS, "digits", Config(dataset="digits", epochs=3.0))
    folder = only_run(tmp_path, "cifar10-pareto")
    line = error_line(main, ["--resume", str(folder)], capsys)
    assert "--resume: expected 'digits' as it was, got other values of held_out, widths" in line


def test_the_presets_for_cpus_exist():
    assert set(FOR_CPUS) <= PRESETS.keys()
    assert Plan.of(FOR_CPUS, (0,), False).settings["cpu89"] == PRESETS["cpu89"]
    assert [not_written_for(PRESETS[name]) for name in FOR_CPUS] == [[]] * len(FOR_CPUS)


# --- one command


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(whole_command, "MODULE", "tests.support.fake_training")


def test_a_command_is_timed_from_its_start_to_its_end(fake, tmp_path):
    folder = tmp_path / "seed"
    folder.mkdir()
    (folder / "rest").touch()  # of an earlier attempt
    said: list[str] = []
    began = time.perf_counter()
    run = train_alone("digits", 7, folder, [], cold=True, saying=said.append)
    assert said[0] == "starting"
    assert 0 < run["whole_seconds"] <= time.perf_counter() - began
    assert sum(run["seconds"].values()) == pytest.approx(run["whole_seconds"])
    assert (run["settings"], run["seed"], run["accuracy"]) == ("digits", 7, 0.75)
    assert run["accuracy_without_views"] == 0.5
    assert run["temperature"] is None
    assert sorted(path.name for path in folder.iterdir()) == ["cifar10", "output.txt"]


def test_a_command_without_a_result_is_its_last_line(fake, tmp_path):
    with pytest.raises(CommandFailed, match=r"^digits, seed 13: expected a finished run, got exit"):
        train_alone("digits", 13, tmp_path / "seed", [], cold=False, saying=lambda line: None)


def test_a_signal_interrupts_and_no_command_is_left_behind(fake, tmp_path):
    def stop(line: str) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    with whole_command.signals_interrupt(), pytest.raises(KeyboardInterrupt) as caught:
        train_alone("digits", 7, tmp_path / "seed", [], cold=False, saying=stop)
    assert caught.value.args == (signal.SIGTERM,)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# --- torch's steps


def test_torch_seconds_are_those_of_the_command_with_its_steps():
    assert relative_time(PHASES) == (3 * 1 * 2 + 1 * 5 * 4) / (3 * 1 + 1 * 5)
    speed = Speed.of([finished("digits", seed) for seed in (0, 10)], PHASES)
    # 105 seconds on average, of which 60 are training and 20 compiling
    assert speed.torch_seconds == pytest.approx(105 - 60 - 20 + 60 * 26 / 8)
    assert Speed.of([finished("digits", 0)], None).torch_seconds is None


def test_steps_are_timed_in_turn_for_each_kind_of_epoch(monkeypatch):
    taken: list[str] = []
    monkeypatch.setattr(torch_times, "xentjax_step", lambda *_, **__: lambda: taken.append("ours"))
    monkeypatch.setattr(torch_times, "torch_step", lambda *_, **__: lambda: taken.append("torch"))
    monkeypatch.setattr(torch_times, "MOST_ROUNDS", 4)
    clock = itertools.count()
    monkeypatch.setattr(torch_times.time, "perf_counter", lambda: float(next(clock)))
    config = Config(epochs=4.5, image_sides=(25, 25, 25, 32), whiten_bias_epochs=2.0)
    phases = time_phases(torch_times, config, lambda line: None)
    kinds = [(phase.side, phase.train_whitening, phase.epochs) for phase in phases]
    assert kinds == [(25, True, 2.0), (25, False, 1.0), (32, False, 1.5)]
    assert all(phase.ratio == 1.0 for phase in phases)
    ours, torch = ["ours"] * 2, ["torch"] * 2
    assert taken[: 2 + 8] == ["ours", "torch", *ours, *torch, *torch, *ours]
    assert len(taken) == 3 * (2 + 4 * 4)


def test_the_figure_has_every_mean_and_run_and_torch_s_seconds():
    runs = [finished("digits", seed) for seed in (1, 2, 4)]
    speeds = {"slow": Speed.of(runs, PHASES), "one run": Speed.of(runs[:1], None)}
    ax = draw_pareto(speeds, "a processor").axes[0]
    assert [text.get_text() for text in ax.texts] == ["slow", "one run"]
    drawn = {tuple(np.asarray(line.get_xydata()).ravel()) for line in ax.lines}
    torch = speeds["slow"].torch_seconds
    accuracy = speeds["slow"].means["accuracy"].mean
    assert (torch, accuracy) in drawn
    assert tuple(np.ravel([(100.0 + s, 0.9 + 0.01 * s) for s in (1, 2, 4)])) in drawn
    assert ax.get_xscale() == "log"
