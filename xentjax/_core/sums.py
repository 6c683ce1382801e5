"""Sums over many samples or rows, which float32 would round at every addition.

Equal numbers that are added one by one to a large sum are all rounded the same way: in float32 the
mean of a million is off by 1 %, and beyond 2^24 adding 1 has no effect. So the sums are float64,
which `jax.enable_x64` provides even without x64, but no float64 array as long as the data is made.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

# So many numbers of a block stay in the cache, even of a batch of blocks.
BLOCK = 2**12
# For fewer numbers than this, one scatter is faster on CPU than a scatter for each block.
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
    """Sum the values of each index 0..K-1; values with another index are left out."""
    return _segment_sum(values, index, num_segments)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _segment_sum(values: Array, index: Array, num_segments: int) -> Array:
    with jax.enable_x64(True):
        return add(jnp.zeros(num_segments, jnp.float64), index, values).astype(values.dtype)


@_segment_sum.defjvp
def _(num_segments, primals, tangents):
    # No loop: reverse mode would save every step of it.
    with jax.enable_x64(True):
        dot = _add_at_once(jnp.zeros(num_segments, jnp.float64), primals[1], tangents[0])
        return _segment_sum(*primals, num_segments), dot.astype(tangents[0].dtype)


def add(total: Array, index: Array, amounts: Array | int) -> Array:
    """Add each amount (or one for all) to the entry of its index; drop indices outside."""
    # XLA would gather a sharded array whose shards do not match the blocks.
    if jax.device_count() > 1 or index.size <= MANY:
        return _add_at_once(total, index, amounts)
    return lax.platform_dependent(
        total,
        index,
        cpu=lambda total, index: add_in_blocks(total, index, amounts),
        default=lambda total, index: _add_at_once(total, index, amounts),
    )


def add_in_blocks(total: Array, index: Array, amounts: Array | int) -> Array:
    """Add block by block, so that XLA's CPU scatter finds the amounts in the cache."""
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
    """Add in one scatter, in a form that is faster on CPU than `total.at[index].add`."""
    return lax.scatter_add(
        total,
        index[:, None],
        jnp.broadcast_to(jnp.asarray(amounts).astype(total.dtype), index.shape),
        _ONE_NUMBER_EACH,
        mode=lax.GatherScatterMode.FILL_OR_DROP,
    )
