"""The command `python -m benchmarks compare BASE [HEAD]`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Protocol

import tyro
from rich.console import Console

from benchmarks.compare.against import against
from benchmarks.compare.measure import measure
from benchmarks.compare.programs import programs
from benchmarks.compare.report import Comparison, comparison
from benchmarks.compare.trees import WORKING_TREE, resolve, trees
from benchmarks.harness import output
from benchmarks.harness.fingerprint import fingerprint, load
from benchmarks.harness.report import Result
from benchmarks.harness.session import Choice, Session
from benchmarks.harness.tables import Sheet
from experiments.common.command import EXIT_INTERRUPTED, UserError, parse_options, say
from experiments.common.run_folder import replace_file
from experiments.common.waiting import waiting

EXIT_SLOWER = 1


@dataclass(frozen=True)
class Command:
    """Compare two revisions of xentjax, each in processes of its own, in alternating rounds.

    Both run the benchmarks of this tree in this Python environment. A second process of BASE is the
    control. The exit status is 1 if anything got slower beyond the noise, 0 if not, 130 after
    Ctrl-C, which keeps what was finished."""

    base: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="BASE")] = ""
    """A revision of git."""
    head: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[HEAD]")] = ""
    """Another one; by default the files of the working tree."""
    filter: str = ""
    """Only cases whose names contain this text."""
    processes: int = 6
    """Generations of new processes. A verdict needs five: a process may be a little slower than
    another of the same code for as long as it lives."""
    rounds: int = 20
    """The most rounds within a generation; in each, all three processes run the case. As many of 6
    to 20 are run as fit in 3 seconds."""
    against: Path | None = None
    """Instead of a revision, the JSON of an earlier result of losses, linear, heads or training:
    run that benchmark now and compare the ratios to the same baselines."""
    quick: bool = False
    """Small shapes, one generation of two rounds, to see that everything runs; no verdict."""
    output: Path = Path("benchmarks/results")
    """The parent of the new folder compare-<date> with JSON."""


class Again(Protocol):
    """Runner of a benchmark that compares cell by cell; with small shapes if `quick`."""

    def __call__(
        self, name: str, *, quick: bool, choice: Choice, console: Console
    ) -> tuple[Result, Session]: ...


def main(args: Sequence[str], again: Again) -> None:
    """Run the command.

    Args:
        args: its arguments.
        again: function that runs a benchmark, for --against.

    Raises:
        UserError: an option is wrong, or no case is chosen.
        SystemExit: after --help, if anything got slower, or after Ctrl-C.
    """
    command = parse_options(
        Command,
        args,
        prog="python -m benchmarks compare",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    for option in ("processes", "rounds"):
        if getattr(command, option) < 1:
            raise UserError(f"--{option}: expected at least 1, got {getattr(command, option)}")
    if command.against is not None:
        _compare_with_result(command, command.against, again)
        return
    base = resolve("BASE", command.base)
    head = resolve("HEAD", command.head) if command.head else WORKING_TREE
    every = list(programs(quick=command.quick))
    choice = Choice(text=command.filter)
    names = [name for name in every if choice.has_case(name)]
    if not names:
        raise UserError(f"--filter: expected part of a case's name, got {command.filter!r}")
    began, console = fingerprint(), Console(stderr=True)
    generations, rounds = (1, 2) if command.quick else (command.processes, command.rounds)
    with trees(base, head) as folders, waiting(console, "starting") as doing:
        measured = measure(
            folders,
            names,
            generations=generations,
            rounds=rounds,
            quick=command.quick,
            say=lambda text: doing(text),
        )
    found = comparison(
        _label(command.base, base), _label(command.head, head), measured, generations
    )
    _finish(command, found, began, part=(len(names), len(every)), console=console)


def _compare_with_result(command: Command, path: Path, again: Again) -> None:
    """Run the benchmark of an earlier result and compare."""
    if command.base:
        raise UserError(f"--against: expected no revision with it, got {command.base}")
    try:
        old = json.loads(path.read_text())
        name, cells = old["name"], old["cells"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"--against: expected the JSON of a result, got {error!r}") from None
    began, console, choice = fingerprint(), Console(stderr=True), Choice(text=command.filter)
    with waiting(console):
        result, session = again(name, quick=command.quick, choice=choice, console=console)
    if not session.finished:
        raise UserError(f"--filter: expected part of the name of one of {len(cells)} cases")
    found = against(old, result)
    more = {"summary": found.summary(), "against": str(path), "table": found.table.as_json()}
    _print_and_save(
        command, [found.table.sheet()], result.extent.mark, result.as_json() | more, began, console
    )
    print(f"{result.extent.mark}{found.summary()}")
    if session.interrupted is not None:
        raise SystemExit(EXIT_INTERRUPTED)
    if found.slower:
        raise SystemExit(EXIT_SLOWER)


def _label(text: str, commit: str) -> str:
    return commit if commit == WORKING_TREE else f"{text} ({commit[:10]})"


def _finish(
    command: Command,
    found: Comparison,
    began: dict[str, Any],
    *,
    part: tuple[int, int],
    console: Console,
) -> None:
    """Print and save the report, then exit with its status."""
    marks = [
        *(["QUICK"] if command.quick else []),
        *(["INTERRUPTED"] if found.measured.interrupted else []),
        *([f"{part[0]} of {part[1]} cases"] if part[0] < part[1] else []),
    ]
    mark = f"{', '.join(marks)}: " if marks else ""
    if found.rows or found.measured.reasons:
        values = found.as_json() | {"of_cases": part}
        _print_and_save(command, found.sheets(), mark, values, began, console)
    print(f"{mark}{found.summary()}")
    if found.measured.interrupted:
        raise SystemExit(EXIT_INTERRUPTED)
    if found.changed("slower"):
        raise SystemExit(EXIT_SLOWER)


def _print_and_save(
    command: Command,
    sheets: Sequence[Sheet],
    mark: str,
    values: dict[str, Any],
    began: dict[str, Any],
    console: Console,
) -> None:
    """Print tables and write JSON into a new folder."""
    output.print_sheets(sheets, mark, Console())
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
    folder = command.output / f"compare-{date}"
    folder.mkdir(parents=True)
    text = json.dumps(values | {"fingerprint": {**began, "load_at_end": load()}}, indent=1)
    replace_file(folder / "compare.json", lambda path: path.write_text(text + "\n"))
    say(console, f"JSON: {folder}")
