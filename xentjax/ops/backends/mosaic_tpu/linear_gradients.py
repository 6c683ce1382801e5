"""Gradients of a linear layer's row statistics by Pallas kernels for TPUs.

Each tile of logits is computed again, once for the gradient of x and once for that of the kernel.
Each gradient is summed in VMEM and written once. Together with the statistics this takes 10 N D K
operations.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.backends.contexts import interpret_for_tpu
from xentjax.ops.backends.interface import Wrt
from xentjax.ops.backends.mosaic_tpu.accumulate import adjusted_tile, as_column
from xentjax.ops.backends.mosaic_tpu.linear_blocks import (
    COMPILER_PARAMS,
    BlockIndex,
    LayerShape,
    accumulate_features,
    clamp,
    cost,
    layer_specs,
    product,
    read_layer,
    row_blocks_to_visit,
    rows_specs,
    tile_sizes,
    whole_logits,
    zero_out_of_bounds,
)
from xentjax.ops.backends.pallas import divided
from xentjax.ops.layer import LinearRows, zero_masked_rows
from xentjax.ops.rows import (
    Layer,
    Rows,
    RowStatistics,
    label_in_range,
    uniform_targets,
    weighted_targets,
)


def layer_gradients(
    linear: LinearRows, stats: RowStatistics, d_stats: RowStatistics, wrt: tuple[Wrt, ...]
) -> Layer:
    """Pull `d_stats` back to the requested inputs of a layer with at least one row."""
    x, kernel, bias = linear.logits
    linear = linear._replace(logits=Layer(zero_masked_rows(x, linear), kernel, bias))
    layer, rows, whole = read_layer(linear)
    coefficients = _row_coefficients(linear, stats, d_stats)
    gradient = partial(_gradient, layer, rows, coefficients, linear.mask.rows, whole)
    d_x: Any = None
    d_kernel: Any = None
    d_bias: Any = None
    if "x" in wrt:
        d_x = zero_masked_rows(gradient("x").x, linear)
    if "kernel" in wrt:
        _, d_kernel, d_bias = gradient("kernel")
        d_bias = None if d_bias is None else d_bias[0].astype(bias.dtype)
    return Layer(d_x, d_kernel, d_bias)


def _row_coefficients(
    linear: LinearRows, stats: RowStatistics, d_stats: RowStatistics
) -> Float32[Array, "8 n"]:
    """Return the factors of each row in the gradient of its logits, in the order of `_d_logits`."""
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
    rows: Rows, coefficients: Float32[Array, "8 n"], j: Int32[Array, ""], num_classes: int
) -> Float32[Array, "n k"]:
    """Compute the gradient of a tile of logits."""
    labels, scalars = rows.target.labels, rows.scalars
    rows, a, index = adjusted_tile(rows, j, num_classes)
    columns = coefficients.T
    shift, log_sum, softmax, mean, label, target, uniform, nan_or_masked = (
        columns[:, c : c + 1] for c in range(8)
    )
    z = divided(a - shift, scalars.temperature)
    p = jnp.exp(z - log_sum)
    # Since 0 log 0 = 0, a class of probability 0 has derivative 0, whatever its logit.
    d = p * (softmax + mean * jnp.where(p == 0, 0, z))
    if labels is not None:
        d += jnp.where(index == as_column(labels) - j * a.shape[1], label, 0)
    if rows.target.pmf is not None:
        d += target * weighted_targets(rows)
    d += uniform * uniform_targets(rows)
    if scalars.soft_cap is not None:
        of_cap = 1 - jnp.square(a / scalars.soft_cap)  # the derivative of c tanh(x / c)
        d *= jnp.where(a == -jnp.inf, 0, of_cap)
    if scalars.temperature is not None:
        d /= scalars.temperature
    if rows.mask.classes is not None:
        d = jnp.where(rows.mask.classes, d, 0)
    # A masked row (1) has gradient 0, a row with a bad label (NaN) is NaN throughout.
    return jnp.where(nan_or_masked == 0, d, jnp.where(nan_or_masked == 1, 0, nan_or_masked))


def _gradient(
    layer: Layer,
    rows: Rows,
    coefficients: Float32[Array, "8 n"],
    row_mask: Bool[Array, " n"] | None,
    whole: LayerShape,
    wrt: Wrt,
) -> Layer:
    """Run the kernel for the gradient in x, or in kernel and bias.

    The outer axis of the grid is that of the gradient (rows for x, classes for the kernel), the
    next one is the other of the two. The inner one visits the features twice: forwards for the
    logits, backwards for the gradient. `tile_sizes` lists what is in VMEM; the number of blocks of
    rows to visit is a scalar in SMEM. Nine numbers per row, the coefficients and the label, are
    turned into columns.
    """
    tile = tile_sizes(layer, rows, whole, coefficients.shape[0] + 1, wrt)
    grid = tile.tiles_in(whole)
    steps = 2 * grid.features

    def step(outer: Any, inner: Any, s: Any, to_visit: Any) -> BlockIndex:
        i, j = (outer, inner) if wrt == "x" else (inner, outer)
        last_class = grid.classes - 1 if wrt == "x" else j
        return clamp(BlockIndex(i, j, s), BlockIndex(to_visit[0] - 1, last_class, steps - 1))

    def index(*at: Any) -> BlockIndex:
        """Return the block of inputs that stay in place once the tile's logits are complete."""
        i, j, s = step(*at)
        return BlockIndex(i, j, jnp.minimum(s, grid.features - 1))

    def index_again(*at: Any) -> BlockIndex:
        """Return the block that is read for the logits and, in reverse, for the gradient."""
        i, j, s = step(*at)
        return BlockIndex(i, j, jnp.minimum(s, steps - 1 - s))

    def index_written(*at: Any) -> BlockIndex:
        """Return the block of the gradient, which is written after its last tile."""
        i, j, s = step(*at)
        is_last = j == grid.classes - 1 if wrt == "x" else i == at[3][0] - 1
        writes = is_last & (s >= grid.features)
        return BlockIndex(i, j, jnp.where(writes, steps - 1 - s, grid.features - 1))

    if wrt == "x":
        read_specs = layer_specs(layer, tile, index, index_again)
        gradient_shape, blocks = (tile.rows, tile.features), (grid.rows, grid.classes)
    else:
        read_specs = layer_specs(layer, tile, index_again, index)
        gradient_shape, blocks = (tile.features, tile.classes), (grid.classes, grid.rows)

    def gradient(layer: Layer, coefficients: Array) -> Layer:
        """Trace the types of the results."""
        none: Any = None
        d = whole_logits(layer) + coefficients[:1].T
        if wrt == "x":
            return Layer(product(d, layer.kernel, 1, 1).astype(layer.x.dtype), none)
        kernel = product(layer.x, d, 0, 0).astype(layer.kernel.dtype)
        bias = None if layer.bias is None else jnp.sum(d, 0, keepdims=True)
        return Layer(none, kernel, bias)

    out = jax.eval_shape(gradient, layer, coefficients)
    every = layer_specs(layer, tile, index_written, index_written)
    there: Any = [None if x is None else spec for x, spec in zip(out, every, strict=True)]
    specs = Layer(*there)
    same = layer.x.dtype == layer.kernel.dtype
    (result,) = pl.pallas_call(
        partial(_kernel, whole=whole, grid=grid, wrt=wrt),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=(*blocks, steps),
            in_specs=[
                read_specs,
                rows_specs(rows, tile, index),
                pl.BlockSpec((coefficients.shape[0], tile.rows), lambda *at: (0, index(*at).i)),
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
        interpret=interpret_for_tpu.value,
        name=f"linear_gradient_{wrt}",
    )(row_blocks_to_visit(row_mask, tile, grid), layer, rows, coefficients)
    return result


def _kernel(
    to_visit: Any,
    layer: Layer,
    rows: Any,
    coefficients: Any,
    out: Layer,
    logits: Any,
    d_logits: Any,
    total: Any,
    *,
    whole: LayerShape,
    grid: LayerShape,
    wrt: Wrt,
) -> None:
    """Take a step of a tile's logits or, in reverse order of features, of its gradient."""
    outer, inner, s = map(pl.program_id, range(3))
    i, j = (outer, inner) if wrt == "x" else (inner, outer)

    @pl.when((i < to_visit[0]) & (s < grid.features))
    def _() -> None:
        accumulate_features(layer, logits, s, whole)

    @pl.when((i < to_visit[0]) & (s == grid.features - 1))
    def _() -> None:
        tile = jax.tree.map(lambda ref: ref[...], rows._replace(logits=logits))
        d = _d_logits(tile, coefficients[...], j, whole.classes)
        d = zero_out_of_bounds(d, 0, i, whole.rows)
        d_logits[...] = d.astype(d_logits.dtype)
        if out.bias is not None:
            before = jnp.where(i == 0, 0, out.bias[...])
            out.bias[...] = before + jnp.sum(d, 0, keepdims=True)

    @pl.when((i < to_visit[0]) & (s >= grid.features))
    def _() -> None:
        t = 2 * grid.features - 1 - s
        if wrt == "x":
            kernel = zero_out_of_bounds(layer.kernel[...], 1, j, whole.classes)
            new = product(d_logits[...], kernel, 1, 1)
            is_last = j == grid.classes - 1
        else:
            x = zero_out_of_bounds(layer.x[...], 0, i, whole.rows)
            new = product(x, d_logits[...], 0, 0)
            is_last = i == to_visit[0] - 1
        new += jnp.where(inner == 0, 0, total[t])
        total[t] = new

        @pl.when(is_last)
        def _() -> None:
            written = getattr(out, wrt)
            written[...] = new.astype(written.dtype)
