"""Logits of classes that are given for each row, and log s over all others, tile by tile."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from xentjax._core.axis_name import AxisName
from xentjax.ops.linear.chosen import places, rows_at
from xentjax.ops.merge import ClassShard
from xentjax.ops.rows import Mask, Rows, RowStatistics, adjusted_logits, over_temperature


@dataclass(frozen=True)
class Given:
    """Choose the given classes, and compute log s over the others.

    log s is not computed as the sum over all classes less the given ones: where these have nearly
    all the probability, only the rounding error of the sum would be left.
    """

    arrays = 2
    neutral = (0,)
    may_leave_none = True

    def summed_rows(self, shard: ClassShard, by_row: tuple[Int32[Array, "n m"]]) -> Rows:
        """Mask the given classes of a tile."""
        place, own = places(shard, *by_row)
        n, k = shard.rows.logits.shape
        outside = jnp.where(own, place, k)
        row = lax.broadcasted_iota(jnp.int32, place.shape, 0)
        others = jnp.ones((n, k), bool).at[row, outside].set(False, mode="drop")
        mask = shard.rows.mask
        classes = others if mask.classes is None else others & mask.classes
        return shard.rows._replace(mask=Mask(mask.rows, classes))

    def candidates(
        self, shard: ClassShard, by_row: tuple[Int32[Array, "n m"]], *_: Any
    ) -> tuple[Float[Array, "n m"]]:
        """Return the logits of the given classes; 0 for those that are not in the tile."""
        place, own = places(shard, *by_row)
        return (jnp.where(own, adjusted_logits(rows_at(shard.rows, place)), 0),)

    def merge(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        """Add the logits, each of which is 0 in all tiles but its own."""
        return (a[0] + b[0],)

    def across_devices(self, a: tuple[Array, ...], axis_name: AxisName) -> tuple[Array, ...]:
        """Add the logits, each of which is 0 on all devices but its own."""
        return (lax.psum(a[0], axis_name),)

    def result(
        self,
        candidates: tuple[Array, ...],
        stats: RowStatistics,
        by_row: tuple[Int32[Array, "n m"]],
        temperature: Float[Array, ""] | None,
    ) -> tuple[Int32[Array, "n m"], Float[Array, "n m"], RowStatistics]:
        """Return the classes, their logits, and log s relative to the largest of all logits."""
        indices = by_row[0]
        logits = jnp.where(indices < 0, -jnp.inf, candidates[0])
        largest_other = jnp.where(stats.log_sum == -jnp.inf, -jnp.inf, stats.shift)
        largest = jnp.maximum(jnp.max(logits, -1), largest_other)
        shift = jnp.where(jnp.isfinite(largest), largest, stats.shift)
        log_sum = stats.log_sum + over_temperature(stats.shift - shift, temperature)
        return indices, logits, stats._replace(shift=shift, log_sum=log_sum)
