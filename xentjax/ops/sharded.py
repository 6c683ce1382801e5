"""Row statistics of logits whose classes are split over the devices of a mesh axis.

Devices exchange a few numbers per row and no logits. The derivatives are sums over classes too:
each device applies the rule to its own shard with the merged statistics. This is right even if all
logits of a shard are -inf, so that the shard alone has no softmax.
"""

from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from xentjax._core.axis_name import AxisName
from xentjax.ops.derivative import statistics_tangents
from xentjax.ops.dispatch import row_statistics
from xentjax.ops.merge import ClassShard, Combine, merge, merge_tangents
from xentjax.ops.rows import Requested, RowStatistics

T = TypeVar("T")


def across_devices(axis_name: AxisName) -> Combine:
    """Reduce over shards on the devices of a mesh axis."""
    return Combine(
        max=partial(lax.pmax, axis_name=axis_name),
        min=partial(lax.pmin, axis_name=axis_name),
        sum=partial(sum_over_devices, axis_name=axis_name),
    )


def sum_over_devices(tree: T, axis_name: AxisName) -> T:
    arrays, structure = jax.tree.flatten(tree)
    summed = lax.psum(jnp.stack(arrays), axis_name)  # one collective
    return jax.tree.unflatten(structure, jnp.unstack(summed))


@partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def merged_statistics(
    shard: ClassShard, requested: Requested, axis_name: AxisName, implementation: str | None
) -> RowStatistics:
    """Compute the statistics of whole rows, the same on every device of the axis.

    They are differentiable like those of `row_statistics`: in every floating input, in all modes
    and orders.
    """
    stats = row_statistics(shard.rows, requested.for_shard(), implementation)
    temperature = shard.rows.scalars.temperature
    return merge(stats, shard.first_class, shard.owns_label, across_devices(axis_name), temperature)


@partial(merged_statistics.defjvp, symbolic_zeros=True)
def _merged_statistics_jvp(
    requested: Requested,
    axis_name: AxisName,
    implementation: str | None,
    primals: tuple[ClassShard],
    tangents: tuple[ClassShard],
) -> tuple[RowStatistics, RowStatistics]:
    (shard,), (d_shard,) = primals, tangents
    stats = merged_statistics(shard, requested, axis_name, implementation)
    d_stats = statistics_tangents(shard.rows, stats, d_shard.rows)
    return stats, merge_tangents(d_stats, shard.owns_label, across_devices(axis_name))
