"""Row statistics of x @ kernel + bias by a Pallas kernel for GPUs of the Hopper generation.

Two warpgroups multiply while a third one fetches: a tile of logits adds up in registers and goes
from there into the sums of `mosaic_gpu`. A block writes three to six numbers a row for its classes,
and `merge` finishes, in one order, without locks. Two blocks with different rows share what they
read of the kernel.
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
from xentjax.ops.layer import LinearRows
from xentjax.ops.merge import ACROSS_FIRST_AXIS, merge
from xentjax.ops.mosaic import check_sizes, divided, zeros_where_masked
from xentjax.ops.mosaic_gpu import check_supported, compiler_params, for_gpu, generation, types_of
from xentjax.ops.mosaic_gpu_sums import (
    Sums,
    Tile,
    capped,
    class_index,
    finite,
    interpret,
    laid_out,
    no_sums,
    of_parts,
    read_scalars,
    with_tile,
)
from xentjax.ops.rows import Requested, RowStatistics, label_in_range

_ROWS = 64
"""Of a warpgroup's tile: its logits are 128 of the 232 registers that a thread can have."""
_WARPGROUPS = 2
_CLASSES = 256
_FEATURES = 64
"""At a time, which is 128 bytes: the widest swizzle of shared memory."""
_STAGES = 4
"""Features of x and kernel in shared memory, 48 KiB each of 227."""
_CLUSTER = 2
"""Blocks that share what they read of the kernel."""
_SIDE_BY_SIDE = 8
"""Clusters with the same classes: what runs at a time, 132 blocks, is about a square of logits."""
_ROWS_OF_8 = 8
"""Shared memory holds x as such groups of rows, and memory has to have whole ones."""
_SWIZZLED = (plgpu.TilingTransform((_ROWS_OF_8, _FEATURES)), plgpu.SwizzleTransform(128))
_LAYOUT = plgpu.Layout.WGMMA


class _Grid(NamedTuple):
    """Who computes what."""

    clusters: int
    """Of blocks; each has rows of its own."""
    blocks: int
    """Of a cluster."""
    tiles: int
    """Of classes."""

    @property
    def rows(self) -> int:
        """That are computed, some of which do not exist."""
        return self.clusters * self.blocks * _WARPGROUPS * _ROWS


def makes_logits(linear: LinearRows) -> bool:
    """Of half precision, on Hopper; the logits of other layers are XLA's.

    Of float32 the tensor cores would read 10 bits behind the point, and later generations have
    none of these instructions.
    """
    x, kernel, _ = linear.logits
    half = x.dtype == kernel.dtype and x.dtype in (jnp.bfloat16, jnp.float16)
    return half and generation() == 9


def row_statistics(linear: LinearRows, requested: Requested) -> RowStatistics:
    """The kernel's sums, merged and finished; x and kernel are of one half-precision dtype."""
    check_supported(linear, requested)
    layer = linear.logits
    check_sizes("x", layer.x, "mosaic_gpu")
    linear = linear._replace(logits=layer._replace(x=for_gpu(layer.x)))
    (n, d), k = layer.x.shape, layer.shape[1]
    if d == 0:
        raise NotImplementedError("x: expected at least one feature for 'mosaic_gpu', got none")
    labels = linear.target.labels
    assert labels is not None  # or a pmf, which is refused
    labels = jnp.where(label_in_range(labels, k), labels, -1).astype(jnp.int32)
    first_class = jnp.arange(0, k, _CLASSES, dtype=jnp.int32)[:, None]
    if n == 0:
        sums = _no_sums((first_class.size, n), requested)
    else:
        sums = _sums_of_tiles(linear, labels, requested)
    stats = of_parts(sums.of_classes, jnp.minimum(k - first_class, _CLASSES).astype(jnp.float32))
    stats = stats._replace(label_logit=sums.label_logit)
    owns_label = labels[None] // _CLASSES == first_class // _CLASSES
    stats = merge(stats, first_class, owns_label, ACROSS_FIRST_AXIS, linear.scalars.temperature)
    stats = jax.tree.map(lambda x: x[0], stats)
    if linear.mask.rows is not None:
        stats = zeros_where_masked(stats, linear.mask.rows, k)
    assert stats.label_logit is not None
    return stats._replace(label_logit=stats.label_logit + nan_unless(labels >= 0, jnp.float32))


class _TileSums(NamedTuple):
    """What a tile of classes knows of each row."""

    of_classes: Sums
    label_logit: Array
    """a_y - m, or 0 where y is in another tile."""


def _no_sums(shape: tuple[int, ...], requested: Requested) -> _TileSums:
    return _TileSums(no_sums(shape, requested), jnp.zeros(shape, jnp.float32))


def _grid(n: int, k: int) -> _Grid:
    row_blocks = -(-n // (_WARPGROUPS * _ROWS))
    blocks = min(_CLUSTER, row_blocks)
    return _Grid(-(-row_blocks // blocks), blocks, -(-k // _CLASSES))


def _sums_of_tiles(
    linear: LinearRows, labels: Int32[Array, " n"], requested: Requested
) -> _TileSums:
    """The sums over each tile, [tiles, n].

    An array is copied where its size is no multiple of 64 features or classes, or of 8 rows.
    """
    (x, kernel, bias), (n, k) = linear.logits, linear.logits.shape
    grid = _grid(n, k)
    bias = jnp.zeros(k, jnp.float32) if bias is None else bias.astype(jnp.float32)
    scalars, names = jax.tree.flatten(jax.tree.map(lambda x: x.reshape(1), linear.scalars))
    inputs = (
        _filled_up(x, _ROWS_OF_8, _FEATURES),
        _filled_up(kernel, _FEATURES, _FEATURES),
        _filled_up(bias, grid.tiles * _CLASSES),
        _filled_up(labels, grid.rows),
        _clusters_that_count(linear.mask.rows, grid),
        *scalars,
    )
    make = partial(_no_sums, (grid.tiles, grid.rows), requested)
    out, tree = jax.tree.flatten(types_of(make, inputs))
    sums = plgpu.kernel(
        partial(_kernel, scalars=names, k=k, grid=grid, requested=requested),
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
        interpret=interpret.value,
    )(*inputs)
    return jax.tree.map(lambda x: x[:, :n], jax.tree.unflatten(tree, sums))


def _filled_up(x: Shaped[Array, "..."], *multiples: int) -> Shaped[Array, "..."]:
    """x with zeros after its end on each axis, up to a multiple."""
    return jnp.pad(x, [(0, -size % m) for size, m in zip(x.shape, multiples, strict=True)])


def _clusters_that_count(row_mask: Bool[Array, " n"] | None, grid: _Grid) -> Int32[Array, "1"]:
    """How many there are up to the last one with a row that counts."""
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
    count: Any,
    *refs: Any,
    scalars: Any,
    k: int,
    grid: _Grid,
    requested: Requested,
) -> None:
    """One block: a tile of classes for each warpgroup's rows; `refs` are scalars, sums, scratch."""
    adjust, (*columns, bias_smem, labels_smem, arrived) = read_scalars(refs, scalars)
    out, staged = columns[: len(columns) // 2], columns[len(columns) // 2 :]
    cluster, tile = plgpu.planar_snake(
        lax.axis_index("cluster"), (grid.clusters, grid.tiles), 0, _SIDE_BY_SIDE
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
        """By the warpgroups that multiply, around all steps."""
        here = bias_smem.at[warpgroup], labels_smem.at[warpgroup]
        ready = arrived.at[warpgroup]
        plgpu.copy_gmem_to_smem(bias.at[pl.ds(first_class, _CLASSES)], here[0], ready)
        plgpu.copy_gmem_to_smem(labels.at[pl.ds(own_row, _ROWS)], here[1], ready)

        def product(logits: Any) -> Array:
            pipeline(logits)
            return logits[...]

        a = pl.run_scoped(product, plgpu.ACC((_ROWS, _CLASSES), jnp.float32))  # pyright: ignore[reportPrivateImportUsage]
        plgpu.barrier_wait(ready)
        a += _along(bias_smem[warpgroup], 1)
        index = class_index(a.shape, _LAYOUT)
        exists = index < k - first_class
        a = jnp.where(exists, capped(a, adjust), -jnp.inf)
        nothing = jax.tree.map(lambda x: laid_out(x, _LAYOUT), no_sums((_ROWS,), requested))
        tile_sums = Tile([a], [index], [exists], jnp.float32(0))
        sums = with_tile(nothing, tile_sums, adjust.temperature, _LAYOUT)
        is_label = index + first_class == _along(labels_smem[warpgroup], 0)
        z = divided(a - _along(finite(sums.top), 0), adjust.temperature)
        label_logit = jnp.sum(jnp.where(is_label, z, 0), axis=1)
        for ref, column in zip(staged, jax.tree.leaves(_TileSums(sums, label_logit)), strict=True):
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

    @pl.when(cluster < count[0])
    def _() -> None:
        rows, classes = pl.ds(first_row, _WARPGROUPS * _ROWS), pl.ds(first_class, _CLASSES)
        pipeline(x.at[rows], kernel.at[:, classes])


def _along(x: Array, axis: int) -> Array:
    """A number for each row (axis 0) or class (1) of a tile, in every place of it."""
    if interpret.value is None:
        x = plgpu.layout_cast(x, _LAYOUT.reduce(1 - axis))
    return lax.broadcast_in_dim(x, (_ROWS, _CLASSES), (axis,))
