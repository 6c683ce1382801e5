"""Row statistics of x @ kernel + bias by a Pallas kernel for TPUs.

A tile of logits adds up in VMEM over blocks of features and goes from there into the sums of
`mosaic_tpu`: nothing of the logits' size is ever written.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool, Float32, Int32

from xentjax.ops.layer import LinearRows
from xentjax.ops.mosaic import check_sizes
from xentjax.ops.mosaic_tpu import (
    TEMPORARIES,
    Sums,
    add_tile,
    as_2d_float,
    bytes_read,
    finished,
    for_tpu,
    interpret,
    no_sums,
    operands,
    tile_specs,
    with_tile,
)
from xentjax.ops.mosaic_tpu_blocks import ASKED_VMEM_BYTES, LANES, Footprint
from xentjax.ops.rows import Layer, Requested, Rows, RowStatistics

# More rows or classes would save no time: at 1024 a product does more than it reads.
_MOST_ROWS = _MOST_CLASSES = 1024
# More features in a block only take memory.
_MOST_FEATURES = 512

Of = Literal["x", "kernel"]


class Sizes(NamedTuple):
    """Of a tile, of the whole problem, or of a grid."""

    rows: int
    classes: int
    features: int

    def tiles_in(self, whole: "Sizes") -> "Sizes":
        return Sizes(*(-(-a // b) for a, b in zip(whole, self, strict=True)))


class Place(NamedTuple):
    """Of a step: which block of rows, classes and features it reads or writes."""

    i: Any
    j: Any
    t: Any


Places = Callable[..., Place]
"""The place at a point of the grid, given its coordinates and how many blocks of rows count."""


def makes_logits(linear: LinearRows) -> bool:
    """Of every layer; what the kernel cannot do it refuses."""
    del linear
    return True


def row_statistics(linear: LinearRows, requested: Requested) -> RowStatistics:
    """The kernel's sums, finished."""
    layer, rows, whole = read(linear)
    mask = linear.mask.rows
    sums = _sums(layer, rows, mask, whole, requested)
    if mask is not None:  # of blocks of rows that were left out, memory holds anything
        sums = jax.tree.map(lambda x: jnp.where(mask[None], x, 0), sums)
    return finished(sums, linear, whole[:2])


def read(linear: LinearRows) -> tuple[Layer, Rows, Sizes]:
    """What kernels read of a layer and its rows."""
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
    return layer, operands(linear._replace(logits=None), (n, k)), Sizes(n, k, d)


def _sums(
    layer: Layer, rows: Rows, row_mask: Bool[Array, " n"] | None, whole: Sizes, requested: Requested
) -> Sums:
    """The sums over all classes, [1, n] each."""

    def of_whole_rows(layer: Layer, rows: Rows) -> Sums:
        rows = rows._replace(logits=logits_of(layer))
        return with_tile(no_sums(rows, requested), rows, 0, whole.classes)

    types = jax.eval_shape(of_whole_rows, layer, rows)
    out = jax.tree.map(lambda t: t.update(shape=(1, whole.rows)), types)
    if whole.rows == 0:
        return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), out)

    tile = tile_sizes(layer, rows, whole, len(jax.tree.leaves(out)))
    grid = tile.tiles_in(whole)

    def place(i: Any, j: Any, t: Any, count: Any) -> Place:
        return held(Place(i, j, t), Place(count[0] - 1, grid.classes - 1, grid.features - 1))

    row_of_columns = pl.BlockSpec((1, tile.rows), lambda *at: (0, place(*at).i))
    (sums,) = pl.pallas_call(
        partial(_kernel, whole=whole, grid=grid, requested=requested),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[layer_specs(layer, tile, place, place), rows_specs(rows, tile, place)],
            out_specs=[jax.tree.map(lambda _: row_of_columns, out)],
            scratch_shapes=[
                pltpu.VMEM((tile.rows, tile.classes), jnp.float32),
                jax.tree.map(lambda t: pltpu.VMEM((tile.rows, 1), t.dtype), out),
            ],
        ),
        out_shape=[out],
        compiler_params=COMPILER_PARAMS,
        cost_estimate=cost(layer, whole, grid, products=1),
        interpret=interpret.value,
        name="linear_row_statistics",
    )(blocks_that_count(row_mask, tile, grid), layer, rows)
    return sums


COMPILER_PARAMS = pltpu.CompilerParams(
    dimension_semantics=("parallel", "arbitrary", "arbitrary"), vmem_limit_bytes=ASKED_VMEM_BYTES
)


def _kernel(
    count: Any,
    layer: Layer,
    rows: Any,
    out: Any,
    logits: Any,
    seen: Any,
    *,
    whole: Sizes,
    grid: Sizes,
    requested: Requested,
) -> None:
    """A step: a block of features of a tile of logits and, after the last one, the tile's sums."""
    i, j, t = map(pl.program_id, range(3))

    @pl.when(i < count[0])
    def _() -> None:
        add_features(layer, logits, t, whole)

        @pl.when(t == grid.features - 1)
        def _() -> None:
            tile = rows._replace(logits=logits)
            add_tile(tile, out, seen, j, j == grid.classes - 1, whole.classes, requested)


def add_features(layer: Layer, logits: Any, t: Int32[Array, ""], whole: Sizes) -> None:
    """Add block t of the features to a tile of logits, which begins as the bias."""

    @pl.when(t == 0)
    def _() -> None:
        start = jnp.float32(0) if layer.bias is None else layer.bias[...].astype(jnp.float32)
        logits[...] = jnp.broadcast_to(start, logits.shape)

    x = existing(layer.x[...], 1, t, whole.features)
    kernel = existing(layer.kernel[...], 0, t, whole.features)
    logits[...] += product(x, kernel, 1, 0)


def existing(x: Array, axis: int, block: Int32[Array, ""], total: int) -> Array:
    """A block with zeros for what lies beyond the end of an axis, where memory holds anything."""
    size = x.shape[axis]
    if total % size == 0:
        return x
    index = lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return jnp.where(index < total - block * size, x, jnp.zeros_like(x))


def product(a: Array, b: Array, axis_a: int, axis_b: int) -> Float32[Array, "m n"]:
    """The contraction of two axes, accumulated in float32."""
    if a.dtype != b.dtype:
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    contracted = (((axis_a,), (axis_b,)), ((), ()))
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def logits_of(layer: Layer) -> Float32[Array, "n k"]:
    """All of them; for their type alone."""
    a = product(layer.x, layer.kernel, 1, 0)
    return a if layer.bias is None else a + layer.bias.astype(jnp.float32)


def blocks_that_count(
    row_mask: Bool[Array, " n"] | None, tile: Sizes, grid: Sizes
) -> Int32[Array, "1"]:
    """How many blocks of rows there are up to the last one with a row that counts, at least 1."""
    if row_mask is None:
        return jnp.full(1, grid.rows, jnp.int32)
    rows = jnp.arange(row_mask.shape[0], dtype=jnp.int32)
    return jnp.max(jnp.where(row_mask, rows, 0), keepdims=True) // tile.rows + 1


def held(place: Place, last: Place) -> Place:
    """The place, or the last one where no row counts any more: nothing is read for those."""
    return Place(*(jnp.where(place.i > last.i, b, a) for a, b in zip(place, last, strict=True)))


def layer_specs(layer: Layer, tile: Sizes, of_x: Places, of_kernel: Places) -> Layer:
    """How x is read at one place of each step, kernel and bias at another."""
    x: Any = pl.BlockSpec((tile.rows, tile.features), lambda *at: (of_x(*at).i, of_x(*at).t))
    kernel: Any = pl.BlockSpec(
        (tile.features, tile.classes), lambda *at: (of_kernel(*at).t, of_kernel(*at).j)
    )
    bias: Any = pl.BlockSpec((1, tile.classes), lambda *at: (0, of_kernel(*at).j))
    return Layer(x, kernel, None if layer.bias is None else bias)


def rows_specs(rows: Rows, tile: Sizes, place: Places) -> Rows:
    """How what belongs to the rows is read."""

    def at_place(spec: Any) -> pl.BlockSpec:
        return pl.BlockSpec(spec.block_shape, lambda *at: spec.index_map(*place(*at)[:2]))

    specs = tile_specs(rows, tile[:2])
    return jax.tree.map(at_place, specs, is_leaf=lambda x: isinstance(x, pl.BlockSpec))


def tile_sizes(layer: Layer, rows: Rows, whole: Sizes, columns: int, of: Of | None = None) -> Sizes:
    """The tile that fits and reads the least for its work; for a gradient, which adds up there."""
    d = _feature_block(whole.features)
    # A tile of logits adds up beside the temporaries, and with a gradient that of the logits.
    temporaries = TEMPORARIES + (1 if of is None else 2)
    footprint = Footprint(bytes_read(rows), temporaries, columns)
    x_size, kernel_size = layer.x.dtype.itemsize, layer.kernel.dtype.itemsize

    def vmem_bytes(n: int, k: int) -> int:
        tiles = footprint.vmem_bytes(n, k) + 2 * d * (n * x_size + k * kernel_size)
        if of is None:
            return tiles
        side, size = (n, x_size) if of == "x" else (k, kernel_size)
        return tiles + side * (4 * -(-whole.features // d) * d + 2 * d * size)

    fitting = [
        Sizes(n, k, d)
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
    """All features, or a multiple of 128 that divides them if one is large enough."""
    if features <= _MOST_FEATURES:
        return features
    sizes = range(_MOST_FEATURES, _MOST_FEATURES // 2 - 1, -LANES)
    return next((size for size in sizes if features % size == 0), _MOST_FEATURES)


def cost(layer: Layer, whole: Sizes, grid: Sizes, products: int) -> pl.CostEstimate:
    """What the compiler, which sees into no kernel, plans by."""
    x_bytes = layer.x.size * layer.x.dtype.itemsize * grid.classes
    kernel_bytes = layer.kernel.size * layer.kernel.dtype.itemsize * grid.rows
    return pl.CostEstimate(
        flops=2 * products * math.prod(whole),
        transcendentals=whole.rows * whole.classes,
        bytes_accessed=products * (x_bytes + kernel_bytes),
    )
