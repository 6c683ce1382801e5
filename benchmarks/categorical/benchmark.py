"""The die: counts, entropies, intervals and tests by xentjax, NumPy, SciPy and others."""

from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import NamedTuple

from benchmarks.categorical.implementations import (
    BINCOUNT,
    EAGER,
    JNP,
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
from benchmarks.categorical.report import Categorical, Timed
from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import OURS, TORCH, load_torch
from benchmarks.harness.machine import Machine
from benchmarks.harness.session import Choice, Session
from benchmarks.harness.tables import WHOLE, Extent
from benchmarks.harness.targets import Target, table_of_targets

ESTIMATES = ("plug_in", "miller_madow", "chao_shen", "grassberger", "nsb")
COUNT_LIMITS = {"10,000,000": (EAGER, 1.1), "50,000": (OURS, 1.5)}


def targets(timed: Timed) -> list[Target]:
    """Return the targets of this case."""
    found = []
    if timed.case in COUNT_LIMITS:
        name, limit = COUNT_LIMITS[timed.case]
        # The larger ratio is the ratio to the faster of the two.
        slower = max(
            timing.ratio(timed.seconds[name], timed.seconds[other]) for other in (BINCOUNT, JNP)
        )
        found.append(Target(f"{name} / faster of {BINCOUNT}, {JNP}", slower, limit))
    if (timed.case, timed.mode) == ("K = 500", "Sison-Glaz"):
        known = STATSMODELS in timed.seconds
        share = 1 / timed.multiple(STATSMODELS) if known else None
        found.append(Target(f"{OURS} / {STATSMODELS}", share, 0.01))
    return found


class Case(NamedTuple):
    """A group of thunks that are timed together, with its names in the table.

    Attributes:
        case: the size of the problem.
        mode: the function that is computed.
        thunks: function that makes the thunks.
        once: the implementations that are too slow to repeat.
    """

    case: str
    mode: str
    thunks: Callable[[], Thunks]
    once: tuple[str, ...] = ()


def plan(size: cases.CategoricalCases, torch: ModuleType | None) -> dict[str, list[Case]]:
    """Return all cases by the title of their table."""
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
    """Time all thunks of a case, interleaved except for those that run once."""
    thunks = {
        name: thunk
        for name, thunk in case.thunks().items()
        if name.startswith(OURS) or session.choice.has_rival(name)
    }
    slow = {name: thunks.pop(name) for name in case.once if name in thunks}
    seconds = session.interleave(thunks, ours=OURS)
    again = seconds.pop(noise.AGAIN, None)
    if session.interrupted is None:
        seconds |= {name: [timing.once(thunk)] for name, thunk in slow.items()}
    return Timed(case.case, case.mode, seconds, again)


def report_of(
    groups: Mapping[str, tuple[Timed, ...]], limits: Machine, extent: Extent = WHOLE
) -> Categorical:
    """Make the report, with a table of targets and the names of missing packages."""
    everything = [timed for group in groups.values() for timed in group]
    seen = {name for timed in everything for name in timed.seconds}
    wanted = Choice(rivals=extent.rivals)
    absent = tuple(
        name for name in (TORCH, STATSMODELS) if name not in seen and wanted.has_rival(name)
    )
    verdicts = None
    if extent.whole:
        verdicts = table_of_targets(
            (f"{timed.case}, {timed.mode}", target)
            for timed in everything
            for target in targets(timed)
        )
    return Categorical(groups, verdicts, absent, limits, extent)


def run(session: Session) -> Categorical:
    """Measure every group."""
    limits = machine.measure(quick=session.quick, packages=("scipy", STATSMODELS))
    size = cases.CATEGORICAL_QUICK if session.quick else cases.CATEGORICAL
    groups = {}
    torch = load_torch() if session.choice.has_rival(TORCH) else None
    for title, table in plan(size, torch).items():
        named = [(f"{case.case}, {case.mode}", case) for case in table]
        if found := session.collect(title, named, lambda case: measure(case, session)):
            groups[title] = tuple(found)
    return report_of(groups, limits, session.extent)


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]:,} × {shape[1]:,}"
