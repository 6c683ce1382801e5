"""The command: `python -m benchmarks NAME` measures one subject and reports it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from benchmarks import cases, report
from benchmarks.session import Session
from experiments.common.command import (
    EXIT_INTERRUPTED,
    EXIT_USER_ERROR,
    UserError,
    one_line_errors,
    parse_options,
    say,
)


class Subject(NamedTuple):
    """A module of this package with `run(session) -> tables.Report`."""

    text: str
    rounds: int = 15


SUBJECTS = {
    "losses": Subject(
        "softmax cross-entropy against optax, jax.nn, torch and the textbook formula"
    ),
    "linear": Subject(
        "cross-entropy of a linear layer against stored logits, tokamax, jax-cce and torch",
        rounds=7,  # of calls that take seconds
    ),
    "scaling": Subject(
        "what losses split over devices exchange, counted, and a model of its cost", rounds=7
    ),
    "categorical": Subject(
        "counts, entropies, intervals and tests of a die against NumPy, SciPy, statsmodels, torch",
        rounds=7,
    ),
    "kernels": Subject(
        "the kernels of a GPU or TPU against XLA, optax, torch, Liger and cut-cross-entropy"
    ),
    "training": Subject("a step of three CIFAR-10 presets, beside the same networks in torch"),
}


@dataclass(frozen=True)
class Command(cases.LinearOptions):
    """The options of the command; their comments are its help."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """What to measure; without it, the list of subjects."""
    quick: bool = False
    """Small shapes and few rounds: shows in seconds that all runs. The figures mean little, and the
    report says QUICK and leaves out means and targets."""
    rounds: int | None = None
    """How often every rival runs; they take turns within each round. Without it, 15 times, or 7
    for linear, scaling and categorical."""
    output: Path = Path("benchmarks/results")
    """Where the new folder <NAME>-<date> with JSON and PNG goes."""
    markdown: bool = False
    """Print the tables as markdown, for a README."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: the help was asked for, the run was interrupted or there is an error to tell.
    """
    with one_line_errors():
        _main(args)


def _main(args: Sequence[str] | None) -> None:
    subjects = "\n\n".join(f"{name}: {subject.text}" for name, subject in SUBJECTS.items())
    command = parse_options(
        Command,
        args,
        prog="python -m benchmarks",
        description=f"Measure xentjax against its rivals.\n\n{subjects}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not command.name:
        for name, subject in SUBJECTS.items():
            print(f"python -m benchmarks {name}: {subject.text}")
        return
    if command.name not in SUBJECTS:
        raise UserError(f"NAME: expected one of {', '.join(SUBJECTS)}, got {command.name!r}")
    rounds = SUBJECTS[command.name].rounds if command.rounds is None else command.rounds
    if rounds < 1:
        raise UserError(f"--rounds: expected at least 1, got {rounds}")
    options: dict[str, Any] = {}
    if command.name == "linear":
        options = {"options": command}
    else:
        for option in fields(cases.LinearOptions):
            if getattr(command, option.name) != option.default:
                raise UserError(f"--{option.name}: expected with linear alone, got {command.name}")
    if any(size < 1 for shape in command.shapes for size in shape):
        raise UserError(f"--shapes: expected sizes >= 1, got {command.shapes}")

    try:
        command.output.mkdir(parents=True, exist_ok=True)  # now, rather than after minutes of work
    except OSError as error:
        raise UserError(f"--output: expected a folder that can be made, got {error}") from None

    rounds = min(rounds, 3) if command.quick else rounds
    session = Session(quick=command.quick, rounds=rounds, console=Console(stderr=True))
    try:
        _run(command, session, options)
    except NotImplementedError as error:  # by a kernel, on the wrong machine
        raise UserError(str(error)) from None


def _run(command: Command, session: Session, options: dict[str, Any]) -> None:
    """Measure, write and print; of an interrupted run what was finished."""
    with session:
        session.say("loading what is compared, measuring this machine's limits")
        subject = importlib.import_module(f"benchmarks.{command.name}")
        result = subject.run(session, **options)
        if not session.finished:
            raise KeyboardInterrupt
        session.say("writing JSON and PNG", log=False)
        code = EXIT_INTERRUPTED if session.interrupted else 0
        try:
            end = f"JSON and PNG: {report.save(result, command.output)}"
        except OSError as error:  # the tables are still worth printing
            code = EXIT_USER_ERROR
            end = f"error: --output: expected a folder that can be written, got {error}"
    say(session.console, end)
    if command.markdown:
        print(report.markdown(result), end="")
    else:
        report.print_terminal(result, Console())
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
