"""Train a convolutional network on CIFAR-10 with xentjax's cross-entropy, and test it.

    python -m experiments.cifar10 [OPTIONS]
        one training, or one for each seed
    python -m experiments.cifar10 compare SETTINGS SETTINGS...
        which settings are better
    python -m experiments.cifar10 predict --run RUN IMAGE...
        the classes of your own images

A preset names a set of settings; any other option replaces one of them. `tiny` and `small` take
minutes on two CPU cores, the `airbench` presets are made for a GPU or TPU and named by the accuracy
their recipe is known for, `resnet18` is the usual yardstick, `tour` is a training of a minute,
and `digits` trains on scikit-learn's digits, for which nothing is downloaded. Without --preset the
hardware and --dataset decide.

CIFAR-10 is looked for in --data-dir, $XENTJAX_DATA_DIR and the user's cache, else downloaded. The
run's folder receives the settings, metrics.jsonl, summary.json, figures and a checkpoint. Ctrl-C,
SIGTERM and a closed terminal save a checkpoint; --resume goes on from it, on the same machine to
the very result the run would have had.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import tyro
from rich.console import Console

from experiments.cifar10.backend import current_backend, prepare_cpu
from experiments.cifar10.commands import compare, predict
from experiments.cifar10.commands.seeds import (
    FIGURES,
    RUN_NAME,
    SWEEP_NAME,
    Sweep,
    estimates,
    parse_seeds,
    run_seeds,
)
from experiments.cifar10.config import PRESETS, Config, PresetName
from experiments.cifar10.data.load import load
from experiments.cifar10.results.evaluate import Result
from experiments.cifar10.training.interrupt import resumable
from experiments.cifar10.training.run import check, run
from experiments.common.command import UserError, one_line_errors, parse_options, say, waiting
from experiments.common.hosts import is_writer
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.tables import new_table, show as show_table

PROGRAM = "python -m experiments.cifar10"


@dataclass(frozen=True)
class Command:
    """All options."""

    settings: tyro.conf.OmitArgPrefixes[Config]
    preset: PresetName
    """The settings to start from; options below replace single ones."""
    seeds: str | None = None
    """Train from each of these seeds, FIRST:END or a list such as 1,4,7, instead of from --seed."""
    data_dir: Path | None = None
    """Folder that holds CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the run gets a folder of its own."""
    resume: Path | None = None
    """Folder of a stopped run to go on with, under its own settings."""
    replay: Path | None = None
    """Folder of a run whose settings to start from, instead of a preset; the command says which
    revision, versions and device have changed since."""
    distributed: bool = False
    """Share every batch with the other hosts that this command was started on."""


@dataclass(frozen=True)
class Start:
    """The options that decide what the others default to; `Command` refuses impossible ones."""

    preset: str | None = None
    dataset: str | None = None
    resume: Path | None = None
    replay: Path | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
        return
    prepare_cpu()
    with one_line_errors():
        if "--distributed" in arguments:  # before anything asks which devices there are
            try:
                jax.distributed.initialize()
            except (ValueError, RuntimeError) as error:
                raise UserError(
                    f"--distributed: expected several hosts that jax knows of, got: {error}"
                ) from error
        command, seeds = parse(arguments)
        sweep = None if seeds is None else Sweep(command.settings, seeds)
        console = Console(quiet=not is_writer())
        with waiting(console, f"reading {command.settings.dataset}"):
            dataset = load(command.settings.dataset, command.data_dir)
        check(command.settings, dataset)
        say(console, f"{dataset.name} from {dataset.source}")
        for option, earlier in (("resume", command.resume), ("replay", command.replay)):
            if earlier is not None:
                for difference in RunFolder.open(earlier).differences():
                    say(console, f"{option}: {difference}")
        if command.resume:
            folder = RunFolder.open(command.resume)
        elif sweep:
            folder = RunFolder.create(SWEEP_NAME, sweep, command.runs_dir)
        else:
            folder = RunFolder.create(RUN_NAME, command.settings, command.runs_dir)
        with resumable(PROGRAM, folder.path, command.data_dir) as should_stop:
            if sweep:
                summaries = run_seeds(
                    sweep, dataset, folder, console=console, should_stop=should_stop
                )
                show_seeds(summaries, console)
            else:
                result = run(
                    command.settings,
                    dataset,
                    folder,
                    resume=command.resume is not None,
                    console=console,
                    should_stop=should_stop,
                )
                show(command.settings, result, console)
        more = "a folder for each seed" if sweep else "checkpoint"
        say(console, f"Figures, numbers and {more}: {folder.path}")


def parse(argv: Sequence[str] | None = None) -> tuple[Command, tuple[int, ...] | None]:
    """The options, and the seeds to train from if they are to be many.

    The defaults come from the preset, or from the run that is resumed or replayed.

    Raises:
        UserError: a setting is impossible, or differs from the run that is resumed.
    """
    options = sys.argv[1:] if argv is None else argv
    options = [option for option in options if not option.startswith("--tyro-")]  # see below
    start, _ = tyro.cli(Start, args=options, return_unknown_args=True, add_help=False)
    if start.replay is not None and start.resume is not None:
        raise UserError(f"--replay: expected no --resume beside it, got {start.resume}")
    if start.replay is not None and start.preset is not None:
        raise UserError(f"--replay: expected no --preset beside it, got {start.preset}")
    default: PresetName = (
        "digits" if start.dataset == "digits" else current_backend().default_preset
    )
    asked: Any = start.preset  # one that does not exist is refused below, as any other option
    preset: PresetName = asked if asked in PRESETS else default
    recorded, seeds = _recorded(start.resume or start.replay)
    # a preset given with --resume is compared like any other setting
    settings = PRESETS[preset] if recorded is None or start.preset else recorded
    command = parse_options(
        Command,
        argv,
        default=Command(settings, preset),
        prog=PROGRAM,
        description=__doc__,
    )
    given = seeds if command.seeds is None else parse_seeds(command.seeds)
    if given is not None and command.settings.seed != settings.seed:
        raise UserError(f"--seed: expected --seeds for many trainings, got {command.settings.seed}")
    if start.resume is not None and recorded is not None:
        changes = recorded.changes(command.settings) + ["seeds"] * (given != seeds)
        if changes:
            raise UserError(
                f"--resume: expected the settings of {start.resume}, got other values of "
                + ", ".join(changes)
            )
    return command, given


def _recorded(path: Path | None) -> tuple[Config | None, tuple[int, ...] | None]:
    """The settings of a run, and its seeds if it has many."""
    if path is None:
        return None, None
    folder = RunFolder.open(path, RUN_NAME, SWEEP_NAME)
    values = folder.config()
    if "seeds" not in values:
        return Config.from_json(values, folder.path), None
    sweep = Sweep.from_json(values, folder.path)
    return sweep.settings, sweep.seeds


def show(settings: Config, result: Result, console: Console) -> None:
    """Print the numbers of a run."""
    headings = ("", "accuracy\n%", "NLL\nnats", "Brier\nscore", "calibration\nerror, %")
    table = new_table(f"{len(result.test.labels):,} test images", headings)
    rows = {"as they are": result.test_plain}
    if result.test is not result.test_plain:  # some settings have one view only
        rows["averaged over views"] = result.test
    if result.calibrated is not None:
        rows[f"and at temperature {result.temperature:.3f}"] = result.calibrated
    for name, test in rows.items():
        table.add_row(
            name,
            f"{100 * test.accuracy:.2f}",
            f"{test.nll:.4f}",
            f"{test.brier:.4f}",
            f"{100 * test.calibration_error:.2f}",
        )
    show_table(console, table)
    low, high = result.test.accuracy_interval
    seconds = result.train_seconds
    speed = f"{result.images_per_second:,.0f} images/s"
    if seconds is not None:
        training = f"{seconds:.1f} s of training ({speed})"
    elif result.images_per_second:
        training = f"training ({speed} since it was resumed)"
    else:
        training = "training, done before it was resumed"
    console.print(
        f"95 % interval of the accuracy: {low:.2%} to {high:.2%}; {training}, "
        f"{result.compile_seconds:.1f} s of compiling, {result.test_seconds:.1f} s of testing",
        highlight=False,
    )
    if result.temperature is not None and result.temperature < 1:
        smoothed = ", as smoothed labels make it" if settings.smooths_labels else ""
        console.print(
            f"A temperature below 1: the network is right more often than it says{smoothed}. Its "
            "NLL and calibration error without it show that."
        )
    if settings.held_out and result.temperature is None:
        console.print(
            "No temperature suits the held-out images: all of them are classified correctly, or "
            "none better than by chance."
        )


def show_seeds(summaries: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print the means over the seeds."""
    title = f"Means of {len(summaries)} seed{'s' * (len(summaries) > 1)}"
    headings = ("", "mean", "sd", "standard\nerror", "95 % interval\nof the mean")
    table = new_table(title, headings)
    for name, mean in estimates(summaries).items():
        unit, scale, digits = _unit(name)
        cells = [f"{scale * mean.mean:.{digits}f}"]
        if mean.n > 1:
            low, high = f"{scale * mean.lower:.{digits}f}", f"{scale * mean.upper:.{digits}f}"
            cells += [f"{scale * value:.{digits}f}" for value in (mean.sd, mean.standard_error)]
            cells.append(f"{low} to {high}")
        table.add_row(name.removesuffix("_seconds").replace("_", " ") + unit, *cells)
    show_table(console, table)


def _unit(figure: str) -> tuple[str, float, int]:
    """In what a figure of a run's summary is shown: the unit, its size, and how many decimals."""
    if FIGURES[figure] == 1.0:  # a share
        return ", %", 100.0, 2
    if figure.endswith("seconds"):
        return ", seconds", 1.0, 1
    return (", nats" if figure.endswith("nll") else ""), 1.0, 4


# other commands than training, by their first word
COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "compare": compare.main,
    "predict": predict.main,
}


if __name__ == "__main__":
    main()
