"""Compare settings by runs with the same seeds.

    python -m experiments.cifar10 compare cpu89 "cpu89 --no-whiten" "cpu89 --epochs 8" --seeds 0:5

Each argument is a preset with options that change it, or the folder of a run with --seeds. The
others are compared with the first seed by seed, so that effects of the seed on both cancel. The
report has the mean difference in accuracy, its 95 % interval, and how many pairs of runs are needed
to detect a difference of 0.1 points with a power of 80 %.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.cifar10.backend import prepare_cpu
from experiments.cifar10.commands.seeds import SWEEP_NAME, Sweep, parse_seeds, run_seeds
from experiments.cifar10.commands.settings import parse_settings
from experiments.cifar10.config import DatasetName
from experiments.cifar10.data.load import load
from experiments.cifar10.training.run import check
from experiments.common.command import (
    UserError,
    one_line_errors,
    parse_options,
    printable,
    say,
)
from experiments.common.compile_cache import compile_cache
from experiments.common.estimates import Estimate
from experiments.common.interrupt import resumable
from experiments.common.run_folder import RUNS, RunFolder, reading
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

NAME = "cifar10-compare"
PROGRAM = "python -m experiments.cifar10 compare"
DEFAULT_SEEDS = "0:3"
SMALL_DIFFERENCE = 0.001  # in accuracy, a tenth of a point


@dataclass(frozen=True)
class Command:
    """The settings to compare, and the folders."""

    settings: tyro.conf.Positional[tuple[str, ...]] = ()
    """Presets with options, or folders of runs with --seeds; the first is the baseline."""
    seeds: str | None = None
    """Seeds of the runs: FIRST:END, or a list such as 1,4,7; default: 0:3."""
    data_dir: Path | None = None
    """Folder that contains CIFAR-10, or its archive."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""
    compile_cache: Path | None = None
    """Folder of compiled programs, or off; default: $XENTJAX_COMPILE_CACHE or the user's cache."""
    resume: Path | None = None
    """Folder of a stopped comparison to resume; finished runs are kept."""


@dataclass(frozen=True)
class Compared:
    """One of the settings, compared with the first.

    Attributes:
        name: the settings as given.
        accuracy: over the seeds in common with the first.
        difference: accuracy minus the accuracy of the first, seed by seed; None for the first.
    """

    name: str
    accuracy: Estimate
    difference: Estimate | None


def compare(accuracies: dict[str, dict[int, float]]) -> list[Compared]:
    """Compute the means, and the differences from the first, over the seeds in common.

    Args:
        accuracies: name -> seed -> accuracy.
    """
    first = next(iter(accuracies.values()))
    compared = []
    for name, by_seed in accuracies.items():
        common = sorted(first.keys() & by_seed.keys())
        difference = Estimate.of([by_seed[seed] - first[seed] for seed in common])
        accuracy = Estimate.of([by_seed[seed] for seed in common])
        compared.append(Compared(name, accuracy, None if by_seed is first else difference))
    return compared


def check_common_seeds(seeds: Mapping[str, Iterable[int]]) -> None:
    """Require at least two seeds in common with the first, to estimate the spread.

    Raises:
        UserError: some settings have fewer.
    """
    first = set(next(iter(seeds.values())))
    for name, own in seeds.items():
        if (count := len(first.intersection(own))) < 2:
            raise UserError(f"{name}: expected at least 2 seeds in common, got {count}")


def table(compared: Sequence[Compared]) -> Table:
    """Make a table of the comparison."""
    headings = (
        "settings",
        "seeds",
        "mean\n%",
        "sd\n%",
        "difference\n[95 %], points",
        "pairs to\ndetect 0.1",
    )
    shown = new_table("Test accuracy", headings)
    shown.columns[0].overflow = "fold"
    shown.caption = (
        "Last column: pairs of runs needed to detect a difference of 0.1 points with a power of "
        "80 % at level 5 %."
    )
    for entry in compared:
        accuracy, difference = entry.accuracy, entry.difference
        cells = ["", ""]
        if difference is not None:
            low, high = 100 * difference.lower, 100 * difference.upper
            cells = [
                f"{100 * difference.mean:+.2f} [{low:+.2f}, {high:+.2f}]",
                f"{difference.runs_to_see(SMALL_DIFFERENCE):,}",
            ]
        shown.add_row(
            Text(printable(entry.name)),
            str(accuracy.n),
            f"{100 * accuracy.mean:.2f}",
            f"{100 * accuracy.sd:.2f}",
            *cells,
        )
    return shown


def summarize(compared: Sequence[Compared]) -> dict[str, Any]:
    """Collect the numbers of a comparison."""
    return {
        entry.name: {
            "accuracy": entry.accuracy,
            "difference": entry.difference,
            "pairs_to_see_a_tenth_of_a_point": None
            if entry.difference is None
            else entry.difference.runs_to_see(SMALL_DIFFERENCE),
        }
        for entry in compared
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    prepare_cpu()
    with one_line_errors():
        command, rest = parse_options(
            Command, argv, prog=PROGRAM, description=__doc__, return_unknown_args=True
        )
        if rest:
            raise UserError(
                f"{rest[0]}: expected --seeds, --data-dir, --runs-dir or --resume; options of a "
                'preset belong inside its quotes, as in "cpu89 --no-whiten"'
            )
        names, seeds = command.settings, command.seeds
        if command.resume is not None:
            if names or seeds is not None:
                raise UserError("--resume: expected no settings and no --seeds with it")
            recorded = RunFolder.open(command.resume, NAME).config()
            with reading(command.resume / "config.json"):
                names = tuple(str(name) for name in recorded["settings"])
                seeds = recorded["seeds"] and str(recorded["seeds"])
        if len(set(names)) < 2:
            raise UserError(f"settings: expected at least 2 different ones, got {len(set(names))}")
        chosen = parse_seeds(seeds or DEFAULT_SEEDS)
        # not Path.is_dir, which fails if the settings are too long for a name
        known = {name: _read(Path(name)) for name in names if name and os.path.isdir(name)}
        trained = {
            name: parse_settings(name, PROGRAM, instead="a folder or ")
            for name in names
            if name not in known
        }
        check_common_seeds(
            {name: known[name].accuracies if name in known else chosen for name in names}
        )
        datasets: set[DatasetName] = {settings.dataset for settings in trained.values()}
        datasets |= {sweep.dataset for sweep in known.values()}
        if len(datasets) > 1:
            raise UserError(f"settings: expected one dataset for all, got {', '.join(datasets)}")
        console = Console()
        dataset = None
        if trained:
            (name,) = datasets
            with waiting(console, f"reading {name}") as doing:
                dataset = load(name, command.data_dir, doing)
        if dataset is not None:
            for settings in trained.values():
                check(settings, dataset)
        folder = (
            RunFolder.create(NAME, {"settings": names, "seeds": seeds}, command.runs_dir)
            if command.resume is None
            else RunFolder.open(command.resume, NAME)
        )
        accuracies: dict[str, dict[int, float]] = {}
        with (
            folder.locked(),
            compile_cache(command.compile_cache),
            resumable(PROGRAM, folder.path, command.data_dir) as should_stop,
        ):
            for place, name in enumerate(names):
                if dataset is None or name in known:
                    accuracies[name] = known[name].accuracies
                    continue
                console.print(Text(printable(name), style="bold"), soft_wrap=True)
                sweep = Sweep(trained[name], chosen)
                part = folder.part(f"settings-{place}", SWEEP_NAME, sweep)
                summaries = run_seeds(
                    sweep, dataset, part, console=console, should_stop=should_stop
                )
                accuracies[name] = _accuracies(summaries)
        compared = compare(accuracies)
        folder.summary(summarize(compared))
        from experiments.cifar10.commands.figures import draw_differences

        differences = {
            entry.name: entry.difference for entry in compared if entry.difference is not None
        }
        folder.figure("differences", draw_differences(differences, compared[0].name))
        show_table(console, table(compared))
        say(console, f"Numbers and figure: {folder.path}")


def _accuracies(summaries: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    return {int(run["seed"]): float(run["test_accuracy"]) for run in summaries}


class _Known(NamedTuple):
    """A finished sweep."""

    dataset: DatasetName
    accuracies: dict[int, float]


def _read(path: Path) -> _Known:
    folder = RunFolder.open(path, SWEEP_NAME)
    if (summary := folder.read_summary()) is None:
        raise UserError(
            f"{path}: expected the folder of a finished run with --seeds, got one without a "
            "complete summary.json, which --resume writes"
        )
    sweep = Sweep.from_json(folder.config(), path)
    with reading(path / "summary.json"):
        return _Known(sweep.settings.dataset, _accuracies(summary["seeds"]))
