"""Class indices in arrays of any integer dtype, checked where they are known."""

import numpy as np
from jaxtyping import Array

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_integer, concrete, native, raise_value_error, to_jax
from xentjax._core.dtypes import narrow_int64, to_signed


def parse_indices(name: str, indices: ArrayLike, bad: int = -1) -> Array:
    """Return integers as a jax array; those too large for it become `bad`, which is no class."""
    return check_integer(name, to_jax(name, narrow_int64(native(name, indices), bad)))


def parse_row_labels(labels: ArrayLike, n: int, rows: str) -> Array:
    """Return one index for each of the n rows of the argument `rows`, signed."""
    indices = parse_indices("labels", labels)
    if indices.shape != (n,):
        expected = f"shape {(n,)}, one for each row of {rows}"
        raise_value_error("labels", expected, f"shape {indices.shape}")
    return to_signed(indices)


def check_row_labels(
    labels: ArrayLike, indices: Array, k: int, keep: np.ndarray | bool | None = True
) -> None:
    """Raise a ValueError for a kept label that is known to be none of the k classes.

    The error shows the label that was passed. `keep` is None if it is not known.
    """
    known = concrete(indices)
    if known is None or keep is None:
        return
    outside = keep & ((known < 0) | (known >= k))
    if outside.any():
        first = np.asarray(native("labels", labels))[outside][0]
        raise_value_error("labels", f"integers 0..{k - 1}", first)
