"""The result of a benchmark that compares implementations cell by cell, as a report."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from matplotlib.figure import Figure

from benchmarks.harness import noise, timing
from benchmarks.harness.figures import (
    STYLES,
    add_title,
    draw_ratio_axis,
    label_ratio_axis,
    words,
)
from benchmarks.harness.machine import Machine
from benchmarks.harness.tables import NOT_INSTALLED, WHOLE, Extent, Sheet, Table
from experiments.common import plots


@dataclass(frozen=True)
class Cell:
    """Samples of one case in one mode, for every implementation that ran.

    Attributes:
        case: name of the case, "8192 × 1000".
        mode: name of the mode, "value_and_grad".
        seconds: by implementation, seconds per call, one sample per round.
        work: work of one call: gigabytes if the unit is "GB/s", images for "images/s".
        limit_seconds: by round, the shortest time that the machine's limits allow; None if unknown.
        temp_bytes: by implementation, XLA's scratch memory; absent if XLA did not compile it.
        compile_seconds: by implementation, its compilation time.
        offered: the implementations that have this case, installed or not; None for all.
        again: seconds per call of ours under a second name, as in `seconds`; None if not measured.
    """

    case: str
    mode: str
    seconds: timing.Samples
    work: float
    limit_seconds: list[float] | None = None
    temp_bytes: dict[str, int | None] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)
    offered: tuple[str, ...] | None = None
    again: list[float] | None = None

    def offers(self, name: str) -> bool:
        """Whether an implementation has this case, installed or not."""
        return self.offered is None or name in self.offered


@dataclass(frozen=True)
class Result:
    """All cells of a benchmark.

    Attributes:
        name: the benchmark, "losses".
        ours: the implementation that the baselines are compared with, "xentjax".
        baselines: the others, including those that could not run here.
        unit: the unit of work per second.
        cells: the measurements.
        machine: the machine of the run.
        notes: remarks that a reader of the table needs.
        legend: explanations of unit and limit, printed below the table.
        extent: the part of the benchmark that was run.
        row_per_implementation: whether each implementation has a row with all its figures, rather
            than each cell.
        tables: other measurements, or values derived from the cells.
        floor: the noise to assume for cells in which it was not measured; None for no ties in them.
    """

    name: str
    ours: str
    baselines: tuple[str, ...]
    unit: str
    cells: tuple[Cell, ...]
    machine: Machine
    notes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    extent: Extent = WHOLE
    row_per_implementation: bool = False
    tables: tuple[Table, ...] = ()
    floor: noise.Interval | None = None

    @property
    def implementations(self) -> tuple[str, ...]:
        """Our implementation, then the baselines."""
        return (self.ours, *self.baselines)

    @property
    def compiled(self) -> list[str]:
        """Implementations that XLA compiled."""
        return [
            name
            for name in self.implementations
            if any(name in cell.compile_seconds for cell in self.cells)
        ]

    def ratio(self, cell: Cell, baseline: str) -> float | None:
        """Return the baseline's time divided by ours; None if it did not run."""
        if baseline not in cell.seconds:
            return None
        return timing.ratio(cell.seconds[baseline], cell.seconds[self.ours])

    def interval(self, cell: Cell, baseline: str) -> noise.Interval | None:
        """Return the baseline's ratio with its interval; None if the baseline did not run."""
        if baseline not in cell.seconds:
            return None
        return noise.interval(cell.seconds[baseline], cell.seconds[self.ours])

    def noise(self, cell: Cell) -> noise.Interval | None:
        """Return the ratio of our implementation to itself in a cell; None if not measured."""
        if cell.again is None:
            return None
        return noise.interval(cell.again, cell.seconds[self.ours])

    def ties(self, cell: Cell, baseline: str) -> bool:
        """Whether the noise of the cell hides which of the two is faster."""
        floor, found = self.noise(cell) or self.floor, self.interval(cell, baseline)
        return floor is not None and found is not None and found.ties(floor)

    @property
    def has_noise(self) -> bool:
        """Whether ours was measured under a second name."""
        return any(cell.again is not None for cell in self.cells)

    def fastest_baseline(self, cell: Cell) -> tuple[str, float] | None:
        """Return the baseline with the smallest ratio, and this ratio."""
        ratios = [
            (baseline, ratio)
            for baseline in self.baselines
            if (ratio := self.ratio(cell, baseline)) is not None
        ]
        return min(ratios, key=lambda pair: pair[1], default=None)

    def mean_ratio(self, baseline: str, mode: str) -> float | None:
        """Return the geometric mean of the baseline's ratios in the cells of a mode."""
        ratios = [
            ratio
            for cell in self.cells
            if cell.mode == mode and (ratio := self.ratio(cell, baseline)) is not None
        ]
        return timing.geometric_mean(ratios) if ratios else None

    def modes(self) -> list[str]:
        """Return the modes in the order of the cells."""
        return list(dict.fromkeys(cell.mode for cell in self.cells))

    def sheets(self) -> list[Sheet]:
        """Make the tables of speed and, if measured, memory, then the other tables."""
        if not self.cells:  # the time was over before the first case
            own = []
        elif self.row_per_implementation:
            own = [_rows_by_implementation(self)]
        else:
            intervals = [_intervals(self)] if self.has_noise else []
            own = [speed(self), *intervals, *([memory(self)] if self.compiled else [])]
        return own + [table.sheet() for table in self.tables]

    def lines(self) -> list[str]:
        """Return lines of text about the machine, the compilation times and the method."""
        totals = {
            name: math.fsum(cell.compile_seconds.get(name, 0.0) for cell in self.cells)
            for name in self.compiled
        }
        compilation = ", ".join(f"{name} {total:.1f} s" for name, total in totals.items())
        return [
            *self.machine.describe(),
            *([f"compilation of all cells: {compilation}"] if totals else []),
            *self.notes,
        ]

    def as_json(self) -> dict[str, Any]:
        """Return all samples and the statistics derived from them."""
        means = {
            mode: {baseline: self.mean_ratio(baseline, mode) for baseline in self.baselines}
            for mode in self.modes()
        }
        return {
            "name": self.name,
            "ours": self.ours,
            "unit": self.unit,
            **self.extent._asdict(),
            "machine": self.machine.as_dict(),
            "notes": [*self.legend, *self.notes],
            **({"geometric_mean_ratio": means} if self.extent.whole else {}),
            "cells": [
                {
                    "case": cell.case,
                    "mode": cell.mode,
                    "limit_seconds": cell.limit_seconds,
                    **self._noise_entry(cell),
                    "implementations": {
                        name: self._entry(cell, name) if name in cell.seconds else NOT_INSTALLED
                        for name in self.implementations
                        if cell.offers(name)
                    },
                }
                for cell in self.cells
            ],
            "tables": [table.as_json() for table in self.tables],
        }

    def _noise_entry(self, cell: Cell) -> dict[str, Any]:
        floor = self.noise(cell)
        return {} if floor is None else {"again": {**floor._asdict(), "samples": cell.again}}

    def _entry(self, cell: Cell, name: str) -> dict[str, Any]:
        samples = cell.seconds[name]
        middle = timing.quartiles(samples)
        limit = cell.limit_seconds
        found = noise.interval(samples, cell.seconds[self.ours])
        judged = name != self.ours and cell.again is not None
        return {
            "seconds": middle._asdict(),
            "ratio": found.median,
            "interval": [found.lower, found.upper],
            **({"tie": self.ties(cell, name)} if judged else {}),
            "rate": cell.work / middle.median,
            "share_of_limit": None if limit is None else timing.ratio(limit, samples),
            "temp_bytes": cell.temp_bytes.get(name),
            "compile_seconds": cell.compile_seconds.get(name),
            "samples": samples,
        }

    def figure(self) -> Figure:
        """Plot each baseline's time over ours, with one group of lines per cell, on a log axis."""
        count = len(self.cells)
        if not self.cells:
            drawing = plots.empty(2.0)
            add_title(drawing, self, "no case of it was run")
            return drawing
        drawing, ((axes,),) = plots.subplots(height=1.8 + 0.44 * count, grid=False)
        ran = [name for name in self.baselines if any(name in cell.seconds for cell in self.cells)]
        step = 0.8 / max(1, len(ran))
        for index, baseline in enumerate(ran):
            color, marker = STYLES[index % len(STYLES)]
            points = [
                (ratio, row - 0.4 + (index + 0.5) * step)
                for row, cell in enumerate(self.cells)
                if (ratio := self.ratio(cell, baseline)) is not None
            ]
            ratios, rows = [ratio for ratio, _ in points], [row for _, row in points]
            axes.hlines(rows, 1.0, ratios, color=color, linewidth=1.5)
            axes.scatter(
                ratios, rows, s=24, color=color, marker=marker, label=words(baseline), zorder=3
            )
        for row, cell in enumerate(self.cells):
            if (floor := self.noise(cell)) is not None:
                band = floor.upper - floor.lower
                axes.barh(row, band, 0.8, floor.lower, color="0.85", zorder=0)
        for row, (above, below) in enumerate(pairwise(self.cells)):
            same = above.case == below.case
            axes.axhline(row + 0.5, color="0.9" if same else "0.6", linewidth=0.8)
        axes.set_yticks(range(count), [f"{cell.case}, {words(cell.mode)}" for cell in self.cells])
        axes.set_ylim(count - 0.5, -0.5)
        draw_ratio_axis(axes, base=2)
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.48), max(high, 2.1))  # shows ticks at 0.5 and 2
        axes.grid(axis="x", color="0.9")
        label_ratio_axis(axes, self.ours)
        add_title(drawing, self, f"baselines against {self.ours}")
        plots.add_legend(drawing)
        return drawing


def speed(result: Result) -> Sheet:
    """Make a table of our time and each baseline's multiple of it, with a row for each cell."""
    rows = []
    for cell in result.cells:
        samples = cell.seconds[result.ours]
        lower, median, upper = timing.quartiles(samples)
        share = "-"
        if cell.limit_seconds is not None:
            share = f"{timing.ratio(cell.limit_seconds, samples):.0%}"
        fastest = result.fastest_baseline(cell)
        floor = result.noise(cell)
        rows.append(
            [
                cell.case,
                cell.mode,
                _digits(median * 1e3),
                f"±{(upper - lower) / 2 / median:.0%}",
                _digits(cell.work / median),
                share,
                *([floor.text() if floor else "-"] if result.has_noise else []),
                *(
                    _judged(result, cell, baseline) if cell.offers(baseline) else ""
                    for baseline in result.baselines
                ),
                _judged(result, cell, fastest[0]) if fastest else "-",
            ]
        )
    if result.extent.whole:
        for mode in result.modes():
            means = [_multiple(result.mean_ratio(name, mode)) for name in result.baselines]
            blank = [""] * (5 if result.has_noise else 4)
            rows.append(["geometric mean", mode, *blank, *means, ""])
    return Sheet(
        f"Time of {result.ours}; baselines as multiples of it (above 1×: {result.ours} is faster)",
        [
            *("case", "mode", "ms", "±", result.unit, "limit"),
            *(["noise"] if result.has_noise else []),
            *(*result.baselines, "best"),
        ],
        rows,
        (
            f"ms: median of {result.ours}'s calls; ±: half the distance between its quartiles",
            *result.legend,
            f"a baseline's column: its time over {result.ours}'s, median of the ratios within the "
            "rounds; best: that of the fastest baseline",
            *([noise.LEGEND] if result.has_noise else []),
        ),
    )


def _intervals(result: Result) -> Sheet:
    """Make a table of the intervals of the multiples, with a row for each cell."""
    rows = []
    for cell in result.cells:
        found = [result.interval(cell, baseline) for baseline in result.baselines]
        rows.append(
            [cell.case, cell.mode, *(each.text() if each else NOT_INSTALLED for each in found)]
        )
    header = ["case", "mode", *result.baselines]
    return Sheet(f"{noise.LEVEL:.0%} intervals of the multiples", header, rows)


def _rows_by_implementation(result: Result) -> Sheet:
    """Make a table of time, rate, share of the limit, multiple and memory by implementation."""
    rows = []
    for cell in result.cells:
        for name in filter(cell.offers, result.implementations):
            figures = [NOT_INSTALLED, *[""] * (6 if result.has_noise else 5)]
            if (samples := cell.seconds.get(name)) is not None:
                lower, median, upper = timing.quartiles(samples)
                limit, temp = cell.limit_seconds, cell.temp_bytes.get(name)
                figures = [
                    _digits(median * 1e3),
                    f"±{(upper - lower) / 2 / median:.0%}",
                    _digits(cell.work / median),
                    "-" if limit is None else f"{timing.ratio(limit, samples):.0%}",
                    _judged(result, cell, name) if name != result.ours else _multiple(1.0),
                    *(_interval_text(result, cell, name) if result.has_noise else []),
                    "unknown" if temp is None else _digits(temp / 1e6),
                ]
            rows.append([f"{cell.case}, {cell.mode}", name, *figures])
    return Sheet(
        f"Time, rate and temporary memory; × is the time over that of {result.ours} "
        f"(above 1×: {result.ours} is faster)",
        [
            *("case", "implementation", "ms", "±", result.unit, "limit", "×"),
            *(["interval"] if result.has_noise else []),
            "temp MB",
        ],
        rows,
        (
            "ms: median; ±: half the distance between the quartiles; ×: median of the ratios "
            "within the rounds",
            *result.legend,
            *(
                [f"the interval of {result.ours} is the noise", noise.LEGEND]
                if result.has_noise
                else []
            ),
        ),
    )


def memory(result: Result) -> Sheet:
    """Make a table of XLA's scratch memory, for the implementations that it compiled."""
    rows = []
    for cell in result.cells:
        temps = [cell.temp_bytes.get(name) for name in result.compiled]
        rows.append(
            [cell.case, cell.mode]
            + ["unknown" if temp is None else _digits(temp / 1e6) for temp in temps]
        )
    header = ["case", "mode", *result.compiled]
    return Sheet("Temporary memory that XLA allocates, MB", header, rows)


def _digits(value: float) -> str:
    """Format a number with three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else "0"


def _multiple(ratio: float | None) -> str:
    return NOT_INSTALLED if ratio is None else f"{ratio:.2f}×"


def _judged(result: Result, cell: Cell, baseline: str) -> str:
    """Format the multiple, with "tie" if the noise hides which of the two is faster."""
    return _multiple(result.ratio(cell, baseline)) + " tie" * result.ties(cell, baseline)


def _interval_text(result: Result, cell: Cell, name: str) -> list[str]:
    """Format the interval of an implementation; for ours, the interval of the noise."""
    own = name == result.ours
    found = result.noise(cell) if own else result.interval(cell, name)
    return [found.text() if found else "-"]
