"""What a report is made of: tables as values and as text, and what every report can say."""

from typing import Any, NamedTuple, Protocol

from matplotlib.figure import Figure

from benchmarks.machine import Machine


class Sheet(NamedTuple):
    """A table as text; the first two columns name the case and the mode."""

    title: str
    header: list[str]
    rows: list[list[str]]


class Table(NamedTuple):
    """Texts and numbers; None is an unknown number. The first two columns name a row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]

    def sheet(self) -> Sheet:
        """The table as text, numbers with three digits."""
        return Sheet(self.title, [*self.header], [[_text(x) for x in row] for row in self.rows])

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
    return value if isinstance(value, str) else f"{value:.3g}"
