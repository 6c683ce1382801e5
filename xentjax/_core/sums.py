"""Sums over many samples or rows, which float32 would round at every addition.

Equal numbers added in turn to a large sum all round the same way: in float32 the mean of a million
is off by 1 %, and ones are lost from 2^24 on. So all are added in float64, which jax has inside
`jax.enable_x64` wherever x64 is off, and no float64 array of their length is made.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# Few enough numbers that all of a block's stay in the cache, also those of a batch.
BLOCK = 2**12
# Below this many, one scatter on CPU is faster than one for each block.
MANY = 2**17
_ONE_NUMBER_EACH = lax.ScatterDimensionNumbers(
    update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
)


def accurate_sum(x: Float[Array, "n *rest"]) -> Float[Array, "*rest"]:
    """Return the sum over the first axis."""
    with jax.enable_x64(True):
        return x.astype(jnp.float64).sum(0).astype(x.dtype)


def accurate_segment_sum(
    values: Float[Array, " n"], index: Int[Array, " n"], num_segments: int
) -> Float[Array, " k"]:
    """Return the sum of the values of each index 0..K-1; what has another is left out."""
    return _segment_sum(values, index, num_segments)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _segment_sum(values: Array, index: Array, num_segments: int) -> Array:
    with jax.enable_x64(True):
        return add(jnp.zeros(num_segments, jnp.float64), index, values).astype(values.dtype)


@_segment_sum.defjvp
def _(num_segments, primals, tangents):
    # Without a loop, which reverse mode would run through step by step.
    with jax.enable_x64(True):
        dot = _add_at_once(jnp.zeros(num_segments, jnp.float64), primals[1], tangents[0])
        return _segment_sum(*primals, num_segments), dot.astype(tangents[0].dtype)


def add(total: Array, index: Array, amounts: Array | int) -> Array:
    """Add each amount, or one for all, to the entry of its index; what is outside is dropped."""
    # Blocks that do not match the shards of a sharded array would make XLA gather it.
    if jax.device_count() > 1 or index.size <= MANY:
        return _add_at_once(total, index, amounts)
    return lax.platform_dependent(
        total,
        index,
        cpu=lambda total, index: add_in_blocks(total, index, amounts),
        default=lambda total, index: _add_at_once(total, index, amounts),
    )


def add_in_blocks(total: Array, index: Array, amounts: Array | int) -> Array:
    """Add block by block: XLA's CPU scatter reads the amounts from the cache, not from memory."""
    blocks = index.size // BLOCK

    def part(start: Array | int, size: int) -> tuple[Array, Array | int]:
        entries = lax.dynamic_slice(index, (start,), (size,))
        if isinstance(amounts, int):
            return entries, amounts
        return entries, lax.dynamic_slice(amounts, (start,), (size,))

    def add_block(i: Array, total: Array) -> Array:
        return _add_at_once(total, *part(i * BLOCK, BLOCK))

    rest = _add_at_once(total, *part(blocks * BLOCK, index.size - blocks * BLOCK))
    return lax.fori_loop(0, blocks, add_block, rest)


def _add_at_once(total: Array, index: Array, amounts: Array | int) -> Array:
    """Add in one scatter, which XLA runs faster on CPU than that of `total.at[index].add`."""
    return lax.scatter_add(
        total,
        index[:, None],
        jnp.broadcast_to(jnp.asarray(amounts).astype(total.dtype), index.shape),
        _ONE_NUMBER_EACH,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
