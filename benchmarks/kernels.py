"""Kernels on an accelerator: losses of logits in memory or a linear layer, functions of a head.

Our implementation is the kernel that `implementation=` names on this backend. All implementations
get the same logits, or the same features and kernel, and are interleaved in one process.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import (
    NAIVE,
    TORCH,
    how_to_install,
    load_if_installed,
    load_torch,
)
from benchmarks.harness.modes import Loss, jax_function
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import NOT_INSTALLED, Table
from benchmarks.heads import benchmark as heads_benchmark, implementations as head_functions
from benchmarks.linear import benchmark as linear_benchmark, implementations as linear
from benchmarks.losses import implementations as losses
from xentjax import softmax_cross_entropy_with_integer_labels

KERNELS = {"gpu": "mosaic_gpu", "tpu": "mosaic_tpu"}
"""Kernel to measure on each backend."""
OURS, XLA, OPTAX = "kernel", "xla", "optax"
TORCH_COMPILED, LIGER, CCE, QUACK = "torch compiled", "liger", "cut-cross-entropy", "quack"
BASELINES = (XLA, OPTAX, TORCH, TORCH_COMPILED, LIGER, QUACK)
PACKAGES = {LIGER: "liger-kernel", CCE: "cut-cross-entropy", QUACK: "quack-kernels"}
LIGER_MODULE = "liger_kernel.transformers.functional"
IN_FORWARD = "in forward"
NOTES = ("kernel: implementation='mosaic_gpu' or 'mosaic_tpu'; xla: the default",)
LEGEND = (
    "GB/s: forward reads the logits once; value_and_grad reads them twice (statistics, then "
    "gradient) and writes them once",
    "limit: the share of the bandwidth of x + 1 into a fresh buffer, for logits of the same shape "
    "and dtype in the same rounds",
)
LEGEND_OF_LAYERS = (
    "TFLOP/s count 2 N D K operations for the loss and 6 N D K with the gradients, also where "
    "more are computed; limit: the share of the rate of a large square matrix product of the same "
    "dtype; ×: the time over the kernel's",
    "in forward: gradients_in_forward=True",
)


class Parts(NamedTuple):
    """Measured cells: losses of logits, losses of linear layers, and functions of a head."""

    logits: list[Cell]
    layers: list[Cell]
    heads: list[Cell]

    def tables(self) -> tuple[Table, ...]:
        """Make tables of the layers, of the heads, and of which default was faster."""
        named = {"Linear layers": self.layers, "Functions of a head": self.heads}
        tables = [table_of_layers(cells, title) for title, cells in named.items() if cells]
        return (*tables, defaults([*self.logits, *self.layers, *self.heads]))


def kernel_of_backend() -> str:
    """Return the kernel of this backend.

    Raises:
        NotImplementedError: this backend has no kernel.
    """
    backend = jax.default_backend()
    if backend not in KERNELS:
        raise NotImplementedError(
            f"kernels: expected a backend among {', '.join(KERNELS)}, got {backend}"
        )
    return KERNELS[backend]


def run(session: Session) -> Result:
    """Measure every case.

    Raises:
        NotImplementedError: this backend has no kernel.
    """
    kernel = kernel_of_backend()
    limits = machine.measure(quick=session.quick, packages=tuple(PACKAGES.values()))
    return report("kernels", measure_parts(kernel, session), limits, session)


def report(
    name: str, parts: Parts, limits: machine.Machine, session: Session, *first: Table
) -> Result:
    """Make the report of the parts; `first` are tables that precede theirs."""
    missing = [
        how_to_install(package)
        for rival, package in PACKAGES.items()
        if session.choice.has_rival(rival) and limits.versions.get(package) == NOT_INSTALLED
    ]
    return Result(
        name=name,
        ours=OURS,
        baselines=tuple(filter(session.choice.has_rival, BASELINES)),
        unit="GB/s",
        cells=tuple(parts.logits),
        machine=limits,
        notes=(*NOTES, *missing, *session.notes),
        legend=LEGEND,
        extent=session.extent,
        tables=tuple(table for table in (*first, *parts.tables()) if table.rows),
    )


def measure_parts(kernel: str, session: Session) -> Parts:
    """Measure every case; one that fails leaves a note."""
    torch = _torch_with_gpu()

    def of(title: str, table: Iterable[Any], measure_case: Callable[[Any], Cell]) -> list[Cell]:
        found = session.collect(
            title,
            [(f"{case.name} {case.mode}", case) for case in table],
            lambda case: session.attempt("the case", lambda: measure_case(case)),
        )
        return [cell for cell in found if cell is not None]

    quick = session.quick
    heads = [
        HeadMode(operation, case)
        for case in (cases.KERNELS_HEADS_QUICK if quick else cases.KERNELS_HEADS)
        for operation in head_functions.operations_by({OURS: kernel, XLA: "xla"})
    ]
    return Parts(
        of(
            "logits",
            cases.KERNELS_QUICK if quick else cases.KERNELS,
            lambda case: measure(case, kernel, torch, session),
        ),
        of(
            "linear layers",
            cases.KERNELS_LINEAR_QUICK if quick else cases.KERNELS_LINEAR,
            lambda case: measure_layer(case, kernel, torch, session),
        ),
        of("heads", heads, lambda each: each.measure(session)),
    )


class HeadMode(NamedTuple):
    """A function of a head at one size."""

    operation: head_functions.Operation
    case: cases.HeadCase

    @property
    def name(self) -> str:
        """Name in messages."""
        return f"{self.operation.name} {self.case.name}"

    @property
    def mode(self) -> str:
        """Mode of the function."""
        return self.operation.mode

    def measure(self, session: Session) -> Cell:
        """Compile and time the function by the kernel, by XLA and by the baselines."""
        return heads_benchmark.measure(self.operation, self.case, {}, session, ours=OURS)


def measure(case: cases.LossCase, kernel: str, torch: ModuleType | None, session: Session) -> Cell:
    """Compile and time all losses of logits in memory, interleaved with a copy of the logits."""
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], case.shape, case.dtype)
    y = jax.random.randint(keys[1], case.shape[:1], 0, case.shape[1])
    losses_of_logits = {
        name: loss
        for name, loss in _jax_losses(kernel).items()
        if name == OURS or session.choice.has_rival(name)
    }
    compiled = {
        name: timing.compile_ahead_of_time(jax_function(loss, case.mode), x, y)
        for name, loss in losses_of_logits.items()
    }
    thunks: dict[str, timing.Thunk] = {
        name: partial(program.call, x, y) for name, program in compiled.items()
    }
    if torch is not None:
        thunks |= _working(_torch_thunks(torch, case, x, y), session)
    copy = timing.compile_ahead_of_time(lambda x: x + 1, x)
    seconds = session.interleave(thunks | {"copy": partial(copy.call, x)}, ours=OURS)
    passes = 1 if case.mode == "forward" else 3  # over the logits; a copy makes two
    return Cell(
        case=case.name,
        mode=case.mode,
        again=seconds.pop(noise.AGAIN, None),
        seconds=seconds,
        work=passes * x.nbytes / 1e9,
        limit_seconds=[passes / 2 * each for each in seconds.pop("copy")],
        temp_bytes={name: program.temp_bytes for name, program in compiled.items()},
        compile_seconds={name: program.compile_seconds for name, program in compiled.items()},
    )


def measure_layer(
    case: cases.LinearCase, kernel: str, torch: ModuleType | None, session: Session
) -> Cell:
    """Compile and time a linear layer, with both ways to compute the gradients."""

    def ours(**keywords: Any) -> linear.Implementation:
        return linear.Implementation(partial(linear.xentjax_loss, **keywords))

    implementations = {
        OURS: ours(implementation=kernel),
        f"{OURS}, {IN_FORWARD}": ours(implementation=kernel, gradients_in_forward=True),
        XLA: ours(implementation="xla"),
        f"{XLA}, {IN_FORWARD}": ours(implementation="xla", gradients_in_forward=True),
        NAIVE: linear.Implementation(linear.naive_loss),
    }
    implementations = {
        name: each
        for name, each in implementations.items()
        if name == OURS or session.choice.has_rival(name)
    }
    given = _layer(case)
    others = {}
    if torch is not None:
        others = _working(_torch_layer_thunks(torch, case, given), session)
    return linear_benchmark.measure(case, implementations, others, session, given=given, ours=OURS)


def _layer(case: cases.LinearCase) -> linear.Problem:
    """Make features, kernel and labels on the device, since copies from the host take seconds."""
    n, d, k = case.shape
    keys = jax.random.split(jax.random.key(0), 3)
    return linear.Problem(
        jax.random.normal(keys[0], (n, d), case.dtype),
        jax.random.normal(keys[1], (d, k), case.dtype) / d**0.5,
        jax.random.randint(keys[2], (n,), 0, k),
    )


def _working(thunks: Mapping[str, timing.Thunk], session: Session) -> dict[str, timing.Thunk]:
    """Return the chosen rivals whose first call succeeds; the others leave a note."""
    chosen = {name: each for name, each in thunks.items() if session.choice.has_rival(name)}
    for name in [*chosen]:
        session.say(f"first call of {name}", log=False)
        if session.attempt(name, chosen[name]) is None:
            del chosen[name]
    return chosen


def defaults(cells: list[Cell]) -> Table:
    """Make a table of whether the kernel beats XLA beyond the noise, and so may be the default."""
    rows = []
    for cell in cells:
        if XLA not in cell.seconds:
            continue
        found = noise.interval(cell.seconds[XLA], cell.seconds[OURS])
        floor = None if cell.again is None else noise.interval(cell.again, cell.seconds[OURS])
        tie = floor is None or found.ties(floor)
        word = "tie" if tie else OURS if found.median > 1 else XLA
        rows.append((cell.case, cell.mode, found.median, found.text(), word))
    return Table(
        f"Which default: {XLA}'s time over that of the {OURS}",
        ("case", "mode", f"{XLA} / {OURS}", "interval", "faster"),
        tuple(rows),
        (f"a tie is no reason for a {OURS}", noise.LEGEND),
    )


def table_of_layers(cells: list[Cell], title: str = "Linear layers") -> Table:
    """Make a table with a row for each case and implementation."""
    rows = []
    for cell in cells:
        assert cell.limit_seconds is not None
        mine = cell.seconds[OURS]
        floor = None if cell.again is None else noise.interval(cell.again, mine)
        for name, samples in cell.seconds.items():
            median = timing.quartiles(samples).median
            temp = cell.temp_bytes.get(name)
            rows.append(
                (
                    f"{cell.case}, {cell.mode}",
                    name,
                    median * 1e3,
                    cell.work / median / 1e3,
                    timing.ratio(cell.limit_seconds, samples),
                    timing.ratio(samples, mine),
                    None if temp is None else temp / 1e6,
                    *(_interval(samples, mine, floor, name) if floor else []),
                )
            )
    judged = any(cell.again is not None for cell in cells)
    header = ("case", "implementation", "ms", "TFLOP/s", "limit", "×", "temp MB")
    return Table(
        title,
        (*header, "interval") if judged else header,
        tuple(rows),
        (*LEGEND_OF_LAYERS, f"the interval of {OURS} is the noise; {noise.LEGEND}")
        if judged
        else LEGEND_OF_LAYERS,
    )


def _interval(
    samples: list[float], mine: list[float], floor: noise.Interval, name: str
) -> list[str]:
    return [floor.text() if name == OURS else noise.interval(samples, mine).judged(floor)]


def _jax_losses(kernel: str) -> dict[str, Loss]:
    def ours(implementation: Any) -> Loss:
        return partial(
            softmax_cross_entropy_with_integer_labels,
            reduction="mean",
            implementation=implementation,
        )

    return {OURS: ours(kernel), XLA: ours("xla"), OPTAX: losses.optax_integer_loss}


def _torch_with_gpu() -> ModuleType | None:
    torch = load_torch()
    return torch if torch is not None and torch.cuda.is_available() else None


def _torch_thunks(
    torch: ModuleType, case: cases.LossCase, logits: jax.Array, labels: jax.Array
) -> dict[str, timing.Thunk]:
    tensor = partial(_torch_tensor, torch, case)
    y = torch.from_dlpack(labels).long()
    cross_entropy = torch.nn.functional.cross_entropy
    functions = {TORCH: cross_entropy, TORCH_COMPILED: torch.compile(cross_entropy)}
    if (liger := load_if_installed(LIGER_MODULE)) is not None:
        functions[LIGER] = liger.liger_cross_entropy
    if (quack := load_if_installed("quack.cross_entropy")) is not None:
        functions[QUACK] = lambda x, y: quack.cross_entropy(x, y).mean()
    return {
        # Liger overwrites the logits with the gradient, so each function gets its own copy.
        name: partial(_torch_call, torch, function, tensor(logits), y)
        for name, function in functions.items()
    }


def _torch_tensor(
    torch: ModuleType, case: cases.LossCase | cases.LinearCase, array: jax.Array
) -> Any:
    """Copy an array within the GPU; it requires gradients if the mode of the case has them."""
    tensor = torch.from_dlpack(array).clone()
    return tensor.requires_grad_(case.mode == "value_and_grad")


def _torch_layer_thunks(
    torch: ModuleType, case: cases.LinearCase, given: linear.Problem
) -> dict[str, timing.Thunk]:
    functional = torch.nn.functional
    x = _torch_tensor(torch, case, given.x)
    kernel = _torch_tensor(torch, case, given.kernel.T)
    y = torch.from_dlpack(given.labels).long()

    def naive(x: Any, kernel: Any, y: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, kernel), y)

    functions = {TORCH: naive, TORCH_COMPILED: torch.compile(naive)}
    if (liger := load_if_installed(LIGER_MODULE)) is not None:
        functions[LIGER] = liger.liger_fused_linear_cross_entropy
    if (quack := load_if_installed("quack.linear_cross_entropy")) is not None:
        functions[QUACK] = lambda *a: quack.chunked_linear_cross_entropy(*a).mean()
    if (cce := load_if_installed("cut_cross_entropy")) is not None:
        functions[CCE] = cce.linear_cross_entropy
    return {
        name: partial(_torch_call, torch, function, x, kernel, y)
        for name, function in functions.items()
    }


def _torch_call(torch: ModuleType, function: Callable[..., Any], *arrays: Any) -> Any:
    """Compute the loss and the gradients in all arrays that require them, and wait for the GPU."""
    loss = function(*arrays)
    wanted = [array for array in arrays if array.requires_grad]
    gradients = torch.autograd.grad(loss, wanted) if wanted else ()
    torch.cuda.synchronize()
    return loss.detach(), gradients
