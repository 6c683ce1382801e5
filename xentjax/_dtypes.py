"""The dtypes that arguments are computed in, and the integers that jax would not keep."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array


def compute_dtype(*dtypes: DTypeLike) -> DTypeLike:
    """Return float64 if one of the dtypes is float64, float32 for everything narrower."""
    return jnp.float64 if jnp.float64 in dtypes else jnp.float32


def signed(x: Array) -> Array:
    """Return 32 or 64 bits; what is unsigned and does not fit becomes negative."""
    return x.astype(jnp.int64 if x.dtype.itemsize == 8 else jnp.int32)


def without_wrapping(x: ArrayLike, bad: int) -> ArrayLike:
    """64-bit integers of the host, which jax would wrap around into 32 bits where x64 is off.

    Those that need more than 32 bits become `bad`; every other argument stays as it is.
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
    """`function` of floating arrays with its values computed in float64, also where x64 is off.

    For sums of many numbers and differences of large ones, which float32 rounds away. Floating
    results are float64 where an argument is and x64 is on, else float32. Derivatives are those of
    `function` in that dtype: jax makes float64 inside `jax.enable_x64` alone, and transformations
    run rules outside of it. Keywords are static.
    """

    @partial(jax.jit, static_argnums=(0, 1))
    def compute(dtype: DTypeLike, static: tuple, *arrays: Array) -> Any:
        return _floating(dtype, function(*_floating(jnp.float64, arrays), **dict(static)))

    @partial(jax.custom_jvp, nondiff_argnums=(0, 1))
    def computed(dtype: DTypeLike, static: tuple, *arrays: Array) -> Any:
        with jax.enable_x64(True):
            return compute(dtype, static, *arrays)

    @computed.defjvp
    def _(dtype, static, primals, tangents):
        narrow = _floating(dtype, (primals, tangents))
        dots = jax.jvp(partial(function, **dict(static)), *narrow)[1]
        return computed(dtype, static, *primals), dots

    @wraps(function)
    def narrowed(*arrays: Array, **static: Any) -> Any:
        return computed(result_dtype(*arrays), tuple(static.items()), *arrays)

    return narrowed


def result_dtype(*arrays: Array) -> DTypeLike:
    """Return the dtype of results from arrays that may be float64 although x64 is off."""
    if jnp.result_type(float) != jnp.float64:
        return jnp.float32
    return compute_dtype(*(x.dtype for x in arrays))


def _floating(dtype: DTypeLike, tree: Any) -> Any:
    def cast(x: Array) -> Array:
        return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(cast, tree)
