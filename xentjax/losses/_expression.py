"""Cross-entropy as an expression over row statistics; the same for every way to compute them."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax.ops.rows import (
    InnerProduct,
    Rows,
    RowStatistics,
    adjusted_logits,
    log_normalizer,
    shifted,
)

REDUCTIONS = ("none", "sum", "mean")


class SoftmaxStats(NamedTuple):
    """What a forward pass knows about each row beside its loss; 0 in rows that do not count.

    All are those of the logits after soft cap, temperature and class mask. All but `predicted`
    are float32 (float64 for float64 logits) and differentiable.
    """

    log_normalizer: Float[Array, "..."]
    """log sum_k exp(a_k), in nats."""
    label_log_prob: Float[Array, "..."]
    """log p_y, or sum_k t_k log p_k for soft labels, in nats."""
    entropy: Float[Array, "..."]
    """-sum_k p_k log p_k, in nats."""
    predicted: Integer[Array, "..."]
    """argmax_k a_k, int32."""


def row_losses(
    stats: RowStatistics,
    rows: Rows,
    label_smoothing: Float[Array, ""] | None,
    z_loss: Float[Array, ""] | None,
    kept_classes: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """(1-e) sum_k w_k t_k (-log p_k) + (e/K) sum_k w_k (-log p_k) + z lse^2; 0 in masked rows.

    `kept_classes` is K of each row where `rows` hold a part of the classes; None counts them there.
    """
    if stats.label_logit is not None:
        loss = stats.log_sum - stats.label_logit
        if rows.class_weights is not None:
            loss = weighted(loss, label_weights(rows))
    else:
        loss = _cross_entropy(stats.target, stats)
    if label_smoothing is not None:
        uniform = _cross_entropy(stats.uniform, stats)
        k = num_classes(rows) if kept_classes is None else kept_classes
        share = jnp.full_like(loss, label_smoothing) / k
        keep = jnp.full_like(loss, 1 - label_smoothing)
        loss = weighted(loss, keep) + weighted(uniform, share)
    if z_loss is not None:
        loss += z_loss * jnp.square(log_normalizer(stats, rows))
    return mask_rows(loss, rows)


def weighted(loss: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """weight * loss, where mass 0 on an impossible class costs 0 but no weight hides a NaN."""
    return jnp.where(jnp.isnan(loss), loss, multiply_no_nan(loss, weight))


def widened(rows: Rows) -> Rows:
    """The rows with logits in float32 or 64, for losses that read them in several places.

    The cotangents from each then add up before they are rounded to half precision.
    """
    return rows._replace(logits=rows.logits.astype(compute_dtype(rows.logits.dtype)))


def mask_rows(loss: Float[Array, "..."], rows: Rows) -> Float[Array, "..."]:
    """0 in the rows that do not count."""
    return loss if rows.mask.rows is None else jnp.where(rows.mask.rows, loss, 0)


def log_probabilities(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows K"]:
    """log softmax of each row, -inf at masked classes; rows that do not count hold zeros' one."""
    # Subtracting the shift first keeps what lse - a_k loses at a large common offset.
    z = shifted(adjusted_logits(rows), stats.shift, rows.scalars.temperature)
    return z - stats.log_sum[..., None]


def _cross_entropy(t: InnerProduct | None, stats: RowStatistics) -> Float[Array, "..."]:
    """-sum_k t_k log p_k = T log s - <t, a - m>."""
    assert t is not None
    return t.total * stats.log_sum - t.dot


def label_weights(rows: Rows) -> Float[Array, "..."]:
    """w_y of each row; 1 for a label outside 0..K-1, whose loss is NaN at any weight."""
    assert rows.class_weights is not None
    assert rows.target.labels is not None
    weights = rows.class_weights.astype(compute_dtype(rows.logits.dtype))
    # Negative indices would wrap around; -1 turned into K is out of range as it should be.
    index = jnp.where(rows.target.labels < 0, weights.shape[0], rows.target.labels)
    return weights.at[index].get(mode="fill", fill_value=1)


def num_classes(rows: Rows) -> Float[Array, "..."]:
    """How many classes each row's mask keeps, at least 1."""
    dtype = compute_dtype(rows.logits.dtype)
    row_shape, k = rows.logits.shape[:-1], rows.logits.shape[-1]
    if rows.mask.classes is None:
        return jnp.full(row_shape, k, dtype)
    mask = jnp.broadcast_to(rows.mask.classes, (*rows.mask.classes.shape[:-1], k))
    # Counted as integers: XLA's CPU compiler would first make the mask an array of floats.
    kept = jnp.maximum(jnp.sum(mask, -1, dtype=jnp.int32), 1).astype(dtype)
    return jnp.broadcast_to(kept, row_shape)


def reduce_losses(loss: Float[Array, "..."], rows: Rows, reduction: str) -> Float[Array, "..."]:
    """The losses themselves, their sum, or their weighted mean over the rows that count.

    The mean divides by the kept rows' sum of w_y, or by their number for soft labels.
    """
    return loss if reduction == "none" else reduce_total(jnp.sum(loss), rows, reduction)


def reduce_total(total: Float[Array, ""], rows: Rows, reduction: str) -> Float[Array, ""]:
    """The sum of all losses as it is, or divided as the mean asks for."""
    if reduction == "sum":
        return total
    if rows.target.labels is not None and rows.class_weights is not None:
        weights = label_weights(rows)
        if rows.mask.rows is not None:
            weights = jnp.where(rows.mask.rows, weights, 0)
        weight = jnp.sum(weights)
    elif rows.mask.rows is not None:
        weight = jnp.sum(rows.mask.rows, dtype=total.dtype)
    else:
        weight = jnp.asarray(math.prod(rows.logits.shape[:-1]), total.dtype)
    empty = weight == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, weight))


def reduce_label_losses(
    loss: Float[Array, "..."], rows: Rows, reduction: str
) -> Float[Array, "..."]:
    """The same for losses that class weights and masks have not reached yet."""
    if rows.class_weights is not None:
        loss = weighted(loss, label_weights(rows))
    return reduce_losses(mask_rows(loss, rows), rows, reduction)


def softmax_stats(stats: RowStatistics, rows: Rows) -> SoftmaxStats:
    """The public statistics, from those of the rows without class weights."""
    assert stats.mean_logit is not None
    assert stats.predicted is not None
    if stats.label_logit is not None:
        label_log_prob = stats.label_logit - stats.log_sum
    else:
        label_log_prob = -_cross_entropy(stats.target, stats)
    result = SoftmaxStats(
        log_normalizer=log_normalizer(stats, rows),
        label_log_prob=label_log_prob,
        entropy=stats.log_sum - stats.mean_logit,
        predicted=stats.predicted.astype(jnp.int32),
    )
    if rows.mask.rows is None:
        return result
    return SoftmaxStats(*(jnp.where(rows.mask.rows, x, 0).astype(x.dtype) for x in result))
