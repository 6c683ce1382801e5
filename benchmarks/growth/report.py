"""The report of `growth`: exponents with intervals next to theory, and a log-log plot."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import timing
from benchmarks.harness.figures import STYLES, add_title
from benchmarks.harness.machine import Machine
from benchmarks.harness.noise import DRAWS, LEVEL
from benchmarks.harness.tables import WHOLE, Extent, Sheet, Table
from experiments.common import plots

LEGEND = (
    "exponent: slope of log time in log size, least squares over the sizes, median over the rounds "
    f"(all sizes run in every round); interval: {LEVEL:.0%} bootstrap interval over the rounds",
    "theory: every logit is read or computed a fixed number of times, so time grows as N K; a part "
    "that does not grow, such as starting threads, lowers the exponent at small sizes",
    "scratch: exponent of XLA's memory beside inputs and outputs; theory: N or K at most, where "
    "stored logits need both",
)


class Point(NamedTuple):
    """A size, seconds by round, and XLA's scratch bytes."""

    size: int
    seconds: list[float]
    scratch: int | None


class Line(NamedTuple):
    """An operation at several sizes of one axis, "N" or "K", with the other fixed."""

    name: str
    axis: str
    points: list[Point]
    fixed: str

    def exponent(self) -> tuple[float, float, float]:
        """Return the median slope over the rounds, and its interval."""
        slopes = self._slopes(np.log([point.seconds for point in self.points]))
        rng = np.random.default_rng(0)
        draws = np.median(slopes[rng.integers(len(slopes), size=(DRAWS, len(slopes)))], axis=1)
        lower, upper = np.quantile(draws, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
        return float(np.median(slopes)), float(lower), float(upper)

    def scratch_exponent(self) -> float | None:
        """Return the slope of the scratch memory; None if it is unknown or zero at a size."""
        sizes = [point.scratch for point in self.points]
        if not all(sizes):
            return None
        return float(self._slopes(np.log(np.array(sizes, float))[:, None])[0])

    def _slopes(self, values: np.ndarray) -> np.ndarray:
        """Return the slopes of the columns [points, rounds]."""
        x = np.log([point.size for point in self.points])
        x = x - x.mean()
        return x @ values / (x @ x)


@dataclass(frozen=True)
class Growth:
    """A `tables.Report` of exponents."""

    measured: tuple[Line, ...]
    machine: Machine
    extent: Extent = WHOLE
    name: str = "growth"

    def table(self) -> Table:
        """Make a table with a row for each operation and axis."""
        rows = []
        for line in self.measured:
            exponent, lower, upper = line.exponent()
            first, last = line.points[0], line.points[-1]
            rows.append(
                (
                    line.name,
                    f"in {line.axis}, {first.size} to {last.size}, {line.fixed}",
                    exponent,
                    f"{lower:.2f}–{upper:.2f}",
                    1.0,
                    line.scratch_exponent(),
                    1e3 * timing.quartiles(last.seconds).median,
                    None if last.scratch is None else last.scratch / 1e6,
                )
            )
        header = (
            *("operation", "axis", "time exponent", "interval", "theory"),
            *("scratch exponent", "ms, largest", "scratch MB, largest"),
        )
        return Table("Growth with rows N and classes K", header, tuple(rows), LEGEND)

    def sheets(self) -> list[Sheet]:
        """Return the table as text."""
        return [self.table().sheet()]

    def lines(self) -> list[str]:
        """Return lines of text about the machine."""
        return self.machine.describe()

    def as_json(self) -> dict[str, Any]:
        """Return the table and all samples."""
        return {
            "name": self.name,
            **self.extent._asdict(),
            "machine": self.machine.as_dict(),
            "notes": [*LEGEND],
            "tables": [self.table().as_json()],
            "lines": [
                line._asdict() | {"points": [point._asdict() for point in line.points]}
                for line in self.measured
            ],
        }

    def figure(self) -> Figure:
        """Plot time over size, one panel per axis, with a dashed line of exponent 1."""
        drawing, (panels,) = plots.subplots(1, 2)
        for axes, axis in zip(panels, "NK", strict=True):
            lines = [line for line in self.measured if line.axis == axis]
            for line, (color, marker) in zip(lines, STYLES, strict=False):
                sizes = [point.size for point in line.points]
                times = [1e3 * timing.quartiles(point.seconds).median for point in line.points]
                axes.plot(sizes, times, color=color, marker=marker, label=line.name)
                ideal = [times[-1] * size / sizes[-1] for size in sizes]
                axes.plot(sizes, ideal, "--", color=color, linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.set_xlabel(f"{axis}; dashed: exponent 1")
        panels[0].set_ylabel("ms")
        plots.add_legend(drawing)
        add_title(drawing, self, "time over size")
        return drawing
