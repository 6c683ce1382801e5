"""Blocks of an axis cover it, and what overlaps is counted once."""

import jax.numpy as jnp
import numpy as np
import pytest

from xentjax.ops.blocks import Blocks, blocks, row_blocks

CASES = [
    blocks(12, 12),
    blocks(12, 5),  # a divisor is near
    blocks(13, 5),  # none is: the last block overlaps
    blocks(7, 1),
    Blocks(12, 4, 3, strided=True),
]


@pytest.mark.parametrize("parts", CASES, ids=str)
def test_blocks_cover_their_axis(parts):
    x = jnp.arange(2 * parts.total).reshape(parts.total, 2)
    taken = [np.asarray(parts.slice(x, i, 0)) for i in parts.indices()]
    assert {len(block) for block in taken} == {parts.size}
    np.testing.assert_array_equal(np.unique(np.concatenate(taken), axis=0), x)
    if parts.strided or parts.count * parts.size == parts.total:
        assert parts.is_new(jnp.int32(0)) is None
    np.testing.assert_array_equal(parts.join(jnp.stack(taken)), x)


@pytest.mark.parametrize("parts", CASES, ids=str)
def test_every_element_is_new_once_and_added_where_it_lies(parts):
    x, total = jnp.arange(parts.total), jnp.zeros(parts.total, jnp.int32)
    for i in parts.indices():
        block, new = parts.slice(x, i, 0), parts.is_new(i)
        total = parts.add(total, block if new is None else jnp.where(new, block, 0), i, 0)
    np.testing.assert_array_equal(total, x)


@pytest.mark.parametrize(("total", "size"), [(100, 30), (101, 30), (5, 100), (50257, 4096)])
def test_no_block_is_larger_than_asked_for(total, size):
    for make in (blocks, row_blocks):
        parts = make(total, size)
        assert parts.size <= size
        assert (parts.count - 1) * parts.size < total <= parts.count * parts.size
