"""Divergences between the softmaxes of two linear layers over the same classes, tile by tile.

Log-probabilities need the statistics of whole rows, so the logits of a block of rows are computed
for all classes of both layers at once. If too few rows would fit, or the classes are split over
devices, the statistics are computed first, and the logits of each tile a second time. The
derivative rule loops over square tiles.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int32

from xentjax._core.axis_name import AxisName
from xentjax.ops.blocks import Blocks, row_blocks
from xentjax.ops.derivative import moving_inputs, value_and_tangent
from xentjax.ops.dispatch import row_statistics
from xentjax.ops.layer import LinearRows, logits_tangent, slice_classes, slice_rows, with_logits
from xentjax.ops.linear.batch import batch_as_rows
from xentjax.ops.linear.sharded import merged_linear_statistics
from xentjax.ops.linear.statistics import (
    add_tiles,
    blocks_of_symbolic_rows,
    linear_row_statistics,
    logits_budget,
    map_kept_rows,
    square_blocks,
    tile_shard,
)
from xentjax.ops.merge import ClassShard
from xentjax.ops.rows import (
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
    log_probabilities,
    shifted,
)
from xentjax.ops.sharded import sum_over_devices

Totals = tuple[Float[Array, " n"], ...]


class Heads(NamedTuple):
    """Two layers over the same classes, with the same masks and scalars."""

    p: LinearRows
    q: LinearRows
    weight: Float[Array, ""] | None = None
    """Weight of p in the mixture, for divergences that use one."""


class Divergence(NamedTuple):
    """Divergence of softmax rows: functions of log p, log q and the weight (None without mixture).

    It is an f-divergence, so the only sums that its derivative in the logits needs are its totals.
    """

    totals: Callable[[Array, Array, Any], Totals]
    """Sums over classes of terms >= 0."""
    value: Callable[[Totals, Any], Array]
    """Divergence from the totals of all classes and the weight. Its derivative in the weight, with
    the totals fixed, is the full derivative: the mixture minimises the weighted sum of totals."""
    slopes: Callable[[Array, Array, Totals, Any], tuple[Array, Array]]
    """Derivatives in the logits of p and in the logits of q, from the totals of each row."""
    arrays: int
    """Number of arrays of the logits' size that XLA makes, including logits and derivatives."""


class HeadStatistics(NamedTuple):
    """Numbers of a row from which the divergence and its derivatives are computed."""

    p: RowStatistics
    q: RowStatistics
    totals: Totals


class Settings(NamedTuple):
    """Static options, known before tracing."""

    divergence: Divergence
    implementation: str | None
    axis_name: AxisName | None
    """Mesh axis over whose devices the classes are split, or None."""
    max_bytes: int | None


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def row_divergences(heads: Heads, settings: Settings) -> Float[Array, " n"]:
    """Compute the divergence of each row, differentiable in all floating inputs and all modes."""
    return settings.divergence.value(_statistics(heads, settings).totals, heads.weight)


@partial(row_divergences.defjvp, symbolic_zeros=True)
def _(
    settings: Settings, primals: tuple[Heads], tangents: tuple[Heads]
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    (heads,), moving = primals, moving_inputs(tangents[0])
    stats = _statistics(heads, settings)
    value, dot = value_and_weight_tangent(stats.totals, heads.weight, moving.weight, settings)
    if jax.tree.leaves((moving.p, moving.q)):
        dot += _tangents(heads, stats, moving, settings)
    return value, dot


def value_and_weight_tangent(
    totals: Totals, weight: Array | None, d_weight: Array | None, settings: Settings
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """Return the divergence of each row and its derivative along `d_weight`; None means 0."""
    value = settings.divergence.value
    if d_weight is None:
        return value(totals, weight), jnp.zeros_like(totals[0])
    return jax.jvp(lambda weight: value(totals, weight), (weight,), (d_weight,))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _statistics(heads: Heads, settings: Settings) -> HeadStatistics:
    return batch_as_rows(partial(_whole_row_statistics, settings=settings))(heads)


@_statistics.defjvp
def _(
    settings: Settings, primals: tuple[Heads], tangents: tuple[Heads]
) -> tuple[HeadStatistics, HeadStatistics]:
    """Differentiate the loops over tiles, which keep no tile, for second derivatives."""
    return jax.jvp(partial(_whole_row_statistics, settings=settings), primals, tangents)


def _whole_row_statistics(heads: Heads, settings: Settings) -> HeadStatistics:
    rows = paired_row_blocks(heads, settings)
    if rows is not None:
        return _at_once(heads, rows, settings)
    return _statistics_first(heads, settings)


def _at_once(heads: Heads, rows: Blocks, settings: Settings) -> HeadStatistics:
    """Loop over blocks of rows, each with all classes of both layers."""

    @partial(jax.checkpoint, prevent_cse=False)
    def block_statistics(i: Int32[Array, ""]) -> HeadStatistics:
        p, q = (with_logits(slice_rows(head, rows, i)) for head in heads[:2])
        return statistics_of_logits(p, q, heads.weight, settings)

    return map_kept_rows(block_statistics, heads.q, rows)


def statistics_of_logits(
    p: Rows, q: Rows, weight: Float[Array, ""] | None, settings: Settings
) -> HeadStatistics:
    """Compute the statistics of logits that are in memory."""
    p_stats, q_stats = (
        row_statistics(rows, Requested(), settings.implementation) for rows in (p, q)
    )
    log_p, log_q = log_probabilities(p, p_stats), log_probabilities(q, q_stats)
    return HeadStatistics(p_stats, q_stats, settings.divergence.totals(log_p, log_q, weight))


def _statistics_first(heads: Heads, settings: Settings) -> HeadStatistics:
    """Compute the statistics of whole rows, then the terms of each tile."""

    def statistics(head: LinearRows) -> RowStatistics:
        how = settings.implementation, settings.max_bytes
        if settings.axis_name is None:
            return linear_row_statistics(head, Requested(), *how)
        shard = ClassShard(head, jnp.int32(0), None)
        return merged_linear_statistics(shard, Requested(), settings.axis_name, *how)

    p_stats, q_stats = statistics(heads.p), statistics(heads.q)
    rows, classes = _tiles(heads, settings.max_bytes)

    def column(j: Int32[Array, ""]) -> Callable[[Array], Totals]:
        blocks = [slice_classes(head, classes, j) for head in heads[:2]]

        def tile(i: Int32[Array, ""]) -> Totals:
            log_probs = []
            for block, stats in zip(blocks, (p_stats, q_stats), strict=True):
                here = tile_shard(with_logits(slice_rows(block, rows, i)), classes, j).rows
                stats = jax.tree.map(lambda x: rows.slice(x, i, 0), stats)
                log_probs.append(log_probabilities(here, stats))
            log_p, log_q = log_probs
            return settings.divergence.totals(log_p, log_q, heads.weight)

        return tile

    totals = add_tiles(column, heads.q, rows, classes)
    if settings.axis_name is not None:
        totals = sum_over_devices(totals, settings.axis_name)
    return HeadStatistics(p_stats, q_stats, totals)


def _tangents(
    heads: Heads, stats: HeadStatistics, d_heads: Heads, settings: Settings
) -> Float[Array, " n"]:
    """Differentiate each row's divergence along tangents of the layers, in which None means 0."""
    rows, classes = _tiles(heads, settings.max_bytes)
    d_heads = jax.tree.map(lambda x: x.astype(heads.q.logits.dtype), d_heads)

    def column(j: Int32[Array, ""]) -> Callable[[Array], Array]:
        block, d_block = (
            Heads(slice_classes(each.p, classes, j), slice_classes(each.q, classes, j))
            for each in (heads, d_heads)
        )

        def tile(i: Int32[Array, ""]) -> Array:
            here = jax.tree.map(lambda x: rows.slice(x, i, 0), stats)
            log_p, dp = _with_tangent(block.p, here.p, d_block.p, rows, classes, i, j)
            log_q, dq = _with_tangent(block.q, here.q, d_block.q, rows, classes, i, j)
            slopes = settings.divergence.slopes(log_p, log_q, here.totals, heads.weight)
            dots = [
                jnp.sum(s * d, -1) for s, d in zip(slopes, (dp, dq), strict=True) if d is not None
            ]
            return sum(dots[1:], dots[0])

        return tile

    dot = add_tiles(column, heads.q, rows, classes)
    return dot if settings.axis_name is None else sum_over_devices(dot, settings.axis_name)


def _with_tangent(
    block: LinearRows,
    stats: RowStatistics,
    d_block: LinearRows,
    rows: Blocks,
    classes: Blocks,
    i: Int32[Array, ""],
    j: Int32[Array, ""],
) -> tuple[Float[Array, "n k"], Float[Array, "n k"] | None]:
    """Return log-probabilities and the tangent of the logits, which is None if no input moves."""
    here, d_here = (slice_rows(each, rows, i) for each in (block, d_block))
    values = tile_shard(with_logits(here), classes, j).rows
    d_values = d_here._replace(logits=logits_tangent(here, d_here.logits))
    if not jax.tree.leaves(d_values):
        return log_probabilities(values, stats), None

    def shift(rows: Rows) -> Float[Array, "n k"]:
        return shifted(adjusted_logits(rows), stats.shift, rows.scalars.temperature)

    z, dz = value_and_tangent(shift, values, d_values)
    return z - stats.log_sum[..., None], dz


# Fewest rows in a block: with fewer, computing the logits only once is no gain.
_FEWEST_ROWS = 16
# Rows in a block, if memory allows: each block reads the kernels, and reads and writes their
# gradients, which slows down products of few rows (64 rows reach 80 % of the GFLOP/s of 256, and
# 128 rows 97 %; 2 cores, float32).
_ENOUGH_ROWS = 128


def paired_row_blocks(heads: Heads, settings: Settings) -> Blocks | None:
    """Return blocks of rows whose arrays of the logits' size all fit; None if too few rows fit.

    By default the arrays may take the memory that `_ENOUGH_ROWS` rows need or, if that is less,
    half the memory of all logits of one layer, but at least 16 MiB and at most 256 MiB. The result
    is None too if the classes are split over devices, or if the number of rows is symbolic, so that
    it cannot be split into blocks.
    """
    n, k = heads.q.logits.shape
    if is_symbolic_dim(n) or settings.axis_name is not None:
        return None
    arrays, size = settings.divergence.arrays, jnp.dtype(heads.q.logits.dtype).itemsize
    max_bytes = settings.max_bytes
    if max_bytes is None:
        max_bytes = min(max(min(arrays * _ENOUGH_ROWS, n // 2) * k * size, 2**24), 2**28)
    fitting = max_bytes // (arrays * k * size)
    return None if fitting < min(n, _FEWEST_ROWS) else row_blocks(n, fitting)


def _tiles(heads: Heads, max_bytes: int | None) -> tuple[Blocks, Blocks]:
    """Return blocks of rows and classes that make square tiles of both layers."""
    n, k = heads.q.logits.shape
    if is_symbolic_dim(n):
        return blocks_of_symbolic_rows(heads.q, max_bytes, share=16)
    d = (heads.p.logits.x.shape[-1] + heads.q.logits.x.shape[-1] + 1) // 2
    numbers = logits_budget(max_bytes, heads.q.logits, share=4) // 2
    return square_blocks(n, d, k, numbers, masked=heads.q.mask.rows is not None)
