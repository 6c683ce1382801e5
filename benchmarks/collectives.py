"""What compiled programs send between devices, counted in their text, and a model of its cost."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


@dataclass(frozen=True)
class Exchange:
    """What one run of a program exchanges on each device.

    Attributes:
        calls: by kind, how many collectives run, those of a loop as often as it turns.
        payload: by kind, the bytes that they return.
    """

    calls: dict[str, int]
    payload: dict[str, int]

    @property
    def total(self) -> int:
        """The bytes that all collectives return."""
        return sum(self.payload.values())


def exchange(hlo: str) -> Exchange:
    """Count the collectives in the text of a program that XLA compiled for CPU devices.

    A loop has to tell how often it turns, as those of `lax.scan` and `lax.map` do; of a conditional
    all branches count; what a device exchanges with itself alone does not.
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
    """The lines of each computation by its name; the program's own is ENTRY."""
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
    """The kind of a collective and the bytes of all arrays that it returns."""
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
    """The computations that a line runs, and how often."""
    turns = 1
    if re.search(r" while\(", line):
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        if known is None:
            raise ValueError(f"hlo: expected loops that tell how often they turn, got {line}")
        turns = int(known[1])
    attribute = r"(?:body|to_apply|calls|(?:branch|true|false)_computations?)"
    for several, one in re.findall(attribute + r"=(?:\{([^}]*)\}|%?([\w.\-]+))", line):
        for name in several.split(",") if several else [one]:
            yield name.strip().lstrip("%"), turns


@dataclass(frozen=True)
class Link:
    """An assumed link between accelerators: bytes a second in one direction, seconds a hop."""

    name: str
    bandwidth: float
    latency: float

    def all_reduce(self, payload: float, devices: int, calls: int = 1) -> float:
        """Seconds of ring all-reduces: a reduce-scatter and an all-gather, P - 1 steps each."""
        return 2 * self.all_gather(payload, devices, calls)

    def all_gather(self, payload: float, devices: int, calls: int = 1) -> float:
        """Seconds of ring all-gathers that leave `payload` bytes in all on each device."""
        steps = devices - 1
        return steps * (calls * self.latency + payload / devices / self.bandwidth)
