"""A tiny training: it learns, leaves its files, and ends the same however often it is stopped."""

import dataclasses
import io
import math
import re
import shutil
import time
from collections.abc import Callable

import jax
import numpy as np
import pytest
from rich.console import Console
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from experiments.cifar10.__main__ import show
from experiments.cifar10.backend import current_backend
from experiments.cifar10.config import Config, ConfigError
from experiments.cifar10.results.figures import draw_reliability
from experiments.cifar10.training import run as train
from experiments.cifar10.training.run import (
    WITHOUT_BAR,
    DivergenceError,
    Result,
    TrainingStopped,
    _Trainer,
    run,
)
from experiments.common import checkpoint, compile_cache, progress
from experiments.common.checkpoint import CheckpointError
from experiments.common.command import UserError
from experiments.common.progress import TrainingProgress
from experiments.common.run_folder import RunError, RunFolder
from experiments.common.stopwatch import Stopwatch
from tests.support.full_disk import FULL_DISK, needs_full_disk
from tests.support.run_folders import read_metrics, read_summary
from tests.support.tiny_training import (
    CONFIG,
    DATASET,
    HELD_OUT,
    STEPS,
    colours,
    differences,
    stop_after,
)

FIGURES = {"curves", "confusion", "reliability", "risk_coverage", "misclassified"}


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], RunFolder]:
    return lambda config: RunFolder.create("cifar10", config, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def finished(new_folder) -> tuple[RunFolder, Result]:
    """A run that nothing interrupts."""
    folder = new_folder(CONFIG)
    return folder, run(CONFIG, DATASET, folder)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    (line,) = str(error.value).splitlines()
    return line


def test_the_loss_falls_and_the_classes_are_learned(finished):
    folder, result = finished
    first, last = read_metrics(folder.path)
    # 11 steps from uniform logits, whose loss is log(3)
    assert last["loss"] < first["loss"] - 0.01 < math.log(3)
    assert result.accuracy > 0.6  # 1/3 by chance, 0.9 at best
    assert result.test.logits.shape == (21, 3)
    assert result.nll == pytest.approx(result.test.nll)


def test_metrics_have_a_line_for_every_epoch(finished):
    folder, _ = finished
    metrics = read_metrics(folder.path)
    assert [(m["epoch"], m["step"], m["image_side"]) for m in metrics] == [(1, 6, 9), (2, 11, 12)]
    for line, images in zip(metrics, (6 * 8, 5 * 8), strict=True):
        assert math.isfinite(line["loss"])
        assert 0 <= line["accuracy"] <= 1
        assert round(line["accuracy"] * images, 6).is_integer()
        assert round(line["held_out_accuracy"] * HELD_OUT, 6).is_integer()
        assert line["images_per_second"] > 0


def test_summary_and_figures(finished):
    folder, result = finished
    summary = read_summary(folder.path)
    assert (summary["seed"], summary["steps"]) == (0, STEPS)
    assert summary["test_accuracy"] == result.test.accuracy
    assert summary["test_plain_nll"] == result.test_plain.nll
    assert summary["test_calibration_error"] == result.test.calibration_error
    assert (summary["dataset"], summary["data_sha256"]) == ("colours", {"all": "none"})
    assert min(summary["train_seconds"], summary["test_seconds"]) > 0
    assert summary["compile_seconds"] >= 0  # 0 where another test has compiled the same programs
    assert {path.stem for path in folder.path.glob("*.png")} == FIGURES


def test_the_temperature_is_the_best_of_the_held_out_images(finished):
    folder, result = finished
    summary = read_summary(folder.path)
    assert summary["temperature"] == result.temperature
    assert summary["test_calibrated_nll"] == result.calibrated.nll
    np.testing.assert_allclose(
        result.calibrated.logits, result.test.logits / result.temperature, rtol=1e-6
    )
    # a run that is tested on what this one holds out
    held_out = slice(len(DATASET.train_images) - HELD_OUT, None)
    labels = DATASET.train_labels[held_out]
    swapped = dataclasses.replace(
        DATASET, test_images=DATASET.train_images[held_out], test_labels=labels
    )
    folder_of_copy = RunFolder(folder.path.parent / "copy")
    shutil.copytree(folder.path, folder_of_copy.path)
    (folder_of_copy.path / "summary.json").unlink()
    logits = run(CONFIG, swapped, folder_of_copy, resume=True).test.logits.astype(np.float64)

    def nll(temperature: float) -> float:
        scores = logits / temperature
        normalizers = np.asarray(logsumexp(scores, -1))
        return float(np.mean(normalizers - scores[np.arange(HELD_OUT), labels]))

    best = minimize_scalar(nll, bounds=(1e-3, 1e3), method="bounded", options={"xatol": 1e-9})
    assert result.temperature == pytest.approx(best.x, rel=1e-3)


def test_held_out_images_are_not_trained_on(finished, new_folder):
    _, expected = finished
    arrays = zip((DATASET.train_images, DATASET.train_labels), colours(HELD_OUT, 2), strict=True)
    images, labels = (np.concatenate([old[:-HELD_OUT], new]) for old, new in arrays)
    changed = dataclasses.replace(DATASET, train_images=images, train_labels=labels)
    result = run(CONFIG, changed, new_folder(CONFIG))
    assert differences(result.state, expected.state) == []
    assert result.temperature != expected.temperature


@pytest.mark.parametrize(
    ("seconds", "speed", "said"),
    [
        (12.34, 567.0, "12.3 s of training (567 images/s)"),
        (None, 567.0, "training (567 images/s since it was resumed)"),
        (None, 0.0, "training, finished before it was resumed"),
    ],
)
def test_what_is_said_of_the_time_of_training(finished, seconds, speed, said):
    result = dataclasses.replace(finished[1], train_seconds=seconds, images_per_second=speed)
    output = io.StringIO()
    show(CONFIG, result, Console(file=output, width=300))
    assert f"; {said}, " in output.getvalue()


@pytest.mark.parametrize("terminal", [False, True])
def test_only_where_no_bar_is_shown_a_line_says_what_to_wait_for(terminal):
    output = io.StringIO()
    console = Console(file=output, width=300, force_terminal=terminal)
    with TrainingProgress(console, WITHOUT_BAR):
        pass
    assert ("a line follows for every epoch" in output.getvalue()) != terminal


def test_the_reliability_diagram_has_numbers_in_its_title_and_nothing_over_its_bars(finished):
    test = finished[1].test
    upper, lower = draw_reliability({"test": test}).axes
    confidence = test.probabilities.max(axis=1).mean()
    assert f"mean confidence {confidence:.1%}, accuracy {test.accuracy:.1%}" in upper.get_title(
        "left"
    )
    assert (upper.get_legend(), lower.get_legend()) == (None, None)


def test_holding_out_all_images_is_one_line(new_folder):
    config = dataclasses.replace(CONFIG, held_out=len(DATASET.train_images))
    with pytest.raises(ConfigError, match=r"held_out: expected less than 80, .*, got 80") as caught:
        run(config, DATASET, new_folder(config))
    one_line(caught)


def test_the_checkpoint_holds_the_final_state(finished):
    folder, result = finished
    assert differences(checkpoint.restore(folder.path, result.state), result.state) == []


def test_two_stops_in_the_middle_of_epochs_change_no_bit(finished, new_folder):
    _, expected = finished
    folder = new_folder(CONFIG)
    with pytest.raises(TrainingStopped, match="stopped after step 2 of 11"):
        run(CONFIG, DATASET, folder, should_stop=stop_after(2))
    assert not (folder.path / "summary.json").exists()
    with pytest.raises(TrainingStopped, match="stopped after step 9 of 11"):
        run(CONFIG, DATASET, folder, resume=True, should_stop=stop_after(7))
    resumed = run(CONFIG, DATASET, folder, resume=True)
    assert differences(resumed.state, expected.state) == []
    np.testing.assert_array_equal(resumed.test.logits, expected.test.logits)
    kept = ("epoch", "step", "loss", "accuracy", "held_out_accuracy", "image_side")
    for actual, line in zip(read_metrics(folder.path), read_metrics(finished[0].path), strict=True):
        assert {k: actual[k] for k in kept} == {k: line[k] for k in kept}
    assert read_summary(folder.path)["test_nll"] == expected.nll


def test_programs_read_from_the_cache_change_no_bit(finished, new_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(compile_cache.OPTIONS, "jax_persistent_cache_min_compile_time_secs", 0.0)
    _, expected = finished
    read: list[str] = []
    jax.monitoring.register_event_listener(
        lambda event, **rest: read.append(event) if event.endswith("/cache_hits") else None
    )
    for _ in ("written", "read"):
        read.clear()
        train._programs.cache_clear()
        with compile_cache.compile_cache(tmp_path / "compiled"):
            result = run(CONFIG, DATASET, new_folder(CONFIG))
        assert differences(result.state, expected.state) == []
        np.testing.assert_array_equal(result.test.logits, expected.test.logits)
    assert len(read) >= 6  # first state, plan, two steps and two predictions


def test_the_seconds_of_a_run_are_those_of_its_activities(finished, new_folder):
    watch = Stopwatch(activity="before")
    began = time.monotonic()
    folder = new_folder(CONFIG)
    run(CONFIG, DATASET, folder, watch=watch)
    seconds = watch.seconds()
    assert sum(seconds.values()) == pytest.approx(time.monotonic() - began, abs=0.05)
    assert seconds.keys() >= {"preparing", "training", "testing", "evaluating", "saving", "drawing"}
    written = read_summary(folder.path)["seconds"]
    assert 0 < written["drawing"] <= seconds["drawing"]


def test_a_finished_run_cannot_be_resumed(finished):
    folder, _ = finished
    with pytest.raises(CheckpointError) as caught:
        run(CONFIG, DATASET, folder, resume=True)
    assert str(folder.path) in one_line(caught)


def test_a_folder_without_checkpoint_cannot_be_resumed(new_folder):
    folder = new_folder(CONFIG)
    with pytest.raises(CheckpointError, match="expected a checkpoint, got none"):
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
    # it was asked before every step
    assert f"in step {len(asked)}; there is no checkpoint" in line
    assert not (folder.path / checkpoint.FOLDER).exists()
    assert not (folder.path / "summary.json").exists()


def test_a_loss_that_is_no_number_names_the_checkpoint_before_it(new_folder):
    folder = new_folder(CONFIG)
    with pytest.raises(TrainingStopped):
        run(CONFIG, DATASET, folder, should_stop=stop_after(7))
    trainer = _Trainer(CONFIG, DATASET, folder, None)
    trainer.begin(resume=True)
    state = trainer.state
    broken = jax.tree.map(lambda leaf: leaf * np.float32(np.nan), state.params)
    checkpoint.save(folder.path, state._replace(params=broken, step=state.step + 1))
    with pytest.raises(DivergenceError) as caught:
        run(CONFIG, DATASET, folder, resume=True)
    assert "got nan in step 9; the checkpoint of step 8 is kept; a smaller" in one_line(caught)
    assert checkpoint.latest_step(folder.path) == 8


def test_a_stop_before_a_finished_training_is_tested_is_made_up_for(finished, tmp_path):
    """Kill the process after the last step, before the summary is written."""
    folder, expected = finished
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    (copy.path / "summary.json").unlink()
    result = run(CONFIG, DATASET, copy, resume=True)
    assert differences(result.state, expected.state) == []
    assert read_summary(copy.path)["test_nll"] == expected.nll
    assert len(read_metrics(copy.path)) == 2


@pytest.mark.parametrize("torn", [b'{"epoch": 3, "st', b"\0" * 100])
def test_a_run_with_torn_records_ends_as_one_without(finished, tmp_path, torn):
    """Crash while a line, or the summary, is written."""
    folder, expected = finished
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    (copy.path / "summary.json").write_bytes(b"")
    with (copy.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    output = io.StringIO()
    console = Console(file=output, width=300)
    result = run(CONFIG, DATASET, copy, resume=True, console=console)
    assert "metrics.jsonl: dropped 1 incomplete line\n" in output.getvalue()
    assert differences(result.state, expected.state) == []
    assert read_summary(copy.path)["test_nll"] == expected.nll
    assert [m["epoch"] for m in read_metrics(copy.path)] == [1, 2]


@pytest.mark.parametrize("line", ["{}", '{"epoch": 3}'])
def test_a_foreign_line_among_the_records_ends_no_training(finished, tmp_path, line):
    folder, expected = finished
    copy = RunFolder(tmp_path / "copy")
    shutil.copytree(folder.path, copy.path)
    (copy.path / "summary.json").unlink()
    with (copy.path / "metrics.jsonl").open("a") as file:
        file.write(line + "\n")
    run(CONFIG, DATASET, copy, resume=True)
    assert read_summary(copy.path)["test_nll"] == expected.nll


def test_the_time_left_counts_the_programs_to_compile_and_the_work(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = TrainingProgress(None)
    shown.plan(work=10.0, programs=3)
    assert shown.left() == "for 0:00:00"
    with shown.compiling():
        now[0] += 20
        assert shown.left() == "for 0:00:20"
    now[0] += 5
    shown.worked(2.0)
    assert shown.left() == "left 0:01:00"  # two programs of 20 s, and 8 of 2.5 s
    now[0] += 3
    assert shown.left() == "left 0:00:57"
    with shown.compiling():
        now[0] += 10
    now[0] += 2
    shown.worked(2.0)
    assert shown.left() == "left 0:00:30"  # one program of 15 s, and 6 of 2.5 s


@needs_full_disk
def test_a_full_disk_ends_a_training_with_one_line_and_its_last_checkpoint(new_folder):
    folder = new_folder(CONFIG)
    with pytest.raises(TrainingStopped):
        run(CONFIG, DATASET, folder, should_stop=stop_after(2))
    (folder.path / "metrics.jsonl").symlink_to(FULL_DISK)
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot write, No space left") as caught:
        run(CONFIG, DATASET, folder, resume=True)
    one_line(caught)
    assert checkpoint.latest_step(folder.path) == 2


@pytest.mark.slow
def test_many_steps_in_one_program_are_as_good_as_one_by_one(finished, new_folder, monkeypatch):
    """Scan the steps of an epoch, which accelerators do."""
    _, expected = finished
    scanning = dataclasses.replace(current_backend(), scans_epochs=True)
    monkeypatch.setattr(train, "current_backend", lambda: scanning)
    folder = new_folder(CONFIG)
    result = run(CONFIG, DATASET, folder)
    assert [m["step"] for m in read_metrics(folder.path)] == [6, 11]
    np.testing.assert_allclose(result.test.logits, expected.test.logits, rtol=1e-3, atol=1e-4)


def test_a_batch_larger_than_the_data_set_is_one_line(new_folder):
    config = dataclasses.replace(CONFIG, batch_size=51)
    with pytest.raises(ConfigError, match="batch_size: expected at most 50") as caught:
        run(config, DATASET, new_folder(config))
    one_line(caught)
