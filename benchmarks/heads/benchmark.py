"""Functions of a linear head: time, memory and errors, compared with stored logits and a scan."""

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import NAIVE, NO_TORCH, OURS, how_to_install, load_torch
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.targets import Target, table_of_targets
from benchmarks.heads.accuracy import accuracy
from benchmarks.heads.implementations import (
    CHUNK,
    LOG_PROBS,
    SCAN,
    Operation,
    arguments,
    function_of,
    given,
    operations,
    work,
)
from benchmarks.linear.implementations import (
    JAX_CCE,
    TOKAMAX,
    TORCH_CHUNKED,
    TORCH_NAIVE,
    Problem,
    torch_thunks,
)

BASELINES = (LOG_PROBS, NAIVE, SCAN, *TOKAMAX, JAX_CCE, TORCH_NAIVE, TORCH_CHUNKED)
LOSSES = (*TOKAMAX, JAX_CCE, TORCH_NAIVE, TORCH_CHUNKED)
NOTES = (
    "N × D × K: rows, features, classes; all interleaved in one process",
    "naive: stored logits, then jax.nn.log_softmax; scan + remat: the same, in chunks of "
    f"{CHUNK} rows with jax.checkpoint, as written by hand where no library has it",
    "surrogate: clipped, with an entropy bonus; xentjax is linear_loss there; KL and JS: from a "
    "teacher of 1.5 D features, gradients in the student alone",
    "tokamax, jax-cce and torch have the mean loss of labels alone: beside log-probs; whoever is "
    "far off in the table of errors was timed for another number",
)
LEGEND = (
    "GFLOP/s count the matrix products of stored logits, also where more are computed; limit: the "
    "share of this machine's rate in a large square matrix product of the same dtype, in the same "
    "rounds",
    "temp MB: XLA's scratch memory beside inputs and outputs; torch's is unknown",
)


def measure(
    operation: Operation,
    case: cases.HeadCase,
    others: dict[str, timing.Thunk],
    session: Session,
    *,
    ours: str = OURS,
) -> Cell:
    """Compile and time all implementations of one function, interleaved with a matrix product."""
    arrays, programs, thunks = given(case.shape), {}, {}
    names = [n for n in operation.functions if n == ours or session.choice.has_rival(n)]
    for name in names:
        session.say(f"compiling {name}", log=False)
        own = arguments(operation, name, case, arrays)
        program = timing.compile_ahead_of_time(function_of(operation, name), *own)
        programs[name] = program
        thunks[name] = lambda call=program.call, own=own: call(*own)
    thunks |= {name: other for name, other in others.items() if session.choice.has_rival(name)}
    product, flops = machine.product(case.dtype, quick=session.quick)
    seconds = session.interleave(thunks | {"product": product}, ours=ours, settle=False)
    count = work(operation, case.shape)
    losses = LOSSES if operation.classes_first else ()
    return Cell(
        case=f"{operation.name}, {case.name}",
        mode=operation.mode,
        again=seconds.pop(noise.AGAIN, None),
        seconds=seconds,
        work=count / 1e9,
        limit_seconds=[count / flops * each for each in seconds.pop("product")],
        temp_bytes={name: program.temp_bytes for name, program in programs.items()},
        compile_seconds={name: program.compile_seconds for name, program in programs.items()},
        offered=(*names, *losses),
    )


# Limits of scratch memory in MB, by function, shape and implementation.
MEMORY = {
    ("log-probs, entropy", (2048, 512, 32768), OURS): 30,
    ("surrogate", (2048, 512, 32768), LOG_PROBS): 60,
    ("surrogate", (2048, 512, 32768), OURS): 80,
    ("KL", (2048, 512, 32768), OURS): 120,
    ("KL", (4096, 768, 50304), OURS): 150,
}
# Limits of the time of one implementation over another's, by function.
TIMES = {
    "log-probs, entropy": ((OURS, SCAN, 1.0), (OURS, NAIVE, 1.1)),
    "surrogate": ((LOG_PROBS, SCAN, 1.0), (LOG_PROBS, NAIVE, 1.1), (OURS, LOG_PROBS, 0.85)),
    "KL": ((OURS, NAIVE, 1.0),),
}


LARGE = cases.LINEAR_SHAPES[-1]
"""Shape whose calls take seconds, only for functions with targets."""


def has_targets(operation: Operation) -> bool:
    """Whether a function has targets."""
    return operation.name in TIMES or any(operation.name == name for name, *_ in MEMORY)


def targets(operation: Operation, case: cases.HeadCase, cell: Cell) -> list[Target]:
    """Return the targets of one cell; targets for memory only in float32."""
    found = [
        Target(
            f"{name}: time / {other}", timing.ratio(cell.seconds[name], cell.seconds[other]), limit
        )
        for name, other, limit in TIMES.get(operation.name, ())
    ]
    for (function, shape, name), most in MEMORY.items():
        if (function, shape, case.dtype) == (operation.name, case.shape, "float32"):
            temp = cell.temp_bytes[name]
            share = None if temp is None else temp / 1e6 / most
            found.append(Target(f"{name}: temp / {most} MB", share, 1.0))
    return found


def run(session: Session) -> Result:
    """Measure every function at every size, then their errors."""
    limits = machine.measure(quick=session.quick, packages=("tokamax", "jax-cce"))
    rivals = tuple(filter(session.choice.has_rival, BASELINES))
    torch = None if {TORCH_NAIVE, TORCH_CHUNKED}.isdisjoint(rivals) else load_torch()
    table = operations()
    every = [
        (operation, case)
        for case in (cases.HEADS_QUICK if session.quick else cases.HEADS)
        for operation in table
        if case.shape != LARGE or has_targets(operation)
    ]

    def cell_and_targets(each: tuple[Operation, cases.HeadCase]) -> tuple[Cell, list[Target]]:
        operation, case = each
        others: dict[str, timing.Thunk] = {}
        if torch is not None and operation.classes_first:
            x, kernel, rest = given(case.shape)
            linear = cases.LinearCase(case.shape, case.dtype, "value_and_grad")
            others = torch_thunks(torch, linear, Problem(x, kernel, rest.labels))
        cell = measure(operation, case, others, session)
        return cell, targets(operation, case, cell) if session.extent.whole else []

    measured = session.collect(
        "heads",
        [(f"{operation.name} {case.name}", (operation, case)) for operation, case in every],
        cell_and_targets,
        takes_minutes=lambda each: each[1].shape == LARGE or each[1].dtype != "float32",
    )
    tables = session.collect(
        "accuracy", [("", None)], lambda _: accuracy(table, quick=session.quick)
    )
    if session.extent.whole:
        found = [(f"{c.case}, {c.mode}", t) for c, several in measured for t in several]
        tables.insert(0, table_of_targets(found))
    seen = {name for cell, _ in measured for name in cell.seconds}
    absent = [name for name in rivals if name not in seen]
    packages = [name for name in ("tokamax", JAX_CCE) if any(name in each for each in absent)]
    missing = [
        *map(how_to_install, packages),
        *([NO_TORCH] if any("torch" in name for name in absent) else []),
    ]
    return Result(
        name="heads",
        ours=OURS,
        baselines=rivals,
        unit="GFLOP/s",
        cells=tuple(cell for cell, _ in measured),
        machine=limits,
        notes=(*NOTES, *missing),
        legend=LEGEND,
        extent=session.extent,
        row_per_implementation=True,
        tables=tuple(tables),
    )
