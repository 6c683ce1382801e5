"""Sums over many rows whose rounding grows with the logarithm of their number."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Numbers that are added in turn; their sums are added alike.
_CHUNK = 32


def accurate_sum(x: Float[Array, "n *rest"]) -> Float[Array, "*rest"]:
    """The sum over the first axis."""
    while x.shape[0] > _CHUNK:
        rest = jnp.zeros_like(x, shape=(-x.shape[0] % _CHUNK, *x.shape[1:]))
        x = jnp.concatenate([x, rest]).reshape(-1, _CHUNK, *x.shape[1:]).sum(1)
    return x.sum(0)


def accurate_segment_sum(
    values: Float[Array, " n"], index: Int[Array, " n"], num_bins: int
) -> Float[Array, " b"]:
    """The sum over the rows of each bin; bin `num_bins` is none.

    In float32, equal confidences added in turn to a large sum all round the same way: the mean of a
    million is off by 1 %.
    """
    n = values.size
    chunks = -(-n // _CHUNK)
    segment = (jnp.arange(n, dtype=jnp.int32) // _CHUNK) * num_bins + index
    segment = jnp.where(index < num_bins, segment, chunks * num_bins)
    sums = jax.ops.segment_sum(values, segment, chunks * num_bins)
    return accurate_sum(sums.reshape(chunks, num_bins))
