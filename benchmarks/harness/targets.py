"""Targets: limits of ratios that xentjax aims for, and whether they are met."""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.harness.tables import Table


class Target(NamedTuple):
    """A ratio that must be at most `limit`; `found` is None if it could not be measured."""

    name: str
    found: float | None
    limit: float


def table_of_targets(found: Iterable[tuple[str, Target]]) -> Table:
    """Make a table with a row for each target, by case."""
    return Table(
        "Targets: ratios that must be at most the limit",
        ("case", "target", "found", "limit", "met"),
        tuple((case, *target, _met(target.found, target.limit)) for case, target in found),
    )


def _met(found: float | None, limit: float) -> str:
    return "unknown" if found is None else "met" if found <= limit else "MISSED"
