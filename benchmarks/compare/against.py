"""A committed result compared with today's: did xentjax get slower relative to the baselines?

Times of different days or machines are not comparable. But both results have ratios to baselines in
the same rounds, so the change of these ratios is the change of xentjax.
"""

from typing import Any, NamedTuple

from benchmarks.harness import noise
from benchmarks.harness.report import Result
from benchmarks.harness.tables import NOT_INSTALLED, Table

LEGEND = (
    "then, now: the baseline's time over ours with its 95 % interval; slower: for every baseline, "
    "today's interval is below that of then, by more than the noise; faster: the reverse",
    "other versions of a baseline or another machine change a ratio too: compare BASE, which "
    "alternates two revisions, is the one to trust",
)


class Against(NamedTuple):
    """The table, and the cells that are slower or faster relative to every baseline."""

    table: Table
    slower: list[str]
    faster: list[str]

    def summary(self) -> str:
        """Write a line that names what got slower and what got faster."""
        line = f"slower: {', '.join(self.slower)}" if self.slower else "nothing slower"
        return line + (f"; faster: {', '.join(self.faster)}" if self.faster else "")


def against(old: dict[str, Any], result: Result) -> Against:
    """Compare the cells of a stored result with today's cells of the same names."""
    then = {(cell["case"], cell["mode"]): cell["implementations"] for cell in old["cells"]}
    rows, found = [], {"slower": [], "faster": []}
    for cell in result.cells:
        stored = then.get((cell.case, cell.mode), {})
        pairs = {
            name: (_stored_interval(stored, name, old["ours"]), now)
            for name in result.baselines
            if stored.get(name, NOT_INSTALLED) != NOT_INSTALLED
            and (now := result.interval(cell, name)) is not None
        }
        word = _word(list(pairs.values()), result.noise(cell)) if pairs else "n/a"
        if word in found:
            found[word].append(f"{cell.case} {cell.mode}")
        for name, (before, now) in pairs.items():
            change = before.median / now.median
            both = f"{before.median:.2f}× ({before.text()})", f"{now.median:.2f}× ({now.text()})"
            rows.append((f"{cell.case}, {cell.mode}", name, *both, f"{change:.2f}×", word))
        if not pairs:
            reason = "no baseline of both" if stored else "not in the old result"
            rows.append((f"{cell.case}, {cell.mode}", reason, *["n/a"] * 4))
    table = Table(
        f"{result.name}: today beside {old['machine']['date'][:10]}",
        ("case", "baseline", "then", "now", "ours, change", "verdict"),
        tuple(rows),
        LEGEND,
    )
    return Against(table, found["slower"], found["faster"])


def _stored_interval(stored: dict[str, Any], name: str, ours: str) -> noise.Interval:
    return noise.interval(stored[name]["samples"], stored[ours]["samples"])


def _word(pairs: list[tuple[noise.Interval, noise.Interval]], floor: noise.Interval | None) -> str:
    # A change counts only if it exceeds today's noise.
    wide = 1.0 if floor is None else max(floor.upper, 1 / floor.lower)
    if all(now.upper * wide < then.lower for then, now in pairs):
        return "slower"
    if all(now.lower > then.upper * wide for then, now in pairs):
        return "faster"
    return "tie"
