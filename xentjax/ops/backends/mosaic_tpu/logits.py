"""Row statistics of logits in memory by a Pallas kernel for TPUs, which reads each logit once.

A block of rows goes through its blocks of classes and accumulates.
"""

from functools import partial
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

from xentjax.ops.backends.contexts import interpret_for_tpu
from xentjax.ops.backends.mosaic_tpu.accumulate import (
    TEMPORARIES,
    Accumulators,
    accumulate,
    accumulate_tile,
    finalize,
    init,
)
from xentjax.ops.backends.mosaic_tpu.operands import (
    bytes_read,
    logits_for_tpu,
    operands,
    tile_specs,
)
from xentjax.ops.backends.mosaic_tpu.tiling import Footprint, tile_shape
from xentjax.ops.backends.pallas import with_batch
from xentjax.ops.rows import Requested, Rows, RowStatistics


def row_statistics(rows: Rows, requested: Requested) -> RowStatistics:
    """Run the kernel and finalize; under vmap a batch of rows is more rows."""
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


def _statistics(rows: Rows, requested: Requested) -> RowStatistics:
    shape = rows.logits.shape
    return finalize(_accumulators(operands(rows, shape), requested), rows, shape)


def _accumulators(rows: Rows, requested: Requested) -> Accumulators:
    """Return the final accumulators, [1, n] each: a column would take 128 times its size.

    In VMEM, for a tile of bn rows and bk classes:

    - each array with an entry for each logit (logits, target pmf, mask of classes), bn x bk in its
      own dtype, twice, since the next tile is fetched while this one is computed;
    - `TEMPORARIES` float32 arrays of bn x bk, which the compiler makes;
    - the accumulators as scratch, at most 9 columns of bn numbers, 512 bytes a number;
    - labels and results as rows of bn numbers, class weights as a row of bk, scalars as [1, 1].
    """
    n, k = rows.logits.shape
    # Types of the kernel's results, with the mesh axes that each varies over.
    types = jax.eval_shape(lambda rows: accumulate(init(rows, requested), rows, 0, k), rows)
    out = jax.tree.map(lambda t: t.update(shape=(1, n)), types)
    if n == 0:
        return jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), out)

    read = bytes_read(rows)
    bn, bk = tile_shape((n, k), Footprint(read, TEMPORARIES, len(jax.tree.leaves(out))))
    row_of_columns = pl.BlockSpec((1, bn), lambda i, j: (0, i))
    (acc,) = pl.pallas_call(
        partial(_kernel, num_classes=k, requested=requested),
        grid=(pl.cdiv(n, bn), pl.cdiv(k, bk)),
        in_specs=[tile_specs(rows, (bn, bk))],
        out_specs=[jax.tree.map(lambda _: row_of_columns, out)],
        out_shape=[out],
        scratch_shapes=[jax.tree.map(lambda t: pltpu.VMEM((bn, 1), t.dtype), out)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        # XLA cannot see inside the kernel and schedules it by this estimate.
        cost_estimate=pl.CostEstimate(
            flops=8 * n * k, transcendentals=n * k, bytes_accessed=n * k * read
        ),
        interpret=interpret_for_tpu.value,
        name="row_statistics",
    )(rows)
    return acc


def _kernel(rows: Any, out: Any, acc: Any, *, num_classes: int, requested: Requested) -> None:
    """Accumulate one tile."""
    j = pl.program_id(1)
    is_last = j == pl.num_programs(1) - 1
    accumulate_tile(rows, out, acc, j, is_last, num_classes, requested)
