"""Classes chosen in each row of a linear head, wherever its arrays lie."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from xentjax._core.varying import pvary_all
from xentjax.heads._arguments import join_rows, restore_rows
from xentjax.heads._explicit import placement_of
from xentjax.heads._statistics import pack_with
from xentjax.losses._split import SplitClasses, own_shard
from xentjax.ops import Rows
from xentjax.ops.linear.chosen import Chooser, Chosen, choose
from xentjax.ops.merge import ClassShard


def head_choice(
    rows: Rows,
    split: SplitClasses | None,
    by_row: Any,
    chooser: Chooser,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    """The classes chosen in a head's rows, whose classes `split` or Explicit axes may split.

    `by_row` is a tree of arrays for the chooser, with the leading axes of x or sizes of 1 there.
    """
    placement = None if split is not None else placement_of(rows)
    if placement is None:
        return _of_part(rows, split, by_row, chooser, implementation, max_bytes)

    def of_part(rows: Rows, by_row: Any) -> Chosen:
        own = placement.own_classes(rows)
        return _of_part(rows, own, by_row, chooser, implementation, max_bytes)

    by_rows, leading = P(*placement.rows), rows.logits.ndim - 1
    specs = jax.tree.map(
        lambda a: by_rows if a.shape[:leading] == rows.logits.shape[:-1] else P(), by_row
    )
    return placement.over_devices(of_part, rows, by_row, in_specs=(specs,), out_specs=by_rows)


def _of_part(
    rows: Rows,
    split: SplitClasses | None,
    by_row: Any,
    chooser: Chooser,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    """Choose among the classes of a layer's rows, of which this device may have some."""
    leading = rows.logits.ndim - 1

    def join(a: Array) -> Array:
        return a.reshape(math.prod(a.shape[:leading]), *a.shape[leading:])

    linear, by_row, in_place = pack_with(pvary_all(join_rows(rows)), jax.tree.map(join, by_row))
    shard, axis_name = ClassShard(linear, jnp.int32(0), None), None
    if split is not None:
        shard, axis_name = own_shard(linear, split), split.axis_name
    chosen = choose(shard, by_row, chooser, axis_name, implementation, max_bytes)
    return restore_rows(in_place(chosen), rows.logits.shape[:-1])
