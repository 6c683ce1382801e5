"""A tiny training: it learns, leaves its files, and ends the same however often it is stopped."""

import dataclasses
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._command import UserError
from experiments._records import RunFolder
from experiments.cifar10 import checkpoint
from experiments.cifar10.checkpoint import CheckpointError
from experiments.cifar10.config import Config, ConfigError
from experiments.cifar10.data import Dataset
from experiments.cifar10.step import TrainState
from experiments.cifar10.train import DivergenceError, Result, TrainingStopped, run
from tests.run_folders import read_metrics, read_summary

CLASSES = ("red", "green", "blue")
STEPS_PER_EPOCH = 6
CONFIG = Config(
    epochs=2,
    batch_size=8,
    widths=(4, 4, 4),
    image_sides=(9, 12),
    learning_rate=60.0,
    label_smoothing=0.0,
    whiten_bias_epochs=1,
    lookahead=True,
)
FIGURES = {"curves.png", "confusion.png", "reliability.png", "misclassified.png"}


def colours(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the channel of the label is brighter; a tenth of the labels is wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 156, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 100
    wrong = rng.random(count) < 0.1
    return images.astype(np.uint8), np.where(wrong, (labels + 1) % 3, labels).astype(np.int32)


DATASET = Dataset(
    "colours", *colours(50, 0), *colours(21, 1), CLASSES, source="a test", sha256={"all": "none"}
)


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], RunFolder]:
    return lambda config: RunFolder.create("cifar10", config, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def finished(new_folder) -> tuple[RunFolder, Result]:
    """A run that nothing interrupts."""
    folder = new_folder(CONFIG)
    return folder, run(CONFIG, DATASET, folder)


def stop_after(steps: int) -> Callable[[], bool]:
    """True once this many steps have been taken."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps


def differences(actual: TrainState, expected: TrainState) -> list[str]:
    """The parts of the state that differ in any bit."""
    actual_leaves = jax.tree_util.tree_leaves_with_path(actual._asdict())
    expected_leaves = jax.tree_util.tree_leaves_with_path(expected._asdict())
    assert [path for path, _ in actual_leaves] == [path for path, _ in expected_leaves]
    return [
        jax.tree_util.keystr(path)
        for (path, a), (_, b) in zip(actual_leaves, expected_leaves, strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes() or a.dtype != b.dtype
    ]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    (line,) = str(error.value).splitlines()
    return line


def test_the_loss_falls_and_the_classes_are_learned(finished):
    folder, result = finished
    first, last = read_metrics(folder.path)
    # 12 steps from uniform logits, whose loss is log(3)
    assert last["loss"] < first["loss"] - 0.01 < math.log(3)
    assert result.accuracy > 0.6  # 1/3 by chance, 0.9 at best
    assert result.test.logits.shape == (21, 3)
    assert result.nll == pytest.approx(result.test.nll)


def test_metrics_have_a_line_for_every_epoch(finished):
    folder, _ = finished
    metrics = read_metrics(folder.path)
    assert [(m["epoch"], m["step"], m["image_side"]) for m in metrics] == [(1, 6, 9), (2, 12, 12)]
    for line in metrics:
        assert math.isfinite(line["loss"])
        assert 0 <= line["accuracy"] <= 1
        assert round(line["accuracy"] * 48, 6).is_integer()  # 50 images in 6 batches of 8
        assert round(line["test_accuracy"] * 21, 6).is_integer()
        assert line["images_per_second"] > 0


def test_summary_and_figures(finished):
    folder, result = finished
    summary = read_summary(folder.path)
    assert summary["steps"] == 2 * STEPS_PER_EPOCH
    assert summary["test_accuracy"] == result.test.accuracy
    assert summary["test_nll_plain"] == result.test_plain.nll
    assert summary["test_calibration_error"] == result.test.calibration_error
    assert (summary["dataset"], summary["data_sha256"]) == ("colours", {"all": "none"})
    assert min(summary["train_seconds"], summary["compile_seconds"], summary["test_seconds"]) > 0
    assert {path.name for path in folder.path.glob("*.png")} == FIGURES


def test_the_checkpoint_holds_the_final_state(finished):
    folder, result = finished
    assert differences(checkpoint.restore(folder.path, result.state), result.state) == []


def test_two_stops_in_the_middle_of_epochs_change_no_bit(finished, new_folder):
    _, expected = finished
    folder = new_folder(CONFIG)
    with pytest.raises(TrainingStopped, match="stopped after step 2 of 12"):
        run(CONFIG, DATASET, folder, should_stop=stop_after(2))
    assert not (folder.path / "summary.json").exists()
    with pytest.raises(TrainingStopped, match="stopped after step 9 of 12"):
        run(CONFIG, DATASET, folder, resume=True, should_stop=stop_after(7))
    resumed = run(CONFIG, DATASET, folder, resume=True)
    assert differences(resumed.state, expected.state) == []
    np.testing.assert_array_equal(resumed.test.logits, expected.test.logits)
    kept = ("epoch", "step", "loss", "accuracy", "test_accuracy", "image_side")
    for actual, line in zip(read_metrics(folder.path), read_metrics(finished[0].path), strict=True):
        assert {k: actual[k] for k in kept} == {k: line[k] for k in kept}
    assert read_summary(folder.path)["test_nll"] == expected.nll


def test_a_finished_run_cannot_be_resumed(finished):
    folder, _ = finished
    with pytest.raises(CheckpointError) as caught:
        run(CONFIG, DATASET, folder, resume=True)
    assert str(folder.path) in one_line(caught)


def test_a_folder_without_checkpoint_cannot_be_resumed(new_folder):
    folder = new_folder(CONFIG)
    with pytest.raises(CheckpointError, match="expected a checkpoint to resume from, got none"):
        run(CONFIG, DATASET, folder, resume=True)
    assert not (folder.path / checkpoint.FOLDER).exists()


def test_a_loss_that_is_no_number_names_the_step_and_leaves_no_checkpoint(new_folder):
    config = dataclasses.replace(CONFIG, learning_rate=1e30, epochs=1)
    folder = new_folder(config)
    asked: list[None] = []
    with pytest.raises(DivergenceError) as caught:
        run(config, DATASET, folder, should_stop=lambda: asked.append(None) is not None)
    line = one_line(caught)
    assert re.search(r"expected a finite number, got (nan|inf|-inf) in step", line)
    assert f"in step {len(asked)};" in line  # it was asked before every step
    assert not (folder.path / checkpoint.FOLDER).exists()
    assert not (folder.path / "summary.json").exists()


def test_a_batch_larger_than_the_data_set_is_one_line(new_folder):
    config = dataclasses.replace(CONFIG, batch_size=51)
    with pytest.raises(ConfigError, match="batch_size: expected at most 50") as caught:
        run(config, DATASET, new_folder(config))
    one_line(caught)


def small_state(step: int = 3, size: int = 2) -> TrainState:
    values = jnp.arange(size, dtype=jnp.float32)
    return TrainState(
        step=jnp.int32(step),
        params={"head": values},
        batch_stats={"norm": {"mean": values + 1.0}},
        optimizer=(values + 2.0,),
        slow=None,
        whitening=values + 3.0,
        loss=jnp.float32(0.25),
        correct=jnp.float32(5),
    )


def test_a_checkpoint_restores_every_part_and_replaces_the_one_before(tmp_path):
    checkpoint.save(tmp_path, small_state(3))
    checkpoint.save(tmp_path, small_state(4))
    like = jax.tree.map(jnp.zeros_like, small_state())
    assert differences(checkpoint.restore(tmp_path, like), small_state(4)) == []
    assert [p.name for p in (tmp_path / checkpoint.FOLDER).iterdir()] == ["4"]


def empty_all_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def remove_all_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [empty_all_files, remove_all_files], ids=lambda f: f.__name__)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage: Callable[[Path], Any]):
    checkpoint.save(tmp_path, small_state())
    damage(tmp_path / checkpoint.FOLDER)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path, small_state())
    assert str(tmp_path) in one_line(caught)


RESTORE = """
import sys, pathlib, tests.test_cifar10_train as t
t.checkpoint.restore(pathlib.Path(sys.argv[1]), t.small_state(size=int(sys.argv[2])))
"""


@pytest.mark.parametrize("damage", ["half the numbers", "another network"])
def test_numbers_that_cannot_be_read_are_one_line(tmp_path, damage):
    checkpoint.save(tmp_path, small_state(size=2))
    if damage == "half the numbers":
        for path in (tmp_path / checkpoint.FOLDER).rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    # in a process of its own: orbax leaves coroutines unawaited, which would fail a later test
    done = subprocess.run(
        [sys.executable, "-c", RESTORE, str(tmp_path), "5" if damage == "another network" else "2"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    expected = f"experiments.cifar10.checkpoint.CheckpointError: {tmp_path}"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(expected)]
    assert "cannot be read: " in line


def test_an_empty_checkpoint_folder_is_one_line(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    with pytest.raises(CheckpointError, match="expected a checkpoint to resume from, got none"):
        checkpoint.restore(tmp_path, small_state())
