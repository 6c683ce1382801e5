"""Softmax cross-entropy reshaped: poly and focal losses, and targets that are smoothed."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._core.checks import broadcasts, check_bool, check_floating, check_scalar, fail
from xentjax._core.dtypes import compute_dtype
from xentjax.losses._arguments import (
    Axis,
    check_names,
    class_axes,
    label_rows,
    optional_scalar,
    target_rows,
)
from xentjax.losses._expression import (
    log_probabilities,
    mask_rows,
    reduce_label_losses,
    reduce_losses,
    row_losses,
    widened,
)
from xentjax.losses.cross_entropy import softmax_cross_entropy
from xentjax.ops import Requested, Rows, RowStatistics, row_statistics
from xentjax.ops.rows import weighted_targets

# optax has a second function for logits of -inf; here the first one is right there.
safe_softmax_cross_entropy = softmax_cross_entropy


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    reduction: str = "none",
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """Poly-1 loss of target probabilities t and p = softmax(logits), in nats.

        loss = sum_k w_k t_k (-log p_k + epsilon (1 - p_k))

    The cross-entropy with another coefficient of the first term in its expansion in powers of
    1 - p. The targets are used as they are: nothing is normalised.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: t, target probabilities (or one-hot rows of any dtype) of the logits' shape; they
            may broadcast over rows.
        epsilon: any number; 0 is the cross-entropy.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows, as in `softmax_cross_entropy`.
        class_weights: w, shape [K]; 1 if None.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The loss, float32 (float64 for float64 logits): one a row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(poly_loss_cross_entropy(logits, jnp.array([1.0, 0.0, 0.0])).round(4))
        1.6931

    Source: Leng et al., PolyLoss (2022), arXiv:2204.12511.
    """
    rows = target_rows(logits, labels, axis, where, class_weights)
    check_names(reduction, implementation)
    return _poly_loss(
        rows,
        optional_scalar("epsilon", epsilon, 0.0, rows.logits.dtype),
        reduction=reduction,
        implementation=implementation,
    )


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    gamma: ArrayLike = 2.0,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    reduction: str = "none",
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """Cross-entropy that pays less attention to rows that are already predicted well, in nats.

        loss = w_y (1 - p_y)^gamma (-log p_y),    p = softmax(logits)

    1 - p_y is computed from log p_y, and where p_y rounds to 1 the loss and its derivatives are 0,
    their limit at every gamma > 0. Labels and logits that are out of place do what they do in
    `softmax_cross_entropy_with_integer_labels`.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: y, integers in 0..K-1, the logits' shape without `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows, as in `softmax_cross_entropy`.
        gamma: exponent >= 0; 0 is the cross-entropy.
        ignore_index: a label whose rows have loss 0 and leave the mean; None for no such label.
        class_weights: w (the alpha of the paper), shape [K]; 1 if None.
        reduction: "none", "sum", or "mean": the sum divided by the kept rows' sum of w_y (0 if
            that is 0).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The loss, float32 (float64 for float64 logits): one a row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]))
        >>> print(softmax_focal_loss(logits, jnp.array([0, 0])).round(4))
        [0.1733 0.0011]

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    rows = label_rows(logits, labels, axis, where, ignore_index, class_weights)
    check_names(reduction, implementation)
    return _focal_loss(
        rows,
        optional_scalar("gamma", gamma, 0.0, rows.logits.dtype),
        reduction=reduction,
        implementation=implementation,
    )


def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """Targets that keep a share alpha of their mass for all classes alike.

        smoothed_k = (1 - alpha) t_k + alpha / K

    The keyword `label_smoothing` of the cross-entropies does the same without another array.

    Args:
        labels: t, one-hot rows or probabilities, K classes along `axis`.
        alpha: the share in [0, 1].
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, of as many dimensions as the labels: the classes that take part. K counts
            these, and the others get 0.

    Returns:
        The targets, of the labels' shape and dtype; computed in float32 or better.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> print(smooth_labels(jnp.array([1.0, 0.0, 0.0, 0.0]), 0.2))
        [0.85 0.05 0.05 0.05]

    Source: Szegedy et al. (2016), arXiv:1512.00567.
    """
    labels = check_floating("labels", labels)
    axes = class_axes(axis, labels.ndim)
    alpha = check_scalar("alpha", alpha, "a number in [0, 1]", lambda x: 0 <= x <= 1)
    share = jnp.asarray(alpha, compute_dtype(labels.dtype))
    if where is not None:
        where = check_bool("where", where)
        if where.ndim != labels.ndim or not broadcasts(where.shape, labels.shape):
            fail("where", f"a shape that broadcasts to the labels' {labels.shape}", where.shape)
        where = jnp.broadcast_to(where, labels.shape)
    return _smooth_labels(labels, share, where, axes)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _poly_loss(
    rows: Rows, epsilon: Float[Array, ""] | None, *, reduction: str, implementation: str | None
) -> Float[Array, "..."]:
    rows = widened(rows)
    stats = row_statistics(rows, Requested(), implementation)
    loss = row_losses(stats, rows, None, None)
    if epsilon is not None:
        loss += epsilon * mask_rows(_missed_mass(rows, stats), rows)
    return reduce_losses(loss, rows, reduction)


@partial(jax.checkpoint, prevent_cse=False)  # softmax is rebuilt in the backward pass, not kept
def _missed_mass(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows"]:
    """sum_k w_k t_k (1 - p_k)."""
    return jnp.sum(weighted_targets(rows) * -jnp.expm1(log_probabilities(rows, stats)), -1)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _focal_loss(
    rows: Rows, gamma: Float[Array, ""] | None, *, reduction: str, implementation: str | None
) -> Float[Array, "..."]:
    stats = row_statistics(rows, Requested(), implementation)
    assert stats.label_logit is not None
    loss = stats.log_sum - stats.label_logit
    if gamma is not None:
        loss = _focused(loss, gamma)
    return reduce_label_losses(loss, rows, reduction)


def _focused(surprise: Float[Array, "..."], gamma: Float[Array, ""]) -> Float[Array, "..."]:
    """h (1 - e^-h)^gamma of the surprise h = -log p_y."""
    certain, impossible = surprise == 0, surprise == jnp.inf
    h = jnp.where(certain | impossible, 1, surprise)
    focused = h * jnp.power(-jnp.expm1(-h), gamma)
    # At h = 0 derivatives in h may be infinite; those in the logits, where h ~ e^-margin, are 0.
    return jnp.where(certain, 0, jnp.where(impossible, surprise, focused))


@partial(jax.jit, static_argnums=3)
def _smooth_labels(
    labels: Array, alpha: Float[Array, ""], where: Array | None, axes: tuple[int, ...]
) -> Float[Array, "..."]:
    t = labels.astype(alpha.dtype)
    if where is None:
        where = jnp.ones_like(t, dtype=jnp.bool_)
    num_classes = jnp.sum(where, axes, keepdims=True, dtype=t.dtype)
    smoothed = (1 - alpha) * t + alpha / jnp.maximum(num_classes, 1)
    return jnp.where(where, smoothed, 0).astype(labels.dtype)
