"""Softmax cross-entropy of logits against class indices or probabilities."""

from collections.abc import Callable
from functools import partial
from typing import Literal, TypedDict, Unpack, overload

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._core.checks import check_flag
from xentjax.losses._arguments import (
    Axis,
    adjusted,
    check_names,
    label_rows,
    optional_scalar,
    target_rows,
)
from xentjax.losses._expression import (
    SoftmaxStats as SoftmaxStats,
    reduce_losses,
    row_losses,
    softmax_stats,
)
from xentjax.ops import Requested, Rows, RowStatistics, row_statistics

Loss = Float[Array, "..."]
LossAndStats = tuple[Float[Array, "..."], SoftmaxStats]


class Keywords(TypedDict, total=False):
    """The keywords that do not change what is returned; for the overloads only."""

    class_weights: ArrayLike | None
    label_smoothing: ArrayLike
    z_loss: ArrayLike
    logit_soft_cap: ArrayLike | None
    temperature: ArrayLike
    reduction: str
    implementation: str | None


class IntegerKeywords(Keywords, total=False):
    ignore_index: int | None


@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[False] = False,
    **keywords: Unpack[Keywords],
) -> Loss: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[True],
    **keywords: Unpack[Keywords],
) -> LossAndStats: ...
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: str = "none",
    return_stats: bool = False,
    implementation: str | None = None,
) -> Loss | LossAndStats:
    """Cross-entropy of target probabilities t and softmax(logits), in nats.

    With a = c tanh(logits / c) / temperature (a soft cap c), p = softmax(a) and smoothing e::

        loss = sum_k w_k ((1-e) t_k + e/K) (-log p_k) + z_loss (log sum_k exp a_k)^2

    The targets are used as they are: nothing is normalised. Exact where -log p_k is infinite and
    t_k is 0; +inf where it has mass. Differentiable in logits, labels, class weights and scalars,
    in every mode and order.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: target probabilities (or one-hot rows of any dtype) of the logits' shape; they may
            broadcast over rows.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class leaves
            the softmax and its target mass is dropped), with the rows' it masks rows. A masked row,
            or one with no class left, has loss 0 and leaves the mean.
        class_weights: w, shape [K]; 1 if None.
        label_smoothing: e in [0, 1], spread over the K classes that `where` keeps.
        z_loss: weight of the squared log normaliser, >= 0.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        return_stats: also return the `SoftmaxStats` of each row.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The loss, float32 (float64 for float64 logits): one a row, or a scalar. With
        `return_stats` the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
        >>> print(softmax_cross_entropy(logits, labels).round(4))
        [0.6931 0.9486]

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.3; smoothing:
    Szegedy et al. (2016), arXiv:1512.00567.
    """
    rows = target_rows(logits, labels, axis, where, class_weights)
    rows = adjusted(rows, logit_soft_cap, temperature)
    check_names(reduction, implementation)
    check_flag("return_stats", return_stats)
    return cross_entropy_of_rows(
        rows,
        optional_scalar("label_smoothing", label_smoothing, 0.0, rows.logits.dtype),
        optional_scalar("z_loss", z_loss, 0.0, rows.logits.dtype),
        reduction=reduction,
        return_stats=return_stats,
        implementation=implementation,
    )


@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[False] = False,
    **keywords: Unpack[IntegerKeywords],
) -> Loss: ...
@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    return_stats: Literal[True],
    **keywords: Unpack[IntegerKeywords],
) -> LossAndStats: ...
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: str = "none",
    return_stats: bool = False,
    implementation: str | None = None,
) -> Loss | LossAndStats:
    """Cross-entropy of class indices y and softmax(logits), in nats.

    With a = c tanh(logits / c) / temperature (a soft cap c), p = softmax(a) and smoothing e::

        loss = (1-e) w_y (-log p_y) + (e/K) sum_k w_k (-log p_k) + z_loss (log sum_k exp a_k)^2

    A label outside 0..K-1, negative ones too, that is not `ignore_index` makes its row's loss and
    gradient NaN and touches no other row. A label on a masked class costs +inf.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: integers in 0..K-1, the logits' shape without `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes; a label then counts
            through them in the order given, the last one fastest.
        where: bool. With the logits' number of dimensions it masks classes (a masked class leaves
            the softmax), with the rows' it masks rows. A masked row, or one with no class left, has
            loss 0 and leaves the mean.
        ignore_index: a label whose rows have loss 0 and leave the mean; None for no such label.
        class_weights: w, shape [K]; 1 if None.
        label_smoothing: e in [0, 1], spread over the K classes that `where` keeps.
        z_loss: weight of the squared log normaliser, >= 0.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "none", "sum", or "mean": the sum divided by the kept rows' sum of w_y (0 if
            that is 0).
        return_stats: also return the `SoftmaxStats` of each row.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The loss, float32 (float64 for float64 logits): one a row, or a scalar. With
        `return_stats` the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> labels = jnp.array([0, -100])
        >>> print(softmax_cross_entropy_with_integer_labels(logits, labels).round(4))
        [0.6931    nan]
        >>> loss = softmax_cross_entropy_with_integer_labels(
        ...     logits, labels, ignore_index=-100, reduction="mean"
        ... )
        >>> print(loss.round(4))
        0.6931

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.3; smoothing:
    Szegedy et al. (2016), arXiv:1512.00567.
    """
    rows = label_rows(logits, labels, axis, where, ignore_index, class_weights)
    rows = adjusted(rows, logit_soft_cap, temperature)
    check_names(reduction, implementation)
    check_flag("return_stats", return_stats)
    return cross_entropy_of_rows(
        rows,
        optional_scalar("label_smoothing", label_smoothing, 0.0, rows.logits.dtype),
        optional_scalar("z_loss", z_loss, 0.0, rows.logits.dtype),
        reduction=reduction,
        return_stats=return_stats,
        implementation=implementation,
    )


@partial(jax.jit, static_argnames=("reduction", "return_stats", "implementation"))
def cross_entropy_of_rows(
    rows: Rows,
    label_smoothing: Float[Array, ""] | None,
    z_loss: Float[Array, ""] | None,
    *,
    reduction: str,
    return_stats: bool,
    implementation: str | None,
) -> Loss | LossAndStats:
    """Both losses, of rows that hold their logits."""

    return cross_entropy_from(
        partial(row_statistics, rows, implementation=implementation),
        rows,
        label_smoothing,
        z_loss,
        reduction=reduction,
        return_stats=return_stats,
    )


_PUBLIC = Requested(mean=True, predicted=True, normalizer=True)
"""The statistics that `SoftmaxStats` are made of."""


def cross_entropy_from(
    statistics: Callable[[Requested], RowStatistics],
    rows: Rows,
    label_smoothing: Float[Array, ""] | None,
    z_loss: Float[Array, ""] | None,
    *,
    reduction: str,
    return_stats: bool,
    kept_classes: Float[Array, "..."] | None = None,
) -> Loss | LossAndStats:
    """Both losses from any source of the rows' statistics: the expression and the reduction."""
    # The statistics to return are the unweighted ones, which weighted targets do not contain.
    apart = return_stats and rows.target.pmf is not None and rows.class_weights is not None
    requested = _PUBLIC if return_stats and not apart else Requested()
    stats = statistics(requested._replace(uniform=label_smoothing is not None))
    losses = row_losses(stats, rows, label_smoothing, z_loss, kept_classes)
    loss = reduce_losses(losses, rows, reduction)
    if not return_stats:
        return loss
    if apart:
        stats = statistics(_PUBLIC._replace(unweighted=True))
    return loss, softmax_stats(stats, rows)
