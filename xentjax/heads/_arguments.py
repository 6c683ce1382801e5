"""Checks of the arguments of linear heads, which turn them into rows."""

import math
from typing import SupportsIndex, TypeVar

import jax

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_split, check_whole
from xentjax._core.checks import check_bool, check_floating, check_index, raise_value_error
from xentjax._core.dtypes import compute_dtype
from xentjax.losses._arguments import (
    Classes,
    check_labels,
    labels_are_indices,
    masks,
    soft_labels,
    with_indices,
)
from xentjax.losses._keywords import (
    SOFT_CAP,
    TEMPERATURE,
    check_implementation,
    scalar_keywords,
)
from xentjax.losses._split import SplitClasses, split_classes
from xentjax.ops import Layer, Mask, Rows, Scalars, Target, backend
from xentjax.ops.blocks import flat_mask

T = TypeVar("T")

_ROW_AXES = "the leading axes of x"


def layer_rows(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    where: ArrayLike | None,
    axis_name: AxisName | None,
    num_classes: SupportsIndex | None,
) -> tuple[Rows, SplitClasses | None]:
    """Return the checked layer with its masks, and how it is split; x keeps its leading axes."""
    layer = _checked_layer(x, kernel, bias)
    mask, shape = Mask(), layer.shape
    if where is not None:
        where = check_bool("where", where)
        if axis_name is None and where.ndim == len(shape) and where.shape[-1] == 1:
            where = where[..., 0]  # a row's mask has one value for all classes
        mask = masks(where, shape, (len(shape) - 1,))
    rows = Rows(layer, mask=mask)
    rows, split = split_classes(rows, axis_name, num_classes, kernel=layer.kernel, bias=layer.bias)
    if split is not None:
        check_whole(split.axis_name, x=layer.x)
    return rows, split


def target_rows(
    rows: Rows,
    split: SplitClasses | None,
    target_x: ArrayLike,
    target_kernel: ArrayLike,
    target_bias: ArrayLike | None,
) -> tuple[Rows, Rows]:
    """Check a second layer; return its rows and the first layer's under the same masks.

    Both layers are computed in the wider of their dtypes.
    """
    target, layer = _checked_layer(target_x, target_kernel, target_bias, "target_"), rows.logits
    if target.x.shape[:-1] != layer.x.shape[:-1]:
        expected = f"the leading axes of x, {layer.x.shape[:-1]}"
        raise_value_error("target_x", expected, f"shape {target.x.shape}")
    if target.shape[-1] != layer.shape[-1]:
        expected = f"the {layer.shape[-1]} classes of kernel"
        raise_value_error("target_kernel", expected, f"shape {target.kernel.shape}")
    if split is not None:
        check_whole(split.axis_name, target_x=target.x)
        check_split(split.axis_name, target_kernel=target.kernel, target_bias=target.bias)
    if target.dtype != layer.dtype:
        dtype = compute_dtype(target.dtype, layer.dtype)
        target, layer = (each._replace(x=each.x.astype(dtype)) for each in (target, layer))
    return rows._replace(logits=target), rows._replace(logits=layer)


def _checked_layer(
    x: ArrayLike, kernel: ArrayLike, bias: ArrayLike | None, prefix: str = ""
) -> Layer:
    x, kernel = check_floating(f"{prefix}x", x), check_floating(f"{prefix}kernel", kernel)
    if x.ndim == 0:
        raise_value_error(f"{prefix}x", "at least one axis, that of the features", "shape ()")
    if kernel.ndim != 2 or kernel.shape[0] != x.shape[-1] or kernel.shape[1] == 0:
        expected = f"shape ({x.shape[-1]}, K), the features of {prefix}x by at least one class"
        raise_value_error(f"{prefix}kernel", expected, f"shape {kernel.shape}")
    if bias is not None:
        bias, shape = check_floating(f"{prefix}bias", bias), kernel.shape[1:]
        if bias.shape != shape:
            expected = f"one number a class, shape {shape}"
            raise_value_error(f"{prefix}bias", expected, f"shape {bias.shape}")
    return Layer(x, kernel, bias)


def with_labels(
    rows: Rows, split: SplitClasses | None, labels: ArrayLike, ignore_index: int | None
) -> Rows:
    """Return the rows with checked labels: class indices (ignored ones masked) or target pmfs."""
    labels, ignore_index = check_labels(labels, ignore_index)
    shape = rows.logits.shape
    classes = Classes(shape, (len(shape) - 1,))
    indices = labels_are_indices(labels, classes, ignore_index)
    if indices:
        rows = with_indices(rows, labels, ignore_index, row_axes=_ROW_AXES)
    else:
        target = Target(pmf=soft_labels(labels, classes, rows.logits.x.dtype))
        rows = rows._replace(target=target)
    if split is not None:
        check_place = check_whole if indices else check_split
        check_place(split.axis_name, labels=labels)
    return rows


def with_class_indices(
    rows: Rows, split: SplitClasses | None, labels: ArrayLike, ignore_index: int | None
) -> Rows:
    """Return the rows with checked class indices; ignored ones are masked."""
    labels, ignore_index = check_labels(labels, ignore_index)
    soft = "linear_softmax_cross_entropy"
    rows = with_indices(rows, labels, ignore_index, soft, _ROW_AXES)
    if split is not None:
        check_whole(split.axis_name, labels=labels)
    return rows


def with_scalars(
    rows: Rows,
    split: SplitClasses | None,
    logit_soft_cap: ArrayLike | None,
    temperature: ArrayLike,
) -> Rows:
    """Return the rows with the checked scalars that change every logit."""
    soft_cap, divisor = scalar_keywords(
        rows.logits.dtype, (SOFT_CAP, logit_soft_cap), (TEMPERATURE, temperature)
    )
    if split is not None:
        check_whole(split.axis_name, logit_soft_cap=soft_cap, temperature=divisor)
    return rows._replace(scalars=Scalars(soft_cap, divisor))


def check_max_bytes(max_bytes: SupportsIndex | None) -> int | None:
    """Return `max_bytes` as None or an int."""
    if max_bytes is not None and (max_bytes := check_index("max_bytes", max_bytes)) < 1:
        raise_value_error("max_bytes", "an integer >= 1 or None", max_bytes)
    return max_bytes


def check_without_kernel(implementation: str | None) -> None:
    """Check the name of an implementation where there is no kernel."""
    check_implementation(implementation)
    if backend(implementation).linear_statistics is not None:
        expected = "implementation: expected None, 'xla' or 'reference' (no kernel makes this)"
        raise NotImplementedError(f"{expected}, got {implementation!r}")


def join_rows(rows: Rows) -> Rows:
    """Join the leading axes (those of x) into one axis of rows."""
    (layer, target, mask), shape = rows[:3], rows.logits.shape
    if len(shape) == 2 and (mask.classes is None or mask.classes.shape[0] in (1, shape[0])):
        return rows
    x, target, kept = join_leading((layer.x, target, mask.rows), shape[:-1])
    classes = None if mask.classes is None else flat_mask(mask.classes, shape)
    return rows._replace(logits=layer._replace(x=x), target=target, mask=Mask(kept, classes))


def join_leading(tree: T, row_shape: tuple[int, ...]) -> T:
    """Join the leading axes of arrays (those of x) into one axis of rows."""
    n = math.prod(row_shape)
    return jax.tree.map(lambda a: a.reshape(n, *a.shape[len(row_shape) :]), tree)


def restore_rows(result: T, row_shape: tuple[int, ...]) -> T:
    """Split the axis of rows into the leading axes of x again."""
    return jax.tree.map(lambda a: a.reshape(*row_shape, *a.shape[1:]), result)
