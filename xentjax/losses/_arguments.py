"""Logits, masks and labels of the public losses, checked once and turned into rows."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    broadcasts,
    check_array,
    check_bool,
    check_floating,
    check_index,
    in_one_line,
    native,
    raise_value_error,
    to_jax,
)
from xentjax._core.dtypes import compute_dtype, narrow_int64
from xentjax.ops import Mask, Rows, Target

Axis = int | Sequence[int]


def class_axes(axis: Axis, ndim: int, *, may_be_none: bool = False) -> tuple[int, ...]:
    """Return `axis` as distinct axes in 0..ndim-1; it may be empty only with `may_be_none`."""
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    try:
        axes = (operator.index(axis),)  # pyright: ignore[reportArgumentType]: tested by trying
    except TypeError:
        try:
            axes = tuple(map(operator.index, axis))  # pyright: ignore[reportArgumentType]: the same
        except TypeError:
            expected = "axis: expected an integer or a tuple of integers"
            raise TypeError(f"{expected}, got {in_one_line(axis)}") from None
    if not axes and not may_be_none:
        raise_value_error("axis", "an integer or a tuple of integers", axis)
    for a in axes:
        if not -ndim <= a < ndim:
            raise_value_error("axis", f"axes of an array of {ndim} dimensions", axis)
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        raise_value_error("axis", "distinct axes", axis)
    return axes


def classes_last(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Move the class axes to the end, in the order given, and join them into one."""
    if axes == (x.ndim - 1,):
        return x
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    rows = x.ndim - len(axes)
    return x.reshape(*x.shape[:rows], math.prod(x.shape[rows:]))


class Classes(NamedTuple):
    """Position of the classes in the logits that the caller passed."""

    shape: tuple[int, ...]
    """The logits' shape."""
    axes: tuple[int, ...]

    def row_shape(self) -> tuple[int, ...]:
        """Return the logits' shape without the classes."""
        return tuple(n for i, n in enumerate(self.shape) if i not in self.axes)


def logits_rows(
    logits: ArrayLike, axis: Axis, where: ArrayLike | None, name: str = "logits"
) -> tuple[Rows, Classes]:
    """Return masked rows of the logits, classes last, and the original place of the classes."""
    logits = check_floating(name, logits)
    if logits.ndim == 0:
        raise_value_error(name, "at least one axis, that of the classes", "shape ()")
    axes = class_axes(axis, logits.ndim)
    row_logits = classes_last(logits, axes)
    if row_logits.shape[-1] == 0:
        raise_value_error(name, f"at least one class along axis {axis}", f"shape {logits.shape}")
    mask = Mask() if where is None else masks(check_bool("where", where), logits.shape, axes)
    return Rows(row_logits, mask=mask), Classes(logits.shape, axes)


def label_rows(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    ignore_index: int | None,
    name: str = "logits",
) -> Rows:
    """Return rows with class indices; rows with the label `ignore_index` are masked."""
    rows, _ = logits_rows(logits, axis, where, name)
    return with_indices(rows, *check_labels(labels, ignore_index))


def target_rows(logits: ArrayLike, labels: ArrayLike, axis: Axis, where: ArrayLike | None) -> Rows:
    """Return rows, each with a target pmf."""
    rows, classes = logits_rows(logits, axis, where)
    return with_targets(rows, classes, check_array("labels", labels))


def with_indices(
    rows: Rows,
    labels: Array,
    ignore_index: int | None,
    soft: str = "softmax_cross_entropy",
    row_axes: str = "the logits' shape without the classes",
) -> Rows:
    """Return the rows with checked class indices; rows with the label `ignore_index` are masked.

    A masked row gets the valid label 0. Errors mention `soft`, the function that takes
    probabilities, and `row_axes`, the caller's description of the labels' shape.
    """
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer dtype (class indices), got {labels.dtype}; "
            f"{soft} takes probabilities"
        )
    row_shape = rows.logits.shape[:-1]
    if labels.shape != row_shape:
        raise_value_error("labels", f"{row_axes}, {row_shape}", labels.shape)
    row_mask = rows.mask.rows
    if ignore_index is not None:
        limits = jnp.iinfo(labels.dtype)
        if limits.min <= ignore_index <= limits.max:  # otherwise it matches no label
            kept = labels != jnp.asarray(ignore_index, labels.dtype)
            row_mask = kept if row_mask is None else row_mask & kept
    if labels.dtype.itemsize < 4:  # a narrow dtype may be too small to count the classes
        labels = labels.astype(jnp.int32)
    if row_mask is not None:
        labels = jnp.where(row_mask, labels, 0)
    return rows._replace(target=Target(labels), mask=rows.mask._replace(rows=row_mask))


def with_targets(rows: Rows, classes: Classes, labels: Array) -> Rows:
    """Return the rows, each with a target pmf."""
    return rows._replace(target=Target(pmf=soft_labels(labels, classes, rows.logits.dtype)))


def masks(where: Array, shape: tuple[int, ...], axes: tuple[int, ...]) -> Mask:
    """Turn `where` into a mask of classes or of rows, depending on its number of dimensions.

    With a mask of classes, a row that has no class left is masked too.
    """
    row_shape = tuple(n for i, n in enumerate(shape) if i not in axes)
    if where.ndim == len(shape):
        if not broadcasts(where.shape, shape):
            raise_value_error(
                "where", f"a shape that broadcasts to the logits' {shape}", where.shape
            )
        # Only class axes that are joined need their full size, unless `where` has size 1 along all.
        joins = len(axes) > 1 and any(where.shape[a] > 1 for a in axes)
        full = [n if joins and i in axes else where.shape[i] for i, n in enumerate(shape)]
        mask = classes_last(jnp.broadcast_to(where, full), axes)
        return Mask(jnp.broadcast_to(jnp.any(mask, -1), row_shape), mask)
    if where.ndim == len(row_shape):
        if not broadcasts(where.shape, row_shape):
            raise_value_error(
                "where", f"a shape that broadcasts to the rows' {row_shape}", where.shape
            )
        return Mask(rows=jnp.broadcast_to(where, row_shape))
    raise_value_error(
        "where", f"{len(shape)} (classes) or {len(row_shape)} (rows) dimensions", where.ndim
    )


def check_labels(labels: ArrayLike, ignore_index: int | None) -> tuple[Array, int | None]:
    """Return labels (indices or pmfs) as a jax array, and `ignore_index` as None or an int."""
    if ignore_index is not None:
        ignore_index = check_index("ignore_index", ignore_index)
    if isinstance(labels, jax.Array):
        return labels, ignore_index
    # A label that needs more than 32 bits is no class; another label that is none replaces it.
    bad = -2 if ignore_index == -1 else -1
    return to_jax("labels", narrow_int64(native("labels", labels), bad)), ignore_index


def labels_are_indices(labels: Array, classes: Classes, ignore_index: int | None) -> bool:
    """Whether the labels are class indices; otherwise they are probabilities."""
    shape, axes = classes
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim <= len(shape) - len(axes):
        return True
    full = (1,) * (len(shape) - labels.ndim) + labels.shape
    if len(full) != len(shape) or any(full[a] != shape[a] for a in axes):
        indices, pmfs = f"integers of shape {classes.row_shape()}", f"shape {shape}"
        got = f"{labels.dtype} of shape {labels.shape}"
        raise_value_error("labels", f"class indices, {indices}, or probabilities of {pmfs}", got)
    if ignore_index is not None:
        raise_value_error("ignore_index", "None with probabilities as labels", ignore_index)
    return False


def soft_labels(labels: Array, classes: Classes, dtype: DTypeLike) -> Float[Array, "..."]:
    """Return the targets with the classes last; integers and booleans become floats.

    Labels may broadcast over rows, but not over classes. `dtype` is the dtype of the logits.
    """
    shape, axes = classes
    if jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels: expected probabilities of a real dtype, got {labels.dtype}")
    if not jnp.issubdtype(labels.dtype, jnp.floating):  # one-hot rows of integers or booleans
        if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == classes.row_shape():
            # For K rows, indices [K] could also be read as a single target for all rows.
            got = f"shape {labels.shape}, an index a row"
            loss = "softmax_cross_entropy_with_integer_labels takes class indices"
            raise_value_error(
                "labels", f"one target a class, the logits' shape {shape}", f"{got}; {loss}"
            )
        labels = labels.astype(compute_dtype(dtype))
    full = (1,) * (len(shape) - labels.ndim) + labels.shape
    fits = len(full) == len(shape) and all(
        f == n or (f == 1 and i not in axes)
        for i, (f, n) in enumerate(zip(full, shape, strict=True))
    )
    if not fits:
        expected = f"one target a class, the logits' shape {shape}"
        raise_value_error("labels", expected, f"shape {labels.shape}")
    return classes_last(jnp.broadcast_to(labels.reshape(full), shape), axes)
