"""Row statistics of the logits x @ kernel + bias, which exist one tile at a time.

Forward, a block of rows meets all classes at once or, if its logits would be too many, block after
block of them, merged by the monoid of `merge`. The derivative rule goes through blocks of classes
and inside them through blocks of rows: each tile of logits is computed anew, and each part of the
kernel and of its cotangent is visited once. Reverse mode is the transpose of that loop, so it
keeps the inputs and a few numbers a row.
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
    """The statistics of each row, with at most `max_bytes` of logits in memory."""
    compute = partial(
        _compute, requested=requested, implementation=implementation, max_bytes=max_bytes
    )
    return batch_as_rows(compute)(linear)


def _compute(
    linear: LinearRows, requested: Requested, implementation: str | None, max_bytes: int | None
) -> RowStatistics:
    """Run the kernel that makes the logits itself, if there is one, or make them tile by tile."""
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
    """The derivative of each statistic along the tangents `d_linear`, None where they are 0."""

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
    """Numbers of each row, summed over the tiles of its classes, that are linear in `d_linear`.

    `tile_sums` gets a tile, the tangents of its rows, logits among them, and the entries of its
    rows in the arrays `by_row`. It is computed anew in reverse mode, and so are the logits.
    """
    rows, classes = _backward_blocks(linear, max_bytes)
    # The cotangents of x and kernel are sums over blocks, in float32 or better.
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
    """Numbers of each row: those that `column(j)(i)` has of its block i, summed over blocks j.

    What depends on the classes alone, such as a part of the kernel, is done once for all rows.
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
    """The entries of all rows, of which `function(i)` makes those of block i."""
    kept = partial(skip_if_masked, function, linear, rows)
    if rows.count == 1:
        return kept(jnp.int32(0))
    return jax.tree.map(rows.join, lax.map(kept, rows.indices()))


def skip_if_masked(
    function: Callable[[Array], T], linear: LinearRows, rows: Blocks, i: Int32[Array, ""]
) -> T:
    """`function(i)`, or zeros without the work where all rows of block i are masked."""
    if linear.mask.rows is None:
        return function(i)

    kept = any_of_the_batch(rows.slice(linear.mask.rows, i, 0))
    return lax.cond(kept, function, partial(zeros_of, function), i)


def add_kept_rows(
    add_rows: Callable[[T, Array], tuple[T, S]], start: T, linear: LinearRows, rows: Blocks
) -> tuple[T, S]:
    """Scan with `add_rows(total, i)` over the blocks of rows.

    A block whose rows are all masked leaves the total as it is, and has zeros beside it.
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
    """Return whether any row is kept, under vmap any row of the whole batch.

    So the predicate of a cond is never batched: a batched one would run both branches, and could
    not be transposed (jax-ml/jax#39219).
    """
    return jnp.any(mask)


@any_of_the_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], mask: Bool[Array, "b n"]) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_the_batch(mask.reshape(-1)), False


def zeros_of(function: Callable[[Array], T], i: Int32[Array, ""]) -> T:
    """Zeros like `function(i)`, which lie on a mesh as that does."""
    return jax.tree.map(jnp.zeros_like, jax.eval_shape(function, i))


def tile_shard(rows: Rows, classes: Blocks, j: Int32[Array, ""]) -> ClassShard:
    """Block j of the classes, whose logits `rows` hold; a class in two blocks is in the first."""
    if classes.count == 1:
        return ClassShard(rows, jnp.int32(0), None)
    new = classes.is_new(j)
    if new is not None:
        mask = new[None] if rows.mask.classes is None else rows.mask.classes & new[None]
        rows = rows._replace(mask=rows.mask._replace(classes=mask))
    return class_shard(rows, classes.start(j), classes.total, j * classes.size)


def logits_budget(max_bytes: int | None, layer: Layer, share: int) -> int:
    """The number of logits that may be in memory, by default one in `share`, 16 MiB to 256 MiB."""
    size = jnp.dtype(layer.dtype).itemsize
    if max_bytes is None:
        whole = math.prod(layer.shape) * size
        max_bytes = min(max(whole // share, 2**24), 2**28)
    return max_bytes // size


# The fewest rows a matrix product wants at a time: with fewer it spends its time on reading the
# kernel (at 64 rows 70 % of the GFLOP/s at 256; 2 cores, float32).
_FEWEST_ROWS = 128


def forward_blocks(
    linear: LinearRows, max_bytes: int | None, arrays: int = 1
) -> tuple[Blocks, Blocks]:
    """Blocks with all classes of as many rows as fit, or of the fewest rows as many classes.

    `arrays` is how many numbers are in memory for each logit of a tile.
    """
    n, (d, k) = linear.logits.x.shape[0], linear.logits.kernel.shape
    if is_symbolic_dim(n):
        return blocks_of_symbolic_rows(linear, max_bytes, share=10)
    numbers = logits_budget(max_bytes, linear.logits, share=10) // arrays
    fewest = min(n, _FEWEST_ROWS)
    if numbers >= fewest * k:
        return row_blocks(n, numbers // k), blocks(k, k)
    # A block of classes is also a copy of its part of the kernel.
    return row_blocks(n, fewest), blocks(k, numbers // (fewest + d))


def blocks_of_symbolic_rows(
    linear: LinearRows, max_bytes: int | None, share: int
) -> tuple[Blocks, Blocks]:
    """Return one block of rows, whose number is unknown, and blocks of one class in `share`."""
    if max_bytes is not None:
        raise_value_error("max_bytes", "None with a symbolic number of rows", max_bytes)
    n, k = linear.logits.shape
    return blocks(n, n), blocks(k, max(k // share, _FEWEST_ROWS))


def _backward_blocks(linear: LinearRows, max_bytes: int | None) -> tuple[Blocks, Blocks]:
    """Blocks that make square tiles, which read and write the least for their work.

    A tile of r rows and c classes takes two arrays of r c numbers, five of r d and five of c d.
    """
    n, (d, k) = linear.logits.x.shape[0], linear.logits.kernel.shape
    if is_symbolic_dim(n):
        return blocks_of_symbolic_rows(linear, max_bytes, share=8)
    numbers = logits_budget(max_bytes, linear.logits, share=4)
    return square_blocks(n, d, k, numbers, masked=linear.mask.rows is not None)


def square_blocks(n: int, d: int, k: int, numbers: int, *, masked: bool) -> tuple[Blocks, Blocks]:
    """Blocks of n rows and k classes that make about square tiles of at most so many numbers."""
    side = int(math.sqrt((2.5 * d) ** 2 + numbers / 2) - 2.5 * d)
    most = side if side <= k else (numbers - 5 * k * d) // (2 * k + 5 * d)
    if masked:
        # Small blocks of rows, some of which may be masked as a whole.
        most = min(most, max(4 * _FEWEST_ROWS, n // 16))
    rows = row_blocks(n, most)
    # Blocks divide the rows where they can: classes fit the memory that is left.
    classes = (numbers - 5 * rows.size * d) // (2 * rows.size + 5 * d)
    return rows, blocks(k, classes)
