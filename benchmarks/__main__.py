"""The command: `python -m benchmarks NAME` measures one subject and reports it."""

import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from benchmarks import report

# Each is a module of this package with `run(*, quick, rounds, console) -> report.Result`.
SUBJECTS = {
    "losses": "softmax cross-entropy against optax, jax.nn, torch and the textbook formula",
    "training": "a step of the CIFAR-10 network `tiny`, beside the same network in torch",
}


@dataclass(frozen=True)
class Command:
    """The options of the command; their comments are its help."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """What to measure; without it, the list of subjects."""
    quick: bool = False
    """Small shapes and few rounds: shows in seconds that all runs, the figures mean little."""
    rounds: int = 15
    """How often every rival runs; they take turns within each round."""
    output: Path = Path("benchmarks/results")
    """Where the new folder <NAME>-<date> with JSON and PNG goes."""
    markdown: bool = False
    """Print the tables as markdown, for a README."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    subjects = "\n\n".join(f"{name}: {text}" for name, text in SUBJECTS.items())
    command = tyro.cli(
        Command,
        prog="python -m benchmarks",
        description=f"Measure xentjax against its rivals.\n\n{subjects}",
        args=args,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not command.name:
        print("\n".join(f"python -m benchmarks {name}: {text}" for name, text in SUBJECTS.items()))
        return 0
    if command.name not in SUBJECTS:
        return _refuse(f"NAME: expected one of {', '.join(SUBJECTS)}, got {command.name!r}")
    if command.rounds < 1:
        return _refuse(f"--rounds: expected at least 1, got {command.rounds}")

    try:
        command.output.mkdir(parents=True, exist_ok=True)  # now, rather than after minutes of work
    except OSError as error:
        return _refuse(f"--output: expected a folder that can be made, got {error}")

    progress = Console(stderr=True)
    subject = importlib.import_module(f"benchmarks.{command.name}")
    rounds = min(command.rounds, 3) if command.quick else command.rounds
    result = subject.run(quick=command.quick, rounds=rounds, console=progress)
    try:
        folder = report.save(result, command.output)
        progress.print(f"JSON and PNG: {folder}", highlight=False, soft_wrap=True)
        code = 0
    except OSError as error:  # the tables are still worth printing
        code = _refuse(f"--output: expected a folder that can be written, got {error}")
    if command.markdown:
        print(report.markdown(result), end="")
    else:
        report.print_terminal(result, Console())
    return code


def _refuse(line: str) -> int:
    """Say in one line what is wrong; the exit code of a misused command."""
    print(line, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
