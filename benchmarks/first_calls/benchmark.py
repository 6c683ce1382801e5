"""First calls of the statistics on few numbers, each in a new process, and warm calls.

In interactive statistics most calls are first calls, and the user waits for their compilation. So
every function is called in a new process, without a cache on disk, and then again.
"""

from collections.abc import Iterable

from benchmarks.first_calls import worker
from benchmarks.first_calls.calls import CALLS, SCIPY, STATSMODELS, Call
from benchmarks.harness import machine, timing
from benchmarks.harness.baselines import OURS
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.targets import Target, table_of_targets

BASELINES = (SCIPY, STATSMODELS)
FIRST, WARM = "first call", "warm call"
SECONDS = {FIRST: 1.0, WARM: 1e-3}
"""Targets, by mode."""
MOST_ROUNDS = 3
NOTES = (
    "concrete input of at most 60 rows of NumPy; each call in a process of its own, which has "
    "imported the packages, made the data and, for xentjax, compiled x + 1; no cache on disk",
    "warm call: median of 20 calls after the first",
    "a baseline: the nearest function of scipy or statsmodels, where there is one",
)


def measure(name: str, call: Call, session: Session) -> list[Cell]:
    """Time first and warm calls of our function and of the baselines, in turns."""
    packages = (OURS, *filter(session.choice.has_rival, call.others))
    found = {package: [] for package in packages}
    for _ in range(min(session.rounds, MOST_ROUNDS)):
        for package in packages:
            session.say(package, log=False)
            found[package].append(worker.times(name, package))
    return [
        Cell(
            case=name,
            mode=mode,
            seconds={package: [pair[i] for pair in pairs] for package, pairs in found.items()},
            work=1.0,
            offered=(OURS, *call.others),
        )
        for i, mode in enumerate(SECONDS)
    ]


def targets(cells: Iterable[Cell]) -> list[tuple[str, Target]]:
    """Compare the medians of xentjax with their limits."""
    return [
        (
            f"{cell.case}, {cell.mode}",
            Target(
                f"{OURS} / {SECONDS[cell.mode]:g} s",
                timing.quartiles(cell.seconds[OURS]).median / SECONDS[cell.mode],
                1.0,
            ),
        )
        for cell in cells
    ]


def run(session: Session) -> Result:
    """Measure every function."""
    limits = machine.measure(quick=session.quick)
    calls = list(CALLS.items())[:1] if session.quick else CALLS.items()
    pairs = session.collect(
        "first calls",
        [(name, (name, call)) for name, call in calls],
        lambda case: measure(*case, session),
    )
    cells = [cell for pair in pairs for cell in pair]
    return Result(
        name="first_calls",
        ours=OURS,
        baselines=tuple(filter(session.choice.has_rival, BASELINES)),
        unit="calls/s",
        cells=tuple(cells),
        machine=limits,
        notes=NOTES,
        extent=session.extent,
        row_per_implementation=True,
        tables=(table_of_targets(targets(cells)),) if session.extent.whole else (),
    )
