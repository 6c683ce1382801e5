"""Blocks of equal size along an axis, for loops that process one block at a time."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Int32


@dataclass(frozen=True)
class Blocks:
    """Blocks of 0..total-1; if `size` does not divide `total`, the last overlaps its neighbour."""

    total: int
    size: int
    count: int
    strided: bool = False
    """Whether block i consists of i, i + count, i + 2 count, ... instead of neighbours."""

    def indices(self) -> Int32[Array, " count"]:
        """Return the indices of all blocks, to loop over."""
        return jnp.arange(self.count, dtype=jnp.int32)

    def start(self, i: Int32[Array, ""]) -> Int32[Array, ""]:
        """Return the index of the first element of block i."""
        return jnp.minimum(i * self.size, self.total - self.size)

    def slice(self, x: Array, i: Int32[Array, ""], axis: int) -> Array:
        """Return block i of an axis of x."""
        if self.count == 1:
            return x
        if self.strided:
            return lax.dynamic_index_in_dim(self._split(x, axis), i, axis + 1, keepdims=False)
        return lax.dynamic_slice_in_dim(x, self.start(i), self.size, axis)

    def add(self, total: Array, x: Array, i: Int32[Array, ""], axis: int) -> Array:
        """Return `total` with x added to block i."""
        if self.count == 1:
            return total + x
        x += self.slice(total, i, axis)
        if self.strided:
            split = lax.dynamic_update_index_in_dim(self._split(total, axis), x, i, axis + 1)
            return split.reshape(total.shape)
        return lax.dynamic_update_slice_in_dim(total, x, self.start(i), axis)

    def is_new(self, i: Int32[Array, ""]) -> Bool[Array, " size"] | None:
        """Mark the elements of block i that are in no earlier block; None if no blocks overlap."""
        if self.count * self.size == self.total:
            return None
        return self.start(i) + jnp.arange(self.size, dtype=jnp.int32) >= i * self.size

    def join(self, x: Array) -> Array:
        """Join the blocks [count, size, ...] into one array [total, ...]."""
        if self.count == 1:
            return x[0]
        if self.strided:
            return jnp.swapaxes(x, 0, 1).reshape(self.total, *x.shape[2:])
        whole = x[:-1].reshape(-1, *x.shape[2:])
        return jnp.concatenate([whole, x[-1, self.count * self.size - self.total :]])

    def _split(self, x: Array, axis: int) -> Array:
        return x.reshape(*x.shape[:axis], self.size, self.count, *x.shape[axis + 1 :])


def blocks(total: int, size: int) -> Blocks:
    """Choose blocks of at most `size`: a divisor of `total` if one is near, else with overlap.

    A symbolic total (from `jax.export`) is one block, since a loop needs a known number of blocks.
    """
    if bool(is_symbolic_dim(total)) or size >= total:
        return Blocks(total, total, 1)
    size = max(1, size)
    for divisor in range(size, max(size // 2, size - 4096), -1):
        if total % divisor == 0:
            return Blocks(total, divisor, total // divisor)
    count = -(-total // size)
    return Blocks(total, -(-total // count), count)


def row_blocks(total: int, size: int) -> Blocks:
    """Choose blocks of rows; if several devices may share the rows, each block has some of each."""
    parts = blocks(total, size)
    if parts.count == 1:
        return parts
    divides = parts.size * parts.count == total
    return replace(parts, strided=jax.device_count() > 1 and divides)


def flat_mask(class_mask: Bool[Array, "*#rows #k"], shape: tuple[int, ...]) -> Bool[Array, "#n k"]:
    """Join the leading axes of a mask for logits of that shape; keep a shared mask as one row."""
    k = shape[-1]
    if all(size == 1 for size in class_mask.shape[:-1]):
        return jnp.broadcast_to(class_mask.reshape(1, -1), (1, k))
    return jnp.broadcast_to(class_mask, shape).reshape(-1, k)
