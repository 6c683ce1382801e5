"""Row statistics by their definitions: dense, one-hot and slow; for tests and for reading."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.multiply_no_nan import nan_unless
from xentjax.ops.backends.interface import Backend
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
    label_in_range,
    shifted,
    uniform_targets,
    weighted_targets,
)


def row_statistics(rows: Rows, requested: Requested) -> RowStatistics:
    """Evaluate the definition of every statistic on arrays of the logits' full size."""
    a = adjusted_logits(rows)
    shift = jnp.nan_to_num(jnp.max(a, -1), nan=0, posinf=0, neginf=0)
    z = shifted(a, shift, rows.scalars.temperature)
    p = jax.nn.softmax(z, -1)

    label, labels = None, rows.target.labels
    if labels is not None:
        one_hot = jax.nn.one_hot(labels, z.shape[-1], dtype=jnp.bool_)
        in_range = label_in_range(labels, z.shape[-1])
        label = jnp.sum(z, -1, where=one_hot) + nan_unless(in_range, z.dtype)
    target = uniform = None
    if rows.target.pmf is not None:
        target = _inner_product(weighted_targets(rows), z)
    if requested.uniform:
        uniform = _inner_product(jnp.broadcast_to(uniform_targets(rows), z.shape), z)
    return RowStatistics(
        shift=shift,
        log_sum=jnp.log(jnp.sum(jnp.exp(z), -1)),
        label_logit=label,
        target=target,
        uniform=uniform,
        mean_logit=jnp.sum(p * jnp.where(p > 0, z, 0), -1) if requested.mean else None,
        predicted=jnp.argmax(a, -1) if requested.predicted else None,
    )


def _inner_product(t: Float[Array, "*rows K"], z: Float[Array, "*rows K"]) -> InnerProduct:
    """Compute <t, z>, in which classes without target mass add 0, whatever their logit."""
    return InnerProduct(jnp.sum(t * jnp.where(t == 0, 0, z), -1), jnp.sum(t, -1))


BACKEND = Backend(row_statistics=row_statistics, stores_logits=True)
