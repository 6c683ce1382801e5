"""Row statistics of the logits x @ kernel + bias, of which one tile at a time is in memory.

The forward pass computes the logits of a block of rows for all classes at once. If these would be
too many, it loops over blocks of classes, and merges their statistics by the monoid of `merge`. The
derivative rule loops over blocks of classes and, for each, over blocks of rows: each tile of logits
is computed again, and each part of the kernel and of its cotangent is visited once. Reverse mode is
the transpose of that loop, so it keeps only the inputs and a few numbers for each row.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Bool, Int32

from xentjax._core.checks import raise_value_error
from xentjax.ops.blocks import Blocks, blocks, row_blocks
from xentjax.ops.derivative import moving_inputs, statistics_tangents, with_predicted
from xentjax.ops.dispatch import row_statistics
from xentjax.ops.layer import (
    LinearRows,
    logits_tangent,
    slice_classes,
    slice_rows,
    with_logits,
)
from xentjax.ops.linear.batch import batch_as_rows
from xentjax.ops.merge import (
    ACROSS_FIRST_AXIS,
    ClassShard,
    class_shard,
    drop_unowned_label,
    merge,
)
from xentjax.ops.registry import backend
from xentjax.ops.rows import Layer, Requested, Rows, RowStatistics

T = TypeVar("T")
S = TypeVar("S")


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def linear_row_statistics(
    linear: LinearRows, requested: Requested, implementation: str | None, max_bytes: int | None
) -> RowStatistics:
    """Compute the statistics of each row, with at most `max_bytes` of logits in memory."""
    compute = partial(
        _compute, requested=requested, implementation=implementation, max_bytes=max_bytes
    )
    return batch_as_rows(compute)(linear)


def _compute(
    linear: LinearRows, requested: Requested, implementation: str | None, max_bytes: int | None
) -> RowStatistics:
    """Use a kernel that computes the logits too, if there is one; else compute them in tiles."""
    by_kernel = backend(implementation).linear_statistics
    stats = None if by_kernel is None else by_kernel(linear, requested)
    if stats is not None:
        return stats
    rows, classes = forward_blocks(linear, max_bytes)

    def statistics_of(i: Int32[Array, ""]) -> RowStatistics:
        block = slice_rows(linear, rows, i)
        if classes.count == 1:
            return row_statistics(with_logits(block), requested, implementation)

        def statistics_of_classes(j: Int32[Array, ""]) -> tuple[RowStatistics, Array, Array | None]:
            shard = tile_shard(with_logits(slice_classes(block, classes, j)), classes, j)
            stats = row_statistics(shard.rows, requested.for_shard(), implementation)
            return stats, shard.first_class, shard.owns_label

        stats, first_class, owns_label = lax.map(statistics_of_classes, classes.indices())
        merged = merge(
            stats, first_class[:, None], owns_label, ACROSS_FIRST_AXIS, linear.scalars.temperature
        )
        return jax.tree.map(lambda a: a[0], merged)

    return map_kept_rows(statistics_of, linear, rows)


@partial(linear_row_statistics.defjvp, symbolic_zeros=True)
def _linear_row_statistics_jvp(
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
    primals: tuple[LinearRows],
    tangents: tuple[LinearRows],
) -> tuple[RowStatistics, RowStatistics]:
    (linear,), (d_linear,) = primals, tangents
    stats = linear_row_statistics(linear, requested, implementation, max_bytes)
    d_stats = linear_tangents(linear, stats, moving_inputs(d_linear), max_bytes)
    return stats, with_predicted(d_stats, stats)


def linear_tangents(
    linear: LinearRows, stats: RowStatistics, d_linear: LinearRows, max_bytes: int | None
) -> RowStatistics:
    """Differentiate each statistic along the tangents `d_linear`, in which None means 0."""

    def tile_tangents(shard: ClassShard, d_rows: Rows, stats: RowStatistics) -> RowStatistics:
        d_stats = statistics_tangents(shard.rows, stats, d_rows)
        return drop_unowned_label(d_stats, shard.owns_label)._replace(shift=None)

    stats = stats._replace(predicted=None)
    d_stats = sum_over_tiles(tile_tangents, linear, d_linear, stats, max_bytes)
    return d_stats._replace(shift=jnp.zeros_like(stats.shift))


def sum_over_tiles(
    tile_sums: Callable[[ClassShard, Rows, Any], T],
    linear: LinearRows,
    d_linear: LinearRows,
    by_row: Any,
    max_bytes: int | None,
) -> T:
    """Sum the results of `tile_sums`, which are linear in `d_linear`, over the tiles of each row.

    `tile_sums` gets a tile, the tangents of its rows (the logits included), and the entries of its
    rows in the arrays `by_row`. Reverse mode computes `tile_sums` and the logits again.
    """
    rows, classes = _backward_blocks(linear, max_bytes)
    # In float32 or 64, since the transpose sums cotangents of x and kernel over blocks.
    d_layer = jax.tree.map(lambda x: x.astype(linear.logits.dtype), d_linear.logits)
    d_linear = d_linear._replace(logits=d_layer)

    def column(j: Int32[Array, ""]) -> Callable[[Array], T]:
        block, d_block = (slice_classes(each, classes, j) for each in (linear, d_linear))

        def tile(i: Int32[Array, ""]) -> T:
            here, d_here = (slice_rows(each, rows, i) for each in (block, d_block))
            by_row_here = jax.tree.map(lambda x: rows.slice(x, i, 0), by_row)
            shard = tile_shard(with_logits(here), classes, j)
            d_rows = d_here._replace(logits=logits_tangent(here, d_here.logits))
            return tile_sums(shard, d_rows, by_row_here)

        return tile

    return add_tiles(column, linear, rows, classes)


def add_tiles(
    column: Callable[[Array], Callable[[Array], T]],
    linear: LinearRows,
    rows: Blocks,
    classes: Blocks,
) -> T:
    """Sum `column(j)(i)`, the results of row block i and class block j, over j; join over i.

    `column(j)` does the work that depends only on the classes, such as slicing the kernel, once for
    all rows.
    """

    def all_rows(j: Int32[Array, ""]) -> T:
        tile = jax.checkpoint(column(j), prevent_cse=False)
        return map_kept_rows(tile, linear, rows)

    @partial(jax.checkpoint, prevent_cse=False)
    def add_classes(total: T, j: Int32[Array, ""]) -> tuple[T, None]:
        return jax.tree.map(jnp.add, total, all_rows(j)), None

    if classes.count == 1:
        return all_rows(jnp.int32(0))
    total, _ = lax.scan(add_classes, zeros_of(all_rows, jnp.int32(0)), classes.indices())
    return total


def map_kept_rows(function: Callable[[Array], T], linear: LinearRows, rows: Blocks) -> T:
    """Join the results of `function(i)` for all blocks i of rows; zeros if a block is masked."""
    kept = partial(skip_if_masked, function, linear, rows)
    if rows.count == 1:
        return kept(jnp.int32(0))
    return jax.tree.map(rows.join, lax.map(kept, rows.indices()))


def skip_if_masked(
    function: Callable[[Array], T], linear: LinearRows, rows: Blocks, i: Int32[Array, ""]
) -> T:
    """Return `function(i)`, or zeros without running it if all rows of block i are masked."""
    if linear.mask.rows is None:
        return function(i)

    kept = any_of_the_batch(rows.slice(linear.mask.rows, i, 0))
    return lax.cond(kept, function, partial(zeros_of, function), i)


def add_kept_rows(
    add_rows: Callable[[T, Array], tuple[T, S]], start: T, linear: LinearRows, rows: Blocks
) -> tuple[T, S]:
    """Scan with `add_rows(total, i)` over the blocks of rows.

    A block whose rows are all masked leaves the total unchanged; its other results are zeros.
    """

    def add(total: T, i: Int32[Array, ""]) -> tuple[T, S]:
        if linear.mask.rows is None:
            return add_rows(total, i)
        beside = jax.tree.map(jnp.zeros_like, jax.eval_shape(add_rows, total, i)[1])
        kept = any_of_the_batch(rows.slice(linear.mask.rows, i, 0))
        return lax.cond(kept, add_rows, lambda total, i: (total, beside), total, i)

    return lax.scan(add, start, rows.indices())


@jax.custom_batching.custom_vmap
def any_of_the_batch(mask: Bool[Array, " n"]) -> Bool[Array, ""]:
    """Whether any row is kept; under vmap, any row of the whole batch.

    The predicate of a `cond` is thus never batched. With a batched one, `cond` would run both
    branches, and could not be transposed (jax-ml/jax#39219).
    """
    return jnp.any(mask)


@any_of_the_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], mask: Bool[Array, "b n"]) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_the_batch(mask.reshape(-1)), False


def zeros_of(function: Callable[[Array], T], i: Int32[Array, ""]) -> T:
    """Return zeros like `function(i)`, placed on a mesh in the same way."""
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(function, i))


def tile_shard(rows: Rows, classes: Blocks, j: Int32[Array, ""]) -> ClassShard:
    """Return block j of the classes as a shard; a class in two blocks belongs to the first."""
    if classes.count == 1:
        return ClassShard(rows, jnp.int32(0), None)
    new = classes.is_new(j)
    if new is not None:
        mask = new[None] if rows.mask.classes is None else rows.mask.classes & new[None]
        rows = rows._replace(mask=rows.mask._replace(classes=mask))
    return class_shard(rows, classes.start(j), classes.total, j * classes.size)


def logits_budget(max_bytes: int | None, layer: Layer, share: int) -> int:
    """Return how many logits may be in memory; by default one in `share`, 16 MiB to 256 MiB."""
    size = jnp.dtype(layer.dtype).itemsize
    if max_bytes is None:
        whole = math.prod(layer.shape) * size
        max_bytes = min(max(whole // share, 2**24), 2**28)
    return max_bytes // size


# Fewest rows in a block: with fewer, a matrix product spends most of its time reading the kernel
# (64 rows reach 70 % of the GFLOP/s of 256; 2 cores, float32).
_FEWEST_ROWS = 128


def forward_blocks(
    linear: LinearRows, max_bytes: int | None, arrays: int = 1
) -> tuple[Blocks, Blocks]:
    """Return blocks of rows with all classes or, if too few rows fit, with blocks of classes.

    `arrays` is the number of values in memory for each logit of a tile.
    """
    n, (d, k) = linear.logits.x.shape[0], linear.logits.kernel.shape
    if is_symbolic_dim(n):
        return blocks_of_symbolic_rows(linear, max_bytes, share=10)
    numbers = logits_budget(max_bytes, linear.logits, share=10) // arrays
    fewest = min(n, _FEWEST_ROWS)
    if numbers >= fewest * k:
        return row_blocks(n, numbers // k), blocks(k, k)
    # A block of classes also needs a copy of its part of the kernel.
    return row_blocks(n, fewest), blocks(k, numbers // (fewest + d))


def blocks_of_symbolic_rows(
    linear: LinearRows, max_bytes: int | None, share: int
) -> tuple[Blocks, Blocks]:
    """Return one block for a symbolic number of rows, and about `share` blocks of classes."""
    if max_bytes is not None:
        raise_value_error("max_bytes", "None with a symbolic number of rows", max_bytes)
    n, k = linear.logits.shape
    return blocks(n, n), blocks(k, max(k // share, _FEWEST_ROWS))


def _backward_blocks(linear: LinearRows, max_bytes: int | None) -> tuple[Blocks, Blocks]:
    """Return blocks that make square tiles, which need the fewest reads and writes for their work.

    A tile of r rows and c classes takes two arrays of r c numbers, five of r d and five of c d.
    """
    n, (d, k) = linear.logits.x.shape[0], linear.logits.kernel.shape
    if is_symbolic_dim(n):
        return blocks_of_symbolic_rows(linear, max_bytes, share=8)
    numbers = logits_budget(max_bytes, linear.logits, share=4)
    return square_blocks(n, d, k, numbers, masked=linear.mask.rows is not None)


def square_blocks(n: int, d: int, k: int, numbers: int, *, masked: bool) -> tuple[Blocks, Blocks]:
    """Split n rows and k classes into roughly square tiles of at most `numbers` numbers each."""
    side = int(math.sqrt((2.5 * d) ** 2 + numbers / 2) - 2.5 * d)
    most = side if side <= k else (numbers - 5 * k * d) // (2 * k + 5 * d)
    if masked:
        # Small blocks of rows are more likely to be masked as a whole, and skipped.
        most = min(most, max(4 * _FEWEST_ROWS, n // 16))
    rows = row_blocks(n, most)
    # Blocks of rows may be smaller, to divide the rows: classes get the memory that is left.
    classes = (numbers - 5 * rows.size * d) // (2 * rows.size + 5 * d)
    return rows, blocks(k, classes)
