"""Runs of one setting with several seeds: a folder for each, and the means of the results."""

import math
import queue
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import jax
from rich.console import Console

from experiments.cifar10.config import Config
from experiments.cifar10.data.load import Dataset
from experiments.cifar10.training.run import DivergenceError, run
from experiments.common import checkpoint
from experiments.common.command import UserError, check_seed, say
from experiments.common.estimates import Estimate
from experiments.common.hosts import wait_for_writer
from experiments.common.run_folder import RunFolder, reading
from experiments.common.stopwatch import Stopwatch

MOST_SEEDS = 10_000  # these take weeks
RUN_NAME, SWEEP_NAME = "cifar10", "cifar10-seeds"  # folders of one seed and of several
# figures of a run's summary in printed order, with their largest value; the least is 0
FIGURES = {
    "test_accuracy": 1.0,
    "test_plain_accuracy": 1.0,
    "test_nll": math.inf,
    "test_calibrated_nll": math.inf,
    "test_calibration_error": 1.0,
    "test_calibrated_calibration_error": 1.0,
    "temperature": math.inf,
    "train_seconds": math.inf,
}


@dataclass(frozen=True)
class Sweep:
    """Settings, and the seeds to train with."""

    settings: Config
    """Settings of every run except for the seed."""
    seeds: tuple[int, ...]
    """The seeds."""

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Self:
        """Read the sweep in config.json of the folder `path`."""
        with reading(path / "config.json"):
            seeds = tuple(values["seeds"])
            if not seeds or {type(seed) for seed in seeds} != {int}:
                raise TypeError(f"seeds {seeds}")
            return cls(Config.from_json(values["settings"], path), seeds)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Parse "0:25" (0 to 24) or "1,4,7".

    Raises:
        UserError: the text is neither, there are too many, or a seed has more than 32 bits.
    """
    seeds: Sequence[int]
    if (match := re.fullmatch(r"(\d{1,18}):(\d{1,18})", text)) and int(match[1]) < int(match[2]):
        seeds = range(int(match[1]), int(match[2]))
    elif re.fullmatch(r"\d{1,18}(,\d{1,18})*", text):
        seeds = [int(seed) for seed in text.split(",")]
    else:
        raise UserError(f"--seeds: expected FIRST:END or a list such as 1,4,7, got {text[:40]!r}")
    if len(seeds) > MOST_SEEDS:
        raise UserError(f"--seeds: expected at most {MOST_SEEDS}, got {len(seeds)}")
    if len(set(seeds)) < len(seeds):
        raise UserError(f"--seeds: expected distinct seeds, got {text[:40]}")
    for seed in seeds:
        check_seed("--seeds", seed)
    return tuple(seeds)


def run_seeds(
    sweep: Sweep,
    dataset: Dataset,
    folder: RunFolder,
    *,
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    watch: Stopwatch | None = None,
) -> list[dict[str, Any]]:
    """Train every seed without a result in the folder; resume stopped runs.

    On CPU, with one accelerator or with several hosts, seeds run one after the other; with several
    accelerators on one host, one seed on each of them. The result of a seed is bit for bit that of
    a single run on as many devices.

    Args:
        sweep: settings and seeds.
        dataset: the images.
        folder: the folder in which every seed has its own.
        console: shows the progress, if there is one.
        should_stop: called before every call of the step, see `training.run.run`; True saves
            checkpoints and stops.
        watch: counts the seconds of each activity, unless seeds are trained side by side.

    Returns:
        The summaries of the runs, in the order of the seeds.

    Raises:
        TrainingStopped: `should_stop` returned True.
        DivergenceError: some runs diverged; the others are finished.
        UserError: see `training.run.run`.
    """
    devices = jax.local_devices()
    together = jax.process_count() > 1 or sweep.settings.num_devices is not None
    if devices[0].platform == "cpu" or together:
        devices = devices[:1]
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in devices:
        free.put(device)
    alone = len(devices) == 1

    def train(seed: int) -> dict[str, Any]:
        settings = replace(sweep.settings, seed=seed)
        if not alone:
            settings = replace(settings, num_devices=1)
        part = folder.part(f"seed-{seed}", RUN_NAME, settings)
        if (known := part.read_summary()) is None:
            device = free.get()
            try:
                run(
                    settings,
                    dataset,
                    part,
                    resume=checkpoint.latest_step(part.path) is not None,
                    devices=None if alone else [device],
                    console=console if alone else None,
                    should_stop=should_stop,
                    watch=watch if alone else None,
                )
            finally:
                free.put(device)
            wait_for_writer()
            known = part.read_summary()
            assert known is not None, "run writes it"
        with reading(part.path / "summary.json"):
            line = _line(seed, known)
        if console is not None:
            say(console, line)
        return known

    diverged: list[str] = []

    def train_or_note(seed: int) -> dict[str, Any]:
        try:
            return train(seed)
        except DivergenceError as error:
            diverged.append(f"seed {seed}: {error}")
            return {}

    with folder.locked():
        if alone:
            summaries = [train_or_note(seed) for seed in sweep.seeds]
        else:
            with ThreadPoolExecutor(max_workers=len(devices)) as pool:
                # wait for all, so that each has saved its checkpoint if one was stopped
                futures = [pool.submit(train_or_note, seed) for seed in sweep.seeds]
                try:
                    summaries = [future.result() for future in futures]
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        if diverged:
            raise DivergenceError("; ".join(diverged))
        folder.summary(summarize(sweep, summaries))
        from experiments.cifar10.commands.figures import draw_seeds  # matplotlib takes a while

        accuracies = [float(summary["test_accuracy"]) for summary in summaries]
        mean = estimates(summaries)["test_accuracy"]
        folder.figure("seeds", draw_seeds(sweep.seeds, accuracies, mean))
    return summaries


def estimates(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Estimate]:
    """Estimate the mean of each figure that all runs have."""
    values = {name: [summary.get(name) for summary in summaries] for name in FIGURES}
    return {
        name: Estimate.of(
            [float(value) for value in column if value is not None], least=0.0, most=FIGURES[name]
        )
        for name, column in values.items()
        if None not in column
    }


def summarize(sweep: Sweep, summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect the numbers of a sweep: means, and values by seed."""
    return {
        "means": estimates(summaries),
        "seeds": [
            {"seed": seed} | {name: summary.get(name) for name in FIGURES}
            for seed, summary in zip(sweep.seeds, summaries, strict=True)
        ],
    }


def _line(seed: int, summary: Mapping[str, Any]) -> str:
    calibrated = summary.get("test_calibrated_nll")
    more = "" if calibrated is None else f", {calibrated:.4f} with temperature"
    seconds = summary["train_seconds"]
    time = "" if seconds is None else f", {seconds:.0f} s of training"
    return (
        f"seed {seed}: accuracy {summary['test_accuracy']:.2%}, NLL {summary['test_nll']:.4f}"
        f"{more}{time}"
    )
