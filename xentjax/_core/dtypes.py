"""Dtypes of computations, and 64-bit integers that jax would truncate."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from xentjax._core.array_like import ArrayLike


def compute_dtype(*dtypes: DTypeLike) -> DTypeLike:
    """Return float64 if one of the dtypes is float64, else float32."""
    return jnp.float64 if jnp.float64 in dtypes else jnp.float32


def to_signed(x: Array) -> Array:
    """Return signed integers of 32 or 64 bits; unsigned ones that do not fit become negative."""
    return x.astype(jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)


def narrow_int64(x: ArrayLike, bad: int) -> ArrayLike:
    """Return 64-bit integers on the host in 32 bits if x64 is off, without wrapping around.

    Integers that need more than 32 bits become `bad`; every other argument stays as it is.
    """
    if isinstance(x, int) and not isinstance(x, bool):
        x = np.int64(max(-(2**63), min(x, 2**63 - 1)))
    if not isinstance(x, np.ndarray | np.generic) or x.dtype not in (np.int64, np.uint64):
        return x
    if jnp.result_type(int) == jnp.int64:
        return x
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    x = np.asarray(x)
    narrow = x.astype(np.int32)
    if not x.size or (x.min() >= low and x.max() <= high):
        return narrow
    return np.where((x >= low) & (x <= high), narrow, np.int32(bad))


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make `function` of arrays compute in float64, even without x64.

    This is for sums of many numbers and for differences of large ones, which float32 would lose.
    All arguments, integers too, become float64 inside. Floating results are float64 if x64 is on
    and an argument is float64, else float32. Keywords are static.

    Derivatives are computed in the dtype of the results: reverse mode would transpose float64
    tangents outside of `jax.enable_x64`, where jax makes no float64 constants. (A rule that needs
    no constants, such as the cast and sum of `accurate_segment_sum`, can keep float64.)
    """

    @partial(jax.jit, static_argnums=(0, 1))
    def compute(dtype: DTypeLike, static: tuple, *arrays: Array) -> Any:
        wide = [x.astype(jnp.float64) for x in arrays]
        return _floating(dtype, function(*wide, **dict(static)))

    @partial(jax.custom_jvp, nondiff_argnums=(0, 1))
    def computed(dtype: DTypeLike, static: tuple, *arrays: Array) -> Any:
        with jax.enable_x64(True):
            return compute(dtype, static, *arrays)

    @computed.defjvp
    def _(dtype, static, primals, tangents):
        def narrow(*arrays: Array) -> Any:
            return function(*[x.astype(dtype) for x in arrays], **dict(static))

        dots = jax.jvp(narrow, *_floating(dtype, (primals, tangents)))[1]
        return computed(dtype, static, *primals), dots

    @wraps(function)
    def narrowed(*arrays: Array, **static: Any) -> Any:
        dtype, keywords = result_dtype(*arrays), tuple(static.items())
        for x in arrays:
            if isinstance(x, jax.core.Tracer):
                return computed(dtype, keywords, *arrays)
        with jax.enable_x64(True):  # nothing is traced: one dispatch
            return compute(dtype, keywords, *arrays)

    return narrowed


def result_dtype(*arrays: Array) -> DTypeLike:
    """Return the dtype of results computed from arrays: under x64, float64 for integers too."""
    if jnp.result_type(float) != jnp.float64:
        return jnp.float32
    for x in arrays:
        if x.dtype == jnp.float64 or jnp.issubdtype(x.dtype, jnp.integer):
            return jnp.float64
    return jnp.float32


def _floating(dtype: DTypeLike, tree: Any) -> Any:
    """Cast the floating arrays of a tree to `dtype`."""
    leaves, structure = jax.tree.flatten(tree)
    for i, x in enumerate(leaves):
        if jnp.issubdtype(x.dtype, jnp.floating):
            leaves[i] = x.astype(dtype)
    return structure.unflatten(leaves)
