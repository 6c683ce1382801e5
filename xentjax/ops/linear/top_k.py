"""Classes with the largest logits of each row, tile by tile."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from xentjax._core.axis_name import AxisName
from xentjax.ops.merge import ClassShard
from xentjax.ops.rows import Rows, RowStatistics, adjusted_logits

Candidates = tuple[Float[Array, "n k"], Int32[Array, "n k"]]
"""Logits in descending order, encoded by `_ordered`, and their classes; -1 if there is none."""


@dataclass(frozen=True)
class LargestK:
    """Choose the classes of the k largest logits, and of equal logits those of smaller index."""

    k: int
    arrays = 2
    neutral = (-jnp.inf, -1)
    may_leave_none = False

    def summed_rows(self, shard: ClassShard, by_row: Any) -> Rows:
        """Return the rows unchanged: log s is over all classes."""
        del by_row
        return shard.rows

    def candidates(self, shard: ClassShard, by_row: Any, best: Candidates | None) -> Candidates:
        """Return the largest logits of a tile, which may have fewer than k classes."""
        del by_row
        logits, classes = adjusted_logits(shard.rows), shard.rows.mask.classes
        if classes is not None:
            logits = jnp.where(classes, _ordered(logits), -jnp.inf)
        if best is not None:
            # At -inf, logits that are not among the best are rejected by top_k without sorting.
            logits = jnp.where(logits <= best[0][:, -1:], -jnp.inf, logits)
        size = min(self.k, logits.shape[-1])
        logits, places = lax.top_k(logits, size)
        if classes is None:
            logits = _ordered(logits)
        indices = jnp.where(logits == -jnp.inf, -1, places + shard.first_class)
        missing = [(0, 0), (0, self.k - size)]
        return (
            jnp.pad(logits, missing, constant_values=-jnp.inf),
            jnp.pad(indices, missing, constant_values=-1),
        )

    def merge(self, a: Candidates, b: Candidates) -> Candidates:
        """Return the largest of `a` and `b`; the classes of `a` have the smaller indices."""
        return self._largest(*(jnp.concatenate(pair, 1) for pair in zip(a, b, strict=True)))

    def across_devices(self, a: Candidates, axis_name: AxisName) -> Candidates:
        """Return the largest logits of all devices, and their classes.

        Each device gets the k logits of every device, and selects the largest. Their classes are
        sums over devices: the device that has a class adds its index, and the others add 0.
        """
        logits, indices = a
        gathered = lax.all_gather(logits, axis_name, axis=1, tiled=True, to="invarying")
        logits, order = lax.top_k(gathered, self.k)
        here = order // self.k == lax.axis_index(axis_name)
        own = jnp.take_along_axis(indices, order % self.k, 1)
        return logits, lax.psum(jnp.where(here, own, 0), axis_name)

    def result(
        self, candidates: Candidates, stats: RowStatistics, *_: Any
    ) -> tuple[Int32[Array, "n k"], Float[Array, "n k"], RowStatistics]:
        """Return the classes and their logits, with -inf for logits that `_ordered` made finite."""
        logits, indices = candidates
        lowest = jnp.finfo(logits.dtype).min
        return indices, jnp.where(logits == lowest, -jnp.inf, logits), stats

    def _largest(self, logits: Array, indices: Array) -> Candidates:
        logits, order = lax.top_k(logits, self.k)
        return logits, jnp.take_along_axis(indices, order, 1)


def _ordered(logits: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """Replace -inf by the lowest finite number, so that -inf can stand for masked classes.

    A class whose logit is -inf then comes before masked classes.
    """
    lowest = jnp.finfo(logits.dtype).min
    finite = jnp.maximum(logits, jnp.nextafter(lowest, jnp.zeros_like(lowest)))
    return jnp.where(logits == -jnp.inf, lowest, finite)
