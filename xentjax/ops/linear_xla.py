"""Row statistics of the logits x @ kernel + bias, which exist one tile at a time.

Forward, a block of rows meets all classes at once or, if its logits would be too many, block after
block of them, merged by the monoid of `merge`. The derivative rule goes through blocks of classes
and inside them through blocks of rows: each tile of logits is computed anew, and each part of the
kernel and of its cotangent is visited once. Reverse mode is the transpose of that loop, so it
keeps the inputs and a few numbers a row.
"""

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int32, Integer

from xentjax._checks import fail
from xentjax._dtypes import compute_dtype
from xentjax.ops.blocks import Blocks, blocks, row_blocks, rows_of
from xentjax.ops.choice import Case, with_the_fastest
from xentjax.ops.merge import (
    OVER_FIRST_AXIS,
    AxisName,
    Part,
    added_by_part,
    merge,
    merge_tangents,
    over_devices,
    part_of,
)
from xentjax.ops.statistics import (
    Rows,
    RowStatistics,
    Wanted,
    moving_inputs,
    row_statistics,
    statistics_tangents,
    with_predicted,
)

T = TypeVar("T")


class LinearRows(NamedTuple):
    """`Rows` whose logits are x @ kernel + bias."""

    x: Float[Array, "n d"]
    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"] | None = None
    labels: Integer[Array, " n"] | None = None
    targets: Float[Array, "n k"] | None = None
    class_weights: Float[Array, " k"] | None = None
    class_mask: Bool[Array, "#n k"] | None = None
    row_mask: Bool[Array, " n"] | None = None
    soft_cap: Float[Array, ""] | None = None
    temperature: Float[Array, ""] | None = None


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def linear_row_statistics(
    linear: LinearRows, wanted: Wanted, max_bytes: int | None
) -> RowStatistics:
    """The statistics of each row; `max_bytes` is what the logits in memory may take."""

    @jax.custom_batching.custom_vmap
    def statistics(linear: LinearRows) -> RowStatistics:
        return _of_whole_rows(linear, wanted, max_bytes)

    @statistics.def_vmap
    def _(axis_size: int, in_batched: list[LinearRows], linear: LinearRows) -> tuple[Any, Any]:
        """A batch of rows with one kernel is more rows."""
        if _shares_layer(in_batched[0]):
            stats = statistics(_folded(linear, in_batched[0], axis_size))
            stats = jax.tree.map(lambda a: a.reshape(axis_size, -1), stats)
        else:
            axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[0])
            each = partial(_of_whole_rows, wanted=wanted, max_bytes=max_bytes)
            stats = jax.vmap(each, (axes,))(linear)
        return stats, jax.tree.map(lambda _: True, stats)

    return statistics(linear)


_OF_ROWS = ("x", "labels", "targets", "class_mask", "row_mask")


def _shares_layer(batched: LinearRows) -> bool:
    """Whether rows alone are batched."""
    return not any(b for name, b in batched._asdict().items() if b and name not in _OF_ROWS)


def _folded(linear: LinearRows, batched: LinearRows, size: int) -> LinearRows:
    """The batch of rows as one axis of rows."""

    def fold(name: str) -> Array | None:
        x = getattr(linear, name)
        if x is None or (name == "class_mask" and not getattr(batched, name) and x.shape[0] == 1):
            return x
        if not getattr(batched, name):
            x = jnp.broadcast_to(x[None], (size, *x.shape))
        if name == "class_mask":
            x = jnp.broadcast_to(x, (size, linear.x.shape[-2], x.shape[-1]))
        return x.reshape(-1, *x.shape[2:])

    return linear._replace(**{name: fold(name) for name in _OF_ROWS})


def _of_whole_rows(linear: LinearRows, wanted: Wanted, max_bytes: int | None) -> RowStatistics:
    """By a kernel that makes its logits itself, or by blocks of logits."""

    def by(linear: LinearRows, name: str) -> RowStatistics:
        named = wanted._replace(implementation=name)
        if name in ("mosaic_gpu", "mosaic_tpu"):
            kernel = importlib.import_module(f"xentjax.ops.linear_{name}")
            if kernel.makes_logits(linear):
                return kernel.row_statistics(linear, named)
        return _block_by_block(linear, named, max_bytes)

    if wanted.implementation is None:
        case = Case("linear", linear.x.dtype, linear.kernel.shape[1])
        return with_the_fastest(by, linear, case)
    return by(linear, wanted.implementation)


def _block_by_block(linear: LinearRows, wanted: Wanted, max_bytes: int | None) -> RowStatistics:
    rows, classes = _forward_blocks(linear, max_bytes)

    def statistics_of(i: Int32[Array, ""]) -> RowStatistics:
        block = rows_of(linear, rows, i)
        if classes.count == 1:
            return row_statistics(tile(block, classes, jnp.int32(0)).rows, **wanted._asdict())

        def statistics_of_classes(j: Int32[Array, ""]) -> tuple[RowStatistics, Array, Array | None]:
            part = tile(block, classes, j)
            stats = row_statistics(part.rows, **wanted.of_part()._asdict())
            return stats, part.first_class, part.counts_label

        stats, first_class, counts_label = lax.map(statistics_of_classes, classes.indices())
        merged = merge(
            stats, first_class[:, None], counts_label, OVER_FIRST_AXIS, linear.temperature
        )
        return jax.tree.map(lambda a: a[0], merged)

    stats = lax.map(partial(unless_masked, statistics_of, linear, rows), rows.indices())
    return jax.tree.map(rows.join, stats)


@partial(linear_row_statistics.defjvp, symbolic_zeros=True)
def _linear_row_statistics_jvp(
    wanted: Wanted, max_bytes: int | None, primals: tuple[LinearRows], tangents: tuple[LinearRows]
) -> tuple[RowStatistics, RowStatistics]:
    (linear,), (d_linear,) = primals, tangents
    stats = linear_row_statistics(linear, wanted, max_bytes)
    d_stats = _tangents(linear, stats, moving_inputs(d_linear), max_bytes)
    return stats, with_predicted(d_stats, stats)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def merged_linear_statistics(
    linear: LinearRows,
    first_class: Integer[Array, ""],
    counts_label: Bool[Array, " n"] | None,
    axis_name: AxisName,
    wanted: Wanted,
    max_bytes: int | None,
) -> RowStatistics:
    """The statistics of whole rows, of which each device of the axis has the kernel of a part."""
    stats = linear_row_statistics(linear, wanted.of_part(), max_bytes)
    return merge(stats, first_class, counts_label, over_devices(axis_name), linear.temperature)


@partial(merged_linear_statistics.defjvp, symbolic_zeros=True)
def _merged_linear_statistics_jvp(
    axis_name: AxisName,
    wanted: Wanted,
    max_bytes: int | None,
    primals: tuple[LinearRows, Array, Array | None],
    tangents: tuple[LinearRows, Any, Any],
) -> tuple[RowStatistics, RowStatistics]:
    linear, first_class, counts_label = primals
    stats = merged_linear_statistics(
        linear, first_class, counts_label, axis_name, wanted, max_bytes
    )
    d_stats = _tangents(linear, stats, moving_inputs(tangents[0]), max_bytes)
    d_stats = merge_tangents(d_stats, counts_label, over_devices(axis_name))
    return stats, with_predicted(d_stats, stats)


def _tangents(
    linear: LinearRows, stats: RowStatistics, d_linear: LinearRows, max_bytes: int | None
) -> RowStatistics:
    """The derivative of each statistic along `d_linear`, linear in it; None does not move."""
    rows, classes = _backward_blocks(linear, max_bytes)
    stats = stats._replace(predicted=None)
    # The cotangents of x and kernel are sums over blocks, in float32 or better.
    dtype = accumulator_dtype(linear)
    d_linear = d_linear._replace(
        x=None if d_linear.x is None else d_linear.x.astype(dtype),
        kernel=None if d_linear.kernel is None else d_linear.kernel.astype(dtype),
    )

    def tangents_of(j: Int32[Array, ""]) -> RowStatistics:
        block, d_block = classes_of(linear, classes, j), classes_of(d_linear, classes, j)

        @partial(jax.checkpoint, prevent_cse=False)
        def tangents_of_rows(i: Int32[Array, ""]) -> RowStatistics:
            here, d_here = rows_of(block, rows, i), rows_of(d_block, rows, i)
            part = _part(here, logits(here), classes, j)
            d_rows = rows_with(d_here, _d_logits(here, d_here))
            d_stats = statistics_tangents(part.rows, _at_rows(stats, rows, i), d_rows)
            return added_by_part(d_stats, part.counts_label)._replace(shift=None)

        d_stats = lax.map(partial(unless_masked, tangents_of_rows, linear, rows), rows.indices())
        return jax.tree.map(rows.join, d_stats)

    @partial(jax.checkpoint, prevent_cse=False)
    def add_classes(total: RowStatistics, j: Int32[Array, ""]) -> tuple[RowStatistics, None]:
        return jax.tree.map(jnp.add, total, tangents_of(j)), None

    if classes.count == 1:
        d_stats = tangents_of(jnp.int32(0))
    else:
        zeros = _zeros_of(tangents_of, linear, jnp.int32(0))
        d_stats, _ = lax.scan(add_classes, zeros, classes.indices())
    return d_stats._replace(shift=jnp.zeros_like(stats.shift))


def unless_masked(
    function: Callable[[Array], T], linear: LinearRows, rows: Blocks, i: Int32[Array, ""]
) -> T:
    """`function(i)`, or zeros without the work where no row of block i counts."""
    if linear.row_mask is None:
        return function(i)

    # Both branches have to vary over the same mesh axes, whatever each result depends on.
    def work(i: Int32[Array, ""]) -> T:
        return jax.tree.map(lambda a: a + _zero(linear, a.dtype), function(i))

    counts = any_of_the_batch(rows.slice(linear.row_mask, i, 0))
    return lax.cond(counts, work, partial(_zeros_of, function, linear), i)


@jax.custom_batching.custom_vmap
def any_of_the_batch(mask: Bool[Array, " n"]) -> Bool[Array, ""]:
    """Return whether any row counts, under vmap any row of the whole batch.

    So the predicate of a cond is never batched: a batched one would run both branches, and could
    not be transposed (jax-ml/jax#39219).
    """
    return jnp.any(mask)


@any_of_the_batch.def_vmap
def _(axis_size: int, in_batched: list[bool], mask: Bool[Array, "b n"]) -> tuple[Array, bool]:
    del axis_size, in_batched
    return any_of_the_batch(mask.reshape(-1)), False


def _zeros_of(function: Callable[[Array], T], linear: LinearRows, i: Int32[Array, ""]) -> T:
    """Zeros like `function(i)`, varying over all mesh axes that the layer does."""
    shapes = jax.eval_shape(function, i)
    return jax.tree.map(lambda s: jnp.broadcast_to(_zero(linear, s.dtype), s.shape), shapes)


def _zero(linear: LinearRows, dtype: DTypeLike) -> Float[Array, ""] | Integer[Array, ""]:
    """0, varying over the mesh axes of x and kernel."""
    both = jnp.sum(linear.x[:1, :1]).astype(dtype) * jnp.sum(linear.kernel[:1, :1]).astype(dtype)
    return jnp.zeros_like(both)


def tile(block: LinearRows, classes: Blocks, j: Int32[Array, ""]) -> Part:
    """The logits of some rows at block j of the classes, with what belongs to them."""
    here = classes_of(block, classes, j)
    return _part(here, logits(here), classes, j)


def classes_of(linear: LinearRows, classes: Blocks, j: Int32[Array, ""]) -> LinearRows:
    """Block j of the classes."""

    def cut(x: Array | None) -> Array | None:
        return None if x is None else classes.slice(x, j, x.ndim - 1)

    return linear._replace(
        kernel=cut(linear.kernel),
        bias=cut(linear.bias),
        targets=cut(linear.targets),
        class_weights=cut(linear.class_weights),
        class_mask=cut(linear.class_mask),
    )


def _at_rows(stats: RowStatistics, rows: Blocks, i: Int32[Array, ""]) -> RowStatistics:
    return jax.tree.map(lambda x: rows.slice(x, i, 0), stats)


def _part(here: LinearRows, a: Float[Array, "n k"], classes: Blocks, j: Int32[Array, ""]) -> Part:
    rows = rows_with(here, a)
    if classes.count == 1:
        return Part(rows, jnp.int32(0), None)
    new = classes.first_visit(j)
    if new is not None:
        mask = new[None] if rows.class_mask is None else rows.class_mask & new[None]
        rows = rows._replace(class_mask=mask)
    return part_of(rows, classes.start(j), classes.total, j * classes.size)


def rows_with(linear: LinearRows, a: Float[Array, "n k"] | None) -> Rows:
    return Rows(
        a,  # pyright: ignore[reportArgumentType]: None for logits that do not move
        linear.labels,
        linear.targets,
        linear.class_weights,
        linear.class_mask,
        linear.row_mask,
        linear.soft_cap,
        linear.temperature,
    )


def logits(linear: LinearRows) -> Float[Array, "n k"]:
    """x @ kernel + bias in float32 or 64; rows that do not count are those of x = 0."""
    a = matmul(kept(linear.x, linear), linear.kernel, linear)
    return a if linear.bias is None else a + linear.bias.astype(a.dtype)[None]


def _d_logits(linear: LinearRows, d_linear: LinearRows) -> Float[Array, "n k"] | None:
    """The derivative of `logits` along those inputs that move."""
    terms = []
    if d_linear.x is not None:
        terms.append(matmul(kept(d_linear.x, linear), linear.kernel, linear))
    if d_linear.kernel is not None:
        terms.append(matmul(kept(linear.x, linear), d_linear.kernel, linear))
    if d_linear.bias is not None:
        d_bias = d_linear.bias.astype(accumulator_dtype(linear))
        terms.append(jnp.broadcast_to(d_bias, (linear.x.shape[0], d_bias.shape[0])))
    return sum(terms[1:], terms[0]) if terms else None


def kept(x: Float[Array, "n d"], linear: LinearRows) -> Float[Array, "n d"]:
    """x with zeros in the rows that do not count: their NaN must not reach a product."""
    return x if linear.row_mask is None else jnp.where(linear.row_mask[:, None], x, 0)


_HALF_PRECISION = {
    jnp.dtype(jnp.bfloat16): lax.DotAlgorithmPreset.BF16_BF16_F32,
    jnp.dtype(jnp.float16): lax.DotAlgorithmPreset.F16_F16_F32,
}


def matmul(a: Array, b: Array, linear: LinearRows) -> Array:
    """a @ b, accumulated and returned in float32 or 64.

    Half-precision x and kernel multiply in half precision, and so do, named by the algorithm
    rather than by a cast, their float32 tangents and the cotangent of the result.
    """
    dtype, half = accumulator_dtype(linear), linear.x.dtype
    if a.dtype == b.dtype and a.dtype != dtype:
        return jnp.matmul(a, b, preferred_element_type=dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    if half != linear.kernel.dtype or half not in _HALF_PRECISION:
        return jnp.matmul(a, b)
    # The CPU multiplies in float32 whatever it is told, and does not take every name.
    named = partial(jnp.matmul, precision=_HALF_PRECISION[half])
    return lax.platform_dependent(a, b, cpu=jnp.matmul, default=named)


def accumulator_dtype(linear: LinearRows) -> DTypeLike:
    """The dtype of logits and of sums over blocks: float32 or 64."""
    return compute_dtype(linear.x.dtype, linear.kernel.dtype)


def numbers_in(max_bytes: int | None, linear: LinearRows, share: int) -> int:
    """How many logits may be in memory: by default one in `share`, in 16 MiB to 256 MiB."""
    size = jnp.dtype(accumulator_dtype(linear)).itemsize
    if max_bytes is None:
        whole = linear.x.shape[0] * linear.kernel.shape[1] * size
        max_bytes = min(max(whole // share, 2**24), 2**28)
    return max_bytes // size


# The fewest rows a matrix product wants at a time: below, it reads the kernel more than it
# computes (at 64 rows 70 % of the GFLOP/s at 256; 2 cores, float32).
_FEWEST_ROWS = 128


def _forward_blocks(linear: LinearRows, max_bytes: int | None) -> tuple[Blocks, Blocks]:
    """All classes of as many rows as may be, or of the fewest rows as many classes."""
    (n, d), k = linear.x.shape, linear.kernel.shape[1]
    if is_symbolic_dim(n):
        return _blocks_of_symbolic_rows(linear, max_bytes, share=10)
    numbers = numbers_in(max_bytes, linear, share=10)
    fewest = min(n, _FEWEST_ROWS)
    if numbers >= fewest * k:
        return row_blocks(n, numbers // k), blocks(k, k)
    # A block of classes is also a copy of its part of the kernel.
    return row_blocks(n, fewest), blocks(k, numbers // (fewest + d))


def _blocks_of_symbolic_rows(
    linear: LinearRows, max_bytes: int | None, share: int
) -> tuple[Blocks, Blocks]:
    """Return one block of rows, whose number is unknown, and blocks of one class in `share`."""
    if max_bytes is not None:
        fail("max_bytes", "None with a symbolic number of rows", max_bytes)
    n, k = linear.x.shape[0], linear.kernel.shape[1]
    return blocks(n, n), blocks(k, max(k // share, _FEWEST_ROWS))


def _backward_blocks(linear: LinearRows, max_bytes: int | None) -> tuple[Blocks, Blocks]:
    """Square tiles, which read and write the least for their work; less square at an edge.

    A tile of r rows and c classes takes two arrays of r c numbers, five of r d and five of c d.
    """
    (n, d), k = linear.x.shape, linear.kernel.shape[1]
    if is_symbolic_dim(n):
        return _blocks_of_symbolic_rows(linear, max_bytes, share=8)
    numbers = numbers_in(max_bytes, linear, share=4)
    side = int(math.sqrt((2.5 * d) ** 2 + numbers / 2) - 2.5 * d)
    rows = classes = side
    if side > k:
        rows = (numbers - 5 * k * d) // (2 * k + 5 * d)
    elif side > n:
        classes = (numbers - 5 * n * d) // (2 * n + 5 * d)
    if linear.row_mask is not None:
        # Small blocks of rows, some of which may have none that counts.
        rows = min(rows, max(4 * _FEWEST_ROWS, n // 16))
    return row_blocks(n, rows), blocks(k, classes)
