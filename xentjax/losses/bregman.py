"""How far softmax(logits) is from a target pmf: Brier score and KL divergence.

Both are Bregman divergences, of the squared norm and of the negative entropy, hence never negative
and 0 only at the target. Each is summed class by class from terms that are >= 0 themselves, since
their expansions in cross-entropies lose every digit where the two pmfs are close.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._core.checks import fail
from xentjax._core.dtypes import compute_dtype
from xentjax.information.log_pmf import divergence
from xentjax.losses._arguments import (
    Axis,
    adjusted,
    check_labels,
    check_names,
    label_rows,
    logits_rows,
    target_rows,
)
from xentjax.losses._expression import (
    log_probabilities,
    mask_rows,
    reduce_losses,
    widened,
)
from xentjax.ops import Requested, Rows, RowStatistics, row_statistics
from xentjax.ops.rows import is_label, weighted_targets


def brier_score(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    reduction: str = "none",
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """Squared distance of p = softmax(logits) from the target pmf t.

        score = sum_k (p_k - t_k)^2,    t_k = 1 at k = y, else 0, for a class index y

    In [0, 2], Brier's own scale; for two classes some authors count one of them only, which is half
    of this. 0 is a certain and right prediction, 2 a certain and wrong one.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: class indices y in 0..K-1 if of an integer dtype, of the logits' shape without
            `axis`; else pmfs of the logits' shape, which may broadcast over rows. A bad index makes
            its row's score and gradient NaN and touches no other row.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class leaves
            the softmax and its target mass is dropped; as a label it has p_y = 0), with the rows'
            it masks rows. A masked row, or one with no class left, has score 0 and leaves the mean.
        ignore_index: a label whose rows have score 0 and leave the mean; None for no such label.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The score, float32 (float64 for float64 logits): one a row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape or name outside what is listed above, `ignore_index` with pmfs.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(brier_score(logits, jnp.array(0)))
        0.375
        >>> print(brier_score(logits, jnp.array([0.0, 0.5, 0.5])))
        0.375

    Source: Brier, Verification of Forecasts Expressed in Terms of Probability (1950).
    """
    labels = check_labels(labels, ignore_index)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        rows = label_rows(logits, labels, axis, where, ignore_index)
    elif ignore_index is not None:
        fail("ignore_index", "None with labels that are pmfs", ignore_index)
    else:
        rows = target_rows(logits, labels, axis, where)
    check_names(reduction, implementation)
    return _brier_score(rows, reduction=reduction, implementation=implementation)


def kl_divergence_with_logits(
    target_logits: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    reduction: str = "none",
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """KL divergence of softmax(logits / T) from softmax(target_logits / T), in nats.

        loss = sum_k p_k log(p_k / q_k),    p = softmax(target_logits / T), q = softmax(logits / T)

    Exactly 0 for equal logits, never negative, and where they are close as accurate as their own
    rounding allows. The gradient flows to both arguments; a teacher that is to stand still needs
    `jax.lax.stop_gradient`.

    This is the divergence itself. Its gradient in the logits shrinks as 1 / T^2; Hinton et al.
    multiply it by T^2 when they add it to a loss without temperature, and so has the caller to.

    A class whose logit is -inf on both sides has no part in the result; +inf where p_k > 0 = q_k.

    Args:
        target_logits: of the teacher; real array of the logits' shape.
        logits: of the student; real array, K classes along `axis`. Half precision is computed in
            float32.
        temperature: T > 0.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class leaves
            both pmfs), with the rows' it masks rows. A masked row, or one with no class left, has
            loss 0 and leaves the mean.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The divergence, float32 (float64 if either argument is): one a row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> teacher, student = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
        >>> print(kl_divergence_with_logits(teacher, student))
        0.1438...

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015),
    arXiv:1503.02531.
    """
    target, of_target = logits_rows(target_logits, axis, None, "target_logits")
    prediction, classes = logits_rows(logits, axis, where)
    if of_target.shape != classes.shape:
        fail("target_logits", f"the logits' shape {classes.shape}", of_target.shape)
    dtypes = target.logits.dtype, prediction.logits.dtype
    if compute_dtype(dtypes[0]) != compute_dtype(dtypes[1]):
        target, prediction = (
            rows._replace(logits=rows.logits.astype(compute_dtype(*dtypes)))
            for rows in (target, prediction)
        )
    prediction = adjusted(prediction, None, temperature)
    target = prediction._replace(logits=target.logits)
    check_names(reduction, implementation)
    return _kl_divergence(target, prediction, reduction=reduction, implementation=implementation)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _brier_score(rows: Rows, *, reduction: str, implementation: str | None) -> Float[Array, "..."]:
    rows = widened(rows)
    stats = row_statistics(rows, Requested(normalizer=True), implementation)
    return reduce_losses(mask_rows(_squared_distance(rows, stats), rows), rows, reduction)


@partial(jax.checkpoint, prevent_cse=False)  # softmax is rebuilt in the backward pass, not kept
def _squared_distance(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows"]:
    p = jnp.exp(log_probabilities(rows, stats))
    if rows.target.labels is None:
        return jnp.sum(jnp.square(p - weighted_targets(rows)), -1)
    assert stats.label_logit is not None
    others = jnp.where(is_label(rows.target.labels, p.shape[-1]), 0, p)
    # Their sum is 1 - p_y with all its digits; a bad label's NaN lies in its logit.
    bad = jnp.where(jnp.isnan(stats.label_logit), stats.label_logit, 0)
    return jnp.square(jnp.sum(others, -1)) + jnp.sum(jnp.square(others), -1) + bad


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _kl_divergence(
    target: Rows, prediction: Rows, *, reduction: str, implementation: str | None
) -> Float[Array, "..."]:
    target, prediction = widened(target), widened(prediction)
    target_stats, stats = (
        row_statistics(rows, Requested(normalizer=True), implementation)
        for rows in (target, prediction)
    )
    loss = _divergence(target, target_stats, prediction, stats)
    return reduce_losses(mask_rows(loss, prediction), prediction, reduction)


@partial(jax.checkpoint, prevent_cse=False)  # neither softmax is kept for the backward pass
def _divergence(
    target: Rows, target_stats: RowStatistics, prediction: Rows, stats: RowStatistics
) -> Float[Array, "*rows"]:
    log_p, log_q = log_probabilities(target, target_stats), log_probabilities(prediction, stats)
    return divergence(log_p, log_q)
