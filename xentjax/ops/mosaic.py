"""What the Pallas kernels for all hardware share about rows."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from xentjax.ops.statistics import InnerProduct, Rows, RowStatistics


def with_batch(rows: Rows, batched: Rows, size: int) -> Rows:
    """The rows with the batch as their first axis, also where all of it shares an array."""

    def batch_first(name: str) -> Array | None:
        x = getattr(rows, name)
        if x is None or getattr(batched, name):
            return x
        return jnp.broadcast_to(x[None], (1 if name == "class_mask" else size, *x.shape))

    by_row = ("logits", "labels", "targets", "class_mask", "row_mask")
    return rows._replace(**{name: batch_first(name) for name in by_row})


def zeros_where_masked(
    stats: RowStatistics, row_mask: Bool[Array, "*rows"], num_classes: int
) -> RowStatistics:
    """The statistics of rows whose logits are all 0 where they are masked."""

    def same_total(zero: InnerProduct | None, t: InnerProduct | None) -> InnerProduct | None:
        return None if zero is None or t is None else zero._replace(total=t.total)

    zeros = jax.tree.map(jnp.zeros_like, stats)
    zeros = zeros._replace(
        log_sum=jnp.full_like(stats.log_sum, math.log(num_classes)),
        target=same_total(zeros.target, stats.target),
        uniform=same_total(zeros.uniform, stats.uniform),
    )
    return jax.tree.map(partial(jnp.where, row_mask), stats, zeros)
