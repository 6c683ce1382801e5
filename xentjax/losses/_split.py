"""Classes split over the devices of a mesh axis, inside `jax.shard_map`.

Each device computes the statistics of its slice, and a few numbers per row are exchanged to merge
them: the maximum, sum of exponentials and label's logit::

    M = max_i m_i,    S = sum_i s_i exp(m_i - M),    loss = log S - (a_y - M)
"""

from typing import NamedTuple, SupportsIndex

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_split, check_whole, parse_axis_name
from xentjax._core.checks import check_index, raise_value_error
from xentjax._core.dtypes import compute_dtype
from xentjax.ops import Mask, Rows
from xentjax.ops.merge import ClassShard, class_shard


class SplitClasses(NamedTuple):
    """Split of the classes into slices, one for each device of a mesh axis."""

    axis_name: AxisName
    num_classes: int
    """Number K of classes on all devices."""
    held: int
    """K plus the padding of the last slices."""
    first: Int32[Array, ""]
    """First class of this device."""
    kept: Float[Array, "..."] | None
    """Number of classes that each row's mask keeps over all devices, at least 1; None if the
    device's own mask gives it."""


def split_classes(
    rows: Rows,
    axis_name: AxisName | None,
    num_classes: SupportsIndex | None,
    **slices: ArrayLike | None,
) -> tuple[Rows, SplitClasses | None]:
    """Return the rows, with masks that consider all devices, and the split of their classes.

    `slices` are the arguments that are split like the logits. Without `axis_name`, the rows stay as
    they are and the split is None.
    """
    if axis_name is None:
        if num_classes is not None:
            raise_value_error("num_classes", "None without axis_name", num_classes)
        return rows, None
    axis_name = parse_axis_name(axis_name)
    *row_shape, local = rows.logits.shape
    total = held = local * lax.axis_size(axis_name)
    check_split(axis_name, **slices)
    if rows.mask.classes is None:
        check_whole(axis_name, where=rows.mask.rows)
    elif rows.mask.classes.shape[-1] > 1:
        check_split(axis_name, where=rows.mask.classes)
    if num_classes is not None:
        total = check_index("num_classes", num_classes)
        if not 1 <= total <= held:
            raise_value_error("num_classes", f"an integer 1..{held}, what the devices hold", total)
    first = (lax.axis_index(axis_name) * local).astype(jnp.int32)
    dtype, mask = compute_dtype(rows.logits.dtype), rows.mask.classes
    if total < held:
        real = first + jnp.arange(local, dtype=jnp.int32) < total
        real = real.reshape((1,) * len(row_shape) + real.shape)
        mask = real if mask is None else mask & real
    if rows.mask.classes is None or mask is None:
        kept, row_mask = jnp.full(row_shape, total, dtype), rows.mask.rows
    else:
        mask = jnp.broadcast_to(mask, (*mask.shape[:-1], local))
        kept = lax.psum(jnp.sum(mask, -1, dtype=dtype), axis_name)
        row_mask = jnp.broadcast_to(kept > 0, row_shape)
        kept = jnp.broadcast_to(jnp.maximum(kept, 1), row_shape)
    rows = rows._replace(mask=Mask(row_mask, mask))
    return rows, SplitClasses(axis_name, total, held, first, kept)


def own_shard(rows: Rows, split: SplitClasses) -> ClassShard:
    """Return this device's slice of rows whose labels and class weights count all classes."""
    weights = rows.class_weights
    if weights is not None:
        weights = jnp.pad(weights, (0, split.held - split.num_classes))
        weights = lax.dynamic_slice_in_dim(weights, split.first, rows.logits.shape[-1])
    return class_shard(rows._replace(class_weights=weights), split.first, split.num_classes)
