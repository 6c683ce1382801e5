"""The command `python -m benchmarks NAME`, which runs one benchmark and reports it."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import tyro
from rich.console import Console

from benchmarks.harness import output
from benchmarks.harness.session import Session
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


class Benchmark(NamedTuple):
    """A module or package of this folder with `run(session) -> harness.tables.Report`."""

    summary: str
    rounds: int = 15


BENCHMARKS = {
    "losses": Benchmark(
        "softmax cross-entropy against optax, jax.nn, torch and the textbook formula"
    ),
    "linear": Benchmark(
        "cross-entropy of a linear layer against stored logits, tokamax, jax-cce and torch",
        rounds=7,  # of calls that take seconds
    ),
    "heads": Benchmark(
        "log-probabilities, losses of one's own, divergences, top-k and samples of a linear layer",
        rounds=7,
    ),
    "scaling": Benchmark(
        "collectives of losses split over devices, counted, and a model of their cost", rounds=7
    ),
    "categorical": Benchmark(
        "counts, entropies, intervals and tests of a die against NumPy, SciPy, statsmodels, torch",
        rounds=7,
    ),
    "kernels": Benchmark(
        "kernels for GPU or TPU against XLA, optax, torch, Liger and cut-cross-entropy"
    ),
    "training": Benchmark(
        "a training step of three CIFAR-10 presets against the same networks in torch"
    ),
}


@dataclass(frozen=True)
class Command(LinearOptions):
    """Options of the command; the strings below the fields are its help."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")] = ""
    """The benchmark to run; without it, the list of benchmarks is printed."""
    quick: bool = False
    """Small shapes and few rounds, to see in seconds that everything runs. The figures are not
    representative; the report is marked QUICK and has no means and no targets."""
    rounds: int | None = None
    """Number of rounds; every implementation runs once in each. By default 15, or 7 for linear,
    heads, scaling and categorical."""
    output: Path = Path("benchmarks/results")
    """The parent of the new folder <NAME>-<date> with JSON and PNG."""
    markdown: bool = False
    """Print the tables as markdown."""


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Raises:
        SystemExit: after --help, an interrupted run or an error.
    """
    with one_line_errors():
        _main(args)


def _main(args: Sequence[str] | None) -> None:
    summaries = "\n\n".join(f"{name}: {each.summary}" for name, each in BENCHMARKS.items())
    command = parse_options(
        Command,
        args,
        prog="python -m benchmarks",
        description=f"Measure xentjax against baselines.\n\n{summaries}",
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if not command.name:
        for name, each in BENCHMARKS.items():
            print(f"python -m benchmarks {name}: {each.summary}")
        return
    if command.name not in BENCHMARKS:
        raise UserError(f"NAME: expected one of {', '.join(BENCHMARKS)}, got {command.name!r}")
    rounds = BENCHMARKS[command.name].rounds if command.rounds is None else command.rounds
    if rounds < 1:
        raise UserError(f"--rounds: expected at least 1, got {rounds}")
    options: dict[str, Any] = {}
    if command.name == "linear":
        options = {"options": command}
    else:
        for option in fields(LinearOptions):
            if getattr(command, option.name) != option.default:
                raise UserError(f"--{option.name}: expected with linear only, got {command.name}")
    if any(size < 1 for shape in command.shapes for size in shape):
        raise UserError(f"--shapes: expected sizes >= 1, got {command.shapes}")

    try:
        command.output.mkdir(parents=True, exist_ok=True)  # now, rather than after minutes of work
    except OSError as error:
        raise UserError(f"--output: expected a folder that can be created, got {error}") from None

    rounds = min(rounds, 3) if command.quick else rounds
    session = Session(quick=command.quick, rounds=rounds, console=Console(stderr=True))
    try:
        _run(command, session, options)
    except NotImplementedError as error:  # by a kernel, on the wrong machine
        raise UserError(str(error)) from None


def _run(command: Command, session: Session, options: dict[str, Any]) -> None:
    """Measure, save and print, after Ctrl-C what was finished."""
    with session:
        session.say("loading packages, measuring this machine's limits")
        benchmark = importlib.import_module(f"benchmarks.{command.name}")
        result = benchmark.run(session, **options)
        if not session.finished:
            raise KeyboardInterrupt
        session.say("writing JSON and PNG", log=False)
        code = EXIT_INTERRUPTED if session.interrupted else 0
        try:
            end = f"JSON and PNG: {output.save(result, command.output)}"
        except (OSError, RunError) as error:  # the tables are still worth printing
            code = EXIT_USER_ERROR
            end = f"error: --output: expected a folder that can be written, got {error}"
    say(session.console, end)
    if command.markdown:
        print(output.markdown(result), end="")
    else:
        output.print_terminal(result, Console())
    if code:
        raise SystemExit(code)


if __name__ == "__main__":
    main()
