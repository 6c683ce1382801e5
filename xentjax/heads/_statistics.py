"""The row statistics of a linear head, on one device or on several."""

from collections.abc import Callable
from functools import partial
from typing import Any

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


def head_statistics(
    rows: Rows,
    split: SplitClasses | None,
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
) -> RowStatistics:
    """Compute statistics of a head's rows; `split` or Explicit axes may split the classes."""
    placement = placement_of(rows, split=split)
    statistics = partial(
        part_statistics, requested=requested, implementation=implementation, max_bytes=max_bytes
    )
    return placement.over_devices(statistics, rows, out_specs=P(*placement.rows))


def part_statistics(
    rows: Rows,
    split: SplitClasses | None,
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
) -> RowStatistics:
    """Compute statistics of a layer's rows; this device may have only a part of the classes."""
    linear = join_rows(rows)
    if backend(implementation).stores_logits and split is None:
        stats = row_statistics(with_logits(linear), requested, implementation)
    else:
        linear, _, unpack = pack_kept_rows(pvary_all(linear))
        if split is None:
            stats = linear_row_statistics(linear, requested, implementation, max_bytes)
        else:
            shard = own_shard(linear, split)
            stats = merged_linear_statistics(
                shard, requested, split.axis_name, implementation, max_bytes
            )
        stats = unpack(stats)
    return restore_rows(stats, rows.logits.shape[:-1])


def pack_kept_rows(
    linear: LinearRows, by_row: Any = ()
) -> tuple[LinearRows, Any, Callable[[Any], Any]]:
    """Move masked rows to the end, where their blocks cost nothing; return also the way back.

    `by_row` are further arrays with an entry for each row. Rows are not moved if they have arrays
    as large as the logits, since moving these would cost as much as it saves, or if there are
    several devices, since sorting rows that they share would gather them.
    """
    mask = linear.mask
    large = linear.target.pmf is not None or (
        mask.classes is not None and mask.classes.shape[0] != 1
    )
    if mask.rows is None or large or jax.device_count() > 1:
        return linear, by_row, lambda tree: tree
    order = jnp.argsort(~mask.rows, stable=True)
    places = jnp.argsort(order)
    packed = map_rows(lambda a: a if a.shape[0] == 1 else a[order], linear)
    by_row = jax.tree.map(lambda a: a[order], by_row)
    return packed, by_row, lambda tree: jax.tree.map(lambda a: a[places], tree)
