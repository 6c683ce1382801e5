"""Cross-entropy as an expression in row statistics, however these are computed."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P, reshard
from jaxtyping import Array, Bool, Float, Integer

from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import explicit_spec
from xentjax.losses._keywords import Keywords
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    log_normalizer,
)


class SoftmaxStats(NamedTuple):
    """Per-row statistics returned with a loss; 0 in masked rows.

    They are computed from the logits a after soft cap, temperature and class mask. All but
    `predicted` are float32 (float64 for float64 logits) and differentiable.

    Attributes:
        log_normalizer: log sum_k exp(a_k), in nats.
        label_log_prob: log p_y, or sum_k t_k log p_k for soft labels, in nats.
        entropy: -sum_k p_k log p_k, in nats.
        predicted: argmax_k a_k, int32.
    """

    log_normalizer: Float[Array, "..."]
    label_log_prob: Float[Array, "..."]
    entropy: Float[Array, "..."]
    predicted: Integer[Array, "..."]


def cross_entropy_from(
    statistics: Callable[[Rows, Requested, str | None], RowStatistics],
    rows: Rows,
    keywords: Keywords,
    kept_classes: Float[Array, "..."] | None = None,
) -> Float[Array, "..."] | tuple[Float[Array, "..."], SoftmaxStats]:
    """Compute the cross-entropy from `statistics(rows, requested, implementation)`.

    `kept_classes` is the number of classes of each row, if the mask of `rows` does not give it.
    """
    # The statistics to return are unweighted: with weighted targets they are computed separately.
    apart = rows.target.pmf is not None and rows.class_weights is not None
    requested = _PUBLIC if keywords.return_stats and not apart else Requested()
    requested = requested._replace(uniform=keywords.label_smoothing is not None)
    stats = statistics(rows, requested, keywords.implementation)
    weights = None if rows.class_weights is None else label_weights(rows)
    losses = row_losses(stats, rows, keywords, weights, kept_classes)
    loss = reduce_losses(losses, keywords.reduction, weights, rows.mask.rows)
    if not keywords.return_stats:
        return loss
    if apart:
        unweighted = rows._replace(class_weights=None)
        stats = statistics(unweighted, _PUBLIC, keywords.implementation)
    return loss, softmax_stats(stats, rows)


_PUBLIC = Requested(mean=True, predicted=True, normalizer=True)
"""Statistics that `SoftmaxStats` needs."""


def row_losses(
    stats: RowStatistics,
    rows: Rows,
    keywords: Keywords,
    weights: Float[Array, "..."] | None = None,
    kept_classes: Float[Array, "..."] | None = None,
) -> Float[Array, "..."]:
    """Compute the loss of each row, 0 in masked rows; `weights` are those of the labels.

    (1-e) sum_k w_k t_k (-log p_k) + (e/K) sum_k w_k (-log p_k) + z lse^2
    """
    if stats.label_logit is not None:
        loss = stats.log_sum - stats.label_logit
        if weights is not None:
            loss = weighted(loss, weights)
    else:
        loss = _cross_entropy(stats.target, stats)
    if keywords.label_smoothing is not None:
        uniform = _cross_entropy(stats.uniform, stats)
        k = num_classes(rows) if kept_classes is None else kept_classes
        share = jnp.full_like(loss, keywords.label_smoothing) / k
        keep = jnp.full_like(loss, 1 - keywords.label_smoothing)
        loss = weighted(loss, keep) + weighted(uniform, share)
    if keywords.z_loss is not None:
        loss += keywords.z_loss * jnp.square(log_normalizer(stats, rows))
    return mask_rows(loss, rows)


def weighted(loss: Float[Array, "..."], weight: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return weight * loss: 0 for weight 0 and an infinite loss, but NaN for a NaN loss."""
    return jnp.where(jnp.isnan(loss), loss, multiply_no_nan(loss, weight))


def promote(rows: Rows) -> Rows:
    """Return the rows with logits in float32 or 64, for losses that read them in several places.

    The cotangents of all these places are then added before they are rounded to half precision.
    """
    return rows._replace(logits=rows.logits.astype(compute_dtype(rows.logits.dtype)))


def mask_rows(loss: Float[Array, "..."], rows: Rows) -> Float[Array, "..."]:
    """Set the loss of masked rows to 0."""
    return loss if rows.mask.rows is None else jnp.where(rows.mask.rows, loss, 0)


def _cross_entropy(t: InnerProduct | None, stats: RowStatistics) -> Float[Array, "..."]:
    """Return -sum_k t_k log p_k = T log s - <t, a - m>."""
    assert t is not None
    return t.total * stats.log_sum - t.dot


def label_weights(rows: Rows) -> Float[Array, "..."] | None:
    """Return w_y of each row; 1 for a label outside 0..K-1, whose loss is NaN at any weight.

    Return None without labels or class weights.
    """
    labels = rows.target.labels
    if labels is None or rows.class_weights is None:
        return None
    weights = rows.class_weights.astype(compute_dtype(rows.logits.dtype))
    # Negative indices would wrap around; K is out of range.
    index = jnp.where(labels < 0, weights.shape[0], labels)
    if not explicit_spec(index):
        return weights.at[index].get(mode="fill", fill_value=1)
    sharding = jax.typeof(index).sharding
    weights = reshard(weights, NamedSharding(sharding.mesh, P()))
    return weights.at[index].get(mode="fill", fill_value=1, out_sharding=sharding)


def num_classes(rows: Rows) -> Float[Array, "..."]:
    """Count the classes that each row's mask keeps, at least 1."""
    dtype = compute_dtype(rows.logits.dtype)
    row_shape, k = rows.logits.shape[:-1], rows.logits.shape[-1]
    if rows.mask.classes is None:
        return jnp.full(row_shape, k, dtype)
    mask = jnp.broadcast_to(rows.mask.classes, (*rows.mask.classes.shape[:-1], k))
    # To sum floats, XLA's CPU compiler would first make the mask an array of floats.
    kept = jnp.maximum(jnp.sum(mask, -1, dtype=jnp.int32), 1).astype(dtype)
    return jnp.broadcast_to(kept, row_shape)


def reduce_losses(
    loss: Float[Array, "..."],
    reduction: str,
    weights: Float[Array, "..."] | None,
    kept: Bool[Array, "..."] | None,
) -> Float[Array, "..."]:
    """Return the losses themselves, their sum, or their weighted mean.

    The mean divides by the sum of the weights of the kept losses. If `weights` is None, each weight
    is 1; if `kept` is None, all losses are kept.
    """
    if reduction == "none":
        return loss
    return reduce_total(jnp.sum(loss), reduction, loss.shape, weights, kept)


def reduce_total(
    total: Float[Array, ""],
    reduction: str,
    shape: tuple[int, ...],
    weights: Float[Array, "..."] | None,
    kept: Bool[Array, "..."] | None,
) -> Float[Array, ""]:
    """Return the sum of losses of this shape, or turn it into their mean."""
    if reduction == "sum":
        return total
    if weights is not None:
        weight = jnp.sum(weights if kept is None else jnp.where(kept, weights, 0))
    elif kept is not None:
        weight = jnp.sum(kept, dtype=total.dtype)
    else:
        weight = jnp.asarray(math.prod(shape), total.dtype)
    empty = weight == 0
    return jnp.where(empty, 0, total / jnp.where(empty, 1, weight))


def reduce_label_losses(
    loss: Float[Array, "..."], rows: Rows, reduction: str
) -> Float[Array, "..."]:
    """Apply class weights and masks to the losses of labels, then reduce them."""
    weights = label_weights(rows)
    if weights is not None:
        loss = weighted(loss, weights)
    return reduce_losses(mask_rows(loss, rows), reduction, weights, rows.mask.rows)


def softmax_stats(stats: RowStatistics, rows: Rows) -> SoftmaxStats:
    """Return the public statistics; `stats` are computed without class weights.

    Statistics that were not requested are 0.
    """
    if stats.label_logit is not None:
        label_log_prob = stats.label_logit - stats.log_sum
    else:
        label_log_prob = -_cross_entropy(stats.target, stats)
    mean, predicted, none = stats.mean_logit, stats.predicted, jnp.zeros_like(stats.log_sum)
    result = SoftmaxStats(
        log_normalizer=log_normalizer(stats, rows),
        label_log_prob=label_log_prob,
        entropy=none if mean is None else stats.log_sum - mean,
        predicted=(none if predicted is None else predicted).astype(jnp.int32),
    )
    if rows.mask.rows is None:
        return result
    return SoftmaxStats(*(jnp.where(rows.mask.rows, x, 0).astype(x.dtype) for x in result))
