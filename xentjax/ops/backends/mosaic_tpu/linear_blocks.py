"""Blocks of a linear layer: the parts that TPU kernels read at each step, and their products."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32

from xentjax.ops.backends.interface import Wrt
from xentjax.ops.backends.mosaic_tpu.accumulate import TEMPORARIES
from xentjax.ops.backends.mosaic_tpu.operands import (
    as_2d_float,
    bytes_read,
    for_tpu,
    operands,
    tile_specs,
)
from xentjax.ops.backends.mosaic_tpu.tiling import ASKED_VMEM_BYTES, LANES, Footprint
from xentjax.ops.backends.pallas import check_sizes
from xentjax.ops.layer import LinearRows
from xentjax.ops.rows import Layer, Rows

# More rows or classes would save no time: at 1024 a product takes longer than its reads.
_MOST_ROWS = _MOST_CLASSES = 1024
# Blocks of more features would only take more memory.
_MOST_FEATURES = 512

COMPILER_PARAMS = pltpu.CompilerParams(
    dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=ASKED_VMEM_BYTES
)


class LayerShape(NamedTuple):
    """Sizes of the whole problem or of a tile, or how many tiles a grid has."""

    rows: int
    classes: int
    features: int

    def tiles_in(self, whole: "LayerShape") -> "LayerShape":
        """Return the grid of such tiles that covers the whole."""
        return LayerShape(*(-(-a // b) for a, b in zip(whole, self, strict=True)))


class BlockIndex(NamedTuple):
    """The block of rows (i), classes (j) and features (t) that a step reads or writes."""

    i: Any
    j: Any
    t: Any


IndexMap = Callable[..., BlockIndex]
"""Block at a point of the grid, from its coordinates and the number of row blocks to visit."""


def read_layer(linear: LinearRows) -> tuple[Layer, Rows, LayerShape]:
    """Return the arrays of a layer and its rows that kernels read, and their sizes."""
    layer = linear.logits
    check_sizes("x", layer.x, "mosaic_tpu")
    for name, x in (("x", layer.x), ("kernel", layer.kernel)):
        if x.dtype not in (jnp.bfloat16, jnp.float32):
            expected = f"{name}: expected bfloat16 or float32 for 'mosaic_tpu'"
            raise NotImplementedError(f"{expected}, got {x.dtype}")
    (n, d), k = layer.x.shape, layer.shape[1]
    if d == 0:
        raise NotImplementedError("x: expected at least one feature for 'mosaic_tpu', got none")
    layer = Layer(for_tpu(layer.x), layer.kernel, as_2d_float(layer.bias, (1, k)))
    return layer, operands(linear._replace(logits=None), (n, k)), LayerShape(n, k, d)


def accumulate_features(layer: Layer, logits: Any, t: Int32[Array, ""], whole: LayerShape) -> None:
    """Add the product of feature block t to a tile of logits, which starts as the bias."""

    @pl.when(t == 0)
    def _() -> None:
        start = jnp.float32(0) if layer.bias is None else layer.bias[...].astype(jnp.float32)
        logits[...] = jnp.broadcast_to(start, logits.shape)

    x = zero_out_of_bounds(layer.x[...], 1, t, whole.features)
    kernel = zero_out_of_bounds(layer.kernel[...], 0, t, whole.features)
    logits[...] += product(x, kernel, 1, 0)


def zero_out_of_bounds(x: Array, axis: int, block: Int32[Array, ""], total: int) -> Array:
    """Set entries beyond the end of an axis, which are arbitrary, to zero."""
    size = x.shape[axis]
    if total % size == 0:
        return x
    index = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return jnp.where(index < total - block * size, x, jnp.zeros_like(x))


def product(a: Array, b: Array, axis_a: int, axis_b: int) -> Float32[Array, "m n"]:
    """Contract two axes, accumulating in float32."""
    if a.dtype != b.dtype:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    contracted = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def whole_logits(layer: Layer) -> Float32[Array, "n k"]:
    """Express the logits as one array; only its type is used, it is never computed."""
    a = product(layer.x, layer.kernel, 1, 0)
    return a if layer.bias is None else a + layer.bias.astype(jnp.float32)


def row_blocks_to_visit(
    row_mask: Bool[Array, " n"] | None, tile: LayerShape, grid: LayerShape
) -> Int32[Array, "1"]:
    """Return the number of blocks of rows up to the last one with a kept row, at least 1."""
    if row_mask is None:
        return jnp.full(1, grid.rows, jnp.int32)
    rows = jnp.arange(row_mask.shape[0], dtype=jnp.int32)
    return jnp.max(jnp.where(row_mask, rows, 0), keepdims=True) // tile.rows + 1


def clamp(index: BlockIndex, last: BlockIndex) -> BlockIndex:
    """Limit the index to the rows to visit, so that later steps read nothing new."""
    beyond = index.i > last.i
    return BlockIndex(*(jnp.where(beyond, b, a) for a, b in zip(index, last, strict=True)))


def layer_specs(
    layer: Layer, tile: LayerShape, index_of_x: IndexMap, index_of_kernel: IndexMap
) -> Layer:
    """Return the specs to read x at one block of each step, and kernel and bias at another."""

    def of_x(*at: Any) -> tuple[Any, Any]:
        index = index_of_x(*at)
        return index.i, index.t

    def of_kernel(*at: Any) -> tuple[Any, Any]:
        index = index_of_kernel(*at)
        return index.t, index.j

    x: Any = pl.BlockSpec((tile.rows, tile.features), of_x)
    kernel: Any = pl.BlockSpec((tile.features, tile.classes), of_kernel)
    bias: Any = pl.BlockSpec((1, tile.classes), lambda *at: (0, index_of_kernel(*at).j))
    return Layer(x, kernel, None if layer.bias is None else bias)


def rows_specs(rows: Rows, tile: LayerShape, index: IndexMap) -> Rows:
    """Return the specs to read target, mask, weights and scalars."""

    def at_index(spec: Any) -> pl.BlockSpec:
        return pl.BlockSpec(spec.block_shape, lambda *at: spec.index_map(*index(*at)[:2]))

    specs = tile_specs(rows, tile[:2])
    return jax.tree.map(at_index, specs, is_leaf=lambda x: isinstance(x, pl.BlockSpec))


def tile_sizes(
    layer: Layer, rows: Rows, whole: LayerShape, columns: int, wrt: Wrt | None = None
) -> LayerShape:
    """Choose the tile that fits and reads least per operation; `wrt` is for gradient kernels.

    In VMEM, for a tile of n rows, k classes and d features:

    - arrays with an entry for each logit, `TEMPORARIES` and `columns` as for logits in memory;
    - the tile of logits, n x k float32, and for a gradient also that of the logits' gradient;
    - blocks of x, n x d, and of the kernel, d x k, in their dtypes, twice each;
    - for a gradient, its float32 sum, n x D (x) or D x k (kernel), where D is the number of
      features padded to whole blocks, and one block of the result in its dtype, twice.
    """
    d = _feature_block(whole.features)
    footprint = Footprint(bytes_read(rows), TEMPORARIES + (1 if wrt is None else 2), columns)
    x_size, kernel_size = layer.x.dtype.itemsize, layer.kernel.dtype.itemsize

    def vmem_bytes(n: int, k: int) -> int:
        tiles = footprint.vmem_bytes(n, k) + 2 * d * (n * x_size + k * kernel_size)
        if wrt is None:
            return tiles
        side, size = (n, x_size) if wrt == "x" else (k, kernel_size)
        return tiles + side * (4 * -(-whole.features // d) * d + 2 * d * size)

    fitting = [
        LayerShape(n, k, d)
        for n in range(LANES, _up_to(whole.rows, _MOST_ROWS) + 1, LANES)
        for k in range(LANES, _up_to(whole.classes, _MOST_CLASSES) + 1, LANES)
        if vmem_bytes(n, k) <= ASKED_VMEM_BYTES
    ]
    if not fitting:
        raise NotImplementedError(
            f"x: expected rows of which {LANES} fit in {ASKED_VMEM_BYTES} bytes, got {whole}"
        )
    return max(fitting, key=lambda tile: tile.rows * tile.classes / (tile.rows + tile.classes))


def _up_to(size: int, most: int) -> int:
    return min(-(-size // LANES) * LANES, most)


def _feature_block(features: int) -> int:
    """Return all features, or a multiple of 128 that divides them if one is large enough."""
    if features <= _MOST_FEATURES:
        return features
    sizes = range(_MOST_FEATURES, _MOST_FEATURES // 2 - 1, -LANES)
    return next((size for size in sizes if features % size == 0), _MOST_FEATURES)


def cost(layer: Layer, whole: LayerShape, grid: LayerShape, products: int) -> pl.CostEstimate:
    """Return the cost estimate by which XLA schedules a kernel, whose inside it cannot see."""
    x_bytes = layer.x.size * layer.x.dtype.itemsize * grid.classes
    kernel_bytes = layer.kernel.size * layer.kernel.dtype.itemsize * grid.rows
    return pl.CostEstimate(
        flops=2 * products * math.prod(whole),
        transcendentals=whole.rows * whole.classes,
        bytes_accessed=products * (x_bytes + kernel_bytes),
    )
