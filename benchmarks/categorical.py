"""The die: what `dice` asks of xentjax and its rivals, timed, held to targets and reported."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import cases, machine, timing
from benchmarks.dice import (
    BINCOUNT,
    EAGER,
    HOST,
    JNP,
    NUMPY,
    REL_ENTR,
    SCIPY,
    STATSMODELS,
    Thunks,
    count_thunks,
    entropy_thunks,
    estimate_thunks,
    g_test_thunks,
    interval_thunks,
    kl_thunks,
    likelihood_thunks,
)
from benchmarks.linear import Target, table_of_targets
from benchmarks.losses import NO_TORCH, SUBJECT, TORCH, load_torch
from benchmarks.machine import Machine
from benchmarks.report import STYLES, put_title
from benchmarks.session import Session
from benchmarks.tables import WHOLE, Extent, Sheet, Table

# One look for each in all panels; none shows both of NumPy's ways, which may look the same.
RIVALS: list[str] = [EAGER, HOST, BINCOUNT, JNP, TORCH, SCIPY, REL_ENTR, STATSMODELS, NUMPY]
LOOKS = dict(zip(RIVALS, (*STYLES, STYLES[2]), strict=True))
ESTIMATES = ("plug_in", "miller_madow", "chao_shen", "grassberger", "nsb")
COUNT_LIMITS = {"10,000,000": (EAGER, 1.1), "50,000": (SUBJECT, 1.5)}
NOTES = (
    f"{SUBJECT}: compiled by jit, as jnp.bincount; eager: an array of jax, its values checked; of "
    "NumPy: an int64 NumPy array, its values checked",
    "counts: int64 for np.bincount and torch, int32 for jax",
    "entropy and KL: float32 for all. numpy: -sum(p log p) and sum(p log(p / q)) as they stand; "
    "scipy: stats.entropy, which also normalises; torch: distributions.Categorical made from the "
    "pmf and asked, as one who has a pmf must",
    "statsmodels' Sison-Glaz intervals run once from 50 classes on: that one time over the median",
    "scipy: stats.power_divergence, stats.multinomial.logpmf; torch: distributions.Multinomial",
)


class Timed(NamedTuple):
    """Seconds per call by who was timed: one sample a round, or one alone."""

    case: str
    mode: str
    seconds: timing.Samples

    def multiple(self, who: str) -> float:
        """The time of `who` over the subject's."""
        mine, other = self.seconds[SUBJECT], self.seconds[who]
        if len(mine) == len(other):
            return timing.ratio(other, mine)
        return timing.quartiles(other).median / timing.quartiles(mine).median

    def rows(self) -> Iterable[tuple[str | float | None, ...]]:
        """Yield a row for each who was timed."""
        for who, samples in self.seconds.items():
            lower, median, upper = timing.quartiles(samples)
            spread = f"±{(upper - lower) / 2 / median:.0%}" if len(samples) > 1 else "one run"
            yield f"{self.case}, {self.mode}", who, 1e3 * median, spread, self.multiple(who)


@dataclass(frozen=True)
class Categorical:
    """All that was timed, by subject of the table; targets only of a whole run."""

    groups: Mapping[str, tuple[Timed, ...]]
    targets: Table | None
    absent: tuple[str, ...]
    machine: Machine
    extent: Extent = WHOLE
    name: str = "categorical"

    def tables(self) -> list[Table]:
        """One for each group, then the targets."""
        header = ("case", "who", "ms", "spread", f"time / {SUBJECT}")
        groups = [
            Table(title, header, tuple(row for timed in group for row in timed.rows()))
            for title, group in self.groups.items()
        ]
        return groups if self.targets is None else [*groups, self.targets]

    def sheets(self) -> list[Sheet]:
        """The tables as text."""
        return [table.sheet() for table in self.tables()]

    def lines(self) -> list[str]:
        """The machine, what is not here, and the notes."""
        return [
            *self.machine.describe(),
            f"ms: median; spread: half the distance between the quartiles; time / {SUBJECT}: "
            f"median over the rounds, above 1 {SUBJECT} is faster; all of a case interleaved",
            *NOTES,
            f"not installed here: {', '.join(self.absent) or 'none'}",
            *([NO_TORCH] if TORCH in self.absent else []),
        ]

    def as_json(self) -> dict[str, Any]:
        """The tables and the samples they come from."""
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
        """A panel for each group with the times over the subject's."""
        panels = {
            title: compared
            for title, group in self.groups.items()
            if (compared := [timed for timed in group if len(timed.seconds) > 1])
        }
        heights = [len(group) for group in panels.values()]
        drawing = Figure(
            figsize=(8.3, 1.1 * len(panels) + 0.3 * sum(heights)), layout="constrained"
        )
        every = drawing.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
        for axes, (title, group) in zip(every, panels.items(), strict=True):
            _draw(axes, title, group)
        every[-1].set_xlabel(
            f"time / {SUBJECT}'s time, log scale (right of 1×: {SUBJECT} is faster)"
        )
        put_title(drawing, self, f"rivals against {SUBJECT}")
        return drawing


def _draw(axes: Axes, title: str, group: list[Timed]) -> None:
    rivals = [who for who in LOOKS if any(who in timed.seconds for timed in group)]
    step = 0.8 / len(rivals)
    for index, rival in enumerate(rivals):
        color, marker = LOOKS[rival]
        points = [
            (timed.multiple(rival), row - 0.4 + (index + 0.5) * step)
            for row, timed in enumerate(group)
            if rival in timed.seconds
        ]
        ratios, rows = zip(*points, strict=True)
        axes.scatter(ratios, rows, s=20, color=color, marker=marker, label=rival, zorder=3)
    axes.axvline(1.0, color="black", linewidth=1.5)
    axes.set_yticks(range(len(group)), [f"{t.case}, {t.mode}" for t in group], fontsize=8)
    axes.set_ylim(len(group) - 0.5, -0.5)
    axes.set_xscale("log", base=10)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", which="both", color="0.9")
    for row in range(1, len(group)):
        axes.axhline(row - 0.5, color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=9, loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8, frameon=False)


def targets(timed: Timed) -> list[Target]:
    """What xentjax has set itself in this case."""
    found = []
    if timed.case in COUNT_LIMITS:
        who, limit = COUNT_LIMITS[timed.case]
        # The ratio to the faster of the two is the larger.
        slower = max(
            timing.ratio(timed.seconds[who], timed.seconds[rival]) for rival in (BINCOUNT, JNP)
        )
        found.append(Target(f"{who} / faster of {BINCOUNT}, {JNP}", slower, limit))
    if (timed.case, timed.mode) == ("K = 500", "Sison-Glaz"):
        known = STATSMODELS in timed.seconds
        share = 1 / timed.multiple(STATSMODELS) if known else None
        found.append(Target(f"{SUBJECT} / {STATSMODELS}", share, 0.01))
    return found


class Case(NamedTuple):
    """Thunks that are timed together, and how the table names them.

    Attributes:
        case: the size of the problem.
        mode: what is computed.
        thunks: makes them.
        once: those that take too long to repeat.
    """

    case: str
    mode: str
    thunks: Callable[[], Thunks]
    once: tuple[str, ...] = ()


def plan(size: cases.CategoricalCases, torch: ModuleType | None) -> dict[str, list[Case]]:
    """All cases, by the title of their table."""
    of_pmfs = {"entropy": entropy_thunks, "KL": kl_thunks}
    of_dice = {
        "G-test": g_test_thunks,
        "multinomial": partial(likelihood_thunks, torch=torch),
    }
    return {
        "Counts of N samples": [
            Case(f"{case.samples:,}", f"K = {case.classes}", partial(count_thunks, case, torch))
            for case in size.counts
        ],
        "Entropy and KL divergence of rows × K": [
            Case(_name(shape), mode, partial(thunks, shape, torch))
            for shape in size.pmfs
            for mode, thunks in of_pmfs.items()
        ],
        "Simultaneous intervals of K classes": [
            Case(f"K = {classes}", mode, partial(interval_thunks, classes, method), once)
            for classes in size.intervals
            for mode, method, once in (
                ("Sison-Glaz", "sison_glaz", (STATSMODELS,) if classes >= 50 else ()),
                ("Goodman", "goodman", ()),
            )
        ],
        "G-test and multinomial log-likelihood of rows × K": [
            Case(_name(shape), mode, partial(thunks, shape))
            for shape in size.dice
            for mode, thunks in of_dice.items()
        ],
        "Entropy estimates from counts, rows × K": [
            Case(_name(shape), method, partial(estimate_thunks, shape, method))
            for shape in size.dice
            for method in ESTIMATES
        ],
    }


def measure(case: Case, session: Session) -> Timed:
    """Time all thunks of a case, interleaved but for those that run once."""
    thunks = case.thunks()
    slow = {who: thunks.pop(who) for who in case.once if who in thunks}
    seconds = session.interleave(thunks)
    if session.interrupted is None:
        seconds |= {who: [timing.once(thunk)] for who, thunk in slow.items()}
    return Timed(case.case, case.mode, seconds)


def report_of(
    groups: Mapping[str, tuple[Timed, ...]], limits: Machine, extent: Extent = WHOLE
) -> Categorical:
    """The report, with the targets' table and the names of who was not there."""
    everything = [timed for group in groups.values() for timed in group]
    seen = {who for timed in everything for who in timed.seconds}
    absent = tuple(name for name in (TORCH, STATSMODELS) if name not in seen)
    found = [
        (f"{timed.case}, {timed.mode}", target) for timed in everything for target in targets(timed)
    ]
    verdicts = table_of_targets(found) if extent.whole else None
    return Categorical(groups, verdicts, absent, limits, extent)


def run(session: Session) -> Categorical:
    """Measure every group."""
    limits = machine.measure(quick=session.quick, rivals=("scipy", STATSMODELS))
    size = cases.CATEGORICAL_QUICK if session.quick else cases.CATEGORICAL
    groups = {}
    for title, table in plan(size, load_torch()).items():
        named = [(f"{case.case}, {case.mode}", case) for case in table]
        if found := session.collect(title, named, lambda case: measure(case, session)):
            groups[title] = tuple(found)
    return report_of(groups, limits, session.extent)


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]:,} × {shape[1]:,}"
