"""Train a convolutional network on CIFAR-10 with xentjax's cross-entropy, and test it.

A preset names a set of settings; any other option replaces one of them. `tiny` (32/64/128 channels,
6 epochs) takes a few minutes on two CPU cores, `airbench94` (64/256/256 channels, 10 epochs) is
made for a GPU or TPU, `tour` is a training of a minute, and `digits` trains on scikit-learn's
digits, for which nothing is downloaded. Without --preset the hardware and --dataset decide.

CIFAR-10 is looked for in --data-dir, $XENTJAX_DATA_DIR and the user's cache, else downloaded. The
run's folder receives the settings, metrics.jsonl, summary.json, figures and a checkpoint. Ctrl-C
or SIGTERM saves a checkpoint; --resume goes on from it to the very result the run would have had.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro
from rich.console import Console
from rich.table import Table

from experiments._command import UserError, one_line_errors
from experiments._records import RUNS, RunFolder
from experiments.cifar10.backend import current_backend, split_cpu
from experiments.cifar10.config import PRESETS, Config, DatasetName
from experiments.cifar10.data import Dataset, load_cifar10, load_digits
from experiments.cifar10.interrupt import StopRequest
from experiments.cifar10.train import Result, TrainingStopped, run

NAME = "cifar10"
PROGRAM = f"python -m experiments.{NAME}"
PresetName = Literal["tiny", "airbench94", "tour", "digits"]


@dataclass(frozen=True)
class Command:
    """All options."""

    settings: tyro.conf.OmitArgPrefixes[Config]
    preset: PresetName
    """The settings to start from; options below replace single ones."""
    data_dir: Path | None = None
    """Folder that holds CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the run gets a folder of its own."""
    resume: Path | None = None
    """Folder of a stopped run to go on with, under its own settings."""


@dataclass(frozen=True)
class Start:
    """The options that decide what the others default to."""

    preset: PresetName | None = None
    dataset: DatasetName | None = None
    resume: Path | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    split_cpu()
    with one_line_errors():
        command = parse(argv)
        console = Console()
        dataset = load(command.settings, command.data_dir)
        console.print(f"{dataset.name} from {dataset.source}", highlight=False)
        folder = (
            RunFolder.open(command.resume)
            if command.resume
            else RunFolder.create(NAME, command.settings, command.runs_dir)
        )
        with StopRequest() as stop:
            try:
                result = run(
                    command.settings,
                    dataset,
                    folder,
                    resume=command.resume is not None,
                    console=console,
                    should_stop=stop.requested,
                )
            except TrainingStopped as stopped:
                options = ["--resume", str(folder.path)]
                if command.data_dir is not None:
                    options += ["--data-dir", str(command.data_dir)]
                command_line = shlex.join(options)
                print(f"{stopped}; go on with: {PROGRAM} {command_line}", file=sys.stderr)
                raise SystemExit(stop.exit_code) from None
        show(result, console)
        console.print(f"Figures, numbers and checkpoint: {folder.path}", highlight=False)


def parse(argv: Sequence[str] | None = None) -> Command:
    """The options, whose defaults come from the preset or from the run that is resumed.

    Raises:
        UserError: a setting is impossible, or differs from the run that is resumed.
    """
    start, _ = tyro.cli(Start, args=argv, return_unknown_args=True, add_help=False)
    recorded = Config.from_json(RunFolder.open(start.resume).config()) if start.resume else None
    preset = start.preset or (
        "digits" if start.dataset == "digits" else current_backend().default_preset
    )
    # a preset given with --resume is compared like any other setting
    settings = PRESETS[preset] if recorded is None or start.preset else recorded
    command = tyro.cli(
        Command,
        args=argv,
        default=Command(settings, preset),
        prog=PROGRAM,
        description=__doc__,
    )
    if recorded is not None and (changes := recorded.changes(command.settings)):
        raise UserError(
            f"--resume: expected the settings of {start.resume}, got other values of "
            + ", ".join(changes)
        )
    return command


def load(config: Config, data_dir: Path | None) -> Dataset:
    """The data set that the settings name."""
    return load_digits() if config.dataset == "digits" else load_cifar10(data_dir)


def show(result: Result, console: Console) -> None:
    """Print the numbers of a run."""
    table = Table(title="Test images")
    for heading in ("", "accuracy", "NLL (nats)", "calibration error"):
        table.add_column(heading, justify="right")
    rows = {"as they are": result.test_plain}
    if result.test is not result.test_plain:  # settings without flips have no mirror images
        rows = {"averaged over mirror images": result.test} | rows
    for name, test in rows.items():
        table.add_row(
            name, f"{test.accuracy:.2%}", f"{test.nll:.4f}", f"{test.calibration_error:.2%}"
        )
    console.print(table)
    console.print(
        f"{result.train_seconds:.1f} s of training ({result.images_per_second:,.0f} images/s), "
        f"{result.compile_seconds:.1f} s of compiling, {result.test_seconds:.1f} s of testing",
        highlight=False,
    )


if __name__ == "__main__":
    main()
