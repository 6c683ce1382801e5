"""A machine, sessions and thunks for tests of benchmarks."""

import io

from rich.console import Console

from benchmarks import __main__ as command
from benchmarks.harness import machine, report
from benchmarks.harness.session import Session

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
# Within every round optax takes 3 times as long in the first cell, half as long in the second.
RESULT = report.Result(
    name="demo",
    ours="xentjax",
    baselines=("optax", "torch"),
    unit="GB/s",
    cells=(
        report.Cell(
            case="8 × 4",
            mode="forward",
            seconds={"xentjax": [0.001, 0.002, 0.004], "optax": [0.003, 0.006, 0.012]},
            work=0.02,
            limit_seconds=[0.0005, 0.001, 0.002],
            temp_bytes={"xentjax": 0, "optax": 2_500_000},
            compile_seconds={"xentjax": 0.25, "optax": 0.5},
        ),
        report.Cell(
            case="8 × 4",
            mode="value_and_grad",
            seconds={"xentjax": [0.004] * 3, "optax": [0.002] * 3},
            work=0.02,
            temp_bytes={"xentjax": 1_000, "optax": None},
            compile_seconds={"xentjax": 0.25, "optax": 0.5},
        ),
    ),
    machine=MACHINE,
    notes=("a note",),
)


def exit_code(args):
    """Run the command and return its exit code."""
    try:
        command.main(args)
    except SystemExit as end:
        return end.code
    return 0


def session(**keywords):
    """Make a session that prints its progress into `session.console.file`."""
    console = Console(file=io.StringIO(), width=100)
    return Session(**{"quick": True, "rounds": 3, "console": console} | keywords)


def interrupting(calls):
    """Make a thunk whose given call is interrupted by Ctrl-C."""
    left = iter(range(calls, 0, -1))

    def thunk():
        if next(left) == 1:
            raise KeyboardInterrupt

    return thunk
