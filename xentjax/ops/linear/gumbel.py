"""Samples from each row's softmax, tile by tile: the class of the largest logit plus Gumbel noise.

The noise depends only on the key and on the numbers of the row and the class, not on how classes
are split into tiles or over devices.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int32, UInt32

from xentjax._core.axis_name import AxisName
from xentjax.ops.blocks import blocks
from xentjax.ops.merge import ClassShard
from xentjax.ops.rows import Rows, RowStatistics, adjusted_logits

Candidates = tuple[
    Float[Array, "n s"], Float[Array, "n s"], Int32[Array, "n s"], Float[Array, "n s"]
]
"""Noisy logit of the winner as a rounded sum and its error, then the winner's class and logit."""
Noise = tuple[UInt32[Array, " n"], UInt32[Array, "#n s 2"]]
"""Number of each row, and key of each sample."""

_NONE = jnp.iinfo(jnp.int32).max
# Largest number of noise values at a time, unless one sample of a tile already needs more.
_AT_A_TIME = 2**18


@dataclass(frozen=True)
class LargestWithNoise:
    """Choose the class whose logit plus noise is the largest, once for each sample.

    The sums of logit and noise are compared exactly. If all logits shared a large offset, rounded
    sums could be equal although the noise differs.
    """

    arrays = 3
    neutral = (-jnp.inf, -jnp.inf, _NONE, 0)
    may_leave_none = False

    def summed_rows(self, shard: ClassShard, by_row: Any) -> Rows:
        """Return the rows unchanged: log s is over all classes."""
        del by_row
        return shard.rows

    def candidates(self, shard: ClassShard, by_row: Noise, *_: Any) -> Candidates:
        """Return the winners of a tile, drawn for a block of samples at a time."""
        numbers, keys = by_row
        logits = lax.optimization_barrier(adjusted_logits(shard.rows))
        n, k = logits.shape
        samples = keys.shape[1]
        at_a_time = 1 if is_symbolic_dim(n) else _AT_A_TIME // max(n * k, 1)
        parts = blocks(samples, at_a_time)
        classes = shard.first_class.astype(jnp.uint32) + jnp.arange(k, dtype=jnp.uint32)

        def draw(i: Int32[Array, ""]) -> Candidates:
            each = jnp.swapaxes(parts.slice(keys, i, 1), 0, 1)[..., None, :]  # [samples, #n, 1, 2]
            noise = gumbel(each, numbers[None, :, None], classes[None, None], logits.dtype)
            if shard.rows.scalars.temperature is not None:
                noise *= shard.rows.scalars.temperature
            return _winners(logits[None], lax.optimization_barrier(noise), shard.first_class)

        winners = lax.map(draw, parts.indices())
        return jax.tree.map(lambda x: parts.join(x).T, winners)

    def merge(self, a: Candidates, b: Candidates) -> Candidates:
        """Return the winners among `a` and `b`; the classes of `a` have the smaller indices."""
        (sum_a, error_a, *_), (sum_b, error_b, *_) = a, b
        later = (sum_b > sum_a) | ((sum_b == sum_a) & (error_b > error_a))
        first, second, index, logit = (jnp.where(later, y, x) for x, y in zip(a, b, strict=True))
        return first, second, index, logit

    def across_devices(self, a: Candidates, axis_name: AxisName) -> Candidates:
        """Return the winners among those of all devices."""
        rounded, error, index, logit = a
        first = lax.pmax(rounded, axis_name)
        best = rounded == first
        second = lax.pmax(jnp.where(best, error, -jnp.inf), axis_name)
        best &= error == second
        winner = lax.pmin(jnp.where(best, index, _NONE), axis_name)
        logit = lax.psum(jnp.where(best & (index == winner), logit, 0), axis_name)
        return first, second, winner, logit

    def result(
        self, candidates: Candidates, stats: RowStatistics, *_: Any
    ) -> tuple[Int32[Array, "n s"], Float[Array, "n s"], RowStatistics]:
        """Return the winners; -1 in rows without a softmax."""
        index, logit = candidates[2:]
        drawn = jnp.isfinite(stats.log_sum)[:, None] & (index != _NONE)
        return jnp.where(drawn, index, -1), logit, stats


def _winners(
    logits: Float[Array, "1 n k"], noise: Float[Array, "s n k"], first_class: Int32[Array, ""]
) -> tuple[Array, Array, Array, Array]:
    """Find the winners among k classes; every result has the shape [s, n]."""
    impossible = logits == -jnp.inf
    finite = jnp.where(impossible, 0, logits)
    total = finite + noise
    # Exact error of the rounded sum (Knuth's two-sum).
    rounded_noise = total - finite
    error = (finite - (total - rounded_noise)) + (noise - rounded_noise)
    total = jnp.where(impossible, -jnp.inf, total)
    largest = jnp.max(total, -1, keepdims=True)
    best = total == largest
    least = jnp.max(jnp.where(best, error, -jnp.inf), -1, keepdims=True)
    best &= error == least
    places = lax.broadcasted_iota(jnp.int32, total.shape, 2)
    # On the CPU max and min are fast loops, and argmax is not.
    place = jnp.min(jnp.where(best, places, _NONE), -1)
    found = place != _NONE
    at = jnp.where(found, place, 0)
    logit = jnp.take_along_axis(logits[0], at.T, 1).T
    index = jnp.where(found, at + first_class, _NONE)
    return largest[..., 0], least[..., 0], index, logit


def gumbel(
    key: UInt32[Array, "*#s 2"],
    row: UInt32[Array, "*#s"],
    column: UInt32[Array, "*#s"],
    dtype: DTypeLike,
) -> Float[Array, "*s"]:
    """Compute the Gumbel noise of each key, row and column from 64 random bits."""
    return gumbel_of_bits(*threefry(key[..., 0], key[..., 1], row, column), dtype)


def gumbel_of_bits(
    high: UInt32[Array, "*s"], low: UInt32[Array, "*s"], dtype: DTypeLike
) -> Float[Array, "*s"]:
    """Compute -log(-log(1 - v)) for v = (high + (low + 1/2) / 2^32) / 2^32.

    Large noise decides the samples. It comes from small v, which floats represent with full
    precision, so the probabilities of classes are accurate down to 2^-64. In float32 the smallest
    noise is -2.8; exact arithmetic would give less once in 2e7 draws.
    """
    fraction = (low.astype(dtype) + 0.5) * 2.0**-32
    v = (high.astype(dtype) + fraction) * 2.0**-32
    v = jnp.minimum(v, 1 - float(jnp.finfo(dtype).epsneg))
    return -jnp.log(-jnp.log1p(-v))


def threefry(
    key_0: UInt32[Array, "*#s"],
    key_1: UInt32[Array, "*#s"],
    x_0: UInt32[Array, "*#s"],
    x_1: UInt32[Array, "*#s"],
) -> tuple[UInt32[Array, "*s"], UInt32[Array, "*s"]]:
    """Compute two random words from two-word keys and counters: Threefry-2x32 with 20 rounds.

    `jax.random` computes the same function. Plain operations, as here, are fused with the code that
    uses the words, which takes a tenth of the time on a CPU.

    Source: Salmon, Moraes, Dror and Shaw, Parallel Random Numbers: As Easy as 1, 2, 3, SC (2011).
    """
    keys = key_0, key_1, key_0 ^ key_1 ^ jnp.uint32(0x1BD11BDA)
    x_0, x_1 = x_0 + keys[0], x_1 + keys[1]
    for group in range(5):
        for rotation in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x_0 = x_0 + x_1
            left, right = jnp.uint32(rotation), jnp.uint32(32 - rotation)
            x_1 = x_0 ^ ((x_1 << left) | (x_1 >> right))
        x_0 = x_0 + keys[(group + 1) % 3]
        x_1 = x_1 + keys[(group + 2) % 3] + jnp.uint32(group + 1)
    return x_0, x_1
