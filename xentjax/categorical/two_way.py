"""Two-way tables of two columns of labels, and integers for labels of any kind."""

from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import in_one_line, raise_value_error
from xentjax._core.dtypes import to_signed
from xentjax._core.varying import sharded_alike
from xentjax.categorical.counts import (
    INT32_MAX,
    check_num_classes,
    count_indices,
    ends,
    parse_labels,
)

_HOST_BLOCK = 2**16


def crosstab(
    a: ArrayLike, b: ArrayLike, *, num_classes: tuple[SupportsIndex, SupportsIndex] | None = None
) -> Int[Array, "r c"]:
    """Count how often each pair of labels occurs in two columns: their two-way table.

        t_ij = sum_n [a_n = i] [b_n = j]

    It passes once over both columns; NumPy arrays are counted on the host. `encode` turns other
    labels into integers, and `independence_test` tests the table.

    Args:
        a: N integers 0..R-1, of any shape. Under jit, where values are unknown, a pair with a label
            outside is not counted.
        b: integers 0..C-1 of the same shape.
        num_classes: (R, C). None, for known labels: the largest of each column plus 1.

    Returns:
        [R, C], int32.

    Raises:
        ValueError: for a concrete label outside, columns of two shapes, fewer than 1 class, more
            than 2^31 - 1 labels or pairs of classes, or no `num_classes` where labels are unknown
            or there are none.
        TypeError: for labels that are not integers.

    Example:
        >>> import numpy as np
        >>> import xentjax
        >>> print(xentjax.crosstab(np.array([0, 1, 1, 0, 1]), np.array([2, 0, 0, 2, 1])))
        [[0 0 2]
         [2 1 0]]
    """
    columns = parse_labels("a", a), parse_labels("b", b)
    if columns[0].shape != columns[1].shape:
        raise_value_error("b", f"the shape of a, {columns[0].shape}", columns[1].shape)
    if np.size(columns[0]) > INT32_MAX:
        raise_value_error("a", f"at most {INT32_MAX} labels", np.size(columns[0]))
    sizes = (None, None) if num_classes is None else num_classes
    if not isinstance(sizes, tuple | list) or len(sizes) != 2:
        raise TypeError(f"num_classes: expected two integers (R, C), got {in_one_line(sizes)}")
    r, c = (_number_of_classes(i, columns[i], sizes[i]) for i in (0, 1))
    if r * c > INT32_MAX:
        raise_value_error("num_classes", f"at most {INT32_MAX} pairs", r * c)
    first, second = columns
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return jnp.asarray(_host_table(first, second, r, c), jnp.int32)
    return _table(*sharded_alike(jnp.asarray(first), jnp.asarray(second)), r, c)


def encode(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """Turn labels of any kind into integers, and return the names they stand for.

        labels = names[codes]

    It runs on the host. The names are sorted; those of a pandas categorical keep its order,
    including names that do not occur.

    Args:
        labels: strings, numbers or other labels that can be sorted: a list, a NumPy array, a
            pandas Series or Categorical, or whatever NumPy takes as an array, of any shape.

    Returns:
        Codes, NumPy int32 of the labels' shape, and names, NumPy [K].

    Raises:
        ValueError: for a missing label: None, NaN, NaT or pandas' NA.
        TypeError: for labels that cannot be sorted, or a single one.

    Example:
        >>> import xentjax
        >>> codes, names = xentjax.encode(["no", "yes", "no"])
        >>> print(codes, names)
        [0 1 0] ['no' 'yes']
    """
    categories = getattr(getattr(labels, "dtype", None), "categories", None)
    if categories is not None and hasattr(values := getattr(labels, "cat", labels), "codes"):
        codes = np.asarray(values.codes, np.int32)
        _check_none_missing("labels", codes < 0)
        return codes, np.asarray(categories)
    if isinstance(labels, np.ma.MaskedArray):
        raise TypeError("labels: expected an array without a mask, got MaskedArray")
    if hasattr(labels, "__jax_array__"):
        labels = labels.__jax_array__()
    # In a list of strings NumPy turns a missing label into the string "nan".
    array = np.asarray(labels, object if isinstance(labels, list | tuple) else None)
    if array.ndim == 0:
        raise TypeError(f"labels: expected an array of labels, got {type(labels).__name__}")
    if array.dtype != object:
        _check_none_missing("labels", array != array)  # NaN and NaT
        names, codes = np.unique(array, return_inverse=True)
        return codes.reshape(array.shape).astype(np.int32), names
    flat = array.ravel().tolist()
    _check_none_missing("labels", np.fromiter(map(_is_missing, flat), bool, len(flat)))
    try:
        ordered = sorted(set(flat))
    except TypeError as error:
        raise TypeError(f"labels: expected labels that can be sorted, got {error}") from None
    index = {name: code for code, name in enumerate(ordered)}
    codes = np.fromiter(map(index.__getitem__, flat), np.int32, len(flat))
    return codes.reshape(array.shape), np.asarray(ordered)


def _is_missing(label: Any) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # comparing pandas.NA with itself gives neither True nor False
        return True


def _check_none_missing(name: str, missing: np.ndarray) -> None:
    if missing.any():
        where = ", ".join(map(str, np.argwhere(missing)[0].tolist()))
        raise_value_error(name, "no missing label", f"{missing.sum()}, the first at {where}")


def _number_of_classes(i: int, column: Array | np.ndarray, size: SupportsIndex | None) -> int:
    """Check the labels of a column, where they are known, and return its number of classes."""
    k = None if size is None else check_num_classes(f"num_classes[{i}]", size)
    found = ends(column)
    if found is None:
        if k is None:
            why = "labels are unknown (under jit)" if column.size else "there are no labels"
            raise_value_error("num_classes", f"two integers where {why}", None)
        return k
    least, most = found
    k = max(most + 1, 1) if k is None else k
    if least < 0 or most >= k:
        raise_value_error("ab"[i], f"integers 0..{k - 1}", least if least < 0 else most)
    return k


def _host_table(a: np.ndarray, b: np.ndarray, r: int, c: int) -> np.ndarray:
    a, b, total = a.ravel(), b.ravel(), np.zeros(r * c, np.int64)
    size = max(_HOST_BLOCK, 4 * r * c)  # every block adds r c additions
    for start in range(0, a.size, size):
        block = slice(start, start + size)
        pairs = a[block].astype(np.int64) * c + b[block].astype(np.int64)
        total += np.bincount(pairs, minlength=r * c)
    return total.reshape(r, c)


@partial(jax.jit, static_argnums=(2, 3))
def _table(a: Array, b: Array, r: int, c: int) -> Array:
    a, b = (to_signed(x).astype(jnp.int32) for x in (a, b))
    inside = (a >= 0) & (a < r) & (b >= 0) & (b < c)
    pairs = jnp.where(inside, a * c + b, -1)
    return count_indices(pairs, None, None, r * c).reshape(r, c)
