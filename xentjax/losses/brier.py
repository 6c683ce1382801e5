"""Brier score: the squared distance of softmax(logits) from a target pmf.

It is the Bregman divergence of the squared norm: never negative, and 0 only at the target. It is
computed as a sum of terms >= 0 over the classes: if the two pmfs are close, the expanded square
loses all digits.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Reduction
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import pvary_like, sharded_alike
from xentjax.losses._arguments import (
    Axis,
    check_labels,
    labels_are_indices,
    logits_rows,
    with_indices,
    with_targets,
)
from xentjax.losses._formula import (
    mask_rows,
    promote,
    reduce_losses,
)
from xentjax.losses._keywords import check_names
from xentjax.ops import Implementation, Requested, Rows, RowStatistics, row_statistics
from xentjax.ops.derivative import (
    log_probability_and_tangent,
    moving_inputs,
    value_and_tangent,
    vary_alike,
)
from xentjax.ops.rows import (
    is_label,
    label_in_range,
    log_probabilities,
    weighted_targets,
)


def brier_score(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Squared distance of p = softmax(logits) from the target pmf t.

        score = sum_k (p_k - t_k)^2,    t_k = 1 at k = y, else 0, for a class index y

    The score is in [0, 2], as in Brier's paper; for two classes some authors count only one of
    them, which gives half of it. A certain prediction scores 0 if it is right and 2 if it is wrong.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: class indices y in 0..K-1, integers of the logits' shape without `axis`; or pmfs (or
            one-hot rows of any dtype) of the logits' shape, which may broadcast over rows. An index
            outside 0..K-1 makes the score and gradient of its row NaN and affects no other row.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class is left
            out of the softmax and its target mass is dropped; as a label it has p_y = 0), with the
            rows' number of dimensions it masks rows. A masked row, or one with no class left, has
            score 0 and is left out of the mean.
        ignore_index: a label whose rows have score 0 and are left out of the mean; None for no such
            label.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The score, float32 (float64 for float64 logits): one per row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape or name outside what is listed above, `ignore_index` with pmfs.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(xentjax.brier_score(logits, jnp.array(0)))
        0.375
        >>> print(xentjax.brier_score(logits, jnp.array([0.0, 0.5, 0.5])))
        0.375

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability (1950).
    """
    rows, classes = logits_rows(logits, axis, where)
    labels, ignore_index = check_labels(labels, ignore_index)
    if labels_are_indices(labels, classes, ignore_index):
        rows = with_indices(rows, labels, ignore_index)
    else:
        rows = with_targets(rows, classes, labels)
    check_names(reduction, implementation)
    return _brier_score(rows, reduction=reduction, implementation=implementation)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _brier_score(rows: Rows, *, reduction: str, implementation: str | None) -> Float[Array, "..."]:
    rows = promote(rows)
    loss = mask_rows(_squared_distance(rows, implementation), rows)
    return reduce_losses(loss, reduction, None, rows.mask.rows)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _squared_distance(rows: Rows, implementation: str | None) -> Float[Array, "*rows"]:
    return _score_and_rest(rows, row_statistics(rows, _REQUESTED, implementation))[0]


@partial(_squared_distance.defjvp, symbolic_zeros=True)
def _(
    implementation: str | None, primals: tuple[Rows], tangents: tuple[Rows]
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    (rows,), (d_rows,) = primals, moving_inputs(tangents)
    stats = row_statistics(rows, _REQUESTED, implementation)
    score, rest = _score_and_rest(rows, stats)
    rows, d_rows = vary_alike(rows, d_rows)
    return score, pvary_like(_tangent(rows, d_rows, stats, score, rest), score)


_REQUESTED = Requested(normalizer=True)


def _score_and_rest(
    rows: Rows, stats: RowStatistics
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    """Return the score, and for labels 1 - p_y, as the sum of the other p_k to keep its digits."""
    p = jnp.exp(log_probabilities(rows, stats))
    if rows.target.labels is None:
        score = jnp.sum(jnp.square(p - weighted_targets(rows)), -1)
        return score, score
    assert stats.label_logit is not None
    own, p = sharded_alike(is_label(rows.target.labels, p), p)
    others = jnp.where(own, 0, p)
    rest = jnp.sum(others, -1)
    # For a bad label, the label's logit is NaN.
    bad = jnp.where(jnp.isnan(stats.label_logit), stats.label_logit, 0)
    return jnp.square(rest) + jnp.sum(jnp.square(others), -1) + bad, rest


@jax.jit
@partial(jax.checkpoint, prevent_cse=False)  # the backward pass recomputes softmax
def _tangent(
    rows: Rows,
    d_rows: Rows,
    stats: RowStatistics,
    score: Float[Array, "*rows"],
    rest: Float[Array, "*rows"],
) -> Float[Array, "*rows"]:
    """Return sum_k 2 p_k (p_k - t_k - <p, p - t>) da_k - 2 (p_k - t_k) dt_k for logits a."""
    log_p, da = log_probability_and_tangent(rows, d_rows, stats)
    p = jnp.exp(log_p)
    if rows.target.labels is not None:
        assert da is not None
        # <p, p - t> = score - rest, so the bracket is p_k + rest - score, and -score at the label.
        own, p = sharded_alike(is_label(rows.target.labels, p), p)
        bracket = jnp.where(own, 0, p + rest[..., None]) - score[..., None]
        dot = jnp.sum(2 * p * bracket * da, -1)
        if rows.mask.classes is None:
            return dot
        # Through `da` alone, the NaN of a bad label would not reach the gradient of a masked class.
        bad = nan_unless(label_in_range(rows.target.labels, p.shape[-1]), p.dtype)
        return dot + bad * jnp.sum(d_rows.logits, -1)
    t, dt = value_and_tangent(weighted_targets, rows, d_rows)
    dot = -jnp.sum(2 * (p - t) * dt, -1)
    if da is not None:
        mean = jnp.sum(p * (p - t), -1)
        dot += jnp.sum(2 * p * (p - t - mean[..., None]) * da, -1)
    return dot
