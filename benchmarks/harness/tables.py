"""Parts of a report: tables as values and as text, and the protocol of a report."""

from typing import Any, NamedTuple, Protocol

from matplotlib.figure import Figure

from benchmarks.harness.machine import Machine

NOT_INSTALLED = "not installed"


class Extent(NamedTuple):
    """The part of a benchmark that was run.

    Attributes:
        quick: small shapes and few rounds, whose figures are not representative.
        interrupted: the case and round at which Ctrl-C ended the run, or None.
        cases: the number of cases that were run, and of all cases; None if all were run.
        rivals: parts of the names of the chosen baselines; empty for all baselines.
    """

    quick: bool = False
    interrupted: str | None = None
    cases: tuple[int, int] | None = None
    rivals: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether means over the cases and targets are meaningful."""
        return self == WHOLE

    @property
    def mark(self) -> str:
        """Prefix of titles: "QUICK: ", "INTERRUPTED: ", "3 of 12 cases: ", several or nothing."""
        marks = [
            *(["QUICK"] if self.quick else []),
            *(["INTERRUPTED"] if self.interrupted else []),
            *([f"{self.cases[0]} of {self.cases[1]} cases"] if self.cases else []),
            *([f"only {', '.join(self.rivals)}"] if self.rivals else []),
        ]
        return f"{', '.join(marks)}: " if marks else ""

    def lines(self) -> list[str]:
        """Return explanations of the marks."""
        without = "no means, no targets"
        return [
            *(
                [f"QUICK: small shapes and few rounds, not representative; {without}"]
                if self.quick
                else []
            ),
            *([f"INTERRUPTED at {self.interrupted}; {without}"] if self.interrupted else []),
            *([f"{self.cases[0]} of {self.cases[1]} cases; {without}"] if self.cases else []),
            *([f"only {', '.join(self.rivals)}; {without}"] if self.rivals else []),
        ]


WHOLE = Extent()


class Sheet(NamedTuple):
    """A table as text; the first two columns name the case and the mode.

    Each line of `legend` explains a column.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    legend: tuple[str, ...] = ()


class Table(NamedTuple):
    """A table of texts and numbers (None if unknown), whose first two columns name a row."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str | float | None, ...], ...]
    legend: tuple[str, ...] = ()

    def sheet(self) -> Sheet:
        """Convert to text, with numbers of three digits."""
        rows = [[_text(x) for x in row] for row in self.rows]
        return Sheet(self.title, [*self.header], rows, self.legend)

    def as_json(self) -> dict[str, Any]:
        """Convert the rows to objects."""
        rows = [dict(zip(self.header, row, strict=True)) for row in self.rows]
        return {"title": self.title, "rows": rows}


class Report(Protocol):
    """The result of a benchmark, which the command prints and saves."""

    @property
    def name(self) -> str:
        """Name of the benchmark."""
        ...

    @property
    def machine(self) -> Machine:
        """The machine and the date of the run."""
        ...

    @property
    def extent(self) -> Extent:
        """The part that was run."""
        ...

    def sheets(self) -> list[Sheet]:
        """Return the tables as text."""
        ...

    def lines(self) -> list[str]:
        """Return lines of text about the machine, the method and the columns."""
        ...

    def as_json(self) -> dict[str, Any]:
        """Return all measured and derived values, for JSON."""
        ...

    def figure(self) -> Figure:
        """Draw the plot."""
        ...


def _text(value: str | float | None) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, str):
        return value
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
