"""The row statistics of a linear head, wherever its arrays lie."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from xentjax._core.varying import pvary_all
from xentjax.heads._arguments import join_rows, restore_rows
from xentjax.heads._explicit import placement_of
from xentjax.losses._split import SplitClasses, own_shard
from xentjax.ops import Requested, Rows, RowStatistics, backend, row_statistics
from xentjax.ops.layer import LinearRows, with_logits
from xentjax.ops.linear.sharded import merged_linear_statistics
from xentjax.ops.linear.statistics import linear_row_statistics
from xentjax.ops.rows import map_rows

T = TypeVar("T")


def head_statistics(
    rows: Rows,
    split: SplitClasses | None,
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
) -> RowStatistics:
    """The statistics of a head's rows, whose classes `split` or Explicit mesh axes may split."""
    placement = None if split is not None else placement_of(rows)
    if placement is None:
        return part_statistics(rows, split, requested, implementation, max_bytes)

    def of_part(rows: Rows) -> RowStatistics:
        own = placement.own_classes(rows)
        return part_statistics(rows, own, requested, implementation, max_bytes)

    return placement.over_devices(of_part, rows, out_specs=P(*placement.rows))


def part_statistics(
    rows: Rows,
    split: SplitClasses | None,
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
) -> RowStatistics:
    """Return the statistics of a layer's rows, of which this device may have some classes."""
    linear = join_rows(rows)
    if backend(implementation).stores_logits and split is None:
        stats = row_statistics(with_logits(linear), requested, implementation)
    else:
        linear, in_place = pack_kept_rows(pvary_all(linear))
        if split is None:
            stats = linear_row_statistics(linear, requested, implementation, max_bytes)
        else:
            shard = own_shard(linear, split)
            stats = merged_linear_statistics(
                shard, requested, split.axis_name, implementation, max_bytes
            )
        stats = in_place(stats)
    return restore_rows(stats, rows.logits.shape[:-1])


def pack_kept_rows(linear: LinearRows) -> tuple[LinearRows, Callable[[Any], Any]]:
    """Move masked rows to the end, where their blocks cost nothing; return also what undoes it.

    Rows with arrays of the logits' size keep their places: moving those costs what it would save.
    """
    linear, _, in_place = pack_kept_rows_with(linear, ())
    return linear, in_place


def pack_kept_rows_with(
    linear: LinearRows, by_row: T
) -> tuple[LinearRows, T, Callable[[Any], Any]]:
    """Move masked rows to the end, with their entries in further arrays."""
    mask = linear.mask
    if mask.rows is None or linear.target.pmf is not None:
        return linear, by_row, lambda tree: tree
    one_mask = mask.classes is None or mask.classes.shape[0] == 1
    # To sort rows that devices share is to gather them.
    apart = jax.device_count() > 1
    if apart or not one_mask:
        return linear, by_row, lambda tree: tree
    order = jnp.argsort(~mask.rows, stable=True)
    places = jnp.argsort(order)
    ordered = map_rows(lambda a: a if a.shape[0] == 1 else a[order], linear)
    by_row = jax.tree.map(lambda a: a[order], by_row)
    return ordered, by_row, lambda tree: jax.tree.map(lambda a: a[places], tree)
