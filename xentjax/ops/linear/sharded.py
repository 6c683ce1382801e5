"""Row statistics of linear layers whose classes are split over the devices of a mesh axis."""

from functools import partial

import jax

from xentjax._core.axis_name import AxisName
from xentjax.ops.derivative import moving_inputs, with_predicted
from xentjax.ops.linear.statistics import linear_row_statistics, linear_tangents
from xentjax.ops.merge import ClassShard, merge, merge_tangents
from xentjax.ops.rows import Requested, RowStatistics
from xentjax.ops.sharded import across_devices


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def merged_linear_statistics(
    shard: ClassShard,
    requested: Requested,
    axis_name: AxisName,
    implementation: str | None,
    max_bytes: int | None,
) -> RowStatistics:
    """Compute the statistics of whole rows; each device of the axis has some of the classes."""
    stats = linear_row_statistics(shard.rows, requested.for_shard(), implementation, max_bytes)
    temperature = shard.rows.scalars.temperature
    return merge(stats, shard.first_class, shard.owns_label, across_devices(axis_name), temperature)


@partial(merged_linear_statistics.defjvp, symbolic_zeros=True)
def _merged_linear_statistics_jvp(
    requested: Requested,
    axis_name: AxisName,
    implementation: str | None,
    max_bytes: int | None,
    primals: tuple[ClassShard],
    tangents: tuple[ClassShard],
) -> tuple[RowStatistics, RowStatistics]:
    (shard,), (d_shard,) = primals, tangents
    stats = merged_linear_statistics(shard, requested, axis_name, implementation, max_bytes)
    d_stats = linear_tangents(shard.rows, stats, moving_inputs(d_shard.rows), max_bytes)
    d_stats = merge_tangents(d_stats, shard.owns_label, across_devices(axis_name))
    return stats, with_predicted(d_stats, stats)
