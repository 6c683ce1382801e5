"""Sums over a row that a TPU kernel accumulates in VMEM, one block of classes after another.

The maximum m, the sum of exp(a - m) and every inner product with a - m are kept for each row and
adjusted whenever m grows, so that all of them are relative to the largest logit seen so far.
`linear.statistics` and `merge` do the same with shards.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jaxtyping import Array, Bool, Float, Int32, Shaped

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.backends.mosaic_tpu.tiling import LANES
from xentjax.ops.backends.pallas import divided, finite, zeros_where_masked
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
    label_in_range,
    over_temperature,
    uniform_targets,
    weighted_targets,
)

TEMPORARIES = 4
"""Float32 arrays of a tile's shape alive at once: logits, exponentials, targets, one product."""


class Accumulators(NamedTuple):
    """Columns [n, 1] with one number per row, over the classes seen so far; None if not requested.

    In VMEM a column takes n x 128 numbers of 32 bits: its one lane is padded to all of them.
    """

    running_max: Array
    """max_k a_k T, with the temperature T; m is this over T, or 0 where this is not finite."""
    sum_exp: Array
    """sum_k exp(a_k - m)."""
    label: Array | None
    """a_y T, 0 while it has not been seen."""
    target: InnerProduct | None
    uniform: InnerProduct | None
    weighted: Array | None
    """sum_k exp(a_k - m) (a_k - m)."""
    predicted: Array | None


def init(rows: Rows, requested: Requested) -> Accumulators:
    """Return the accumulators before the first class."""
    zeros = jnp.zeros((rows.logits.shape[0], 1), jnp.float32)
    return Accumulators(
        running_max=jnp.full_like(zeros, -jnp.inf),
        sum_exp=zeros,
        label=None if rows.target.labels is None else zeros,
        target=None if rows.target.pmf is None else InnerProduct(zeros, zeros),
        uniform=InnerProduct(zeros, zeros) if requested.uniform else None,
        weighted=zeros if requested.mean else None,
        predicted=zeros.astype(jnp.int32) if requested.predicted else None,
    )


def accumulate(
    acc: Accumulators, rows: Rows, j: int | Int32[Array, ""], num_classes: int
) -> Accumulators:
    """Add the classes of block j, whose arrays are `rows`."""
    rows, a, index = adjusted_tile(rows, j, num_classes)
    k = a.shape[1]
    temperature, labels = rows.scalars.temperature, rows.target.labels
    tile_max = jnp.max(a, 1, keepdims=True)
    running_max = jnp.maximum(acc.running_max, tile_max)
    shift = finite(running_max)
    shift_delta = divided(finite(acc.running_max) - shift, temperature)
    # After tiles that are all -inf, the product below could be 0 * inf.
    scale = jnp.where(acc.running_max == -jnp.inf, 0, jnp.exp(shift_delta))
    z = divided(a - shift, temperature)
    exp_z = jnp.exp(z)

    def moved(acc: InnerProduct, t: Float[Array, "#n k"]) -> InnerProduct:
        t = jnp.broadcast_to(t, z.shape)
        # A class without mass adds 0 even if its logit is -inf.
        dot = jnp.sum(t * jnp.where(t == 0, 0, z), 1, keepdims=True)
        dot += acc.dot + jnp.where(acc.total == 0, 0, acc.total * shift_delta)
        return InnerProduct(dot, acc.total + jnp.sum(t, 1, keepdims=True))

    label = target = uniform = weighted = predicted = None
    if acc.label is not None and labels is not None:
        is_label = index == as_column(labels) - j * k
        label = acc.label + jnp.sum(jnp.where(is_label, a, 0), 1, keepdims=True)
    if acc.target is not None:
        target = moved(acc.target, weighted_targets(rows))
    if acc.uniform is not None:
        uniform = moved(acc.uniform, uniform_targets(rows))
    if acc.weighted is not None:
        weighted = jnp.where(scale == 0, 0, scale * (acc.weighted + acc.sum_exp * shift_delta))
        weighted += jnp.sum(exp_z * jnp.where(exp_z > 0, z, 0), 1, keepdims=True)
    if acc.predicted is not None:
        first = jnp.min(jnp.where(a == tile_max, index, k), 1, keepdims=True) + j * k
        predicted = jnp.where(tile_max > acc.running_max, first, acc.predicted)
    return Accumulators(
        running_max=running_max,
        sum_exp=scale * acc.sum_exp + jnp.sum(exp_z, 1, keepdims=True),
        label=label,
        target=target,
        uniform=uniform,
        weighted=weighted,
        predicted=predicted,
    )


def adjusted_tile(
    rows: Rows, j: int | Int32[Array, ""], num_classes: int
) -> tuple[Rows, Float[Array, "n k"], Int32[Array, "n k"]]:
    """Return the rows of block j without classes that do not exist, adjusted logits and columns."""
    n, k = rows.logits.shape
    index = lax.broadcasted_iota(jnp.int32, (n, k), 1)
    mask = rows.mask.classes
    mask = None if mask is None else mask.astype(jnp.int32) != 0
    if num_classes % k:  # memory beyond the last class is arbitrary
        exists = index < num_classes - j * k
        mask = exists if mask is None else mask & exists
    rows = rows._replace(mask=rows.mask._replace(classes=mask))
    return rows, adjusted_logits(rows), index


def accumulate_tile(
    rows: Any,
    out: Any,
    acc: Any,
    j: Int32[Array, ""],
    is_last: Bool[Array, ""],
    num_classes: int,
    requested: Requested,
) -> None:
    """Add block j of the classes to the columns `acc`; write them out after the last block.

    All arrays are references: `rows` to a tile, `acc` to scratch memory that is kept from tile to
    tile, `out` to results [1, n].
    """
    tile = jax.tree.map(lambda ref: ref[...], rows)

    def write(refs: Any, values: Any) -> None:
        for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
            ref[...] = value

    @pl.when(j == 0)
    def _() -> None:
        write(acc, init(tile, requested))

    write(acc, accumulate(jax.tree.map(lambda ref: ref[...], acc), tile, j, num_classes))

    @pl.when(is_last)
    def _() -> None:
        write(out, jax.tree.map(lambda ref: as_row(ref[...]), acc))


def as_row(column: Shaped[Array, "n 1"]) -> Shaped[Array, "1 n"]:
    """Turn a whole square of lanes, the transposition that the hardware has."""
    return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]


def as_column(row: Shaped[Array, "1 n"]) -> Shaped[Array, "n 1"]:
    """Turn a whole square of lanes, the transposition that the hardware has."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def finalize(acc: Accumulators, rows: Rows, shape: tuple[int, ...]) -> RowStatistics:
    """Return the statistics of rows whose logits have that shape, from accumulators [1, n]."""
    *row_shape, k = shape
    acc = jax.tree.map(lambda x: x.reshape(row_shape), acc)
    shift, label = finite(acc.running_max), acc.label
    if label is not None:
        label = over_temperature(label - shift, rows.scalars.temperature)
    stats = RowStatistics(
        shift=shift,
        log_sum=jnp.log(acc.sum_exp),
        label_logit=label,
        target=acc.target,
        uniform=acc.uniform,
        mean_logit=None if acc.weighted is None else acc.weighted / acc.sum_exp,
        predicted=acc.predicted,
    )
    if rows.mask.rows is not None:
        stats = zeros_where_masked(stats, rows.mask.rows, k)
    labels = rows.target.labels
    if labels is not None and stats.label_logit is not None:
        label = stats.label_logit + nan_unless(label_in_range(labels, k), shift.dtype)
        stats = stats._replace(label_logit=label)
    return stats
