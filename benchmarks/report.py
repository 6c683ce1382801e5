"""A benchmark's result, and the table, figure and JSON made from it."""

import json
import math
import os
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.console import Console
from rich.text import Text

from benchmarks import timing
from benchmarks.machine import Machine
from benchmarks.tables import WHOLE, Extent, Report, Sheet, Table

NOT_INSTALLED = "not installed"
# Okabe and Ito's colours, told apart by colour-blind readers, and a marker each for print in grey.
STYLES = (
    ("#999999", "s"),
    ("#56B4E9", "^"),
    ("#009E73", "v"),
    ("#0072B2", "o"),
    ("#D55E00", "D"),
    ("#CC79A7", "P"),
    ("#E69F00", "X"),
    ("#000000", "*"),
)


@dataclass(frozen=True)
class Cell:
    """One case in one mode: the samples of every rival that ran.

    Attributes:
        case: what was measured, "(8192, 1000)".
        mode: in which way, "value_and_grad".
        seconds: by rival, seconds per call, one sample a round.
        work: what one call gets done: gigabytes where the unit is "GB/s", images for "images/s".
        limit_seconds: by round, the least time the machine's limits allow; None if unknown.
        temp_bytes: by rival, XLA's scratch memory; a rival that XLA did not compile is absent.
        compile_seconds: by rival, the time of its compilation.
    """

    case: str
    mode: str
    seconds: timing.Samples
    work: float
    limit_seconds: list[float] | None = None
    temp_bytes: dict[str, int | None] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    """All cells of a benchmark.

    Attributes:
        name: the benchmark, "losses".
        subject: the name everything is compared with, "xentjax".
        rivals: the names it is compared with, also of those that could not run here.
        unit: the unit of work per second.
        cells: the measurements.
        machine: where they were made.
        notes: what a reader must know to read the table.
        legend: what the unit and the limit are, put beneath the table.
        extent: how much of it was run.
        by_rival: one row a rival with all its figures, rather than one row a cell.
        tables: what was measured beside the cells, or follows from them.
    """

    name: str
    subject: str
    rivals: tuple[str, ...]
    unit: str
    cells: tuple[Cell, ...]
    machine: Machine
    notes: tuple[str, ...] = ()
    legend: tuple[str, ...] = ()
    extent: Extent = WHOLE
    by_rival: bool = False
    tables: tuple[Table, ...] = ()

    def ratio(self, cell: Cell, rival: str) -> float | None:
        """How many times as long as the subject the rival takes; None if it did not run."""
        if rival not in cell.seconds:
            return None
        return timing.ratio(cell.seconds[rival], cell.seconds[self.subject])

    def fastest_rival(self, cell: Cell) -> tuple[str, float] | None:
        """The rival with the smallest ratio, and that ratio."""
        ratios = [
            (rival, ratio)
            for rival in self.rivals
            if (ratio := self.ratio(cell, rival)) is not None
        ]
        return min(ratios, key=lambda pair: pair[1], default=None)

    def mean_ratio(self, rival: str, mode: str) -> float | None:
        """Geometric mean of the rival's ratios over the cells of a mode that it ran in."""
        ratios = [
            ratio
            for cell in self.cells
            if cell.mode == mode and (ratio := self.ratio(cell, rival)) is not None
        ]
        return timing.geometric_mean(ratios) if ratios else None

    def modes(self) -> list[str]:
        """The modes in their order."""
        return list(dict.fromkeys(cell.mode for cell in self.cells))

    def sheets(self) -> list[Sheet]:
        """Speed and, where it was measured, memory; then the other tables."""
        if self.by_rival:
            own = [_by_rival(self)]
        else:
            own = [_speed(self), *([_memory(self)] if _compiled(self) else [])]
        return own + [table.sheet() for table in self.tables]

    def lines(self) -> list[str]:
        """The machine, the compilation and the notes."""
        return _lines(self)

    def as_json(self) -> dict[str, Any]:
        """Everything measured and derived, as plain values."""
        return _as_json(self)

    def figure(self) -> Figure:
        """Each rival's time over the subject's."""
        return figure(self)


def _speed(result: Result) -> Sheet:
    """The subject's time, and each rival's as a multiple of it."""
    rows = []
    for cell in result.cells:
        samples = cell.seconds[result.subject]
        lower, median, upper = timing.quartiles(samples)
        share = "-"
        if cell.limit_seconds is not None:
            share = f"{timing.ratio(cell.limit_seconds, samples):.0%}"
        fastest = result.fastest_rival(cell)
        rows.append(
            [
                cell.case,
                cell.mode,
                _digits(median * 1e3),
                f"±{(upper - lower) / 2 / median:.0%}",
                _digits(cell.work / median),
                share,
                *(_times(result.ratio(cell, rival)) for rival in result.rivals),
                _times(fastest[1]) if fastest else "-",
            ]
        )
    if result.extent.whole:
        for mode in result.modes():
            means = [_times(result.mean_ratio(rival, mode)) for rival in result.rivals]
            rows.append(["geometric mean", mode, "", "", "", "", *means, ""])
    return Sheet(
        f"Time of {result.subject}; rivals as multiples of it "
        f"(above 1×: {result.subject} is faster)",
        ["case", "mode", "ms", "±", result.unit, "limit", *result.rivals, "best"],
        rows,
        (
            f"ms: median of {result.subject}'s calls; ±: half the distance between its quartiles",
            *result.legend,
            f"a rival's column: its time over {result.subject}'s, median of the ratios within the "
            "rounds; best: that of the fastest rival",
        ),
    )


def _by_rival(result: Result) -> Sheet:
    """Make a row for each rival: time, rate, share of the limit, multiple, and memory."""
    rows = []
    for cell in result.cells:
        for name in (result.subject, *result.rivals):
            figures = [NOT_INSTALLED, "", "", "", "", ""]
            if (samples := cell.seconds.get(name)) is not None:
                lower, median, upper = timing.quartiles(samples)
                limit, temp = cell.limit_seconds, cell.temp_bytes.get(name)
                figures = [
                    _digits(median * 1e3),
                    f"±{(upper - lower) / 2 / median:.0%}",
                    _digits(cell.work / median),
                    "-" if limit is None else f"{timing.ratio(limit, samples):.0%}",
                    _times(result.ratio(cell, name)),
                    "unknown" if temp is None else _digits(temp / 1e6),
                ]
            rows.append([f"{cell.case}, {cell.mode}", name, *figures])
    return Sheet(
        f"Time, rate and temporary memory; × is the time over that of {result.subject} "
        f"(above 1×: {result.subject} is faster)",
        ["case", "who", "ms", "±", result.unit, "limit", "×", "temp MB"],
        rows,
        (
            "ms: median; ±: half the distance between the quartiles; ×: median of the ratios "
            "within the rounds",
            *result.legend,
        ),
    )


def _memory(result: Result) -> Sheet:
    """XLA's scratch memory, of the rivals that XLA compiled."""
    names = _compiled(result)
    rows = []
    for cell in result.cells:
        temps = [cell.temp_bytes.get(name) for name in names]
        rows.append(
            [cell.case, cell.mode]
            + ["unknown" if temp is None else _digits(temp / 1e6) for temp in temps]
        )
    return Sheet("Temporary memory that XLA allocates, MB", ["case", "mode", *names], rows)


def _compiled(result: Result) -> list[str]:
    """The names that XLA compiled."""
    return [
        name
        for name in (result.subject, *result.rivals)
        if any(name in cell.compile_seconds for cell in result.cells)
    ]


def _lines(result: Result) -> list[str]:
    """What is said below the tables."""
    totals = {
        name: math.fsum(cell.compile_seconds.get(name, 0.0) for cell in result.cells)
        for name in _compiled(result)
    }
    compilation = ", ".join(f"{name} {total:.1f} s" for name, total in totals.items())
    return [
        *result.machine.describe(),
        *([f"compilation of all cells: {compilation}"] if totals else []),
        *result.notes,
    ]


def _digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}" if value >= 0.001 else "0"


def _times(ratio: float | None) -> str:
    return NOT_INSTALLED if ratio is None else f"{ratio:.2f}×"


def print_terminal(result: Report, console: Console) -> None:
    """Print the machine and the notes, then the tables, that of the speed last.

    Where the screen is too narrow for a table, its columns follow one another in parts.
    """
    for line in (*result.extent.lines(), *result.lines()):
        console.print(f"- {line}", highlight=False, markup=False)
    for sheet in reversed(result.sheets()):
        console.print()
        for line in _text_table(sheet, result.extent.mark, console.width):
            console.print(line, soft_wrap=True)
        absent = any(NOT_INSTALLED in row for row in sheet.rows)
        for line in (*sheet.legend, *(["-: not installed"] if absent else [])):
            console.print(f"- {line}", highlight=False, markup=False)


def _text_table(sheet: Sheet, mark: str, width: int) -> Iterator[Text]:
    """Lines of at most `width`, but for a single word or number that is longer."""
    # Unlike experiments.common.tables, which lists a row's numbers one beneath the other: columns
    # of rivals are to be compared row by row, so they stay columns, in as many parts as it takes.
    heads = sheet.header
    rows = [["-" if text == NOT_INSTALLED else text for text in row] for row in sheet.rows]
    names = [heads[1], *(row[1] for row in rows)]
    longest_word = max(len(word) for name in names for word in name.split())
    left = min(max(map(len, names)), max(longest_word, width // 2))
    sizes = {
        index: max(
            *(len(word) for word in heads[index].split()), *(len(row[index]) for row in rows)
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
    """Lines of whole words, at least one."""
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _row(name: str, texts: list[str], part: dict[int, int], left: int, gap: int) -> str:
    """The name on the left and the texts on the right of their columns."""
    cells = zip(texts, part.values(), strict=True)
    return (name.ljust(left) + "".join(text.rjust(gap + size) for text, size in cells)).rstrip()


def markdown(result: Report) -> str:
    """The same tables for a README."""
    parts = []
    for title, header, rows, legend in result.sheets():
        rule = ["---" if index < 2 else "---:" for index in range(len(header))]
        lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
        parts.append("\n".join([f"**{result.extent.mark}{title}**", "", *lines]))
        parts += ["\n".join(f"- {line}" for line in legend)] if legend else []
    parts.append("\n".join(f"- {line}" for line in (*result.extent.lines(), *result.lines())))
    return "\n\n".join(parts) + "\n"


def _as_json(result: Result) -> dict[str, Any]:
    """Everything measured, with the statistics beside the samples they come from."""

    def entry(cell: Cell, name: str) -> dict[str, Any]:
        samples = cell.seconds[name]
        middle = timing.quartiles(samples)
        limit = cell.limit_seconds
        return {
            "seconds": middle._asdict(),
            "ratio": timing.ratio(samples, cell.seconds[result.subject]),
            "rate": cell.work / middle.median,
            "share_of_limit": None if limit is None else timing.ratio(limit, samples),
            "temp_bytes": cell.temp_bytes.get(name),
            "compile_seconds": cell.compile_seconds.get(name),
            "samples": samples,
        }

    means = {
        mode: {rival: result.mean_ratio(rival, mode) for rival in result.rivals}
        for mode in result.modes()
    }
    return {
        "name": result.name,
        "subject": result.subject,
        "unit": result.unit,
        **result.extent._asdict(),
        "machine": result.machine.as_dict(),
        "notes": [*result.legend, *result.notes],
        **({"geometric_mean_ratio": means} if result.extent.whole else {}),
        "cells": [
            {
                "case": cell.case,
                "mode": cell.mode,
                "limit_seconds": cell.limit_seconds,
                "rivals": {
                    name: entry(cell, name) if name in cell.seconds else NOT_INSTALLED
                    for name in (result.subject, *result.rivals)
                },
            }
            for cell in result.cells
        ],
        "tables": [table.as_json() for table in result.tables],
    }


def figure(result: Result) -> Figure:
    """One group of lines per cell: each rival's time over the subject's, on a logarithmic axis."""
    count = len(result.cells)
    drawing = Figure(figsize=(8.3, 1.6 + 0.46 * count), layout="constrained")
    axes = drawing.subplots()
    step = 0.8 / len(result.rivals)
    for index, rival in enumerate(result.rivals):
        color, marker = STYLES[index % len(STYLES)]
        points = [
            (ratio, row - 0.4 + (index + 0.5) * step)
            for row, cell in enumerate(result.cells)
            if (ratio := result.ratio(cell, rival)) is not None
        ]
        ratios, rows = [ratio for ratio, _ in points], [row for _, row in points]
        axes.hlines(rows, 1.0, ratios, color=color, linewidth=1.5)
        label = rival if points else f"{rival} ({NOT_INSTALLED})"
        axes.scatter(ratios, rows, s=24, color=color, marker=marker, label=label, zorder=3)
    axes.axvline(1.0, color="black", linewidth=1.5)
    for row, (above, below) in enumerate(pairwise(result.cells)):
        same = above.case == below.case
        axes.axhline(row + 0.5, color="0.9" if same else "0.6", linewidth=0.8)
    axes.set_yticks(range(count), [f"{cell.case}  {cell.mode}" for cell in result.cells])
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_xscale("log", base=2)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.48), max(high, 2.1))  # ticks at 0.5 and 2: one at 1 gives no scale
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.set_xlabel(
        f"time / {result.subject}'s time, log scale (right of 1×: {result.subject} is faster)"
    )
    put_title(drawing, result, f"rivals against {result.subject}")
    drawing.legend(loc="outside lower center", ncols=min(3, len(result.rivals)), frameon=False)
    return drawing


def put_title(drawing: Figure, result: Report, text: str) -> None:
    """The subject, where and when it was measured and, in red, whether it is less than all."""
    machine = result.machine
    drawing.suptitle(
        f"{result.extent.mark}{result.name}, {text}\n"
        f"{machine.processor}, {machine.cores} cores, {machine.date[:10]}",
        fontsize=10,
        color="black" if result.extent.whole else "#B00020",
    )


def save(result: Report, parent: Path) -> Path:
    """Write the JSON and the PNG into a new folder `<name>-<date>` under `parent` and return it."""
    folder = parent / f"{result.name}-{result.machine.date[:19].replace(':', '-')}"
    folder.mkdir(parents=True, exist_ok=False)
    text = json.dumps(result.as_json(), indent=1)
    _write(folder / f"{result.name}.json", lambda path: path.write_text(text + "\n"))
    drawing = result.figure()
    FigureCanvasAgg(drawing)
    _write(folder / f"{result.name}.png", lambda path: drawing.savefig(path, format="png", dpi=150))
    return folder


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside `path`, then rename, so that no half-written file ever carries its name."""
    unfinished = path.with_name(path.name + ".unfinished")
    write(unfinished)
    os.replace(unfinished, path)
