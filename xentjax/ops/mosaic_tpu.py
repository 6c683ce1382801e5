"""Row statistics by a Pallas kernel for TPUs, which reads each logit once.

A block of rows goes through its blocks of classes. The maximum m, the sum of exp(a - m) and every
inner product with a - m are kept for each row and moved along with m, so that nothing is ever
relative to anything but the largest logit seen. `linear_xla` and `merge` do the same with parts.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float, Int32, Shaped

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.blocks import flat_mask
from xentjax.ops.mosaic import check_sizes, divided, only_on, with_batch, zeros_where_masked
from xentjax.ops.mosaic_tpu_blocks import LANES, Footprint, tile_shape
from xentjax.ops.rows import (
    InnerProduct,
    Mask,
    Requested,
    Rows,
    RowStatistics,
    Scalars,
    Target,
    adjusted_logits,
    label_in_range,
    over_temperature,
    uniform_targets,
    weighted_targets,
)

interpret = jax.make_user_context(False)
"""What `pallas_call` takes by that name: `with interpret(True):` runs the kernel on any backend."""


class Sums(NamedTuple):
    """What is known of rows from the classes seen, a column [n, 1] each, None if not requested."""

    top: Array
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


def row_statistics(rows: Rows, requested: Requested) -> RowStatistics:
    """The kernel's sums, finished; under vmap a batch of rows is more rows."""
    rows = rows._replace(logits=logits_for_tpu(rows.logits))

    @jax.custom_batching.custom_vmap
    def statistics(rows: Rows) -> RowStatistics:
        return _statistics(rows, requested)

    @statistics.def_vmap
    def _(axis_size: int, in_batched: list[Rows], rows: Rows) -> tuple[RowStatistics, Any]:
        (batched,) = in_batched
        if batched.class_weights or any(jax.tree.leaves(batched.scalars)):
            axes = jax.tree.map(lambda b: 0 if b else None, batched)
            stats = jax.vmap(partial(_statistics, requested=requested), (axes,))(rows)
        else:
            stats = statistics(with_batch(rows, batched, axis_size))
        return stats, jax.tree.map(lambda _: True, stats)

    return statistics(rows)


def logits_for_tpu(logits: Float[Array, "*rows k"]) -> Float[Array, "*rows k"]:
    """Return the logits, of a dtype that TPUs know."""
    check_sizes("logits", logits, "mosaic_tpu")
    if logits.dtype == jnp.float64:
        raise NotImplementedError("logits: expected at most 32 bits for 'mosaic_tpu', got float64")
    return for_tpu(logits)


def for_tpu(x: Array) -> Array:
    """Return x, where a TPU or the interpreter in its place reads it."""
    if interpret.value:
        return x
    return only_on(x, "tpu", "implementation: expected a TPU for 'mosaic_tpu'")


def _statistics(rows: Rows, requested: Requested) -> RowStatistics:
    return finished(_sums(operands(rows, rows.logits.shape), requested), rows, rows.logits.shape)


def finished(sums: Sums, rows: Rows, shape: tuple[int, ...]) -> RowStatistics:
    """The statistics of rows whose logits have that shape, from their sums [1, n]."""
    *row_shape, k = shape
    sums = jax.tree.map(lambda x: x.reshape(row_shape), sums)
    shift = _finite(sums.top)
    label = sums.label
    if label is not None:
        label = over_temperature(label - shift, rows.scalars.temperature)
    stats = RowStatistics(
        shift=shift,
        log_sum=jnp.log(sums.sum_exp),
        label_logit=label,
        target=sums.target,
        uniform=sums.uniform,
        mean_logit=None if sums.weighted is None else sums.weighted / sums.sum_exp,
        predicted=sums.predicted,
    )
    if rows.mask.rows is not None:
        stats = zeros_where_masked(stats, rows.mask.rows, k)
    labels = rows.target.labels
    if labels is not None and stats.label_logit is not None:
        label = stats.label_logit + nan_unless(label_in_range(labels, k), stats.shift.dtype)
        stats = stats._replace(label_logit=label)
    return stats


def as_2d_float(x: Array | None, shape: tuple[int, int]) -> Any:
    """An array in two dimensions, in the float dtypes that every TPU knows."""
    if x is None:
        return None
    return (x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)).reshape(shape)


def operands(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """What a kernel reads of rows whose logits have that shape."""
    n, k = math.prod(shape[:-1]), shape[-1]
    labels, mask = rows.target.labels, rows.mask.classes
    if labels is not None:  # one of 64 bits that names no class must not wrap around to one
        labels = jnp.where(label_in_range(labels, k), labels, -1).astype(jnp.int32).reshape(1, n)
    if mask is not None:
        mask = flat_mask(mask, shape).astype(jnp.int8)
    return rows._replace(
        logits=as_2d_float(rows.logits, (n, k)),
        target=Target(labels, as_2d_float(rows.target.pmf, (n, k))),
        mask=Mask(rows=None, classes=mask),
        class_weights=as_2d_float(rows.class_weights, (1, k)),
        scalars=jax.tree.map(lambda x: as_2d_float(x, (1, 1)), rows.scalars),
    )


def _sums(rows: Rows, requested: Requested) -> Sums:
    """The sums over all classes, [1, n] each: on a TPU a column would take 128 times its size."""
    n, k = rows.logits.shape
    # The types of what the kernel makes, with the mesh axes that each varies over.
    types = jax.eval_shape(lambda rows: with_tile(no_sums(rows, requested), rows, 0, k), rows)
    out = jax.tree.map(lambda t: t.update(shape=(1, n)), types)
    if n == 0:
        return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), out)

    read = bytes_read(rows)
    bn, bk = tile_shape((n, k), Footprint(read, TEMPORARIES, len(jax.tree.leaves(out))))
    row_of_columns = pl.BlockSpec((1, bn), lambda i, j: (0, i))
    (sums,) = pl.pallas_call(
        partial(_kernel, num_classes=k, requested=requested),
        grid=(pl.cdiv(n, bn), pl.cdiv(k, bk)),
        in_specs=[tile_specs(rows, (bn, bk))],
        out_specs=[jax.tree.map(lambda _: row_of_columns, out)],
        out_shape=[out],
        scratch_shapes=[jax.tree.map(lambda t: pltpu.VMEM((bn, 1), t.dtype), out)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        # The compiler sees into no kernel: it plans what to do meanwhile by this.
        cost_estimate=pl.CostEstimate(
            flops=8 * n * k, transcendentals=n * k, bytes_accessed=n * k * read
        ),
        interpret=interpret.value,
        name="row_statistics",
    )(rows)
    return sums


def bytes_read(rows: Rows) -> int:
    """Of all arrays with an entry for each logit, per logit."""
    mask = rows.mask.classes
    shares_mask = mask is not None and mask.shape[0] == 1
    by_row = (rows.logits, rows.target.pmf, None if shares_mask else mask)
    return sum(x.dtype.itemsize for x in by_row if x is not None)


def tile_specs(rows: Rows, tile: tuple[int, int]) -> Rows:
    """What a grid of rows and classes reads of each array that is there."""
    (bn, bk), mask = tile, rows.mask.classes
    by_logit: Any = pl.BlockSpec((bn, bk), lambda i, j: (i, j))
    by_row: Any = pl.BlockSpec((1, bn), lambda i, j: (0, i))
    by_class: Any = pl.BlockSpec((1, bk), lambda i, j: (0, j))
    scalar: Any = pl.BlockSpec((1, 1), lambda i, j: (0, 0))
    shares_mask = mask is not None and mask.shape[0] == 1
    specs = Rows(
        logits=by_logit,
        target=Target(labels=by_row, pmf=by_logit),
        mask=Mask(rows=None, classes=by_class if shares_mask else by_logit),
        class_weights=by_class,
        scalars=Scalars(scalar, scalar),
    )
    there = partial(jax.tree.map, is_leaf=lambda x: x is None)
    return there(lambda x, spec: None if x is None else spec, rows, specs)


# Float32 arrays of a tile's shape alive at once: logits, exponentials, targets, one product.
TEMPORARIES = 4


def _kernel(rows: Any, out: Any, seen: Any, *, num_classes: int, requested: Requested) -> None:
    """One tile; `rows` and `out` are its arrays, `seen` the columns kept from tile to tile."""
    j = pl.program_id(1)
    add_tile(rows, out, seen, j, j == pl.num_programs(1) - 1, num_classes, requested)


def add_tile(
    rows: Any,
    out: Any,
    seen: Any,
    j: Int32[Array, ""],
    is_last: Bool[Array, ""],
    num_classes: int,
    requested: Requested,
) -> None:
    """Add block j of the classes to what is seen, and write that out after the last one."""
    tile = jax.tree.map(lambda ref: ref[...], rows)

    def write(refs: Any, values: Any) -> None:
        for ref, value in zip(jax.tree.leaves(refs), jax.tree.leaves(values), strict=True):
            ref[...] = value

    @pl.when(j == 0)
    def _() -> None:
        write(seen, no_sums(tile, requested))

    write(seen, with_tile(jax.tree.map(lambda ref: ref[...], seen), tile, j, num_classes))

    @pl.when(is_last)
    def _() -> None:
        write(out, jax.tree.map(lambda ref: as_row(ref[...]), seen))


# Both turn a whole square of lanes, the transposition that the hardware has.
def as_row(column: Shaped[Array, "n 1"]) -> Shaped[Array, "1 n"]:
    return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]


def as_column(row: Shaped[Array, "1 n"]) -> Shaped[Array, "n 1"]:
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]


def no_sums(rows: Rows, requested: Requested) -> Sums:
    """The sums over no class."""
    zeros = jnp.zeros((rows.logits.shape[0], 1), jnp.float32)
    return Sums(
        top=jnp.full_like(zeros, -jnp.inf),
        sum_exp=zeros,
        label=None if rows.target.labels is None else zeros,
        target=None if rows.target.pmf is None else InnerProduct(zeros, zeros),
        uniform=InnerProduct(zeros, zeros) if requested.uniform else None,
        weighted=zeros if requested.mean else None,
        predicted=zeros.astype(jnp.int32) if requested.predicted else None,
    )


def _finite(top: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """m: a row without a finite maximum keeps its infinities."""
    return jnp.where(jnp.isfinite(top), top, 0)


def adjusted_tile(
    rows: Rows, j: int | Int32[Array, ""], num_classes: int
) -> tuple[Rows, Float[Array, "n k"], Int32[Array, "n k"]]:
    """The rows of block j under the mask of classes that exist, their logits before temperature,
    and the places of those."""
    n, k = rows.logits.shape
    index = lax.broadcasted_iota(jnp.int32, (n, k), 1)
    mask = rows.mask.classes
    mask = None if mask is None else mask.astype(jnp.int32) != 0
    if num_classes % k:  # beyond the last class, memory holds anything
        exists = index < num_classes - j * k
        mask = exists if mask is None else mask & exists
    rows = rows._replace(mask=rows.mask._replace(classes=mask))
    return rows, adjusted_logits(rows), index


def with_tile(seen: Sums, rows: Rows, j: int | Int32[Array, ""], num_classes: int) -> Sums:
    """The sums over the classes seen and those of block j, which `rows` hold."""
    rows, a, index = adjusted_tile(rows, j, num_classes)
    k = a.shape[1]
    temperature, labels = rows.scalars.temperature, rows.target.labels
    best = jnp.max(a, 1, keepdims=True)
    top = jnp.maximum(seen.top, best)
    shift = _finite(top)
    above = divided(_finite(seen.top) - shift, temperature)
    scale = jnp.where(seen.top == -jnp.inf, 0, jnp.exp(above))  # else 0 * inf after tiles of -inf
    z = divided(a - shift, temperature)
    exp_z = jnp.exp(z)

    def moved(seen: InnerProduct, t: Float[Array, "#n k"]) -> InnerProduct:
        t = jnp.broadcast_to(t, z.shape)
        # A class without mass adds 0 also where its logit is -inf.
        dot = jnp.sum(jnp.where(t == 0, 0, t * z), 1, keepdims=True)
        dot += seen.dot + jnp.where(seen.total == 0, 0, seen.total * above)
        return InnerProduct(dot, seen.total + jnp.sum(t, 1, keepdims=True))

    label = target = uniform = weighted = predicted = None
    if seen.label is not None and labels is not None:
        is_label = index == as_column(labels) - j * k
        label = seen.label + jnp.sum(jnp.where(is_label, a, 0), 1, keepdims=True)
    if seen.target is not None:
        target = moved(seen.target, weighted_targets(rows))
    if seen.uniform is not None:
        uniform = moved(seen.uniform, uniform_targets(rows))
    if seen.weighted is not None:
        weighted = jnp.where(scale == 0, 0, scale * (seen.weighted + seen.sum_exp * above))
        weighted += jnp.sum(jnp.where(exp_z > 0, exp_z * z, 0), 1, keepdims=True)
    if seen.predicted is not None:
        at = jnp.where(a == best, index, k)
        predicted = jnp.where(
            best > seen.top, jnp.min(at, 1, keepdims=True) + j * k, seen.predicted
        )
    return Sums(
        top=top,
        sum_exp=scale * seen.sum_exp + jnp.sum(exp_z, 1, keepdims=True),
        label=label,
        target=target,
        uniform=uniform,
        weighted=weighted,
        predicted=predicted,
    )
