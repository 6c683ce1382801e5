"""Collectives of compiled programs, counted in their text."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


@dataclass(frozen=True)
class Exchange:
    """Collectives of one run of a program on each device.

    Attributes:
        calls: by kind, their number; those in a loop count once per iteration.
        payload: by kind, the bytes that they return.
    """

    calls: dict[str, int]
    payload: dict[str, int]

    @property
    def total(self) -> int:
        """Number of bytes that all collectives return."""
        return sum(self.payload.values())


def exchange(hlo: str) -> Exchange:
    """Count the collectives in the text of a program that XLA compiled for CPU devices.

    Loops must have a known number of iterations, like those of `lax.scan` and `lax.map`. All
    branches of a conditional count; collectives of a single device do not.
    """
    calls: Counter[str] = Counter()
    payload: Counter[str] = Counter()
    computations = _computations(hlo)

    def visit(name: str, times: int) -> None:
        for line in computations[name]:
            for kind, arrays in _collective(line):
                calls[kind] += times
                payload[kind] += times * arrays
            for called, turns in _called(line):
                if called in computations:
                    visit(called, times * turns)

    visit("ENTRY", 1)
    return Exchange(dict(calls), dict(payload))


def _computations(hlo: str) -> dict[str, list[str]]:
    """Map the name of each computation to its lines; the main program's is ENTRY."""
    found: dict[str, list[str]] = {}
    name = ""
    for line in hlo.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
        if head and not line.startswith("HloModule"):
            name = "ENTRY" if head[1] else head[2]
            found[name] = []
        elif name:
            found[name].append(line)
    return found


def _collective(line: str) -> Iterator[tuple[str, int]]:
    """Yield the kind of a collective and the bytes of all arrays that it returns."""
    match = re.search(rf"= (.*?) ({'|'.join(KINDS)})\(", line)
    alone = re.search(r"replica_groups=(?:\{\{\d+\}|\[\d+,1\])", line)
    if match and not alone:
        arrays = re.findall(r"(?:pred|[a-z]+(\d+))\[([\d,]*)\]", match[1])
        yield (
            match[2],
            sum(
                int(bits or 8) // 8 * prod(int(n) for n in shape.split(",") if n)
                for bits, shape in arrays
            ),
        )


def _called(line: str) -> Iterator[tuple[str, int]]:
    """Yield the computations that a line runs, and their number of runs."""
    turns = 1
    if re.search(r" while\(", line):
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if known is None:
            raise ValueError(f"hlo: expected loops with a known number of iterations, got {line}")
        turns = int(known[1])
    attribute = r"(?:body|to_apply|calls|(?:branch|true|false)_computations?)"
    for several, one in re.findall(attribute + r"=(?:\{([^}]*)\}|%?([\w.\-]+))", line):
        for name in several.split(",") if several else [one]:
            yield name.strip().lstrip("%"), turns
