"""Poly-1 loss: softmax cross-entropy with a larger first term."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Reduction
from xentjax.losses._arguments import Axis, target_rows
from xentjax.losses._formula import (
    mask_rows,
    promote,
    reduce_losses,
    row_losses,
)
from xentjax.losses._keywords import (
    Keywords,
    Scalar,
    check_names,
    scalar_keywords,
    with_class_weights,
)
from xentjax.ops import Implementation, Requested, Rows, RowStatistics, row_statistics
from xentjax.ops.rows import log_probabilities, weighted_targets

EPSILON = Scalar("epsilon", "a finite number", np.isfinite, 0.0)


def poly_loss_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    epsilon: ArrayLike = 2.0,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    class_weights: ArrayLike | None = None,
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Poly-1 loss of target probabilities t and p = softmax(logits), in nats.

        loss = sum_k w_k t_k (-log p_k + epsilon (1 - p_k))

    This is the cross-entropy with another coefficient of the first term in its expansion in powers
    of 1 - p. The targets are used as they are: nothing is normalised.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: t, target probabilities (or one-hot rows of any dtype) of the logits' shape; they
            may broadcast over rows.
        epsilon: any number; 0 is the cross-entropy.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows, as in `softmax_cross_entropy`.
        class_weights: w, shape [K]; 1 if None.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
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
        >>> logits = jnp.log(jnp.array([0.5, 0.25, 0.25]))
        >>> print(xentjax.poly_loss_cross_entropy(logits, jnp.array([1.0, 0.0, 0.0])).round(4))
        1.6931

    Source: Leng et al., PolyLoss (2022), arXiv:2204.12511.
    """
    rows = target_rows(logits, labels, axis, where)
    rows = with_class_weights(rows, class_weights)
    (coefficient,) = scalar_keywords(rows.logits.dtype, (EPSILON, epsilon))
    check_names(reduction, implementation)
    return _poly_loss(rows, coefficient, reduction=reduction, implementation=implementation)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _poly_loss(
    rows: Rows, epsilon: Float[Array, ""] | None, *, reduction: str, implementation: str | None
) -> Float[Array, "..."]:
    rows = promote(rows)
    stats = row_statistics(rows, Requested(), implementation)
    loss = row_losses(stats, rows, Keywords())
    if epsilon is not None:
        loss += epsilon * mask_rows(_missed_mass(rows, stats), rows)
    return reduce_losses(loss, reduction, None, rows.mask.rows)


@partial(jax.checkpoint, prevent_cse=False)  # the backward pass recomputes softmax
def _missed_mass(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows"]:
    """Return sum_k w_k t_k (1 - p_k)."""
    return jnp.sum(weighted_targets(rows) * -jnp.expm1(log_probabilities(rows, stats)), -1)
