"""The dtypes that arguments are computed in, and the integers that jax would not keep."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array


def compute_dtype(*dtypes: DTypeLike) -> DTypeLike:
    """float64 if one of the dtypes is float64, float32 for everything narrower."""
    return jnp.float64 if jnp.float64 in dtypes else jnp.float32


def signed(x: Array) -> Array:
    """In 32 or 64 bits; what is unsigned and does not fit becomes negative."""
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
