"""Negative log-likelihood of class indices under given log-probabilities."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Reduction
from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import nan_unless
from xentjax.losses._arguments import Axis, label_rows
from xentjax.losses._formula import reduce_label_losses
from xentjax.losses._keywords import check_names, with_class_weights
from xentjax.ops import Rows
from xentjax.ops.rows import at_label, is_label, label_in_range


def nll_loss(
    log_probs: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    """Negative log-likelihood of class indices y under given log-probabilities, in nats.

        loss = -w_y log_probs_y

    The log-probabilities are used as they are: nothing is normalised. For logits,
    `softmax_cross_entropy_with_integer_labels` does the same in one step, and more accurately.

    Args:
        log_probs: real array, K classes along `axis`. Half precision gives a float32 loss.
        labels: y, integers in 0..K-1, the shape of `log_probs` without `axis`. Any other label
            makes the loss and gradient of its row NaN and affects no other row.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes (a label there costs +inf) or whole rows (loss 0, not in the
            mean), depending on its number of dimensions.
        ignore_index: a label whose rows have loss 0 and are left out of the mean; None for no such
            label.
        class_weights: w, shape [K]; 1 if None.
        reduction: "none", "sum", or "mean": the sum divided by the kept rows' sum of w_y (0 if
            that is 0).

    Returns:
        The loss, float32 (float64 for float64 log-probabilities): one per row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape or name outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> log_probs = jnp.log(jnp.array([[0.5, 0.5, 0.0], [0.25, 0.25, 0.5]]))
        >>> print(xentjax.nll_loss(log_probs, jnp.array([1, 0])).round(4))
        [0.6931 1.3863]

    Source: Bishop, Pattern Recognition and Machine Learning (2006), section 4.3.4.
    """
    rows = label_rows(log_probs, labels, axis, where, ignore_index, name="log_probs")
    rows = with_class_weights(rows, class_weights)
    check_names(reduction)
    return _nll_loss(rows, reduction=reduction)


@partial(jax.jit, static_argnames="reduction")
def _nll_loss(rows: Rows, *, reduction: str) -> Float[Array, "..."]:
    return reduce_label_losses(-_label_log_prob(rows), rows, reduction)


def _label_log_prob(rows: Rows) -> Float[Array, "..."]:
    """Read one element per row; NaN for a label that is no class, -inf for a masked class."""
    labels, classes = rows.target.labels, rows.mask.classes
    assert labels is not None
    log_prob = _element(rows.logits, labels).astype(compute_dtype(rows.logits.dtype))
    if classes is not None:
        in_range = label_in_range(labels, rows.logits.shape[-1])
        kept = at_label(jnp.broadcast_to(classes, rows.logits.shape), labels, in_range)
        log_prob = jnp.where(kept | ~in_range, log_prob, -jnp.inf)
    return log_prob


@jax.custom_jvp
def _element(x: Float[Array, "*rows K"], labels: Integer[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Return x_y of each row, NaN for a y that is no class."""
    in_range = label_in_range(labels, x.shape[-1])
    return at_label(x, labels, in_range) + nan_unless(in_range, x.dtype)


@_element.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    (x, labels), (dx, _) = primals, tangents
    return _element(x, labels), _element_tangent(labels, dx)


@partial(jax.checkpoint, prevent_cse=False)  # keeps the labels, not their one-hot form
def _element_tangent(
    labels: Integer[Array, "*rows"], dx: Float[Array, "*rows K"]
) -> Float[Array, "*rows"]:
    """Compute the tangent with a comparison, not a scatter; NaN in a row with a bad label."""
    derivative = is_label(labels, dx).astype(dx.dtype)
    bad = nan_unless(label_in_range(labels, dx.shape[-1]), dx.dtype)
    return jnp.sum((derivative + bad[..., None]) * dx, -1)
