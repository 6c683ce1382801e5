"""Classes chosen in each row of a linear head, on one device or on several."""

from functools import partial

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from xentjax.heads._arguments import join_leading, join_rows, restore_rows
from xentjax.heads._explicit import placement_of
from xentjax.heads._statistics import pack_kept_rows
from xentjax.losses._split import SplitClasses, own_shard
from xentjax.ops import Rows
from xentjax.ops.linear.chosen import Chooser, Chosen, choose
from xentjax.ops.merge import ClassShard
from xentjax.ops.rows import over_temperature

Arrays = tuple[Array, ...]


def head_choice(
    rows: Rows,
    split: SplitClasses | None,
    by_row: Arrays,
    shared: Arrays,
    chooser: Chooser,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    """Choose classes in the rows of a head; `split` or Explicit axes may split its classes.

    The chooser also gets the arrays `by_row`, which have the leading axes of x or, if all rows
    share them, one axis instead. It sees the logits after the temperature.
    """
    placement = placement_of(rows, by_row=by_row, split=split)
    choice = partial(
        _choose_part, chooser=chooser, implementation=implementation, max_bytes=max_bytes
    )
    out_specs = P(*placement.rows)
    chosen = placement.over_devices(choice, rows, shared, by_row=(by_row,), out_specs=out_specs)
    logits = over_temperature(chosen.logits, rows.scalars.temperature)
    return chosen._replace(logits=logits)


def without_masked_rows(rows: Rows, indices: Array, log_probs: Array) -> tuple[Array, Array]:
    """Set chosen classes [..., m] to -1 and their log-probabilities to 0 in masked rows."""
    if rows.mask.rows is None:
        return indices, log_probs
    kept = jnp.broadcast_to(rows.mask.rows[..., None], indices.shape)
    return jnp.where(kept, indices, -1), jnp.where(kept, log_probs, 0)


def _choose_part(
    rows: Rows,
    split: SplitClasses | None,
    by_row: Arrays,
    shared: Arrays,
    chooser: Chooser,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    """Choose among a layer's classes, of which this device may have only a part."""
    row_shape = rows.logits.shape[:-1]
    by_row = join_leading(by_row, row_shape)
    linear, by_row, unpack = pack_kept_rows(join_rows(rows), by_row)
    shard, axis_name = ClassShard(linear, jnp.int32(0), None), None
    if split is not None:
        shard, axis_name = own_shard(linear, split), split.axis_name
    arrays = *by_row, *shared
    chosen = choose(shard, arrays, chooser, axis_name, implementation, max_bytes)
    return restore_rows(unpack(chosen), row_shape)
