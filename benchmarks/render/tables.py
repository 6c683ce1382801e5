"""Tables and sentences of the pages, from stored results of benchmarks."""

import re
from collections.abc import Callable, Iterable
from functools import partial

from benchmarks.categorical.implementations import EAGER, HOST
from benchmarks.categorical.report import Timed
from benchmarks.harness import noise, report, timing
from benchmarks.harness.baselines import OURS
from benchmarks.harness.figures import words
from benchmarks.harness.output import markdown_table
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.tables import Sheet
from benchmarks.render import stored

FASTER = re.compile(r"0\.\d+×")
VERSIONS = ("python", "jax", "optax", "torch", "scipy", "statsmodels", "jax-cce", "tokamax")


def provenance(name: str) -> str:
    """Write a sentence with the command, date, machine and versions of a measurement."""
    values = stored.load(name)
    machine, known = values["machine"], values.get("fingerprint", {})
    command = known.get("command", f"python -m benchmarks {name}")
    revision = known.get("revision")
    state = "" if known.get("clean", True) else " with changes"
    used = [
        f"{package} {version}"
        for package, version in machine["versions"].items()
        if package in VERSIONS and version != "not installed"
    ]
    mark = stored.extent(values).lines()
    at = f"revision {revision[:7]}{state}" if revision else "revision not recorded"
    load = known.get("load_at_start")
    load = "" if load is None else f", load {load:.1f} at the start"
    return (
        f"`{command}`, {machine['date'][:10]}, {at}, {machine['processor']}, {machine['cores']} "
        f"cores{load}; {', '.join(used)}.{''.join(f' {line}.' for line in mark)}"
    )


def speed(name: str, *, without: Iterable[str] = ()) -> str:
    """Make the table of times; times shorter than ours are bold."""
    result = stored.result(name)
    sheet = _without(report.speed(result), {"best", *without})
    rows = [[_bold(words(text)) for text in row] for row in sheet.rows]
    return markdown_table(sheet._replace(header=[*map(words, sheet.header)], rows=rows))


def memory(name: str) -> str:
    """Make the table of scratch memory."""
    sheet = report.memory(stored.result(name))
    rows = [
        [row[0], words(row[1]), *("" if text == "unknown" else text for text in row[2:])]
        for row in sheet.rows
    ]
    return markdown_table(sheet._replace(header=[*map(words, sheet.header)], rows=rows))


def others(name: str) -> str:
    """Make the benchmark's other tables, each under its title, except the targets."""
    sheets = [table.sheet() for table in stored.result(name).tables]
    shown = [sheet for sheet in sheets if not sheet.title.startswith("Targets")]
    made = [f"**{sheet.title}**\n\n{markdown_table(sheet)}" for sheet in shown]
    return "\n\n".join(made) or "The stored result has no figures of it."


def statistics() -> str:
    """Make a row for each statistic that has a baseline."""
    rows = []
    for title, group in stored.categorical().groups.items():
        for timed in group:
            rivals = [name for name in timed.seconds if name not in (OURS, EAGER, HOST)]
            if not rivals:
                continue
            multiples = [f"{words(name)} {_of_statistic(timed, name)}" for name in rivals]
            median = timing.quartiles(timed.seconds[OURS]).median
            rows.append(
                [title, f"{timed.case}, {words(timed.mode)}", _ms(median), ", ".join(multiples)]
            )
    header = ["statistic", "case", f"{OURS}, ms", "baselines, as multiples"]
    return markdown_table(Sheet("", header, rows), texts=4)


def _of_statistic(timed: Timed, name: str) -> str:
    """Format the multiple; mark a tie or a number less than 1."""
    mine, other = timed.seconds[OURS], timed.seconds[name]
    floor = noise.NONE if timed.again is None else noise.interval(timed.again, mine)
    tie = len(mine) == len(other) and noise.interval(other, mine).ties(floor)
    text = _multiple(timed.multiple(name))
    return f"{text} tie" if tie else _bold(text)


def headline_of_losses() -> str:
    """Summarise the losses in a sentence for the start of the README."""
    (optax, torch) = _means("losses", ("optax integer", "torch eager"), digits=1)
    return (
        f"on {_cores('losses')}, optax's loss of integer labels takes {optax[0]} the time, "
        f"{optax[1]} with its gradient and {optax[2]} in a descent step on the logits; PyTorch "
        f"(eager) {torch[0]}, {torch[1]} and {torch[2]}"
    )


def headlines() -> str:
    """Make the README's table, with a row for each command."""
    from benchmarks.render import runs  # `runs` uses this module

    (optax,) = _means("losses", ("optax integer",), digits=2)
    shapes = len({cell.case for cell in stored.result("losses").cells})
    rows = [
        (
            "losses",
            f"optax's loss of integer labels takes {optax[0]} {OURS}'s time, {optax[1]} with its "
            f"gradient, {optax[2]} in a descent step on the logits (geometric means of {shapes} "
            "shapes)",
        ),
        ("linear", _linear()),
        ("categorical", _counts()),
        ("training", _training()),
    ]
    lines = [
        [f"`python -m benchmarks {name}`", text, stored.load(name)["machine"]["date"][:10]]
        for name, text in rows
    ]
    sheet = Sheet("", ["command", "result", "date"], [*lines, *runs.headlines()])
    return markdown_table(sheet, texts=3)


def _linear() -> str:
    """Compare the largest case with stored logits."""
    result = stored.result("linear")
    cell = [cell for cell in result.cells if cell.mode == "value_and_grad"][-1]

    def figures(name: str) -> str:
        temp = cell.temp_bytes[name]
        assert temp is not None, "compiled by XLA"
        return f"{_ms(timing.quartiles(cell.seconds[name]).median)} ms, {temp / 1e6:.0f} MB"

    return (
        f"loss and gradients at {cell.case}, time and scratch memory: {figures(OURS)}; "
        f"`gradients_in_forward` {figures('gradients_in_forward')}; stored logits "
        f"{figures('naive')}"
    )


def _counts() -> str:
    """Compare the counts of the most and of the fewest samples."""
    group = next(iter(stored.categorical().groups.values()))
    sizes = list(dict.fromkeys(timed.case.split(", K")[0] for timed in group))
    parts = []
    for size in (sizes[0], sizes[-1]):
        timed = next(each for each in group if each.case.startswith(size))
        multiples = ", ".join(
            f"{label} {_multiple(timed.multiple(name))}"
            for name, label in (("np.bincount", "NumPy"), ("jnp.bincount", "`jnp.bincount`"))
        )
        median = timing.quartiles(timed.seconds[OURS]).median
        parts.append(f"counts of {timed.case}: {_ms(median)} ms, {multiples}")
    return "; ".join(parts)


def _training() -> str:
    """Write the range of the multiples of PyTorch's steps."""
    result = stored.result("training")
    torch = "torch eager"
    cells = sorted(result.cells, key=lambda cell: result.ratio(cell, torch) or 0.0)
    ends = [_judged(result, cell, torch) for cell in (cells[0], cells[-1])]
    return f"PyTorch's (eager) training step takes {ends[0]} to {ends[1]} {OURS}'s time"


def _judged(result: Result, cell: Cell, baseline: str) -> str:
    tie = " (a tie)" * result.ties(cell, baseline)
    return f"{_multiple(result.ratio(cell, baseline) or 0.0)}{tie}"


def _means(name: str, baselines: Iterable[str], digits: int) -> list[list[str]]:
    """Return geometric means over the shapes, by baseline and mode."""
    result = stored.result(name)
    return [
        [f"{result.mean_ratio(baseline, mode):.{digits}f}×" for mode in result.modes()]
        for baseline in baselines
    ]


def _cores(name: str) -> str:
    cores = stored.load(name)["machine"]["cores"]
    return "two CPU cores" if cores == 2 else f"{cores} CPU cores"


def _without(sheet: Sheet, names: set[str]) -> Sheet:
    kept = [index for index, name in enumerate(sheet.header) if name not in names]
    rows = [[row[index] for index in kept] for row in sheet.rows]
    return sheet._replace(header=[sheet.header[index] for index in kept], rows=rows)


def _bold(text: str) -> str:
    return f"**{text}**" if FASTER.fullmatch(text) else text


def _multiple(ratio: float) -> str:
    return f"{ratio:.2f}×" if ratio < 10 else f"{ratio:,.0f}×"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


WITHOUT = {"heads": ("±",), "training": ("limit",)}
"""Columns of the table of times that pages leave out."""

BLOCKS: dict[str, dict[str, Callable[[], str]]] = {
    name: {
        "provenance": partial(provenance, name),
        "speed": partial(speed, name, without=WITHOUT.get(name, ())),
        "memory": partial(memory, name),
        "others": partial(others, name),
    }
    for name in ("losses", "linear", "heads", "training")
}
BLOCKS["losses"]["headline"] = headline_of_losses
BLOCKS["categorical"] = {
    "provenance": partial(provenance, "categorical"),
    "statistics": statistics,
}
BLOCKS["headlines"] = {"table": headlines}
"""Parts that a comment of a page can name, by stored result."""
