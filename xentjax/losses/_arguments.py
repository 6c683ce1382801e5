"""From the arguments of a public loss to rows: checks, class axes, masks, scalars."""

import math
import operator
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from xentjax._core.checks import (
    broadcasts,
    check_array,
    check_bool,
    check_choice,
    check_floating,
    check_index,
    check_scalar,
    fail,
    native,
)
from xentjax._core.dtypes import compute_dtype, without_wrapping
from xentjax.losses._expression import REDUCTIONS
from xentjax.ops import IMPLEMENTATIONS, Mask, Rows, Scalars, Target

Axis = int | Sequence[int]


def class_axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    """`axis` as a tuple of distinct axes in 0..ndim-1."""
    try:
        axes = (operator.index(axis),)  # pyright: ignore[reportArgumentType]: tested by trying
    except TypeError:
        try:
            axes = tuple(map(operator.index, axis))  # pyright: ignore[reportArgumentType]: the same
        except TypeError:
            expected = "axis: expected an integer or a tuple of integers"
            raise TypeError(f"{expected}, got {axis!r}") from None
    if not axes:
        fail("axis", "an integer or a tuple of integers", axis)
    for a in axes:
        if not -ndim <= a < ndim:
            fail("axis", f"axes of an array of {ndim} dimensions", axis)
    axes = tuple(a % ndim for a in axes)
    if len(set(axes)) != len(axes):
        fail("axis", "distinct axes", axis)
    return axes


def classes_last(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The class axes moved to the end, in the order given, and joined into one."""
    if axes == (x.ndim - 1,):
        return x
    x = jnp.moveaxis(x, axes, range(-len(axes), 0))
    rows = x.ndim - len(axes)
    return x.reshape(*x.shape[:rows], math.prod(x.shape[rows:]))


class Classes(NamedTuple):
    """Where the classes of logits lay."""

    shape: tuple[int, ...]
    """Of the logits."""
    axes: tuple[int, ...]


def logits_rows(
    logits: ArrayLike, axis: Axis, where: ArrayLike | None, name: str = "logits"
) -> tuple[Rows, Classes]:
    """The logits with the classes last, under their masks, and where those lay."""
    logits = check_floating(name, logits)
    if logits.ndim == 0:
        fail(name, "at least one axis, that of the classes", "shape ()")
    axes = class_axes(axis, logits.ndim)
    row_logits = classes_last(logits, axes)
    if row_logits.shape[-1] == 0:
        fail(name, f"at least one class along axis {axis}", f"shape {logits.shape}")
    mask = masks(where, logits.shape, axes)
    return Rows(row_logits, mask=mask), Classes(logits.shape, axes)


def label_rows(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    ignore_index: int | None,
    class_weights: ArrayLike | None = None,
    name: str = "logits",
) -> Rows:
    """Rows with class indices; those to be ignored are masked."""
    rows, _ = logits_rows(logits, axis, where, name)
    *row_shape, num_classes = rows.logits.shape
    indices, row_mask = integer_labels(labels, tuple(row_shape), rows.mask.rows, ignore_index)
    weights = class_weight_vector(class_weights, num_classes)
    mask = rows.mask._replace(rows=row_mask)
    return rows._replace(target=Target(labels=indices), mask=mask, class_weights=weights)


def target_rows(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis,
    where: ArrayLike | None,
    class_weights: ArrayLike | None = None,
) -> Rows:
    """Rows with a target pmf each."""
    rows, classes = logits_rows(logits, axis, where)
    target = Target(pmf=soft_labels(labels, classes, rows.logits.dtype))
    weights = class_weight_vector(class_weights, rows.logits.shape[-1])
    return rows._replace(target=target, class_weights=weights)


def adjusted(rows: Rows, logit_soft_cap: ArrayLike | None, temperature: ArrayLike) -> Rows:
    """The rows with what is done to their logits before the softmax."""
    dtype = rows.logits.dtype
    cap = optional_scalar("logit_soft_cap", logit_soft_cap, None, dtype)
    if cap is not None:
        # Logits over a larger cap would be too small for the dtype, and 0.
        limits = jnp.finfo(cap.dtype)
        cap = jnp.minimum(cap, limits.eps / 8 / limits.tiny)
    scalars = Scalars(cap, optional_scalar("temperature", temperature, 1.0, dtype))
    return rows._replace(scalars=scalars)


def masks(where: ArrayLike | None, shape: tuple[int, ...], axes: tuple[int, ...]) -> Mask:
    """`where` as a mask of the classes or rows of logits, by its number of dimensions.

    A row that is left without a class is masked as a whole.
    """
    if where is None:
        return Mask()
    where = check_bool("where", where)
    row_shape = tuple(n for i, n in enumerate(shape) if i not in axes)
    if where.ndim == len(shape):
        if not broadcasts(where.shape, shape):
            fail("where", f"a shape that broadcasts to the logits' {shape}", where.shape)
        # Only an axis that joins others has to have its full size.
        full = [n if i in axes and len(axes) > 1 else where.shape[i] for i, n in enumerate(shape)]
        mask = classes_last(jnp.broadcast_to(where, full), axes)
        return Mask(jnp.broadcast_to(jnp.any(mask, -1), row_shape), mask)
    if where.ndim == len(row_shape):
        if not broadcasts(where.shape, row_shape):
            fail("where", f"a shape that broadcasts to the rows' {row_shape}", where.shape)
        return Mask(rows=jnp.broadcast_to(where, row_shape))
    fail("where", f"{len(shape)} (classes) or {len(row_shape)} (rows) dimensions", where.ndim)


def check_labels(labels: ArrayLike, ignore_index: int | None) -> Array:
    """Labels of either kind as a jax array, with an `ignore_index` that is None or an integer."""
    if ignore_index is not None:
        ignore_index = check_index("ignore_index", ignore_index)
    # A label of more than 32 bits names no class: another one that does not takes its place.
    bad = -2 if ignore_index == -1 else -1
    return check_array("labels", without_wrapping(native("labels", labels), bad))


def are_indices(
    labels: Array, row_shape: tuple[int, ...], num_classes: int, ignore_index: int | None
) -> bool:
    """Whether labels of such rows are class indices, rather than probabilities."""
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim <= len(row_shape):
        return True
    if labels.shape[-1:] != (num_classes,):
        indices, pmfs = f"integers of shape {row_shape}", f"shape {(*row_shape, num_classes)}"
        got = f"{labels.dtype} of shape {labels.shape}"
        fail("labels", f"class indices, {indices}, or probabilities of {pmfs}", got)
    if ignore_index is not None:
        fail("ignore_index", "None with probabilities as labels", ignore_index)
    return False


def integer_labels(
    labels: ArrayLike,
    row_shape: tuple[int, ...],
    row_mask: Array | None,
    ignore_index: int | None,
) -> tuple[Integer[Array, "..."], Bool[Array, "..."] | None]:
    """The labels and the mask of kept rows; a row that is not kept gets the valid label 0."""
    labels = check_labels(labels, ignore_index)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"labels: expected an integer dtype (class indices), got {labels.dtype}; "
            "softmax_cross_entropy takes probabilities"
        )
    if labels.shape != row_shape:
        fail("labels", f"the logits' shape without the classes, {row_shape}", labels.shape)
    if ignore_index is not None:
        limits = jnp.iinfo(labels.dtype)
        if limits.min <= ignore_index <= limits.max:  # outside, it matches no label
            kept = labels != jnp.asarray(ignore_index, labels.dtype)
            row_mask = kept if row_mask is None else row_mask & kept
    if labels.dtype.itemsize < 4:  # a narrow dtype may be too small to count the classes
        labels = labels.astype(jnp.int32)
    if row_mask is not None:
        labels = jnp.where(row_mask, labels, 0)
    return labels, row_mask


def soft_labels(labels: ArrayLike, classes: Classes, dtype: DTypeLike) -> Float[Array, "..."]:
    """Targets for logits of that dtype, the classes last.

    They may broadcast over rows, never over classes.
    """
    shape, axes = classes
    labels = check_array("labels", labels)
    if jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels: expected probabilities of a real dtype, got {labels.dtype}")
    if not jnp.issubdtype(labels.dtype, jnp.floating):  # one-hot rows of integers or booleans
        row_shape = tuple(n for i, n in enumerate(shape) if i not in axes)
        if jnp.issubdtype(labels.dtype, jnp.integer) and labels.shape == row_shape:
            # Where there are as many rows as classes, they could pass for one target of all rows.
            got = f"shape {labels.shape}, an index a row"
            loss = "softmax_cross_entropy_with_integer_labels takes class indices"
            fail("labels", f"one target a class, the logits' shape {shape}", f"{got}; {loss}")
        labels = labels.astype(compute_dtype(dtype))
    full = (1,) * (len(shape) - labels.ndim) + labels.shape
    fits = len(full) == len(shape) and all(
        f == n or (f == 1 and i not in axes)
        for i, (f, n) in enumerate(zip(full, shape, strict=True))
    )
    if not fits:
        expected = f"one target a class, the logits' shape {shape}"
        fail("labels", expected, f"shape {labels.shape}")
    return classes_last(jnp.broadcast_to(labels.reshape(full), shape), axes)


def class_weight_vector(weights: ArrayLike | None, num_classes: int) -> Float[Array, " K"] | None:
    """The weights of the classes, one for each."""
    if weights is None:
        return None
    weights = check_floating("class_weights", weights)
    if weights.shape != (num_classes,):
        fail("class_weights", f"one weight a class, shape {(num_classes,)}", weights.shape)
    return weights


def check_names(reduction: str, implementation: str | None = None) -> None:
    """The keywords that name something; before jax sees them, which has to hash them."""
    check_choice("reduction", reduction, REDUCTIONS)
    check_implementation(implementation)


def check_implementation(name: str | None) -> None:
    """The name of an implementation, or None."""
    if name is not None:
        check_choice("implementation", name, IMPLEMENTATIONS)


def optional_scalar(
    name: str, value: ArrayLike | None, neutral: float | None, dtype: DTypeLike
) -> Float[Array, ""] | None:
    """A checked keyword as an array of the compute dtype; None where it is known to do nothing."""
    if value is None and neutral is None:
        return None
    expected, holds = _SCALARS[name]
    value = check_scalar(name, value, expected, holds)  # None for a number is its TypeError
    if isinstance(value, int | float) and value == neutral:
        return None
    dtype = jnp.dtype(compute_dtype(dtype))
    check_scalar(name, value, f"{expected} in {dtype}", lambda x: holds(_rounded(x, dtype)))
    return jnp.asarray(value, dtype)


_SCALARS = {
    "label_smoothing": ("a number in [0, 1]", lambda x: 0 <= x <= 1),
    "z_loss": ("a number >= 0", lambda x: 0 <= x < np.inf),
    "logit_soft_cap": ("a number > 0 or None", lambda x: 0 < x < np.inf),
    "temperature": ("a number > 0", lambda x: 0 < x < np.inf),
    "epsilon": ("a finite number", np.isfinite),
    "gamma": ("a number >= 0", lambda x: 0 <= x < np.inf),
}


def _rounded(x: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The scalar as XLA computes with it in that dtype: 0 where it is not a normal number."""
    with np.errstate(over="ignore"):
        rounded = x.astype(dtype)
    return np.where(np.abs(rounded) < np.finfo(dtype).tiny, 0, rounded)
