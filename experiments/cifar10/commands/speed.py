"""Accuracy and seconds of whole commands over seeds, in numbers and tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from rich.table import Table
from rich.text import Text

from experiments.cifar10.commands.torch_times import Phase, relative_time
from experiments.common.command import printable
from experiments.common.estimates import Estimate
from experiments.common.tables import new_table

# figures of a run, with their largest value; the least is 0
FIGURES = {
    "accuracy": 1.0,
    "accuracy_without_views": 1.0,
    "nll_at_temperature": math.inf,
    "calibration_error_at_temperature": 1.0,
    "temperature": math.inf,
    "whole_seconds": math.inf,
    "cpu_seconds": math.inf,
}
# activities with a column of their own; the others are summed
PARTS = ("compiling", "training", "testing")
WITH_TORCH = (
    "With torch: the mean seconds of the command if its training steps took as long as those of "
    "the same network in eager PyTorch, and nothing were compiled."
)


HEADINGS = (
    "settings",
    "runs",
    "accuracy, % [95 %]",
    "NLL at T",
    "ECE at T, %",
    "command, s [95 %]",
    *(f"{name}, s" for name in PARTS),
    "other, s",
    "with torch, s (steps)",
)
SHOWN = (0, 1, 2, 5, 10)  # on a terminal


@dataclass(frozen=True)
class Speed:
    """The runs of some settings.

    Attributes:
        seconds: of the whole command, run by run.
        accuracies: on the test images, run by run.
        means: of each of `FIGURES` that all runs have.
        parts: mean seconds of each activity.
        torch_ratio: time of training with PyTorch's steps, relative to that with ours; None if
            they were not timed.
    """

    seconds: tuple[float, ...]
    accuracies: tuple[float, ...]
    means: dict[str, Estimate]
    parts: dict[str, float]
    torch_ratio: float | None

    @classmethod
    def of(cls, runs: Sequence[Mapping[str, Any]], phases: Sequence[Phase] | None) -> Self:
        """Summarise at least one run, and the times of its steps."""
        columns = {name: [run[name] for run in runs] for name in FIGURES}
        activities = dict.fromkeys(name for run in runs for name in run["seconds"])
        return cls(
            seconds=tuple(columns["whole_seconds"]),
            accuracies=tuple(columns["accuracy"]),
            means={
                name: Estimate.of(values, least=0.0, most=FIGURES[name])
                for name, values in columns.items()
                if None not in values
            },
            parts={
                name: sum(run["seconds"].get(name, 0.0) for run in runs) / len(runs)
                for name in activities
            },
            torch_ratio=None if phases is None else relative_time(phases),
        )

    @property
    def torch_seconds(self) -> float | None:
        """The mean seconds with PyTorch's training steps and nothing to compile."""
        if self.torch_ratio is None:
            return None
        part = self.parts.get
        others = self.means["whole_seconds"].mean - part("training", 0.0) - part("compiling", 0.0)
        return others + self.torch_ratio * part("training", 0.0)

    def summary(self) -> dict[str, Any]:
        """Collect the numbers for JSON."""
        return {
            "means": self.means,
            "mean_seconds_by_activity": self.parts,
            "torch_ratio_of_training": self.torch_ratio,
            "seconds_with_torch_steps": self.torch_seconds,
        }

    def cells(self) -> list[str]:
        """Format the columns of `HEADINGS` after the first."""
        parts = [self.parts.get(name, 0.0) for name in PARTS]
        parts.append(self.means["whole_seconds"].mean - sum(parts))
        torch = self.torch_seconds
        return [
            str(len(self.seconds)),
            self._mean("accuracy", 100, 2),
            self._mean("nll_at_temperature", 1, 4, interval=False),
            self._mean("calibration_error_at_temperature", 100, 2, interval=False),
            self._mean("whole_seconds", 1, 1),
            *(f"{part:.1f}" for part in parts),
            "" if torch is None else f"{torch:.1f} ({self.torch_ratio:.2f}×)",
        ]

    def _mean(self, name: str, scale: float, digits: int, *, interval: bool = True) -> str:
        if (estimate := self.means.get(name)) is None:
            return ""
        text = f"{scale * estimate.mean:.{digits}f}"
        if interval and estimate.n > 1:
            low, high = (f"{scale * x:.{digits}f}" for x in (estimate.lower, estimate.upper))
            text += f" [{low}, {high}]"
        return text


def title(cold: bool) -> str:
    """Name the table."""
    return f"Whole commands, {'nothing compiled before' if cold else 'compiled programs kept'}"


def _in_lines(cell: str) -> str:
    """Put the text in brackets on its own line."""
    return cell.replace(" [", "\n[").replace(" (", "\n(")


def table(speeds: Mapping[str, Speed], cold: bool) -> Table:
    """Make a table for the terminal."""
    shown = new_table(title(cold), [_in_lines(HEADINGS[index]) for index in SHOWN])
    shown.columns[0].overflow = "fold"
    for name, speed in speeds.items():
        cells = [name, *speed.cells()]
        shown.add_row(*(Text(_in_lines(printable(cells[index]))) for index in SHOWN))
    if any(speed.torch_ratio is not None for speed in speeds.values()):
        shown.caption = WITH_TORCH
    return shown


def markdown(speeds: Mapping[str, Speed], machine: str, cold: bool) -> str:
    """Format the table in Markdown."""
    rows = [[*HEADINGS], ["---"] * len(HEADINGS)]
    rows += [[f"`{printable(name)}`", *speed.cells()] for name, speed in speeds.items()]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"{title(cold)}: {machine}.", "", *lines, "", WITH_TORCH, ""])
