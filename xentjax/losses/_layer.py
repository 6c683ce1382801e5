"""The arguments of losses of a linear layer, checked once and turned into rows."""

import math
from typing import SupportsIndex, TypeVar

import jax
from jax.typing import ArrayLike
from jaxtyping import Array

from xentjax._core.checks import check_bool, check_floating, check_index, raise_value_error
from xentjax.losses._arguments import (
    Classes,
    labels_are_indices,
    masks,
    soft_labels,
    with_indices,
)
from xentjax.ops import Layer, Mask, Rows, Target
from xentjax.ops.blocks import flat_mask

T = TypeVar("T")


def layer_rows(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    where: ArrayLike | None,
    *,
    split: bool,
) -> Rows:
    """Return the checked layer under its masks, with the leading axes of x.

    Args:
        x: the features.
        kernel: their weights in each class.
        bias: one number a class.
        where: the mask of classes or rows.
        split: whether the kernel may be one device's slice of the classes.
    """
    x, kernel = check_floating("x", x), check_floating("kernel", kernel)
    if x.ndim == 0:
        raise_value_error("x", "at least one axis, that of the features", "shape ()")
    if kernel.ndim != 2 or kernel.shape[0] != x.shape[-1] or kernel.shape[1] == 0:
        expected = f"shape ({x.shape[-1]}, K), the features of x by at least one class"
        raise_value_error("kernel", expected, f"shape {kernel.shape}")
    num_classes = kernel.shape[1]
    if bias is not None:
        bias = check_floating("bias", bias)
        if bias.shape != (num_classes,):
            raise_value_error(
                "bias", f"one number a class, shape {(num_classes,)}", f"shape {bias.shape}"
            )
    mask = Mask()
    if where is not None:
        where = check_bool("where", where)
        shape = (*x.shape[:-1], num_classes)
        if not split and where.ndim == len(shape) and where.shape[-1] == 1:
            where = where[..., 0]  # all classes of a row or none
        mask = masks(where, shape, (len(shape) - 1,))
    return Rows(Layer(x, kernel, bias), mask=mask)


def with_labels(rows: Rows, labels: Array, ignore_index: int | None) -> Rows:
    """Return the rows with checked class indices, those to be ignored masked, or target pmfs."""
    shape = rows.logits.shape
    classes = Classes(shape, (len(shape) - 1,))
    if labels_are_indices(labels, classes, ignore_index):
        return with_indices(rows, labels, ignore_index)
    return rows._replace(target=Target(pmf=soft_labels(labels, classes, rows.logits.x.dtype)))


def check_max_bytes(max_bytes: SupportsIndex | None) -> int | None:
    """Return `max_bytes` as None or an int."""
    if max_bytes is not None and (max_bytes := check_index("max_bytes", max_bytes)) < 1:
        raise_value_error("max_bytes", "an integer >= 1 or None", max_bytes)
    return max_bytes


def join_rows(rows: Rows) -> Rows:
    """Join the leading axes, those of x, into one axis of rows."""
    (layer, target, mask), shape = rows[:3], rows.logits.shape
    if len(shape) == 2 and (mask.classes is None or mask.classes.shape[0] in (1, shape[0])):
        return rows
    n = math.prod(shape[:-1])

    def join(x: Array | None) -> Array | None:
        return None if x is None else x.reshape(n, *x.shape[len(shape) - 1 :])

    classes = None if mask.classes is None else flat_mask(mask.classes, shape)
    return rows._replace(
        logits=layer._replace(x=join(layer.x)),
        target=Target(join(target.labels), join(target.pmf)),
        mask=Mask(join(mask.rows), classes),
    )


def restore_rows(result: T, row_shape: tuple[int, ...]) -> T:
    """Give numbers of joined rows the leading axes of x."""
    return jax.tree.map(lambda a: a.reshape(row_shape), result)
