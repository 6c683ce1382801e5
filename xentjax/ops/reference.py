"""Row statistics as the textbook writes them: dense, one-hot, slow; for tests and for reading."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._special import nan_unless
from xentjax.ops.statistics import (
    InnerProduct,
    Rows,
    RowStatistics,
    Wanted,
    adjusted_logits,
    label_in_range,
    shifted,
    uniform_targets,
    weighted_targets,
)


def row_statistics(rows: Rows, wanted: Wanted) -> RowStatistics:
    """Every statistic is its definition, evaluated on arrays of the logits' full size."""
    a = adjusted_logits(rows)
    shift = jnp.nan_to_num(jnp.max(a, -1), nan=0, posinf=0, neginf=0)
    z = shifted(a, shift, rows.temperature)
    p = jax.nn.softmax(z, -1)

    label = None
    if rows.labels is not None:
        one_hot = jax.nn.one_hot(rows.labels, z.shape[-1], dtype=jnp.bool_)
        in_range = label_in_range(rows.labels, z.shape[-1])
        label = jnp.sum(z, -1, where=one_hot) + nan_unless(in_range, z.dtype)
    target = uniform = None
    if rows.targets is not None:
        target = _inner_product(weighted_targets(rows), z)
    if wanted.uniform:
        uniform = _inner_product(jnp.broadcast_to(uniform_targets(rows), z.shape), z)
    return RowStatistics(
        shift=shift,
        log_sum=jnp.log(jnp.sum(jnp.exp(z), -1)),
        label_logit=label,
        target=target,
        uniform=uniform,
        mean_logit=jnp.sum(p * z, -1, where=p > 0) if wanted.mean else None,
        predicted=jnp.argmax(a, -1) if wanted.predicted else None,
    )


def _inner_product(t: Float[Array, "*rows K"], z: Float[Array, "*rows K"]) -> InnerProduct:
    """Classes without target mass are left out, whatever their logit."""
    return InnerProduct(jnp.sum(t * z, -1, where=t != 0), jnp.sum(t, -1))
