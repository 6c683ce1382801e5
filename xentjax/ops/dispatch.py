"""Row statistics of logits by a named back-end, with their derivative rule."""

from functools import partial

import jax
import jax.numpy as jnp

from xentjax.ops.derivative import statistics_tangents
from xentjax.ops.registry import backend
from xentjax.ops.rows import Requested, Rows, RowStatistics


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _statistics(
    rows: Rows, requested: Requested, implementation: str | None = None
) -> RowStatistics:
    """Compute the statistics of each row, differentiable in every floating input, mode and order.

    Statistics that are neither requested nor needed for the target are None.
    """
    stats = backend(implementation).row_statistics(rows, requested)
    if rows.target.labels is None:
        return stats
    # A bad label makes every tangent NaN, so every statistic has to depend on the label as well:
    # vmap sums tangents over a batch that their primals do not have (jax-ml/jax#16374). XLA removes
    # a choice between the same two values.
    either = rows.target.labels == 0
    return jax.tree.map(partial(jnp.where, either), stats, stats)


row_statistics = jax.jit(_statistics, static_argnums=(1, 2))


@partial(_statistics.defjvp, symbolic_zeros=True)
def _statistics_jvp(
    requested: Requested,
    implementation: str | None,
    primals: tuple[Rows],
    tangents: tuple[Rows],
) -> tuple[RowStatistics, RowStatistics]:
    (rows,), (d_rows,) = primals, tangents
    stats = row_statistics(rows, requested, implementation)
    return stats, statistics_tangents(rows, stats, d_rows)
