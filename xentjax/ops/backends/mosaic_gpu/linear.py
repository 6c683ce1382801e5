"""Row statistics of x @ kernel + bias by a Pallas kernel for GPUs of the Hopper generation.

Two warpgroups multiply while a third one fetches. A tile of logits is summed in registers and
accumulated there. Each block writes three to six numbers per row for its classes, and `merge`
combines them in a fixed order, without locks. Two blocks with different rows share the part of the
kernel that they read.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Bool, Int32, Shaped

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.backends.contexts import interpret_for_gpu
from xentjax.ops.backends.mosaic_gpu.accumulate import (
    Accumulators,
    Tile,
    accumulate,
    capped_logits,
    finalize_parts,
    init,
)
from xentjax.ops.backends.mosaic_gpu.hardware import (
    check_supported,
    class_index,
    compiler_params,
    flat_scalars,
    for_gpu,
    generation,
    read_scalars,
    result_types,
    with_layout,
)
from xentjax.ops.backends.pallas import check_sizes, divided, finite, zeros_where_masked
from xentjax.ops.layer import LinearRows
from xentjax.ops.merge import ACROSS_FIRST_AXIS, merge
from xentjax.ops.rows import Layer, Requested, RowStatistics, label_in_range

_ROWS = 64
"""Rows of a warpgroup's tile, whose logits take 128 of a thread's 232 registers."""
_WARPGROUPS = 2
_CLASSES = 256
_FEATURES = 64
"""Features multiplied at a time, 128 bytes: the widest swizzle of shared memory."""
_STAGES = 4
"""Stages of x and kernel in shared memory, each with 48 of its 227 KiB."""
_CLUSTER = 2
"""Number of blocks that share the part of the kernel that they read."""
_SNAKE_WIDTH = 8
"""Clusters in a row of the snake, so that the 132 blocks of a wave form about a square."""
_ROWS_OF_8 = 8
"""Number of rows in a group; x consists of whole groups in shared and in global memory."""
_SWIZZLED = (plgpu.TilingTransform((_ROWS_OF_8, _FEATURES)), plgpu.SwizzleTransform(128))
_LAYOUT = plgpu.Layout.WGMMA


class _Grid(NamedTuple):
    """Division of rows and classes among blocks."""

    clusters: int
    """Number of clusters of blocks; each has its own rows."""
    blocks: int
    """Number of blocks in a cluster."""
    tiles: int
    """Number of tiles of classes."""

    @property
    def rows(self) -> int:
        """Number of rows that are computed, including padding."""
        return self.clusters * self.blocks * _WARPGROUPS * _ROWS


def linear_statistics(linear: LinearRows, requested: Requested) -> RowStatistics | None:
    """Run the kernel, merge and finalize; None for a layer that it does not support."""
    layer = linear.logits
    if not _supports(layer):
        return None
    check_supported(linear, requested)
    check_sizes("x", layer.x, "mosaic_gpu")
    linear = linear._replace(logits=layer._replace(x=for_gpu(layer.x)))
    (n, d), k = layer.x.shape, layer.shape[1]
    if d == 0:
        raise NotImplementedError("x: expected at least one feature for 'mosaic_gpu', got none")
    labels = linear.target.labels
    assert labels is not None  # a pmf is refused
    labels = jnp.where(label_in_range(labels, k), labels, -1).astype(jnp.int32)
    first_class = jnp.arange(0, k, _CLASSES, dtype=jnp.int32)[:, None]
    if n == 0:
        tiles = _empty((first_class.size, n), requested)
    else:
        tiles = _results_by_tile(linear, labels, requested)
    num_classes = jnp.minimum(k - first_class, _CLASSES).astype(jnp.float32)
    stats = finalize_parts(tiles.acc, num_classes)._replace(label_logit=tiles.label_logit)
    owns_label = labels[None] // _CLASSES == first_class // _CLASSES
    stats = merge(stats, first_class, owns_label, ACROSS_FIRST_AXIS, linear.scalars.temperature)
    stats = jax.tree.map(lambda x: x[0], stats)
    if linear.mask.rows is not None:
        stats = zeros_where_masked(stats, linear.mask.rows, k)
    assert stats.label_logit is not None
    return stats._replace(label_logit=stats.label_logit + nan_unless(labels >= 0, jnp.float32))


def _supports(layer: Layer) -> bool:
    """Whether x and kernel are of one half-precision dtype, on Hopper.

    Tensor cores would use only 10 fractional bits of float32 numbers, and later generations do not
    have these instructions.
    """
    half = layer.x.dtype == layer.kernel.dtype and layer.x.dtype in (jnp.bfloat16, jnp.float16)
    return half and generation() == 9


class _TileResults(NamedTuple):
    """Results for each row from one tile of classes."""

    acc: Accumulators
    label_logit: Array
    """a_y - m, or 0 where y is in another tile."""


def _empty(shape: tuple[int, ...], requested: Requested) -> _TileResults:
    return _TileResults(init(shape, requested), jnp.zeros(shape, jnp.float32))


def _grid(n: int, k: int) -> _Grid:
    row_blocks = -(-n // (_WARPGROUPS * _ROWS))
    blocks = min(_CLUSTER, row_blocks)
    return _Grid(-(-row_blocks // blocks), blocks, -(-k // _CLASSES))


def _results_by_tile(
    linear: LinearRows, labels: Int32[Array, " n"], requested: Requested
) -> _TileResults:
    """Return the results of each tile, [tiles, n].

    An array is copied if its size is not a multiple of 64 features or classes, or of 8 rows.

    In shared memory, for a block: `_STAGES` stages of 128 x 64 numbers of x and 64 x 256 of the
    kernel, half precision, which the pipeline allocates (192 KiB); for each of the two warpgroups a
    vector of 64 numbers of 32 bits for each result, through which it leaves, the bias of 256
    classes in float32 and 64 labels; a barrier for each warpgroup. In registers: a warpgroup's
    64 x 256 logits in float32.
    """
    (x, kernel, bias), (n, k) = linear.logits, linear.logits.shape
    grid = _grid(n, k)
    bias = jnp.zeros(k, jnp.float32) if bias is None else bias.astype(jnp.float32)
    scalars, structure = flat_scalars(linear.scalars)
    inputs = (
        _pad_to_multiple(x, _ROWS_OF_8, _FEATURES),
        _pad_to_multiple(kernel, _FEATURES, _FEATURES),
        _pad_to_multiple(bias, grid.tiles * _CLASSES),
        _pad_to_multiple(labels, grid.rows),
        _clusters_to_visit(linear.mask.rows, grid),
        *scalars,
    )
    make = partial(_empty, (grid.tiles, grid.rows), requested)
    out, tree = jax.tree.flatten(result_types(make, inputs))
    results = plgpu.kernel(
        partial(_kernel, structure=structure, k=k, grid=grid, requested=requested),
        out_type=out,
        scratch_types=[
            *(plgpu.SMEM((_WARPGROUPS, _ROWS), t.dtype) for t in out),
            plgpu.SMEM((_WARPGROUPS, _CLASSES), jnp.float32),
            plgpu.SMEM((_WARPGROUPS, _ROWS), jnp.int32),
            plgpu.Barrier(num_arrivals=2, num_barriers=_WARPGROUPS),
        ],
        grid=(grid.clusters * grid.tiles,),
        grid_names=("cluster",),
        cluster=(grid.blocks,),
        cluster_names=("block",),
        num_threads=_WARPGROUPS + 1,
        thread_name="warpgroup",
        compiler_params=compiler_params(linear.scalars),
        interpret=interpret_for_gpu.value,
    )(*inputs)
    return jax.tree.map(lambda x: x[:, :n], jax.tree.unflatten(tree, results))


def _pad_to_multiple(x: Shaped[Array, "..."], *multiples: int) -> Shaped[Array, "..."]:
    """Pad each axis with zeros."""
    return jnp.pad(x, [(0, -size % m) for size, m in zip(x.shape, multiples, strict=True)])


def _clusters_to_visit(row_mask: Bool[Array, " n"] | None, grid: _Grid) -> Int32[Array, "1"]:
    """Return the number of clusters up to the last one with a row that is kept."""
    if row_mask is None:
        return jnp.full(1, grid.clusters, jnp.int32)
    rows = jnp.arange(1, row_mask.shape[0] + 1, dtype=jnp.int32)
    last = jnp.max(jnp.where(row_mask, rows, 0), keepdims=True)
    return -(-last // (grid.rows // grid.clusters))


def _kernel(
    x: Any,
    kernel: Any,
    bias: Any,
    labels: Any,
    to_visit: Any,
    *refs: Any,
    structure: Any,
    k: int,
    grid: _Grid,
    requested: Requested,
) -> None:
    """Run one block, a tile of classes per warpgroup; `refs`: scalars, results, scratch memory."""
    adjust, (*columns, bias_smem, labels_smem, arrived) = read_scalars(refs, structure)
    out, staged = columns[: len(columns) // 2], columns[len(columns) // 2 :]
    cluster, tile = plgpu.planar_snake(
        lax.axis_index("cluster"), (grid.clusters, grid.tiles), 0, _SNAKE_WIDTH
    )
    warpgroup = lax.axis_index("warpgroup")
    first_row = (cluster * grid.blocks + lax.axis_index("block")) * (_WARPGROUPS * _ROWS)
    own_row = first_row + warpgroup * _ROWS
    first_class = tile * _CLASSES

    def multiply(_: Any, x: Any, kernel: Any, logits: Any) -> Any:
        plgpu.wgmma(logits, x.at[pl.ds(warpgroup * _ROWS, _ROWS)], kernel)
        plgpu.wgmma_wait(1)
        return logits

    def compute(pipeline: Any) -> None:
        """Multiply and accumulate, in two warpgroups, over all steps of the pipeline."""
        ready = arrived.at[warpgroup]
        own_bias, own_labels = bias_smem.at[warpgroup], labels_smem.at[warpgroup]
        plgpu.copy_gmem_to_smem(bias.at[pl.ds(first_class, _CLASSES)], own_bias, ready)
        plgpu.copy_gmem_to_smem(labels.at[pl.ds(own_row, _ROWS)], own_labels, ready)

        def product(logits: Any) -> Array:
            pipeline(logits)
            return logits[...]

        a = pl.run_scoped(product, plgpu.ACC((_ROWS, _CLASSES), jnp.float32))  # pyright: ignore[reportPrivateImportUsage]
        plgpu.barrier_wait(ready)
        a += _along(bias_smem[warpgroup], 1)
        index = class_index(a.shape, _LAYOUT)
        exists = index < k - first_class
        a = jnp.where(exists, capped_logits(a, adjust), -jnp.inf)
        nothing = jax.tree.map(lambda x: with_layout(x, _LAYOUT), init((_ROWS,), requested))
        here = Tile([a], [index], [exists], jnp.float32(0))
        acc = accumulate(nothing, here, adjust.temperature, _LAYOUT)
        is_label = index + first_class == _along(labels_smem[warpgroup], 0)
        z = divided(a - _along(finite(acc.running_max), 0), adjust.temperature)
        label_logit = jnp.sum(jnp.where(is_label, z, 0), axis=1)
        results = _TileResults(acc, label_logit)
        for ref, column in zip(staged, jax.tree.leaves(results), strict=True):
            ref[warpgroup] = column
        plgpu.commit_smem()
        for source, ref in zip(staged, out, strict=True):
            plgpu.copy_smem_to_gmem(source.at[warpgroup], ref.at[tile, pl.ds(own_row, _ROWS)])
        plgpu.wait_smem_to_gmem(0)

    steps = x.shape[1] // _FEATURES
    shared = ("block",) if grid.blocks > 1 else ()
    step = partial(plgpu.BlockSpec, transforms=_SWIZZLED, delay_release=1)
    pipeline = plgpu.emit_pipeline_warp_specialized(
        multiply,
        grid=(steps,),
        in_specs=[
            step((_WARPGROUPS * _ROWS, _FEATURES), lambda t: (0, t)),
            step((_FEATURES, _CLASSES), lambda t: (t, 0), collective_axes=shared),
        ],
        max_concurrent_steps=max(2, min(_STAGES, steps)),
        wg_axis="warpgroup",
        num_compute_wgs=_WARPGROUPS,
        memory_registers=40,
        compute_context=compute,
    )

    @pl.when(cluster < to_visit[0])
    def _() -> None:
        rows, classes = pl.ds(first_row, _WARPGROUPS * _ROWS), pl.ds(first_class, _CLASSES)
        pipeline(x.at[rows], kernel.at[:, classes])


def _along(x: Array, axis: int) -> Array:
    """Broadcast a number for each row (axis 0) or class (axis 1) over a tile."""
    if interpret_for_gpu.value is None:
        x = plgpu.layout_cast(x, _LAYOUT.reduce(1 - axis))
    return lax.broadcast_in_dim(x, (_ROWS, _CLASSES), (axis,))
