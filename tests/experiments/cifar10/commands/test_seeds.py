"""Many seeds: each as if it were alone, none of them twice."""

import dataclasses
import json
import math
import shutil
from typing import Any

import numpy as np
import pytest

from experiments.cifar10 import __main__ as command
from experiments.cifar10.__main__ import main, parse
from experiments.cifar10.commands.figures import draw_seeds
from experiments.cifar10.commands.seeds import Sweep, estimates, parse_seeds, run_seeds
from experiments.cifar10.config import PRESETS, Config
from experiments.cifar10.training.run import DivergenceError, TrainingStopped, run
from experiments.common import checkpoint
from experiments.common.command import UserError
from experiments.common.estimates import Estimate
from experiments.common.run_folder import RunFolder, plain
from tests.support.run_folders import check_figures, only_run, read_metrics, read_summary
from tests.support.tiny_training import CONFIG, DATASET, STEPS, differences, stop_after

SEEDS = (5, 3)
SWEEP = Sweep(CONFIG, SEEDS)


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("7", (7,)),
        ("1,4,7", (1, 4, 7)),
        ("7,1", (7, 1)),
        ("0:3", (0, 1, 2)),
        ("4:5", (4,)),
        (f"{2**32 - 1}", (2**32 - 1,)),
    ],
)
def test_seeds_are_a_range_or_a_list(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    "text", ["", "3:3", "4:3", "0:", ":3", "0:3:1", "1,", ",1", "1;2", "-1", "0.5", "a", "1 2", "²"]
)
def test_other_texts_are_one_line(text):
    with pytest.raises(
        UserError, match=r"^--seeds: expected FIRST:END or a list such as 1,4,7, got .*$"
    ):
        parse_seeds(text)


def test_a_seed_that_comes_twice_is_one_line():
    with pytest.raises(UserError, match=r"^--seeds: expected distinct seeds, got 2,1,2$"):
        parse_seeds("2,1,2")


@pytest.mark.parametrize("text", [f"{2**32}", f"1,{2**32}", f"{2**32 - 1}:{2**32 + 1}"])
def test_a_seed_of_more_than_32_bits_is_one_line(text):
    with pytest.raises(UserError, match=r"^--seeds: expected 0 to 4294967295, got 4294967296$"):
        parse_seeds(text)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, list[dict[str, Any]], int]:
    """A sweep that was stopped in its second training, and how many steps finished it."""
    folder = RunFolder.create("cifar10-seeds", SWEEP, tmp_path_factory.mktemp("runs"))
    with pytest.raises(TrainingStopped, match=f"stopped after step 4 of {STEPS}"):
        run_seeds(SWEEP, DATASET, folder, should_stop=stop_after(STEPS + 4))
    assert folder.read_summary() is None
    first, second = (RunFolder.open(folder.path / f"seed-{seed}") for seed in SEEDS)
    assert first.read_summary() is not None
    assert second.read_summary() is None
    asked: list[None] = []
    summaries = run_seeds(
        SWEEP, DATASET, folder, should_stop=lambda: asked.append(None) is not None
    )
    return folder, summaries, len(asked)


@pytest.mark.slow
def test_a_stopped_sweep_goes_on_where_it_was(sweep):
    *_, steps = sweep
    assert steps == STEPS - 4


def test_each_seed_is_bit_for_bit_a_training_of_its_own(sweep, tmp_path):
    folder, summaries, _ = sweep
    for seed, summary in zip(SEEDS, summaries, strict=True):
        config = dataclasses.replace(CONFIG, seed=seed)
        part = RunFolder.open(folder.path / f"seed-{seed}")
        assert part.config()["seed"] == seed
        alone = run(config, DATASET, RunFolder.create("alone", config, tmp_path))
        assert differences(checkpoint.restore(part.path, alone.state), alone.state) == []
        assert summary == read_summary(part.path)
        for name in ("accuracy", "nll", "brier", "calibration_error"):
            assert summary[f"test_{name}"] == getattr(alone.test, name)
        assert summary["temperature"] == alone.temperature
        assert [m["step"] for m in read_metrics(part.path)] == [6, STEPS]
    first, second = summaries
    assert first["test_nll"] != second["test_nll"]


def test_a_seed_that_diverges_keeps_no_other_from_training(tmp_path, monkeypatch):
    def diverging(config: Config, dataset: Any, folder: RunFolder, **how: Any) -> None:
        if config.seed == SEEDS[0]:
            raise DivergenceError("loss: expected a finite number, got nan in step 1")
        folder.summary({"test_accuracy": 0.5, "test_nll": 1.0, "train_seconds": None})

    monkeypatch.setattr("experiments.cifar10.commands.seeds.run", diverging)
    folder = RunFolder.create("cifar10-seeds", SWEEP, tmp_path)
    with pytest.raises(DivergenceError, match=r"^seed 5: loss: expected a finite number, got nan"):
        run_seeds(SWEEP, DATASET, folder)
    assert read_summary(folder.path / "seed-3")["test_accuracy"] == 0.5
    assert folder.read_summary() is None


def test_the_summary_has_every_seed_and_the_means(sweep):
    folder, summaries, _ = sweep
    written = read_summary(folder.path)
    assert [entry["seed"] for entry in written["seeds"]] == list(SEEDS)
    for name in ("test_accuracy", "test_nll", "temperature"):
        values = [summary[name] for summary in summaries]
        assert [entry[name] for entry in written["seeds"]] == values
        mean = Estimate.of(values, least=0.0, most=1.0 if name == "test_accuracy" else math.inf)
        assert written["means"][name] == plain(dataclasses.asdict(mean))
    check_figures(folder.path, ("seeds",))


def test_the_figure_ends_where_no_accuracy_can_be(sweep):
    far_apart = [{"test_accuracy": 0.9}, {"test_accuracy": 0.7}]
    mean = estimates(far_apart)["test_accuracy"]
    ax = draw_seeds(SWEEP.seeds, [0.9, 0.7], mean).axes[0]
    corners = ax.patches[0].get_extents().get_points()
    (_, low), (_, high) = ax.transData.inverted().transform(corners)
    assert (low, high) == pytest.approx((0, 1))


def test_the_command_trains_no_finished_seed_again(sweep, capsys, monkeypatch):
    folder, summaries, _ = sweep
    monkeypatch.setattr(command, "load", lambda *place: DATASET)
    monkeypatch.setattr("experiments.cifar10.commands.seeds.run", None)  # must not be called
    main(["--resume", str(folder.path)])
    printed = " ".join(capsys.readouterr().out.split())
    for seed, summary in zip(SEEDS, summaries, strict=True):
        assert f"seed {seed}: accuracy {summary['test_accuracy']:.2%}" in printed
    mean = np.mean([summary["test_accuracy"] for summary in summaries])
    assert f"test accuracy, % │ {100 * mean:.2f}" in printed


def test_the_command_makes_a_folder_for_all_and_one_for_each(sweep, tmp_path, monkeypatch):
    _, summaries, _ = sweep
    monkeypatch.setattr(command, "load", lambda *place: DATASET)
    monkeypatch.setitem(PRESETS, "cpu89", CONFIG)
    main(["--preset", "cpu89", "--seeds", "3", "--runs-dir", str(tmp_path)])
    folder = only_run(tmp_path, "cifar10-seeds")
    assert read_summary(folder / "seed-3")["test_nll"] == summaries[1]["test_nll"]


def test_a_sweep_is_resumed_with_its_own_seeds_and_settings(sweep):
    folder, *_ = sweep
    given, seeds = parse(["--resume", str(folder.path)])
    assert (given.settings, seeds) == (CONFIG, SEEDS)
    with pytest.raises(UserError, match=r"got other values of epochs, seeds$"):
        parse(["--resume", str(folder.path), "--seeds", "0:9", "--epochs", "3"])


def test_a_sweep_is_replayed_from_its_own_seeds_and_settings(sweep):
    replay = ["--replay", str(sweep[0].path)]
    given, seeds = parse(replay)
    assert (given.settings, seeds) == (CONFIG, SEEDS)
    given, seeds = parse([*replay, "--seeds", "0:2", "--epochs", "3"])
    assert (CONFIG.changes(given.settings), seeds) == (["epochs"], (0, 1))
    with pytest.raises(UserError, match=r"^--replay: expected no --preset with it, got cpu89$"):
        parse([*replay, "--preset", "cpu89"])
    with pytest.raises(UserError, match=r"^--seed: expected --seeds for several runs, got 7$"):
        parse([*replay, "--seed", "7"])


def test_a_replay_says_what_differs_and_ends_as_the_run_did(sweep, tmp_path, capsys, monkeypatch):
    earlier = sweep[0].path / "seed-3"
    record = json.loads((earlier / "config.json").read_text())
    record["versions"]["jax"] = "0.0.1"
    shutil.copytree(earlier, tmp_path / "earlier")
    (tmp_path / "earlier" / "config.json").write_text(json.dumps(record))
    monkeypatch.setattr(command, "load", lambda *place: DATASET)
    main(["--replay", str(tmp_path / "earlier"), "--runs-dir", str(tmp_path)])
    assert "replay: versions was {" in capsys.readouterr().out
    again = read_summary(only_run(tmp_path, "cifar10"))
    assert again["test_nll"] == read_summary(earlier)["test_nll"]
