"""An accelerator's kernels: mean losses of logits in memory and of a linear layer.

Ours is the kernel that `implementation=` names on this backend. All implementations get the same
logits, or the same features and kernel, and are interleaved in one process.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import cases, machine, timing
from benchmarks.harness.baselines import NAIVE, TORCH, load_if_installed, load_torch
from benchmarks.harness.modes import Loss, jax_function
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from benchmarks.linear import benchmark as linear_benchmark, implementations as linear
from benchmarks.losses import implementations as losses
from xentjax import softmax_cross_entropy_with_integer_labels

KERNELS = {"gpu": "mosaic_gpu", "tpu": "mosaic_tpu"}
"""Implementation that is measured, by backend."""
OURS, XLA, OPTAX = "kernel", "xla", "optax"
TORCH_COMPILED, LIGER, CCE = "torch compiled", "liger", "cut-cross-entropy"
BASELINES = (XLA, OPTAX, TORCH, TORCH_COMPILED, LIGER)
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


def run(session: Session) -> Result:
    """Measure every case.

    Raises:
        NotImplementedError: this backend has no kernel.
    """
    backend = jax.default_backend()
    if backend not in KERNELS:
        raise NotImplementedError(
            f"kernels: expected a backend among {', '.join(KERNELS)}, got {backend}"
        )
    kernel, torch = KERNELS[backend], _torch_with_gpu()
    limits = machine.measure(quick=session.quick, packages=("liger-kernel", "cut-cross-entropy"))
    table = cases.KERNELS_QUICK if session.quick else cases.KERNELS
    cells = session.collect(
        "logits",
        [(f"{case.name} {case.mode}", case) for case in table],
        lambda case: measure(case, kernel, torch, session),
    )
    layers = cases.KERNELS_LINEAR_QUICK if session.quick else cases.KERNELS_LINEAR
    layer_cells = session.collect(
        "linear layers",
        [(f"{case.name} {case.mode}", case) for case in layers],
        lambda case: measure_layer(case, kernel, torch, session),
    )
    return Result(
        name="kernels",
        ours=OURS,
        baselines=BASELINES,
        unit="GB/s",
        cells=tuple(cells),
        machine=limits,
        notes=NOTES,
        legend=LEGEND,
        extent=session.extent,
        tables=(table_of_layers(layer_cells),) if layer_cells else (),
    )


def measure(case: cases.LossCase, kernel: str, torch: ModuleType | None, session: Session) -> Cell:
    """Compile and time all losses of logits in memory, interleaved with a copy of the logits."""
    logits, labels = losses.problem(case)
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    compiled = {
        name: timing.compile_ahead_of_time(jax_function(loss, case.mode), x, y)
        for name, loss in _jax_losses(kernel).items()
    }
    thunks: dict[str, timing.Thunk] = {
        name: partial(program.call, x, y) for name, program in compiled.items()
    }
    if torch is not None:
        thunks |= _torch_thunks(torch, case, logits, labels)
    copy = timing.compile_ahead_of_time(lambda x: x + 1, x)
    seconds = session.interleave(thunks | {"copy": partial(copy.call, x)})
    passes = 1 if case.mode == "forward" else 3  # of the logits; a copy makes two
    return Cell(
        case=case.name,
        mode=case.mode,
        seconds=seconds,
        work=passes * logits.nbytes / 1e9,
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
    given = linear.problem(case.shape)
    others = {} if torch is None else _torch_layer_thunks(torch, case, given)
    return linear_benchmark.measure(case, implementations, others, session, given=given)


def table_of_layers(cells: list[Cell]) -> Table:
    """Make a table with a row for each case and implementation."""
    rows = []
    for cell in cells:
        assert cell.limit_seconds is not None
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
                    timing.ratio(samples, cell.seconds[OURS]),
                    None if temp is None else temp / 1e6,
                )
            )
    return Table(
        "Linear layers",
        ("case", "implementation", "ms", "TFLOP/s", "limit", "×", "temp MB"),
        tuple(rows),
        LEGEND_OF_LAYERS,
    )


def _jax_losses(kernel: str) -> dict[str, Loss]:
    def ours(implementation: str) -> Loss:
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
    torch: ModuleType, case: cases.LossCase, logits: np.ndarray, labels: np.ndarray
) -> dict[str, timing.Thunk]:
    tensor = partial(_torch_tensor, torch, case)
    y = torch.tensor(labels, dtype=torch.int64, device="cuda")
    cross_entropy = torch.nn.functional.cross_entropy
    functions = {TORCH: cross_entropy, TORCH_COMPILED: torch.compile(cross_entropy)}
    if (liger := load_if_installed("liger_kernel.transformers.functional")) is not None:
        functions[LIGER] = liger.liger_cross_entropy
    return {
        # Liger overwrites the logits with the gradient, so each function has its own copy.
        name: partial(_torch_call, torch, function, tensor(logits), y)
        for name, function in functions.items()
    }


def _torch_tensor(
    torch: ModuleType, case: cases.LossCase | cases.LinearCase, array: np.ndarray
) -> Any:
    """Copy an array to the GPU in the dtype of the case, with gradients if its mode has them."""
    tensor = torch.tensor(array.astype(np.float32))
    tensor = tensor.to(device="cuda", dtype=getattr(torch, case.dtype))
    return tensor.requires_grad_(case.mode == "value_and_grad")


def _torch_layer_thunks(
    torch: ModuleType, case: cases.LinearCase, given: linear.Problem
) -> dict[str, timing.Thunk]:
    functional = torch.nn.functional
    x = _torch_tensor(torch, case, given.x)
    kernel = _torch_tensor(torch, case, np.ascontiguousarray(given.kernel.T))
    y = torch.tensor(given.labels, dtype=torch.int64, device="cuda")

    def naive(x: Any, kernel: Any, y: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, kernel), y)

    functions = {TORCH: naive, TORCH_COMPILED: torch.compile(naive)}
    if (liger := load_if_installed("liger_kernel.transformers.functional")) is not None:
        functions[LIGER] = liger.liger_fused_linear_cross_entropy
    if (cce := load_if_installed("cut_cross_entropy")) is not None:
        functions[CCE] = cce.linear_cross_entropy
    return {
        name: partial(_torch_call, torch, function, x, kernel, y)
        for name, function in functions.items()
    }


def _torch_call(torch: ModuleType, function: Callable[..., Any], *arrays: Any) -> Any:
    """Compute the loss and the gradients of what requires them, and wait for the GPU."""
    loss = function(*arrays)
    wanted = [array for array in arrays if array.requires_grad]
    gradients = torch.autograd.grad(loss, wanted) if wanted else ()
    torch.cuda.synchronize()
    return loss.detach(), gradients
