"""Row statistics of logits in memory by a Pallas kernel for Hopper and later GPUs, by Mosaic.

Each logit is read once, except in short rows, where a block reads past the end. A block of threads
goes through the tiles of some rows. The maximum m, the sum of exp(a - m) and the inner products
with a - m are kept in registers and adjusted whenever m grows. If there are few rows, several
blocks share each row: every block writes the results of its part, and `merge` combines them in a
fixed order, without locks. XLA cannot partition a kernel, so sharded arrays need `shard_map`.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Int32, Integer

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
    read_scalars,
    result_types,
    with_layout,
)
from xentjax.ops.backends.mosaic_gpu.tiling import Plan, plan
from xentjax.ops.backends.pallas import check_sizes, with_batch, zeros_where_masked
from xentjax.ops.merge import ACROSS_FIRST_AXIS, merge
from xentjax.ops.rows import (
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
    at_label,
    label_in_range,
    over_temperature,
)


def row_statistics(rows: Rows, requested: Requested) -> RowStatistics:
    """Run the kernel and finalize; under vmap a batch of rows is more rows."""
    check_supported(rows, requested)
    check_sizes("logits", rows.logits, "mosaic_gpu")
    if rows.logits.dtype == jnp.float64:
        raise NotImplementedError("logits: expected at most 32 bits for 'mosaic_gpu', got float64")

    @jax.custom_batching.custom_vmap
    def statistics(rows: Rows) -> RowStatistics:
        return _statistics(rows, requested)

    @statistics.def_vmap
    def _(axis_size: int, in_batched: list[Rows], rows: Rows) -> tuple[RowStatistics, Any]:
        (batched,) = in_batched
        if any(jax.tree.leaves(batched.scalars)):
            stats = _one_by_one(rows, batched, axis_size, requested)
        else:
            stats = statistics(with_batch(rows, batched, axis_size))
        return stats, jax.tree.map(lambda _: True, stats)

    return statistics(rows._replace(logits=for_gpu(rows.logits), class_weights=None))


def _one_by_one(rows: Rows, batched: Rows, size: int, requested: Requested) -> RowStatistics:
    """Run a kernel for each member of a batch that has its own scalars."""

    def member(i: Int32[Array, ""]) -> RowStatistics:
        here = jax.tree.map(lambda b, x: x[i] if b else x, batched, rows)
        return _statistics(here, requested)

    return lax.map(member, jnp.arange(size, dtype=jnp.int32))


def _statistics(rows: Rows, requested: Requested) -> RowStatistics:
    *row_shape, k = rows.logits.shape
    n = math.prod(row_shape)
    if n == 0:
        stats = finalize_parts(init((0,), requested), jnp.zeros(0, jnp.float32))
    else:
        matrix = rows._replace(logits=rows.logits.reshape(n, k))
        stats = _whole_rows(matrix, requested, plan((n, k), rows.logits.dtype.itemsize))
    stats = jax.tree.map(lambda x: x.reshape(row_shape), stats)
    if rows.mask.rows is not None:
        stats = zeros_where_masked(stats, rows.mask.rows, k)
    labels = rows.target.labels
    if labels is not None:
        in_range = label_in_range(labels, k)
        of_label = rows._replace(logits=at_label(rows.logits, labels, in_range)[..., None])
        label = adjusted_logits(of_label)[..., 0] - stats.shift
        label = over_temperature(label, rows.scalars.temperature)
        label += nan_unless(in_range, label.dtype)
        stats = stats._replace(label_logit=label)
    return stats


def _whole_rows(rows: Rows, requested: Requested, p: Plan) -> RowStatistics:
    """Compute the statistics of rows [n, k] from those of the kernel's parts."""
    n, k = rows.logits.shape
    acc = _accumulators_by_part(rows, requested, p)
    # Restore the order of the rows, and drop those that only fill a tile.
    acc = jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2).reshape(p.splits, -1)[:, :n], acc)
    part = p.tiles * p.classes
    first_class = jnp.arange(0, k, part, dtype=jnp.int32)[:, None]
    stats = finalize_parts(acc, jnp.minimum(k - first_class, part).astype(jnp.float32))
    if p.splits > 1:
        stats = merge(stats, first_class, None, ACROSS_FIRST_AXIS, rows.scalars.temperature)
    return jax.tree.map(lambda x: x[0], stats)


def _accumulators_by_part(rows: Rows, requested: Requested, p: Plan) -> Accumulators:
    """Return the accumulators of each part of each row, [splits, phases, rows in a phase's tiles].

    An array of the logits' size is copied, and padded, only if phases do not divide the rows.

    In shared memory, for a block: `p.stages` tiles of p.rows x p.classes logits in their dtype, as
    boxes side by side, at most 56 KiB; a vector of p.rows numbers of 32 bits for each accumulator,
    through which results leave; a barrier for each stage. In registers: a tile in float32 and the
    accumulators, the rows of a tile split over the 128 threads of the block.
    """
    n, k = rows.logits.shape
    logits = jnp.pad(rows.logits, ((0, -n % p.phases), (0, 0))).reshape(-1, p.phases * k)
    scalars, structure = flat_scalars(rows.scalars)
    shape = (p.splits, p.phases, p.row_blocks * p.rows)

    out, tree = jax.tree.flatten(result_types(partial(init, shape, requested), (logits, scalars)))
    kernel = plgpu.kernel(
        partial(_kernel, structure=structure, k=k, requested=requested, p=p),
        out_type=out,
        scratch_types=[
            *(plgpu.SMEM((p.rows,), x.dtype) for x in out),
            plgpu.SMEM((p.stages, p.copies, p.rows, p.columns), logits.dtype),
            plgpu.Barrier(num_arrivals=p.copies, num_barriers=p.stages),
        ],
        grid=(p.row_blocks * p.splits * p.phases,),
        grid_names=("block",),
        compiler_params=compiler_params(rows.scalars),
        interpret=interpret_for_gpu.value,
    )
    return jax.tree.unflatten(tree, kernel(logits, *scalars))


def _kernel(logits: Any, *refs: Any, structure: Any, k: int, requested: Requested, p: Plan) -> None:
    """Run one block, a part of some rows; `refs` are scalars, results and scratch memory."""
    adjust, (*columns, tiles, arrived) = read_scalars(refs, structure)
    out, staged = columns[: len(columns) // 2], columns[len(columns) // 2 :]
    block = lax.axis_index("block")
    block, phase = _div_rem(block, p.phases)  # next to each other, as the logits that they read are
    block, split = _div_rem(block, p.splits)
    first_row = block * p.rows
    first_class = split * (p.tiles * p.classes)
    layout = _layout(p)

    def fetch(t: Int32[Array, ""]) -> None:
        stage = _div_rem(t, p.stages)[1]
        for i in range(p.copies):
            column = phase * k + first_class + t * p.classes + i * p.columns
            box = logits.at[pl.ds(first_row, p.rows), pl.ds(column, p.columns)]
            plgpu.copy_gmem_to_smem(box, tiles.at[stage, i], arrived.at[stage])

    def next_tile(step: Integer[Array, ""], acc: Accumulators) -> Accumulators:
        t = step.astype(jnp.int32)
        stage = _div_rem(t, p.stages)[1]
        plgpu.barrier_wait(arrived.at[stage])
        boxes = [with_layout(tiles[stage, i], layout).astype(jnp.float32) for i in range(p.copies)]

        @pl.when(t + p.stages < p.tiles)
        def _() -> None:
            plgpu.commit_smem()  # reads must be complete before a copy overwrites the logits
            fetch(t + p.stages)

        before = t * p.classes
        columns = class_index((p.rows, p.columns), layout)
        index = [columns + (before + i * p.columns) for i in range(p.copies)]
        # Beyond the last class there is the next row, or zeros.
        exists = [j < k - first_class for j in index]
        pairs = zip(exists, boxes, strict=True)
        boxes = [jnp.where(e, capped_logits(a, adjust), -jnp.inf) for e, a in pairs]
        classes_before = jnp.minimum(before, k - first_class).astype(jnp.float32)
        tile = Tile(boxes, index, exists, classes_before)
        return accumulate(acc, tile, adjust.temperature, layout)

    for t in range(p.stages):
        fetch(jnp.int32(t))
    nothing = jax.tree.map(lambda x: with_layout(x, layout), init((p.rows,), requested))
    acc = lax.fori_loop(0, p.tiles, next_tile, nothing)
    # Through shared memory: the rows of one warp do not fill a whole sector of memory.
    for ref, x in zip(staged, jax.tree.leaves(acc), strict=True):
        ref[...] = x
    plgpu.commit_smem()
    for source, ref in zip(staged, out, strict=True):
        plgpu.copy_smem_to_gmem(source, ref.at[split, phase, pl.ds(first_row, p.rows)])
    plgpu.wait_smem_to_gmem(0)


def _div_rem(x: Int32[Array, ""], divisor: int) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
    """Return quotient and remainder for x >= 0, without Python's sign rules."""
    return lax.div(x, np.int32(divisor)), lax.rem(x, np.int32(divisor))


def _layout(p: Plan) -> Any:
    """Return the layout: lanes along the classes; other lanes and the warps along the rows."""
    if p.lanes == 32:
        tiling = plgpu.Tiling(((4, p.columns), (p.vector,)))
        return plgpu.Layout.TILED(tiling, warp_dims=(-3,), lane_dims=(-2,), vector_dim=-1)
    rows = 32 // p.lanes
    tiling = plgpu.Tiling(((4 * rows, p.columns), (rows, p.vector)))
    return plgpu.Layout.TILED(tiling, warp_dims=(-4,), lane_dims=(-2, -3), vector_dim=-1)
