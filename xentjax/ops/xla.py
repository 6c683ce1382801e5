"""Row statistics by XLA: two passes over the logits, each one fused loop."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._special import scale_tangent
from xentjax.ops.statistics import (
    InnerProduct,
    Rows,
    RowStatistics,
    Wanted,
    adjusted_logits,
    label_in_range,
    uniform_targets,
    weighted_targets,
)


def row_statistics(rows: Rows, wanted: Wanted) -> RowStatistics:
    """max first, then every sum of shifted logits in one more pass over the row."""
    a = adjusted_logits(rows)
    shift = jnp.max(a, -1)
    # Without a finite maximum the row keeps its infinities: log s is then -inf, +inf or NaN.
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    z = a - shift[..., None]
    exp_z = jnp.exp(z)
    sum_exp = jnp.sum(exp_z, -1)

    target = uniform = mean = None
    if rows.targets is not None:
        target = _inner_product(weighted_targets(rows), z)
    if wanted.uniform:
        uniform = _inner_product(uniform_targets(rows), z)
    if wanted.mean:
        mean = jnp.sum(jnp.where(exp_z > 0, exp_z * z, 0), -1) / sum_exp
    return RowStatistics(
        shift=shift,
        log_sum=jnp.log(sum_exp),
        label_logit=None if rows.labels is None else _label_logit(rows, shift),
        target=target,
        uniform=uniform,
        mean_logit=mean,
        predicted=jnp.argmax(a, -1) if wanted.predicted else None,
    )


def _label_logit(rows: Rows, shift: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """The label's logit is read alone and adjusted alone: one element a row."""
    assert rows.labels is not None
    in_range = label_in_range(rows)
    index = jnp.where(in_range, rows.labels, 0)[..., None]
    mask = rows.class_mask
    if mask is not None:
        mask = jnp.take_along_axis(jnp.broadcast_to(mask, rows.logits.shape), index, -1)
    logits = jnp.take_along_axis(rows.logits, index, -1)
    a = adjusted_logits(rows._replace(logits=logits, class_mask=mask))[..., 0]
    return jnp.where(in_range, a - shift, jnp.nan)


def _inner_product(t: Float[Array, "*#rows K"], z: Float[Array, "*rows K"]) -> InnerProduct:
    """<t, z> with 0 * inf = 0, and sum_k t_k."""
    dot = jnp.sum(scale_tangent(z, jnp.broadcast_to(t, z.shape)), -1)
    return InnerProduct(dot, jnp.broadcast_to(jnp.sum(t, -1), z.shape[:-1]))
