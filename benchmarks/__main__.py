"""The command `python -m benchmarks`, which runs benchmarks and reports them."""

import importlib
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from benchmarks.compare import command as compare
from benchmarks.harness import output
from benchmarks.harness.fingerprint import fingerprint, load
from benchmarks.harness.report import Result
from benchmarks.harness.session import Choice, Session
from benchmarks.linear import LinearOptions
from experiments.common.command import (
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    UserError,
    one_line_errors,
    parse_options,
    say,
)
from experiments.common.run_folder import RunError

ROUNDS, QUICK_ROUNDS = 15, 3
QUICK_SECONDS = 0.5
MINUTES = 14.0
"""Latest start of a case if no benchmark is named; the last case takes less than a minute."""
BRIEF = 3
"""Divisor of the seconds of a case if no benchmark is named."""


class Benchmark(NamedTuple):
    """A module or package of this folder with `run(session) -> harness.tables.Report`.

    Attributes:
        summary: what it measures.
        seconds: the time for the rounds of a case.
        rounds: the largest number of rounds.
        anywhere: whether it runs on every machine in little time; if so, it runs if none is named.
        minutes: the latest start of a case, which may take one more minute.
    """

    summary: str
    seconds: float
    rounds: int = ROUNDS
    anywhere: bool = True
    minutes: float = math.inf


BENCHMARKS = {
    "losses": Benchmark(
        "softmax cross-entropy against optax, jax.nn, torch and the textbook formula", seconds=18
    ),
    "linear": Benchmark(
        "cross-entropy of a linear layer against stored logits, tokamax, jax-cce and torch",
        seconds=36,
    ),
    "heads": Benchmark(
        "log-probabilities, losses of one's own, divergences, top-k and samples of a linear layer",
        seconds=30,
    ),
    "scaling": Benchmark(
        "collectives of losses split over devices, counted, and a model of their cost",
        seconds=30,
        rounds=7,
    ),
    "categorical": Benchmark(
        "counts, entropies, intervals and tests of a die against NumPy, SciPy, statsmodels, torch",
        seconds=6,
    ),
    "small": Benchmark(
        "calls of few rows under jit and eager against optax and jax.nn, compilation, imports",
        seconds=6,
    ),
    "first_calls": Benchmark(
        "first calls of the statistics in fresh processes against scipy and statsmodels, minutes",
        seconds=60,
        anywhere=False,
    ),
    "growth": Benchmark(
        "exponents of time and scratch memory in rows and classes beside theory's", seconds=12
    ),
    "kernels": Benchmark(
        "kernels for GPU or TPU against XLA, optax, torch, Liger and cut-cross-entropy",
        seconds=10,
        anywhere=False,
    ),
    "device": Benchmark(
        "all that an accelerator has to show: errors, limits, kernels and airbench94, in 8 minutes",
        seconds=4,
        anywhere=False,
        minutes=7,
    ),
    "training": Benchmark(
        "a training step of the CIFAR-10 presets against the same networks in torch", seconds=45
    ),
}


@dataclass(frozen=True)
class Command(LinearOptions):
    """Options of the command; the strings below the fields are its help."""

    names: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[NAME ...]")
    ] = ()
    """The benchmarks to run; by default all that need no accelerator, without what takes
    minutes, in at most 15 minutes. `compare` compares two revisions, `render` renews documents from
    measured results: see their --help."""
    quick: bool = False
    """Small shapes and few rounds, to see in seconds that everything runs. The figures are not
    representative; the report is marked QUICK and has no means and no targets."""
    filter: str = ""
    """Only cases whose names contain this text."""
    rivals: tuple[str, ...] = ()
    """Only baselines whose names contain one of these; torch, for example."""
    rounds: int | None = None
    """Number of rounds; every implementation runs once in each. By default as many of 3 to 15, or 7
    for scaling, as fit in the seconds of a case."""
    minutes: float | None = None
    """No case begins later, and one that runs then ends after three rounds."""
    output: Path = Path("benchmarks/results")
    """The parent of the new folders <NAME>-<date> with JSON and PNG."""
    markdown: bool = False
    """Print the tables as markdown."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: after --help, an interrupted run or an error.
    """
    args = sys.argv[1:] if args is None else args
    with one_line_errors():
        if args[:1] == ["compare"]:
            compare.main(args[1:], _again)
        elif args[:1] == ["render"]:  # imports packages that measurements do not need
            importlib.import_module("benchmarks.render.command").main(args[1:])
        else:
            _main(args)


def _main(args: Sequence[str]) -> None:
    summaries = "\n\n".join(f"{name}: {each.summary}" for name, each in BENCHMARKS.items())
    command = parse_options(
        Command,
        args,
        prog="python -m benchmarks",
        description=f"Measure xentjax against baselines.\n\n{summaries}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    _check(command)
    names = command.names or [name for name, each in BENCHMARKS.items() if each.anywhere]
    minutes = command.minutes
    if minutes is None:
        minutes = min(BENCHMARKS[name].minutes for name in names) if command.names else MINUTES
    choice = Choice(
        text=command.filter,
        rivals=command.rivals,
        brief=not command.names,
        until=time.monotonic() + 60 * minutes,
    )
    console, finished = Console(stderr=True), 0
    for name in names:
        session = _session(BENCHMARKS[name], command, choice, console)
        try:
            finished += _run(name, command, session)
        except NotImplementedError as error:  # a kernel on the wrong machine
            raise UserError(str(error)) from None
    if not finished:
        got = f"--filter {command.filter}" if command.filter else f"--minutes {minutes:g}"
        raise UserError(f"{got}: expected to leave a case of {', '.join(names)}, got none")


def _check(command: Command) -> None:
    """Reject invalid options before minutes of work."""
    for name in command.names:
        if name not in BENCHMARKS:
            raise UserError(f"NAME: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    if command.rounds is not None and command.rounds < 1:
        raise UserError(f"--rounds: expected at least 1, got {command.rounds}")
    if command.minutes is not None and command.minutes <= 0:
        raise UserError(f"--minutes: expected more than 0, got {command.minutes:g}")
    if "linear" not in command.names:
        for option in fields(LinearOptions):
            if getattr(command, option.name) != option.default:
                got = ", ".join(command.names) or "none"
                raise UserError(f"--{option.name}: expected with linear only, got {got}")
    if any(size < 1 for shape in command.shapes for size in shape):
        raise UserError(f"--shapes: expected sizes >= 1, got {command.shapes}")
    try:
        command.output.mkdir(parents=True, exist_ok=True)  # fails now, not after minutes of work
    except OSError as error:
        raise UserError(f"--output: expected a folder that can be created, got {error}") from None


def _session(each: Benchmark, command: Command, choice: Choice, console: Console) -> Session:
    """Make the session of a benchmark, with rounds and seconds that follow from the options."""
    rounds, seconds = each.rounds, each.seconds
    if choice.brief:
        seconds /= BRIEF
    if command.quick:
        rounds, seconds = QUICK_ROUNDS, QUICK_SECONDS
    if command.rounds is not None:
        rounds, seconds = command.rounds, math.inf
        rounds = min(rounds, QUICK_ROUNDS) if command.quick else rounds
    return Session(
        quick=command.quick, rounds=rounds, console=console, seconds=seconds, choice=choice
    )


def _again(name: str, *, quick: bool, choice: Choice, console: Console) -> tuple[Result, Session]:
    """Run a benchmark of cells, for `compare --against`."""
    if name not in BENCHMARKS:
        raise UserError(f"--against: expected one of {', '.join(BENCHMARKS)}, got {name!r}")
    command = Command(names=(name,), quick=quick)
    session = _session(BENCHMARKS[name], command, choice, console)
    with session:
        return _measure(name, command, session), session


def _measure(name: str, command: Command, session: Session) -> Any:
    """Import a benchmark and run it."""
    session.say("loading packages, measuring this machine's limits")
    options = {"options": command} if name == "linear" else {}
    return importlib.import_module(f"benchmarks.{name}").run(session, **options)


def _run(name: str, command: Command, session: Session) -> int:
    """Measure, save and print (after Ctrl-C, the finished cases); return the number of cases."""
    began = fingerprint()
    with session:
        result = _measure(name, command, session)
        if not session.finished:
            if session.interrupted is not None:
                raise KeyboardInterrupt
            return 0
        session.say("writing JSON and PNG", log=False)
        code = EXIT_INTERRUPTED if session.interrupted else 0
        try:
            more = {"fingerprint": {**began, "load_at_end": load()}}
            end = f"JSON and PNG: {output.save(result, command.output, **more)}"
        except (OSError, RunError) as error:  # the tables are printed anyway
            code = EXIT_USER_ERROR
            end = f"error: --output: expected a folder that can be written, got {error}"
    say(session.console, end)
    if command.markdown:
        print(output.markdown(result), end="")
    else:
        output.print_terminal(result, Console())
    if code:
        raise SystemExit(code)
    return session.finished


if __name__ == "__main__":
    main()
