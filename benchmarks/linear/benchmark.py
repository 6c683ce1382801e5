"""Cross-entropy of a linear layer, mean over rows: ours, stored logits, tokamax and others.

Each implementation is compiled for one mode: the loss, or the loss with the gradients in features
and kernel.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import NAIVE, NO_TORCH, OURS, how_to_install, load_torch
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from benchmarks.harness.targets import Target, table_of_targets
from benchmarks.linear.accuracy import accuracy
from benchmarks.linear.implementations import (
    BASELINES,
    BUDGET,
    IN_FORWARD,
    JAX_CCE,
    MIB,
    TORCH_CHUNKED,
    TORCH_NAIVE,
    WITHOUT_LOGITS,
    Implementation,
    Problem,
    compile_for,
    jax_implementations,
    jax_thunk,
    problem,
    torch_thunks,
)

NOTES = (
    "N × D × K: rows, features, classes; all interleaved in one process",
    "naive: x @ kernel, then optax's integer cross-entropy; torch in eager mode, naive: linear, "
    "then cross_entropy; torch chunked: linear_cross_entropy with LinearCrossEntropyOptions()",
    "jax-cce and torch get the kernel as [K, D], their layout",
)
LEGEND = (
    "GFLOP/s count 2 N D K operations for the loss and 6 N D K with the gradients, also "
    "where more are computed (xentjax's default computes 8 N D K); limit: the share of this "
    "machine's rate in a large square matrix product of the same dtype, in the same rounds",
    "temp MB: XLA's scratch memory beside inputs and outputs; torch's is unknown",
)


@dataclass(frozen=True)
class LinearOptions:
    """Options of `linear`; the strings below the fields are the command's help."""

    shapes: tuple[tuple[int, int, int], ...] = ()
    """Sizes N D K of each case, for linear only; by default the two of its table."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of features and kernel, for linear only."""
    accuracy: bool = False
    """Compare loss and gradients in float32 and bfloat16 with float64, for linear only."""
    big: bool = False
    """Run (16384, 256, 262144) in bfloat16 once, 6.6 TFLOP, and read its memory, for linear
    only."""


def measure(
    case: cases.LinearCase,
    implementations: Mapping[str, Implementation],
    others: Mapping[str, timing.Thunk],
    session: Session,
    *,
    given: Problem,
    ours: str = OURS,
) -> Cell:
    """Compile and time all implementations of one case, interleaved with a large matrix product.

    XLA compiles the `implementations`; the `others` run as they are.
    """
    programs = {}
    for name, implementation in implementations.items():
        session.say(f"compiling {name}", log=False)
        programs[name] = compile_for(implementation, case)
    thunks = {
        name: jax_thunk(programs[name], implementation, case, given)
        for name, implementation in implementations.items()
    }
    thunks |= others
    product, flops = machine.product(case.dtype, quick=session.quick)
    seconds = session.interleave(thunks | {"product": product}, ours=ours, settle=False)
    return Cell(
        case=case.name,
        mode=case.mode,
        again=seconds.pop(noise.AGAIN, None),
        seconds=seconds,
        work=case.flops / 1e9,
        limit_seconds=[case.flops / flops * each for each in seconds.pop("product")],
        temp_bytes={name: program.temp_bytes for name, program in programs.items()},
        compile_seconds={name: program.compile_seconds for name, program in programs.items()},
    )


def targets(cell: Cell, logits_bytes: int) -> list[Target]:
    """Return the targets in the mode of the cell."""

    def time(name: str, baseline: str) -> float | None:
        return timing.ratio(cell.seconds[name], cell.seconds[baseline])

    def temp(name: str, whole: float | None) -> float | None:
        own = cell.temp_bytes[name]
        return own / whole if own is not None and whole else None

    budget = Target(f"{BUDGET}: temp / budget", temp(BUDGET, 16 * MIB), 1.25)
    if cell.mode == "loss":
        return [
            Target("time / naive", time(OURS, NAIVE), 1.1),
            Target("temp / float32 logits", temp(OURS, logits_bytes), 0.1),
            budget,
        ]
    return [
        Target("time / naive", time(OURS, NAIVE), 1.2),
        Target(f"{IN_FORWARD}: time / naive", time(IN_FORWARD, NAIVE), 1.05),
        *(
            Target(f"{IN_FORWARD}: time / {baseline}", time(IN_FORWARD, baseline), 1.0)
            for baseline in WITHOUT_LOGITS
            if baseline in cell.seconds
        ),
        Target("temp / naive", temp(OURS, cell.temp_bytes[NAIVE]), 0.15),
        Target(f"{IN_FORWARD}: temp / naive", temp(IN_FORWARD, cell.temp_bytes[NAIVE]), 0.15),
        budget,
    ]


def big(
    implementations: Mapping[str, Implementation], session: Session
) -> tuple[Table, list[tuple[str, Target]]]:
    """Run once a call whose stored logits would take gigabytes; its memory has a target."""
    case = cases.LINEAR_BIG_QUICK if session.quick else cases.LINEAR_BIG
    given, rows, found = problem(case.shape), [], []
    for name in (OURS, IN_FORWARD, NAIVE):
        if name not in implementations:
            continue
        session.say(f"compiling {name}", log=False)
        program = compile_for(implementations[name], case)
        temp = None if program.temp_bytes is None else program.temp_bytes / 2**30
        seconds = rate = None
        if name != NAIVE:
            session.say(f"running {name}", log=False)
            seconds = timing.once(jax_thunk(program, implementations[name], case, given))
            rate = case.flops / 1e9 / seconds
            share = None if temp is None else temp / 2
            found.append((f"{case.name}, {case.mode}", Target(f"{name}: temp / 2 GiB", share, 1.0)))
        rows.append((case.name, name, temp, seconds, rate))
    table = Table(
        f"A big call, {case.mode}, run once; {NAIVE} is only compiled",
        ("case", "implementation", "temp GiB", "s", "GFLOP/s"),
        tuple(rows),
    )
    return table, found


def run(session: Session, options: LinearOptions) -> Result:
    """Measure every case in both modes, then accuracy and the big call if asked for."""
    limits = machine.measure(quick=session.quick, packages=("tokamax", "jax-cce"))
    rivals = tuple(filter(session.choice.has_rival, BASELINES))
    torch = None if {TORCH_NAIVE, TORCH_CHUNKED}.isdisjoint(rivals) else load_torch()
    installed = jax_implementations()
    implementations = {name: installed[name] for name in (OURS, *rivals) if name in installed}
    shapes = options.shapes or (cases.LINEAR_SHAPES_QUICK if session.quick else cases.LINEAR_SHAPES)
    table = [
        cases.LinearCase(shape, options.dtype, mode)
        for shape in shapes
        for mode in cases.LINEAR_MODES
    ]

    def cell_and_targets(case: cases.LinearCase) -> tuple[Cell, list[tuple[str, Target]]]:
        given = problem(case.shape)
        others = {} if torch is None else torch_thunks(torch, case, given)
        others = {name: thunk for name, thunk in others.items() if name in rivals}
        cell = measure(case, implementations, others, session, given=given)
        n, _, k = case.shape
        several = targets(cell, 4 * n * k) if session.extent.whole else []
        return cell, [(f"{case.name}, {case.mode}", target) for target in several]

    measured = session.collect(
        "linear + cross-entropy",
        [(f"{case.name} {case.mode}", case) for case in table],
        cell_and_targets,
        takes_minutes=lambda case: case.shape == cases.LINEAR_SHAPES[-1],
    )
    found, tables = [target for _, several in measured for target in several], []
    if options.accuracy:
        tables += session.collect(
            "accuracy",
            [("", None)],
            lambda _: accuracy(implementations, torch, quick=session.quick),
        )
    if options.big:
        for table_of_big, more in session.collect(
            "big", [("", None)], lambda _: big(implementations, session)
        ):
            tables.append(table_of_big)
            found += more
    if session.extent.whole:
        tables.insert(0, table_of_targets(found))
    seen = {name for cell, _ in measured for name in cell.seconds}
    absent = [name for name in rivals if name not in seen]
    packages = [name for name in ("tokamax", JAX_CCE) if any(name in each for each in absent)]
    return Result(
        name="linear",
        ours=OURS,
        baselines=rivals,
        unit="GFLOP/s",
        cells=tuple(cell for cell, _ in measured),
        machine=limits,
        notes=(
            *NOTES,
            f"not installed here, or fails to import: {', '.join(absent) or 'none'}",
            *map(how_to_install, packages),
            *([NO_TORCH] if any("torch" in name for name in absent) else []),
        ),
        legend=LEGEND,
        extent=session.extent,
        row_per_implementation=True,
        tables=tuple(tables),
    )
