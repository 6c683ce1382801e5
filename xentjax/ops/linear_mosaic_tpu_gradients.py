"""Gradients of a linear layer's row statistics by Pallas kernels for TPUs, for reverse mode alone.

Each tile of logits is computed anew, once for the gradient of x and once for that of the kernel;
either adds up in VMEM and is written once. With the statistics that is 10 N D K operations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.derivative import with_moving
from xentjax.ops.layer import LinearRows, zero_masked_rows
from xentjax.ops.linear_mosaic_tpu import (
    COMPILER_PARAMS,
    Of,
    Place,
    Sizes,
    add_features,
    blocks_that_count,
    cost,
    existing,
    held,
    layer_specs,
    logits_of,
    product,
    read,
    rows_specs,
    tile_sizes,
)
from xentjax.ops.linear_xla import linear_row_statistics
from xentjax.ops.mosaic import divided
from xentjax.ops.mosaic_tpu import adjusted_tile, as_column, interpret
from xentjax.ops.rows import (
    Layer,
    Requested,
    Rows,
    RowStatistics,
    label_in_range,
    uniform_targets,
    weighted_targets,
)


def reverse_mode_statistics(
    linear: LinearRows, requested: Requested, max_bytes: int | None
) -> RowStatistics:
    """`linear_row_statistics` with the gradients of this module; no forward mode."""
    linear, requested = requested.taken_from(linear)
    return _statistics(linear, requested, max_bytes)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _statistics(linear: LinearRows, requested: Requested, max_bytes: int | None) -> RowStatistics:
    return linear_row_statistics(linear, requested, "mosaic_tpu", max_bytes)


def _forward(
    linear: LinearRows, requested: Requested, max_bytes: int | None
) -> tuple[RowStatistics, Any]:
    moving = jax.tree.map(lambda p: p.value if p.perturbed else None, linear, is_leaf=_is_primal)
    linear = jax.tree.map(lambda p: p.value, linear, is_leaf=_is_primal)
    stats = linear_row_statistics(linear, requested, "mosaic_tpu", max_bytes)
    return stats, (linear, stats, moving)


def _backward(
    requested: Requested, max_bytes: int | None, residuals: Any, d_stats: RowStatistics
) -> tuple[LinearRows]:
    linear, stats, moving = residuals
    # No statistic's derivative depends on the shift or on which class is the largest.
    d_stats = jax.tree.map(_instantiate_zeros, d_stats, is_leaf=_is_zero)
    d_stats = d_stats._replace(shift=jnp.zeros_like(stats.shift), predicted=None)
    layer = moving.logits
    others = moving._replace(logits=jax.tree.map(lambda _: None, layer))
    of_kernel = layer.kernel is not None or layer.bias is not None
    asked: dict[Of, bool] = {"x": layer.x is not None, "kernel": of_kernel}
    of = tuple(each for each in asked if asked[each])
    gradients = others
    if jax.tree.leaves(others):
        gradients = _by_xla(linear, others, d_stats, requested, max_bytes)
    d_layer = jax.tree.map(lambda _: None, layer)
    if of:
        d_layer = _layer_gradients(linear, stats, d_stats, of, requested, max_bytes)
    return (gradients._replace(logits=d_layer),)


_statistics.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_primal(x: Any) -> bool:
    return isinstance(x, CustomVJPPrimal)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _instantiate_zeros(x: Any) -> Array:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x


def _by_xla(
    linear: LinearRows,
    moving: LinearRows,
    d_stats: RowStatistics,
    requested: Requested,
    max_bytes: int | None,
) -> LinearRows:
    """The gradients in `moving` by the rule that every implementation shares."""

    def statistics(moving: LinearRows) -> RowStatistics:
        stats = linear_row_statistics(with_moving(linear, moving), requested, "xla", max_bytes)
        return stats._replace(predicted=None)

    _, pullback = jax.vjp(statistics, moving)
    return pullback(d_stats)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5))
def _layer_gradients(
    linear: LinearRows,
    stats: RowStatistics,
    d_stats: RowStatistics,
    of: tuple[Of, ...],
    requested: Requested,
    max_bytes: int | None,
) -> Layer:
    """The pullback of `d_stats` in x, or in kernel and bias, or in all; by the kernels."""
    del requested, max_bytes
    x, kernel, bias = linear.logits
    linear = linear._replace(logits=Layer(zero_masked_rows(x, linear), kernel, bias))
    layer, rows, whole = read(linear)
    if whole.rows == 0:
        return _asked(jax.tree.map(jnp.zeros_like, linear.logits), of)
    numbers = _numbers(linear, stats, d_stats)
    d_x = d_kernel = d_bias = None
    if "x" in of:
        gradient = _gradient(layer, rows, numbers, linear.mask.rows, whole, "x")
        d_x = zero_masked_rows(gradient.x, linear)
    if "kernel" in of:
        gradient = _gradient(layer, rows, numbers, linear.mask.rows, whole, "kernel")
        d_kernel = gradient.kernel
        if bias is not None and gradient.bias is not None:
            d_bias = gradient.bias[0].astype(bias.dtype)
    return Layer(d_x, d_kernel, d_bias)  # pyright: ignore[reportArgumentType]: None is not asked


@_layer_gradients.defjvp
def _(
    of: tuple[Of, ...], requested: Requested, max_bytes: int | None, primals: Any, tangents: Any
) -> tuple[Layer, Layer]:
    """Second derivatives are those of the shared rule, where the statistics follow the layer."""

    def by_xla(linear: LinearRows, d_stats: RowStatistics) -> Layer:
        moving = jax.tree.map(lambda _: None, linear)._replace(logits=linear.logits)
        return _asked(_by_xla(linear, moving, d_stats, requested, max_bytes).logits, of)

    (linear, _, d_stats), (d_linear, _, dd_stats) = primals, tangents
    _, moved = jax.jvp(by_xla, (linear, d_stats), (d_linear, dd_stats))
    return _layer_gradients(*primals, of, requested, max_bytes), moved


def _asked(gradients: Layer, of: tuple[Of, ...]) -> Layer:
    x, kernel, bias = gradients
    return Layer(x if "x" in of else None, *((kernel, bias) if "kernel" in of else (None, None)))


def _numbers(
    linear: LinearRows, stats: RowStatistics, d_stats: RowStatistics
) -> Float32[Array, "8 n"]:
    """What a row brings to the gradient of its logits, in the order of `_d_logits`."""
    zeros = jnp.zeros_like(stats.shift)

    def or_zeros(x: Array | None) -> Array:
        return zeros if x is None else x

    softmax, mean = d_stats.log_sum, or_zeros(d_stats.mean_logit)
    if stats.mean_logit is not None:
        softmax += mean * (1 - stats.mean_logit)
    nan_or_masked, labels = zeros, linear.target.labels
    if labels is not None:
        nan_or_masked = nan_unless(label_in_range(labels, linear.logits.shape[1]), zeros.dtype)
    if linear.mask.rows is not None:
        nan_or_masked = jnp.where(linear.mask.rows, nan_or_masked, 1)
    return jnp.stack(
        [
            stats.shift,
            stats.log_sum,
            softmax,
            mean,
            or_zeros(d_stats.label_logit),
            zeros if d_stats.target is None else d_stats.target.dot,
            zeros if d_stats.uniform is None else d_stats.uniform.dot,
            nan_or_masked,
        ]
    )


def _d_logits(
    rows: Rows, numbers: Float32[Array, "8 n"], j: Int32[Array, ""], num_classes: int
) -> Float32[Array, "n k"]:
    """The gradient of a tile of logits."""
    labels, scalars = rows.target.labels, rows.scalars
    rows, a, index = adjusted_tile(rows, j, num_classes)
    columns = numbers.T
    shift, log_sum, softmax, mean, label, target, uniform, nan_or_masked = (
        columns[:, c : c + 1] for c in range(8)
    )
    z = divided(a - shift, scalars.temperature)
    p = jnp.exp(z - log_sum)
    # 0 log 0 = 0: a class without probability has derivative 0, whatever its logit.
    d = p * (softmax + mean * jnp.where(p == 0, 0, z))
    if labels is not None:
        d += jnp.where(index == as_column(labels) - j * a.shape[1], label, 0)
    if rows.target.pmf is not None:
        d += target * weighted_targets(rows)
    d += uniform * uniform_targets(rows)
    if scalars.soft_cap is not None:
        slope = 1 - jnp.square(a / scalars.soft_cap)
        d *= jnp.where(a == -jnp.inf, 0, slope)
    if scalars.temperature is not None:
        d /= scalars.temperature
    if rows.mask.classes is not None:
        d = jnp.where(rows.mask.classes, d, 0)
    # A masked row (1) has gradient 0, a row with a bad label (NaN) is NaN throughout.
    return jnp.where(nan_or_masked == 0, d, jnp.where(nan_or_masked == 1, 0, nan_or_masked))


def _gradient(
    layer: Layer,
    rows: Rows,
    numbers: Float32[Array, "8 n"],
    row_mask: Bool[Array, " n"] | None,
    whole: Sizes,
    of: Of,
) -> Layer:
    """The gradient in x, or in kernel and bias."""
    tile = tile_sizes(layer, rows, whole, numbers.shape[0] + 1, of)
    grid = tile.tiles_in(whole)
    steps = 2 * grid.features

    def step(outer: Any, inner: Any, s: Any, count: Any) -> Place:
        i, j = (outer, inner) if of == "x" else (inner, outer)
        last_class = grid.classes - 1 if of == "x" else j
        return held(Place(i, j, s), Place(count[0] - 1, last_class, steps - 1))

    def place(*at: Any) -> Place:
        """Of what stays where the logits were finished."""
        i, j, s = step(*at)
        return Place(i, j, jnp.minimum(s, grid.features - 1))

    def place_again(*at: Any) -> Place:
        """Of what is read for the logits and, backwards, for the gradient."""
        i, j, s = step(*at)
        return Place(i, j, jnp.minimum(s, steps - 1 - s))

    def place_written(*at: Any) -> Place:
        """Of the gradient, which is not written before its last tile."""
        i, j, s = step(*at)
        is_last = j == grid.classes - 1 if of == "x" else i == at[3][0] - 1
        writes = is_last & (s >= grid.features)
        return Place(i, j, jnp.where(writes, steps - 1 - s, grid.features - 1))

    if of == "x":
        read_specs = layer_specs(layer, tile, place, place_again)
        gradient_shape, blocks = (tile.rows, tile.features), (grid.rows, grid.classes)
    else:
        read_specs = layer_specs(layer, tile, place_again, place)
        gradient_shape, blocks = (tile.features, tile.classes), (grid.classes, grid.rows)

    def gradient(layer: Layer, numbers: Array) -> Layer:
        d = logits_of(layer) + numbers[:1].T
        if of == "x":
            return Layer(product(d, layer.kernel, 1, 1).astype(layer.x.dtype), None, None)
        kernel = product(layer.x, d, 0, 0).astype(layer.kernel.dtype)
        return Layer(None, kernel, None if layer.bias is None else jnp.sum(d, 0, keepdims=True))

    out = jax.eval_shape(gradient, layer, numbers)
    every = layer_specs(layer, tile, place_written, place_written)
    specs = Layer(*(None if x is None else spec for x, spec in zip(out, every, strict=True)))
    same = layer.x.dtype == layer.kernel.dtype
    (result,) = pl.pallas_call(
        partial(_kernel, whole=whole, grid=grid, of=of),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(*blocks, steps),
            in_specs=[
                read_specs,
                rows_specs(rows, tile, place),
                pl.BlockSpec((numbers.shape[0], tile.rows), lambda *at: (0, place(*at).i)),
            ],
            out_specs=[specs],
            scratch_shapes=[
                pltpu.VMEM(tile[:2], jnp.float32),
                # Half-precision x and kernel multiply the gradient in half precision.
                pltpu.VMEM(tile[:2], layer.x.dtype if same else jnp.float32),
                pltpu.VMEM((grid.features, *gradient_shape), jnp.float32),
            ],
        ),
        out_shape=[out],
        compiler_params=COMPILER_PARAMS,
        cost_estimate=cost(layer, whole, grid, products=2),
        interpret=interpret.value,
        name=f"linear_gradient_{of}",
    )(blocks_that_count(row_mask, tile, grid), layer, rows, numbers)
    return result


def _kernel(
    count: Any,
    layer: Layer,
    rows: Any,
    numbers: Any,
    out: Layer,
    logits: Any,
    d_logits: Any,
    total: Any,
    *,
    whole: Sizes,
    grid: Sizes,
    of: Of,
) -> None:
    """A step: of a tile's logits, then, from the last block of features to the first, of `of`."""
    outer, inner, s = map(pl.program_id, range(3))
    i, j = (outer, inner) if of == "x" else (inner, outer)

    @pl.when((i < count[0]) & (s < grid.features))
    def _() -> None:
        add_features(layer, logits, s, whole)

    @pl.when((i < count[0]) & (s == grid.features - 1))
    def _() -> None:
        tile = jax.tree.map(lambda ref: ref[...], rows._replace(logits=logits))
        d = _d_logits(tile, numbers[...], j, whole.classes)
        d = existing(d, 0, i, whole.rows)
        d_logits[...] = d.astype(d_logits.dtype)
        if out.bias is not None:
            before = jnp.where(i == 0, 0, out.bias[...])
            out.bias[...] = before + jnp.sum(d, 0, keepdims=True)

    @pl.when((i < count[0]) & (s >= grid.features))
    def _() -> None:
        t = 2 * grid.features - 1 - s
        if of == "x":
            kernel = existing(layer.kernel[...], 1, j, whole.classes)
            new = product(d_logits[...], kernel, 1, 1)
            is_last = j == grid.classes - 1
        else:
            x = existing(layer.x[...], 0, i, whole.rows)
            new = product(x, d_logits[...], 0, 0)
            is_last = i == count[0] - 1
        new += jnp.where(inner == 0, 0, total[t])
        total[t] = new

        @pl.when(is_last)
        def _() -> None:
            written = getattr(out, of)
            written[...] = new.astype(written.dtype)
