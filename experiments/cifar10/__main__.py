"""Train a convolutional network on CIFAR-10 with xentjax's cross-entropy, and test it.

    python -m experiments.cifar10 [OPTIONS]
        one run, or one for each seed
    python -m experiments.cifar10 compare SETTINGS SETTINGS...
        which settings are better
    python -m experiments.cifar10 pareto PRESET...
        accuracy against the seconds that one waits
    python -m experiments.cifar10 predict --run RUN IMAGE...
        the classes of your own images

A preset names a set of settings; any other option replaces one of them. `cpu89`, `cpu92`, `cpu93`
and `cpu94` are made for CPUs and named after their accuracy: they take 3 to 16 minutes on two
cores. The `airbench` presets are made for a GPU or TPU, and named after the published accuracy of
their recipe. `resnet18` is the usual baseline, `tour` takes a minute, and the preset `digits` uses
scikit-learn's digits, which need no download. Without --preset it depends on the hardware and
--dataset.

CIFAR-10 is searched for in --data-dir, $XENTJAX_DATA_DIR and the user's cache, and downloaded if it
is not found. An archive is unpacked once and a program compiled once: both are kept in the user's
cache, programs also where --compile-cache says. The run folder receives the settings,
metrics.jsonl, summary.json, figures and a checkpoint. Ctrl-C, SIGTERM and closing the terminal save
a checkpoint; --resume continues from it, and on the same machine gives exactly the result of an
uninterrupted run.
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
from experiments.cifar10.commands import compare, pareto, predict
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
from experiments.cifar10.training.run import check, run
from experiments.common.command import UserError, one_line_errors, parse_options, say
from experiments.common.compile_cache import compile_cache
from experiments.common.hosts import is_writer
from experiments.common.interrupt import resumable
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.stopwatch import Stopwatch, adding_up, process_start
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

PROGRAM = "python -m experiments.cifar10"


@dataclass(frozen=True)
class Command:
    """All options of a run."""

    settings: tyro.conf.OmitArgPrefixes[Config]
    preset: PresetName
    """The settings to start from; the options below replace single ones."""
    seeds: str | None = None
    """Train with each of these seeds, FIRST:END or a list such as 1,4,7, instead of with --seed."""
    data_dir: Path | None = None
    """Folder that contains CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""
    resume: Path | None = None
    """Folder of a stopped run to resume with its own settings."""
    replay: Path | None = None
    """Folder of a run whose settings to start from, instead of a preset; changes of revision,
    versions and device since then are printed."""
    distributed: bool = False
    """Share every batch with the other hosts on which this command was started."""


@dataclass(frozen=True)
class Start:
    """The options that determine the defaults of the others; `Command` checks them."""

    preset: str | None = None
    dataset: str | None = None
    resume: Path | None = None
    replay: Path | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in COMMANDS:
        COMMANDS[arguments[0]](arguments[1:])
        return
    watch = Stopwatch(process_start(), "starting")
    prepare_cpu()
    with one_line_errors():
        if "--distributed" in arguments:  # before anything asks for the devices
            try:
                jax.distributed.initialize()
            except (ValueError, RuntimeError) as error:
                raise UserError(
                    f"--distributed: expected several hosts known to jax, got: {error}"
                ) from error
        command, seeds = parse(arguments)
        sweep = None if seeds is None else Sweep(command.settings, seeds)
        console = Console(quiet=not is_writer())
        watch.switch("reading")
        with waiting(console, f"reading {command.settings.dataset}") as doing:
            dataset = load(command.settings.dataset, command.data_dir, doing)
        watch.switch("other")
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
        with (
            compile_cache(command.compile_cache),
            resumable(PROGRAM, folder.path, command.data_dir) as should_stop,
        ):
            if sweep:
                summaries = run_seeds(
                    sweep,
                    dataset,
                    folder,
                    console=console,
                    should_stop=should_stop,
                    watch=watch,
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
                    watch=watch,
                )
                show(command.settings, result, console)
        more = "a folder for each seed" if sweep else "checkpoint"
        say(console, f"Figures, numbers and {more}: {folder.path}")
        say(console, adding_up(watch.seconds()))


def parse(argv: Sequence[str] | None = None) -> tuple[Command, tuple[int, ...] | None]:
    """Parse the options, and the seeds if there are several.

    The defaults come from the preset, or from the run to resume or replay.

    Raises:
        UserError: a setting is impossible, or differs from the run to resume.
    """
    options = sys.argv[1:] if argv is None else argv
    options = [option for option in options if not option.startswith("--tyro-")]  # see below
    start, _ = tyro.cli(Start, args=options, return_unknown_args=True, add_help=False)
    if start.replay is not None and start.resume is not None:
        raise UserError(f"--replay: expected no --resume with it, got {start.resume}")
    if start.replay is not None and start.preset is not None:
        raise UserError(f"--replay: expected no --preset with it, got {start.preset}")
    default: PresetName = (
        "digits" if start.dataset == "digits" else current_backend().default_preset
    )
    given: Any = start.preset  # an unknown one is rejected below, like any other option
    preset: PresetName = given if given in PRESETS else default
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
    chosen_seeds = seeds if command.seeds is None else parse_seeds(command.seeds)
    if chosen_seeds is not None and command.settings.seed != settings.seed:
        raise UserError(f"--seed: expected --seeds for several runs, got {command.settings.seed}")
    if start.resume is not None and recorded is not None:
        changes = recorded.changes(command.settings) + ["seeds"] * (chosen_seeds != seeds)
        if changes:
            raise UserError(
                f"--resume: expected the settings of {start.resume}, got other values of "
                + ", ".join(changes)
            )
    return command, chosen_seeds


def _recorded(path: Path | None) -> tuple[Config | None, tuple[int, ...] | None]:
    """Read the settings of a run, and its seeds if it has several."""
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
    rows = {"original images": result.test_plain}
    if result.test is not result.test_plain:  # some settings have a single view
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
        training = "training, finished before it was resumed"
    console.print(
        f"95 % interval of the accuracy: {low:.2%} to {high:.2%}; {training}, "
        f"{result.compile_seconds:.1f} s of compiling, {result.test_seconds:.1f} s of testing",
        highlight=False,
    )
    if result.temperature is not None and result.temperature < 1:
        smoothed = ", a result of label smoothing" if settings.smooths_labels else ""
        console.print(
            f"The temperature is below 1: the network is underconfident{smoothed}. The NLL and "
            "calibration error without the temperature show it."
        )
    if settings.held_out and result.temperature is None:
        console.print(
            "No temperature fits the held-out images: all of them are classified correctly, or "
            "the logits are no better than chance."
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
    """Return how to print a figure of a summary: its unit, the factor and the decimals."""
    if FIGURES[figure] == 1.0:  # a share
        return ", %", 100.0, 2
    if figure.endswith("seconds"):
        return ", seconds", 1.0, 1
    return (", nats" if figure.endswith("nll") else ""), 1.0, 4


# the other commands, by their first word
COMMANDS: Mapping[str, Callable[[Sequence[str]], None]] = {
    "compare": compare.main,
    "pareto": pareto.main,
    "predict": predict.main,
}


if __name__ == "__main__":
    main()
