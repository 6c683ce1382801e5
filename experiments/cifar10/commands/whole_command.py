"""A training as a user starts it: a whole command in a process of its own, timed from outside."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from experiments.cifar10.commands.seeds import RUN_NAME
from experiments.common.command import UserError
from experiments.common.interrupt import SIGNALS
from experiments.common.run_folder import RunFolder, reading

LOG = "output.txt"
MODULE = "experiments.cifar10"
LOOK_SECONDS = 0.5  # between two looks at what the command prints
TAIL_BYTES = 400
# entries of a run's summary, and their names in a record
FIGURES = {
    "test_accuracy": "accuracy",
    "test_plain_accuracy": "accuracy_without_views",
    "test_nll": "nll",
    "test_calibration_error": "calibration_error",
    "temperature": "temperature",
    "test_calibrated_nll": "nll_at_temperature",
    "test_calibrated_calibration_error": "calibration_error_at_temperature",
    "images_per_second": "images_per_second",
}


class CommandFailed(UserError):
    """A command that ended without a result; the message has its last line."""


def train_alone(
    settings: str,
    seed: int,
    folder: Path,
    options: Sequence[str],
    *,
    cold: bool,
    saying: Callable[[str], None],
) -> dict[str, Any]:
    """Train in a process of its own, and return the record of the run.

    Args:
        settings: a preset, and options after it.
        seed: the seed of the run.
        folder: the folder of the run; files left by an earlier attempt are removed.
        options: further options of the command.
        cold: compile every program, in a folder that is removed afterwards.
        saying: called with the last line of the command, twice a second.

    Raises:
        CommandFailed: the command has no result.
        RunError: a file of its folder cannot be read.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    compiled = folder / "compiled"
    options = [*options, "--compile-cache", str(compiled)] if cold else options
    command = [sys.executable, "-m", MODULE, "--preset", *shlex.split(settings)]
    command += ["--seed", str(seed), "--runs-dir", str(folder), *options]
    started, load, used = datetime.now().astimezone(), _load(), _cpu_seconds()
    with (folder / LOG).open("wb") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            while process.poll() is None:
                saying(_last_line(folder / LOG))
                try:
                    process.wait(LOOK_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
            seconds = time.perf_counter() - began
        finally:
            process.kill()
            process.wait()
    shutil.rmtree(compiled, ignore_errors=True)
    paths = list((folder / RUN_NAME).glob("*")) if process.returncode == 0 else []
    summary = RunFolder.open(paths[0], RUN_NAME).read_summary() if paths else None
    if summary is None:
        raise CommandFailed(
            f"{settings}, seed {seed}: expected a finished run, got exit code "
            f"{process.returncode}: {_last_line(folder / LOG)}"
        )
    with reading(paths[0] / "summary.json"):
        parts = {str(name): float(part) for name, part in summary["seconds"].items()}
        return {
            "settings": settings,
            "seed": seed,
            "cold": cold,
            "started": started.isoformat(timespec="seconds"),
            "load_at_start": load,
            "cpu_seconds": _cpu_seconds() - used,
            "whole_seconds": seconds,
            "seconds": parts | {"ending": seconds - sum(parts.values())},
            **{name: summary.get(entry) for entry, name in FIGURES.items()},
        }


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt like Ctrl-C; the error has the signal's number.

    Signals that the process was told to ignore, as nohup does, stay ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(-min(TAIL_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "starting")


def _cpu_seconds() -> float:
    """Return the seconds of all cores that ended child processes have used."""
    times = os.times()
    return times.children_user + times.children_system


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # not on Windows
