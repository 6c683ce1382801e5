"""Output of a report: tables on a terminal or as markdown, and a folder with JSON and PNG."""

import json
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console
from rich.text import Text

from benchmarks.harness.tables import NOT_INSTALLED, Report, Sheet
from experiments.common.run_folder import replace_file


def print_terminal(result: Report, console: Console) -> None:
    """Print the machine and the notes, then the tables, speed last.

    A table wider than the screen is printed in parts with some of the columns each.
    """
    for line in (*result.extent.lines(), *result.lines()):
        console.print(f"- {line}", highlight=False, markup=False)
    print_sheets([*reversed(result.sheets())], result.extent.mark, console)


def print_sheets(sheets: Iterable[Sheet], mark: str, console: Console) -> None:
    """Print tables, each with its legend; `mark` comes before their titles."""
    for sheet in sheets:
        console.print()
        for line in _text_table(sheet, mark, console.width):
            console.print(line, soft_wrap=True)
        absent = any(NOT_INSTALLED in row for row in sheet.rows)
        for line in (*sheet.legend, *(["-: not installed"] if absent else [])):
            console.print(f"- {line}", highlight=False, markup=False)


def _text_table(sheet: Sheet, mark: str, width: int) -> Iterator[Text]:
    """Yield lines of at most `width` characters, unless a single word or number is longer."""
    # Tables of the experiments list the numbers of a row one below the other. Here readers compare
    # columns row by row, so they stay columns, in several parts if necessary.
    heads = sheet.header
    rows = [["-" if text == NOT_INSTALLED else text for text in row] for row in sheet.rows]
    names = [heads[1], *(row[1] for row in rows)]
    longest_word = max(len(word) for name in names for word in name.split())
    left = min(max(map(len, names)), max(longest_word, width // 2))
    sizes = {
        index: max(
            [*(len(word) for word in heads[index].split()), *(len(row[index]) for row in rows)]
        )
        for index in range(2, len(heads))
    }
    gap = 2 if left + sum(2 + size for size in sizes.values()) <= width else 1
    yield from (Text(line, "bold") for line in _words(mark + sheet.title, width))
    rest = list(sizes)
    while rest:
        part = {rest[0]: sizes[rest[0]]}
        for index in rest[1:]:
            if left + sum(gap + size for size in (*part.values(), sizes[index])) > width:
                break
            part[index] = sizes[index]
        rest = rest[len(part) :]

        yield Text()
        words = [_words(heads[index], size) for index, size in part.items()]
        for level in range(-max(map(len, words)), 0):
            texts = [each[level] if len(each) >= -level else "" for each in words]
            yield Text(_row(heads[1] if level == -1 else "", texts, part, left, gap), "bold")
        yield Text("─" * (left + sum(gap + size for size in part.values())))
        previous = None
        for row in rows:
            if row[0] != previous:
                yield from (Text(line, "bold") for line in _words(row[0], width))
            previous = row[0]
            *first, last = _words(row[1], left)
            yield from map(Text, first)
            yield Text(_row(last, [row[index] for index in part], part, left, gap))


def _words(text: str, width: int) -> list[str]:
    """Wrap at spaces only, into at least one line."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _row(name: str, texts: list[str], part: dict[int, int], left: int, gap: int) -> str:
    """Join the name, aligned left, and the texts, aligned right."""
    cells = zip(texts, part.values(), strict=True)
    return (name.ljust(left) + "".join(text.rjust(gap + size) for text, size in cells)).rstrip()


def markdown(result: Report) -> str:
    """Format the report as markdown, for a README."""
    parts = []
    for sheet in result.sheets():
        parts.append(f"**{result.extent.mark}{sheet.title}**\n\n{markdown_table(sheet)}")
        parts += ["\n".join(f"- {line}" for line in sheet.legend)] if sheet.legend else []
    parts.append("\n".join(f"- {line}" for line in (*result.extent.lines(), *result.lines())))
    return "\n\n".join(parts) + "\n"


def markdown_table(sheet: Sheet, texts: int = 2) -> str:
    """Format the header and the rows of a table: first columns of text, then columns of numbers."""
    rule = ["---" if index < texts else "---:" for index in range(len(sheet.header))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (sheet.header, rule, *sheet.rows))


def save(result: Report, parent: Path, **more: Any) -> Path:
    """Write JSON and PNG into a new folder `<name>-<date>` under `parent` and return the folder.

    The JSON has the report's `as_json()` and `more`.
    """
    folder = parent / f"{result.name}-{result.machine.date[:19].replace(':', '-')}"
    folder.mkdir(parents=True, exist_ok=False)
    text = json.dumps(result.as_json() | more, indent=1)
    replace_file(folder / f"{result.name}.json", lambda path: path.write_text(text + "\n"))
    drawing = result.figure()
    FigureCanvasAgg(drawing)
    replace_file(folder / f"{result.name}.png", lambda path: drawing.savefig(path, format="png"))
    return folder
