"""Row statistics of x @ kernel + bias by a Pallas kernel for TPUs.

A tile of logits is summed in VMEM over blocks of features and accumulated there, so that no array
of the logits' size is ever written.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Bool

from xentjax.ops.backends.contexts import interpret_for_tpu
from xentjax.ops.backends.mosaic_tpu.accumulate import (
    Accumulators,
    accumulate,
    accumulate_tile,
    finalize,
    init,
)
from xentjax.ops.backends.mosaic_tpu.linear_blocks import (
    COMPILER_PARAMS,
    BlockIndex,
    LayerShape,
    accumulate_features,
    clamp,
    cost,
    layer_specs,
    read_layer,
    row_blocks_to_visit,
    rows_specs,
    tile_sizes,
    whole_logits,
)
from xentjax.ops.layer import LinearRows
from xentjax.ops.rows import Layer, Requested, Rows, RowStatistics


def linear_statistics(linear: LinearRows, requested: Requested) -> RowStatistics:
    """Run the kernel and finalize."""
    layer, rows, whole = read_layer(linear)
    mask = linear.mask.rows
    acc = _accumulators(layer, rows, mask, whole, requested)
    if mask is not None:  # results of rows in skipped blocks are arbitrary
        acc = jax.tree.map(lambda x: jnp.where(mask[None], x, 0), acc)
    return finalize(acc, linear, whole[:2])


def _accumulators(
    layer: Layer,
    rows: Rows,
    row_mask: Bool[Array, " n"] | None,
    whole: LayerShape,
    requested: Requested,
) -> Accumulators:
    """Return the accumulators after all classes, [1, n] each.

    The grid goes through blocks of rows, of classes and, innermost, of features. `tile_sizes` says
    what is in VMEM; the number of blocks of rows to visit is a scalar in SMEM.
    """

    def accumulate_all(layer: Layer, rows: Rows) -> Accumulators:
        rows = rows._replace(logits=whole_logits(layer))
        return accumulate(init(rows, requested), rows, 0, whole.classes)

    types = jax.eval_shape(accumulate_all, layer, rows)
    out = jax.tree.map(lambda t: t.update(shape=(1, whole.rows)), types)
    if whole.rows == 0:
        return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), out)

    tile = tile_sizes(layer, rows, whole, len(jax.tree.leaves(out)))
    grid = tile.tiles_in(whole)

    def index(i: Any, j: Any, t: Any, to_visit: Any) -> BlockIndex:
        last = BlockIndex(to_visit[0] - 1, grid.classes - 1, grid.features - 1)
        return clamp(BlockIndex(i, j, t), last)

    row_of_columns = pl.BlockSpec((1, tile.rows), lambda *at: (0, index(*at).i))
    (acc,) = pl.pallas_call(
        partial(_kernel, whole=whole, grid=grid, requested=requested),
        grid_spec=pltpu.PrefetchScalarGridSpec(
            num_scalar_prefetch=1,
            grid=grid,
            in_specs=[layer_specs(layer, tile, index, index), rows_specs(rows, tile, index)],
            out_specs=[jax.tree.map(lambda _: row_of_columns, out)],
            scratch_shapes=[
                pltpu.VMEM((tile.rows, tile.classes), jnp.float32),
                jax.tree.map(lambda t: pltpu.VMEM((tile.rows, 1), t.dtype), out),
            ],
        ),
        out_shape=[out],
        compiler_params=COMPILER_PARAMS,
        cost_estimate=cost(layer, whole, grid, products=1),
        interpret=interpret_for_tpu.value,
        name="linear_row_statistics",
    )(row_blocks_to_visit(row_mask, tile, grid), layer, rows)
    return acc


def _kernel(
    to_visit: Any,
    layer: Layer,
    rows: Any,
    out: Any,
    logits: Any,
    acc: Any,
    *,
    whole: LayerShape,
    grid: LayerShape,
    requested: Requested,
) -> None:
    """Add a block of features to a tile of logits; after the last block, accumulate the tile."""
    i, j, t = map(pl.program_id, range(3))

    @pl.when(i < to_visit[0])
    def _() -> None:
        accumulate_features(layer, logits, t, whole)

        @pl.when(t == grid.features - 1)
        def _() -> None:
            tile = rows._replace(logits=logits)
            is_last = j == grid.classes - 1
            accumulate_tile(tile, out, acc, j, is_last, whole.classes, requested)
