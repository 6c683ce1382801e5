"""Tables whose numbers are never cut: on a narrow terminal each number gets its own line."""

from collections.abc import Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text


def new_table(title: str | None, headings: Sequence[str]) -> Table:
    """Make an empty table: a column of names, which may be wrapped, then numbers, which may not."""
    table = Table(title=None if title is None else Text(title))
    for index, heading in enumerate(headings):
        if index:
            table.add_column(heading, justify="right", no_wrap=True)
        else:
            table.add_column(heading)
    return table


def fits(console: Console, table: Table) -> bool:
    """Whether the numbers, and the longest word of the names, have room beside each other."""
    unlimited = console.options.update(width=1000)
    for column in table.columns[1:]:  # rich would measure only the longest word of "1.2 (1.1, 1.3)"
        cells = column.header, *column.cells
        column.min_width = max(Measurement.get(console, unlimited, cell).maximum for cell in cells)
    return Measurement.get(console, unlimited, table).minimum <= console.width


def show(console: Console, table: Table) -> None:
    """Print the table, or each row as a list of its entries if it is too wide."""
    if fits(console, table):
        console.print(table)
        return
    if table.title is not None:
        console.print(table.title)
    names, *columns = table.columns
    headings = [" ".join(str(column.header).split()) for column in columns]
    for name, *cells in zip(*(column.cells for column in (names, *columns)), strict=True):
        console.print(name)
        for heading, cell in zip(headings, cells, strict=True):
            if cell:
                console.print(Text(f"  {heading}: {cell}"), soft_wrap=True)
    if table.caption is not None:
        console.print(table.caption)
