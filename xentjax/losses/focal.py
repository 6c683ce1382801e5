"""Focal loss: softmax cross-entropy with less weight on rows predicted well."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Reduction
from xentjax.losses._arguments import Axis, label_rows
from xentjax.losses._formula import reduce_label_losses
from xentjax.losses._keywords import (
    Scalar,
    check_names,
    scalar_keywords,
    with_class_weights,
)
from xentjax.ops import Implementation, Requested, Rows, row_statistics

GAMMA = Scalar("gamma", "a finite number >= 0", lambda x: 0 <= x < np.inf, 0.0)


def softmax_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    gamma: ArrayLike = 2.0,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Cross-entropy with less weight on rows that are already predicted well, in nats.

        loss = w_y (1 - p_y)^gamma (-log p_y),    p = softmax(logits)

    1 - p_y is computed from log p_y. Where p_y rounds to 1, the loss and its derivatives are 0,
    which is their limit for every gamma > 0. Out-of-range labels and non-finite logits are treated
    as in `softmax_cross_entropy_with_integer_labels`.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: y, integers in 0..K-1, the logits' shape without `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows, as in `softmax_cross_entropy`.
        gamma: exponent >= 0; 0 is the cross-entropy.
        ignore_index: a label whose rows have loss 0 and are left out of the mean; None for no such
            label.
        class_weights: w (the alpha of the paper), shape [K]; 1 if None.
        reduction: "none", "sum", or "mean": the sum divided by the kept rows' sum of w_y (0 if
            that is 0).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The loss, float32 (float64 for float64 logits): one per row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.9, 0.05, 0.05]]))
        >>> print(xentjax.softmax_focal_loss(logits, jnp.array([0, 0])).round(4))
        [0.1733 0.0011]

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    rows = label_rows(logits, labels, axis, where, ignore_index)
    rows = with_class_weights(rows, class_weights)
    (exponent,) = scalar_keywords(rows.logits.dtype, (GAMMA, gamma))
    check_names(reduction, implementation)
    return _focal_loss(rows, exponent, reduction=reduction, implementation=implementation)


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


def _focused(surprisal: Float[Array, "..."], gamma: Float[Array, ""]) -> Float[Array, "..."]:
    """Return h (1 - e^-h)^gamma of the surprisal h = -log p_y."""
    certain, impossible = surprisal == 0, surprisal == jnp.inf
    h = jnp.where(certain | impossible, 1, surprisal)
    focused = h * jnp.power(-jnp.expm1(-h), gamma)
    # At h = 0 derivatives in h may be infinite; derivatives in the logits are 0, as h ~ e^-margin.
    return jnp.where(certain, 0, jnp.where(impossible, surprisal, focused))
