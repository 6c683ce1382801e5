"""Brier score: the squared distance of softmax(logits) from a target pmf.

A Bregman divergence, of the squared norm: never negative, and 0 only at the target. It is a sum of
terms >= 0 over classes, since the expanded square loses every digit where the two pmfs are close.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.choices import Reduction
from xentjax._core.varying import sharded_alike
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
from xentjax.ops.rows import is_label, log_probabilities, weighted_targets


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

    In [0, 2], Brier's own scale; for two classes some authors count one of them only, which is half
    of this. 0 is a certain and right prediction, 2 a certain and wrong one.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: class indices y in 0..K-1, integers of the logits' shape without `axis`; or pmfs (or
            one-hot rows of any dtype) of the logits' shape, which may broadcast over rows. A bad
            index makes its row's score and gradient NaN and touches no other row.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class leaves
            the softmax and its target mass is dropped; as a label it has p_y = 0), with the rows'
            it masks rows. A masked row, or one with no class left, has score 0 and leaves the mean.
        ignore_index: a label whose rows have score 0 and leave the mean; None for no such label.
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
    stats = row_statistics(rows, Requested(normalizer=True), implementation)
    loss = mask_rows(_squared_distance(rows, stats), rows)
    return reduce_losses(loss, reduction, None, rows.mask.rows)


@partial(jax.checkpoint, prevent_cse=False)  # softmax is rebuilt in the backward pass, not kept
def _squared_distance(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows"]:
    p = jnp.exp(log_probabilities(rows, stats))
    if rows.target.labels is None:
        return jnp.sum(jnp.square(p - weighted_targets(rows)), -1)
    assert stats.label_logit is not None
    own, p = sharded_alike(is_label(rows.target.labels, p), p)
    others = jnp.where(own, 0, p)
    # Their sum is 1 - p_y with all its digits; a bad label's NaN lies in its logit.
    bad = jnp.where(jnp.isnan(stats.label_logit), stats.label_logit, 0)
    return jnp.square(jnp.sum(others, -1)) + jnp.sum(jnp.square(others), -1) + bad
