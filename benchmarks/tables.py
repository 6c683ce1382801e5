"""What a report is made of: tables as values and as text, and what every report can say."""

from typing import Any, NamedTuple, Protocol

from matplotlib.figure import Figure

from benchmarks.machine import Machine


class Extent(NamedTuple):
    """How much of a benchmark was run.

    Attributes:
        quick: small shapes and few rounds, whose figures mean little.
        interrupted: where Ctrl-C ended it, and after how many rounds; None if it did not.
    """

    quick: bool = False
    interrupted: str | None = None

    @property
    def whole(self) -> bool:
        """Whether means over the cases and verdicts say anything."""
        return self == WHOLE

    @property
    def mark(self) -> str:
        """Put before titles: "QUICK: ", "INTERRUPTED: ", both or nothing."""
        marks = [*(["QUICK"] if self.quick else []), *(["INTERRUPTED"] if self.interrupted else [])]
        return f"{', '.join(marks)}: " if marks else ""

    def lines(self) -> list[str]:
        """What the marks mean."""
        without = "no means, no targets"
        return [
            *(
                [f"QUICK: small shapes and few rounds, so the figures mean little; {without}"]
                if self.quick
                else []
            ),
            *([f"INTERRUPTED at {self.interrupted}; {without}"] if self.interrupted else []),
        ]


WHOLE = Extent()


class Sheet(NamedTuple):
    """A table as text; the first two columns name the case and the mode.

    `legend` explains the columns, a line each.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    legend: tuple[str, ...] = ()


class Table(NamedTuple):
    """Texts and numbers; None is an unknown number. The first two columns name a row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    legend: tuple[str, ...] = ()

    def sheet(self) -> Sheet:
        """The table as text, numbers with three digits."""
        rows = [[_text(x) for x in row] for row in self.rows]
        return Sheet(self.title, [*self.header], rows, self.legend)

    def as_json(self) -> dict[str, Any]:
        """The rows as objects."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows}


class Report(Protocol):
    """What the command prints and saves."""

    @property
    def name(self) -> str:
        """The benchmark."""
        ...

    @property
    def machine(self) -> Machine:
        """Where and when it ran."""
        ...

    @property
    def extent(self) -> Extent:
        """How much of it ran."""
        ...

    def sheets(self) -> list[Sheet]:
        """The tables."""
        ...

    def lines(self) -> list[str]:
        """What is said below them."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Everything measured and derived, as plain values."""
        ...

    def figure(self) -> Figure:
        """The picture."""
        ...


def _text(value: str | float | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
