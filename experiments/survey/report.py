"""A report as a page of Markdown with its pictures, as numbers, and on the terminal."""

import re
import textwrap
from collections.abc import Callable
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.common.command import say
from experiments.common.run_folder import RunFolder, replace_file
from experiments.common.tables import fits, new_table, show as show_table
from experiments.survey import bars, forest, mosaic
from experiments.survey.run import Result
from experiments.survey.tables import (
    Table,
    name,
    regression_tables,
    shares_table,
    tables,
    two_way_tables,
)

HEADING = 9  # characters of a line of a group's name
# Characters of a line of an answer's or a feature's name: the first that there is room for.
NAME = (24, 18, 12, 10)
SHOWN = 20  # categories on the terminal
# Characters that have a meaning in Markdown.
MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


def save(result: Result, folder: RunFolder, doing: Callable[[str], None]) -> None:
    """Write the pictures, summary.json and report.md; `doing` is called with the activity."""
    for place, (picture, make) in enumerate(figures := list(_figures(result).items()), start=1):
        doing(f"drawing {place} of {len(figures)}")
        folder.figure(picture, make())
    folder.summary(summarize(result))
    page = markdown(result)
    replace_file(
        folder.path / "report.md",
        lambda unfinished: unfinished.write_text(page, encoding="utf-8"),
    )


def _figures(result: Result) -> dict[str, Callable[[], Figure]]:
    made: dict[str, Callable[[], Figure]] = {"shares": lambda: bars.draw(result)}
    if (two_way := result.two_way) is not None and two_way.table.any():
        made["mosaic"] = lambda: mosaic.draw(result, two_way)
    if (regression := result.regression) is not None:
        made["coefficients"] = lambda: forest.draw_coefficients(result, regression)
        made["odds_ratios"] = lambda: forest.draw_odds_ratios(result, regression)
    return made


def summarize(result: Result) -> dict[str, Any]:
    """Collect the numbers of a report."""
    survey, shares = result.survey, result.shares
    summary: dict[str, Any] = {
        "source": survey.source,
        "respondents": len(survey.answers.codes),
        "column": survey.answers.name,
        "answers": survey.answers.categories,
        "counts": shares.counts,
        "missing": shares.missing,
        "intervals": {
            "method": result.config.intervals,
            "alpha": result.config.alpha,
            "ends": shares.intervals,
        },
        "expected": shares.expected,
        "g_test": shares.test._asdict(),
        "exact_test": None if shares.exact is None else shares.exact._asdict(),
    }
    if (two_way := result.two_way) is not None and survey.groups is not None:
        summary["two_way"] = {
            "by": survey.groups.name,
            "groups": survey.groups.categories,
            "table": two_way.table,
            "missing": two_way.missing,
            "independence_test": None if two_way.test is None else two_way.test._asdict(),
            "cramers_v": two_way.cramers_v and two_way.cramers_v._asdict(),
            "mutual_information": two_way.mutual_information
            and two_way.mutual_information._asdict(),
        }
    if (regression := result.regression) is not None:
        summary["regression"] = {
            **regression._asdict(),
            "terms": [term._asdict() for term in regression.terms],
            "test": regression.test and regression.test._asdict(),
            "effects": regression.effects
            and {feature: test._asdict() for feature, test in regression.effects.items()},
        }
    return summary


def markdown(result: Result) -> str:
    """Write the page: every table whole, each followed by its pictures."""
    survey = result.survey
    parts = [
        f"# {escaped(name(survey.answers.name))}",
        f"Source: {escaped(name(survey.source))}, {len(survey.answers.codes):,} respondents.",
        "## Answers",
        _table(shares_table(result)),
        "![Shares of the answers with intervals](shares.png)",
    ]
    if result.two_way is not None and survey.groups is not None:
        parts += [
            f"## By {escaped(name(survey.groups.name))}",
            *map(_table, two_way_tables(result, result.two_way)),
        ]
        if result.two_way.table.any():
            parts.append("![Mosaic plot, coloured by standardised residuals](mosaic.png)")
    if result.regression is not None:
        parts += [
            "## Regression",
            *map(_table, regression_tables(result, result.regression)),
            "![Coefficients with intervals](coefficients.png)",
            "![Odds ratios with intervals](odds_ratios.png)",
        ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Escape the characters that have a meaning in Markdown."""
    return MARKUP.sub(r"\\\1", text)


def _table(table: Table) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(escaped(cell).replace("\n", "<br>") for cell in cells) + " |"

    def row(cells: tuple[str, ...]) -> str:
        if any(cells[1:]):
            return line(cells)
        return f"| **{escaped(cells[0])}** |" + " |" * (len(cells) - 1)

    lines = [
        line(table.headings),
        "| --- |" + " ---: |" * (len(table.headings) - 1),
        *map(row, table.rows),
    ]
    return "\n\n".join(
        [f"**{escaped(table.title)}**", "\n".join(lines), " ".join(map(escaped, table.notes))]
    )


def show(result: Result, console: Console) -> None:
    """Print the tables, the most specific last, with at most 20 categories."""
    say(console, f"{result.survey.source}: {len(result.survey.answers.codes):,} respondents")
    for table in tables(result, SHOWN):
        _print(console, table)


def _print(console: Console, table: Table) -> None:
    """Print a table; a wide one, if divisible, in several parts."""
    columns = len(table.headings) - 1
    parts = range(columns, 0, -1) if table.divisible else [columns]
    sizes = ((part, room) for part in parts for room in NAME)
    part, room = next(
        (size for size in sizes if fits(console, _rich(table, *size))), (columns, console.width)
    )
    for start in range(0, columns, part):
        show_table(console, _rich(table, part, room, start))
    for note in table.notes:
        console.print(Text(note))
    console.print()


def _rich(table: Table, size: int, room: int, start: int = 0) -> RichTable:
    """Make a part of a table.

    Args:
        table: the table.
        size: number of columns besides the names.
        room: characters beyond which the words of names are broken.
        start: the first of those columns.
    """
    first, *headings = table.headings
    if table.divisible:
        headings = ["\n".join(textwrap.wrap(heading, HEADING)) for heading in headings]
    title = f"{table.title}, continued" if start else table.title
    shown = new_table(title, [_broken(first, room), *headings[start : start + size]])
    for label, *cells in table.rows:
        style = "" if any(cells) else "bold"
        part = cells[start : start + size]
        shown.add_row(Text(_broken(label, room), style=style), *map(Text, part))
    return shown


def _broken(label: str, room: int) -> str:
    """Break a name into lines if one of its words is too long."""
    longest = max(map(len, label.split()), default=0)
    return "\n".join(textwrap.wrap(label, room)) if longest > room else label
