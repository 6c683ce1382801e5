"""A machine, sessions and commands of benchmarks that measure nothing for long."""

import io

from rich.console import Console

from benchmarks import __main__ as command, machine
from benchmarks.session import Session

MACHINE = machine.Machine(
    date="2026-01-02T03:04:05+00:00",
    processor="Abacus 3000",
    cores=2,
    backend="cpu",
    device="cpu",
    versions={"python": "3.11.0", "jax": "0.10.0"},
    read_bandwidth=30.0,
    update_bandwidth=20.0,
    fresh_bandwidth=10.0,
    gemm=100.0,
)


def exit_code(args):
    """The code with which the command ends."""
    try:
        command.main(args)
    except SystemExit as end:
        return end.code
    return 0


def session(**keywords):
    """One that says what it does into `session.console.file`."""
    console = Console(file=io.StringIO(), width=100)
    return Session(**{"quick": True, "rounds": 3, "console": console} | keywords)


def interrupting(calls):
    """A thunk that is interrupted by Ctrl-C in that call."""
    left = iter(range(calls, 0, -1))

    def thunk():
        if next(left) == 1:
            raise KeyboardInterrupt

    return thunk
