"""The report of `categorical`: times by group of cases, targets, a plot with a panel per group."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.categorical.implementations import (
    BINCOUNT,
    EAGER,
    HOST,
    JNP,
    NUMPY,
    REL_ENTR,
    SCIPY,
    STATSMODELS,
)
from benchmarks.harness import noise, timing
from benchmarks.harness.baselines import NO_TORCH, OURS, TORCH, how_to_install
from benchmarks.harness.figures import (
    STYLES,
    add_title,
    draw_ratio_axis,
    label_ratio_axis,
    words,
)
from benchmarks.harness.machine import Machine
from benchmarks.harness.tables import WHOLE, Extent, Sheet, Table
from experiments.common import plots

# Each implementation has the same style in all panels.
BASELINES: list[str] = [EAGER, HOST, BINCOUNT, JNP, TORCH, SCIPY, REL_ENTR, STATSMODELS, NUMPY]
BASELINE_STYLES = dict(zip(BASELINES, STYLES, strict=True))
NOTES = (
    f"{OURS}: compiled by jit, as jnp.bincount; eager: a jax array, its values checked; of "
    "NumPy: an int64 NumPy array, its values checked",
    "counts: int64 for np.bincount and torch, int32 for jax",
    "entropy and KL: float32 for all. numpy: -sum(p log p) and sum(p log(p / q)) as they stand; "
    "scipy: stats.entropy, which also normalises; torch: distributions.Categorical, made from the "
    "pmf within the call",
    "statsmodels' Sison-Glaz intervals run once from 50 classes on: that time over our median",
    "scipy: stats.power_divergence, stats.multinomial.logpmf; torch: distributions.Multinomial",
)


class Timed(NamedTuple):
    """Seconds per call by implementation: one sample per round, or a single one.

    `again` are the seconds of our implementation under a second name.
    """

    case: str
    mode: str
    seconds: timing.Samples
    again: list[float] | None = None

    def multiple(self, name: str) -> float:
        """Return the time of an implementation over ours."""
        mine, other = self.seconds[OURS], self.seconds[name]
        if len(mine) == len(other):
            return timing.ratio(other, mine)
        return timing.quartiles(other).median / timing.quartiles(mine).median

    def interval(self, name: str) -> str:
        """Format the interval of the multiple; for ours, the interval of the noise."""
        mine, other = self.seconds[OURS], self.seconds[name]
        if self.again is None or len(mine) != len(other):
            return "-"
        floor = noise.interval(self.again, mine)
        return floor.text() if name == OURS else noise.interval(other, mine).judged(floor)

    def rows(self) -> Iterable[tuple[str | float | None, ...]]:
        """Yield a row for each implementation."""
        for name, samples in self.seconds.items():
            lower, median, upper = timing.quartiles(samples)
            spread = f"±{(upper - lower) / 2 / median:.0%}" if len(samples) > 1 else "one run"
            figures = 1e3 * median, spread, self.multiple(name), self.interval(name)
            yield f"{self.case}, {self.mode}", name, *figures


@dataclass(frozen=True)
class Categorical:
    """All measured times by the title of their table; targets only after a complete run."""

    groups: Mapping[str, tuple[Timed, ...]]
    targets: Table | None
    absent: tuple[str, ...]
    machine: Machine
    extent: Extent = WHOLE
    name: str = "categorical"

    def tables(self) -> list[Table]:
        """Return a table for each group, then the targets."""
        header = ("case", "implementation", "ms", "spread", f"time / {OURS}", "interval")
        groups = [
            Table(title, header, tuple(row for timed in group for row in timed.rows()))
            for title, group in self.groups.items()
        ]
        return groups if self.targets is None else [*groups, self.targets]

    def sheets(self) -> list[Sheet]:
        """Return the tables as text."""
        return [table.sheet() for table in self.tables()]

    def lines(self) -> list[str]:
        """Return lines of text about the machine, the columns and missing packages."""
        return [
            *self.machine.describe(),
            f"ms: median; spread: half the distance between the quartiles; time / {OURS}: "
            f"median over the rounds, above 1 {OURS} is faster; all of a case interleaved",
            f"the interval of {OURS} is the noise; {noise.LEGEND}",
            *NOTES,
            f"not installed here: {', '.join(self.absent) or 'none'}",
            *([NO_TORCH] if TORCH in self.absent else []),
            *([how_to_install(STATSMODELS)] if STATSMODELS in self.absent else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the tables and their samples."""
        return {
            "name": self.name,
            **self.extent._asdict(),
            "machine": asdict(self.machine),
            "notes": self.lines(),
            "tables": [table.as_json() for table in self.tables()],
            "samples": {
                title: [timed._asdict() for timed in group] for title, group in self.groups.items()
            },
        }

    def figure(self) -> Figure:
        """Plot the times over ours, with a panel for each group."""
        panels = {
            title: compared
            for title, group in self.groups.items()
            if (compared := [timed for timed in group if len(timed.seconds) > 1])
        }
        if not panels:  # the chosen cases have no baselines
            return plots.empty(2.0)
        heights = [len(group) for group in panels.values()]
        drawing, axes_of_panels = plots.subplots(
            len(panels),
            height=1.8 + 0.5 * len(panels) + 0.27 * sum(heights),
            grid=False,
            height_ratios=heights,
        )
        every = axes_of_panels[:, 0]
        for axes, (title, group) in zip(every, panels.items(), strict=True):
            _draw(axes, title, group)
        label_ratio_axis(every[-1], OURS)
        add_title(drawing, self, f"baselines against {OURS}")
        plots.add_legend(drawing, columns=4)
        return drawing


def _draw(axes: Axes, title: str, group: list[Timed]) -> None:
    baselines = [name for name in BASELINES if any(name in timed.seconds for timed in group)]
    step = 0.8 / len(baselines)
    for index, baseline in enumerate(baselines):
        color, marker = BASELINE_STYLES[baseline]
        points = [
            (timed.multiple(baseline), row - 0.4 + (index + 0.5) * step)
            for row, timed in enumerate(group)
            if baseline in timed.seconds
        ]
        ratios, rows = zip(*points, strict=True)
        axes.scatter(
            ratios, rows, s=20, color=color, marker=marker, label=words(baseline), zorder=3
        )
    axes.set_yticks(range(len(group)), [f"{t.case}, {words(t.mode)}" for t in group], fontsize=8)
    axes.set_ylim(len(group) - 0.5, -0.5)
    draw_ratio_axis(axes, base=10)
    axes.grid(axis="x", which="both", color="0.9")
    for row in range(1, len(group)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8)
    plots.name_panel(axes, title)
