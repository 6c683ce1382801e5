"""GPUs on which kernels run, compiler parameters, and layouts of registers."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Int32

from xentjax.ops.backends.contexts import interpret_for_gpu
from xentjax.ops.backends.pallas import only_on
from xentjax.ops.rows import Requested, Rows, Scalars

T = TypeVar("T")

_EXPECTED = "implementation: expected a GPU of compute capability 9.0 or more for 'mosaic_gpu'"


def for_gpu(x: Array) -> Array:
    """Return x in programs for NVIDIA GPUs, and in the interpreter; other programs are refused."""
    return x if interpret_for_gpu.value is not None else only_on(x, "cuda", _EXPECTED)


def check_supported(rows: Rows, requested: Requested) -> None:
    """Refuse rows and requests that the kernels do not support, before anything is compiled."""
    if generation() < 9:
        raise NotImplementedError(f"{_EXPECTED}, got {_compute_capability()}")
    if rows.target.pmf is not None:
        raise NotImplementedError("labels: expected class indices for 'mosaic_gpu', got a pmf")
    if rows.mask.classes is not None:
        raise NotImplementedError(
            "where: expected no mask of classes for 'mosaic_gpu' (of a linear layer, blocks of "
            "classes that overlap have one as well), got one"
        )
    if rows.class_weights is not None and requested.uniform:
        raise NotImplementedError(
            "class_weights: expected None with label smoothing for 'mosaic_gpu', got an array"
        )


def generation() -> int:
    """Return the major compute capability: 9 for Hopper and the interpreter, 0 if not NVIDIA."""
    major = _compute_capability().partition(".")[0]
    if interpret_for_gpu.value is not None:
        return 9
    return int(major) if major.isdigit() else 0


def _compute_capability() -> str:
    """Return the default device's, such as "9.0", or "9.0" without a GPU, to lower for one."""
    device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(device, str):
        device = jax.local_devices(backend=device)[0]
    return str(getattr(device or jax.local_devices()[0], "compute_capability", "9.0"))


def compiler_params(scalars: Scalars) -> plgpu.CompilerParams:
    """Return the compiler's parameters for a kernel that adjusts logits by these scalars."""
    return plgpu.CompilerParams(
        # The approximate exp has errors of 2 ulp and that of x log2 e, which an f32 holds: little
        # where e^x is not small. The approximate tanh is accurate to 5e-4 only.
        approx_math=scalars.soft_cap is None,
        # Other semantics may store tiles in an order that requires aligned columns.
        lowering_semantics=plgpu.LoweringSemantics.Lane,
    )


def result_types(make: Callable[[], T], inputs: Any) -> T:
    """Return the types of `make()`, varying over the mesh axes over which the inputs vary."""

    def results(inputs: Any) -> T:
        one = sum(jnp.sum(x).astype(jnp.float32) for x in jax.tree.leaves(inputs))
        return jax.tree.map(lambda x: x + jnp.asarray(one).astype(x.dtype), make())

    return jax.eval_shape(results, inputs)


def flat_scalars(scalars: Scalars) -> tuple[list[Array], Any]:
    """Return the scalars that are not None, as arrays [1], and the structure to restore them."""
    return jax.tree.flatten(jax.tree.map(lambda x: x.reshape(1), scalars))


def read_scalars(refs: tuple[Any, ...], structure: Any) -> tuple[Scalars, tuple[Any, ...]]:
    """Read the scalars of that structure from the first references; return the others too."""
    count = structure.num_leaves
    return jax.tree.unflatten(structure, [ref[0] for ref in refs[:count]]), refs[count:]


def with_layout(x: Array, layout: Any) -> Array:
    """Place a tile, or a vector with a number for each of its rows, as the layout says."""
    if interpret_for_gpu.value is not None:
        return x
    return plgpu.layout_cast(x, layout if x.ndim == 2 else layout.reduce(1))


def class_index(shape: tuple[int, int], layout: Any) -> Int32[Array, "n k"]:
    """Return the column of each element of a tile."""
    if interpret_for_gpu.value is not None:
        return lax.broadcasted_iota(jnp.int32, shape, 1)
    return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=layout)
