"""Calibration errors and the reliability curve: confidence against accuracy, bin by bin."""

from functools import partial
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_choice, check_flag, check_index, raise_value_error
from xentjax._core.choices import Binning, Norm
from xentjax._core.largest import largest
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.sums import accurate_sum
from xentjax._core.varying import on_auto_axes
from xentjax.calibration._bins import BinSums, bin_sums
from xentjax.calibration._predictions import Predictions, parse_probabilities


class ReliabilityCurve(NamedTuple):
    """Confidence and accuracy by bin: a reliability diagram and a confidence histogram.

    Attributes:
        edges: Bin b is (edges[b], edges[b + 1]]; the first one includes 0.
        confidence: Mean confidence of each bin; NaN in an empty one.
        accuracy: Share of right predictions in each bin; NaN in an empty one.
        counts: Rows in each bin.
        mean_confidence: Mean confidence of all rows; above `mean_accuracy` for an over-confident
            classifier.
        mean_accuracy: Accuracy of all rows.
    """

    edges: Float[Array, " b1"]
    confidence: Float[Array, " b"]
    accuracy: Float[Array, " b"]
    counts: Int[Array, " b"]
    mean_confidence: Float[Array, ""]
    mean_accuracy: Float[Array, ""]


def expected_calibration_error(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: SupportsIndex = 15,
    norm: Norm = "l1",
    binning: Binning = "width",
    debias: bool = False,
    where: ArrayLike | None = None,
) -> Float[Array, ""]:
    """Expected calibration error: mean distance of accuracy from confidence (MCE for norm "max").

        l1     sum_b (n_b / N) |acc_b - conf_b|
        l2     sqrt( sum_b (n_b / N) (acc_b - conf_b)^2 )
        max    max_b |acc_b - conf_b|                                  over bins that are not empty

    The confidence of a row is its largest probability, its prediction the first class that has it.
    Bins are (lo, hi], as in Guo et al.; the first one includes 0. A confidence equal to an edge as
    `reliability_curve` returns it lies below the edge.

    binning "width" cuts [0, 1] into equal parts. "mass" puts equally many rows in each: edge j is
    the ceil(j N / B)-th smallest confidence. Equal confidences share a bin, so that the result
    never depends on the order of rows; bins are then unequal, and some may be empty.

    Finite bins overestimate the error, because accuracies of few rows vary. With `debias` an
    estimate of their variance is subtracted from each square,

        l2, debiased     sqrt( max(0, sum_b (n_b / N) ((acc_b - conf_b)^2 - v_b)) )
        v_b = acc_b (1 - acc_b) / (n_b - 1)

    where a bin of one row, whose v_b is unknown, adds nothing.

    Args:
        probs: pmfs, [N, K]; two columns for a binary classifier. Half precision is computed in
            float32. Confidences that round to 1 are 1: softmax in float32 or better.
        labels: integers 0..K-1, [N].
        num_bins: B >= 1, static.
        norm: "l1", "l2" or "max".
        binning: "width" or "mass".
        debias: subtract the bias, for norm "l2" only.
        where: bool [N], the rows to count; the others may hold anything. None counts all.

    Returns:
        A scalar in [0, 1], float32 (float64 for float64 `probs`). Under jit, where values are
        unknown: NaN for a label outside 0..K-1, a NaN in `probs`, or no row to count. Its gradient
        in `probs` is that within the bins; no row changes its bin or its prediction.

    Raises:
        ValueError: for another name, debias without "l2", num_bins < 1, shapes that do not fit, no
            rows, and for concrete rows that are not pmfs or labels outside 0..K-1.
        TypeError: for arrays of the wrong dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> probs = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> labels = jnp.array([0, 1, 1, 1])
        >>> print(f"{xentjax.expected_calibration_error(probs, labels, num_bins=4):.3f}")
        0.350
        >>> print(f"{xentjax.expected_calibration_error(probs, labels, norm='max'):.3f}")
        0.800

    Source: C. Guo et al., "On calibration of modern neural networks" (2017); the debiased
    estimator: J. Bröcker, "Estimating reliability and resolution of probability forecasts through
    decomposition of the empirical score" (2012), A. Kumar et al., "Verified uncertainty
    calibration" (2019).
    """
    bins = _check_binning(num_bins, binning)
    _check_norm(norm, debias)
    predictions = parse_probabilities(probs, labels, where)
    return _expected_error(predictions, bins, norm, binning, bool(debias))


def classwise_calibration_error(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: SupportsIndex = 15,
    norm: Norm = "l1",
    binning: Binning = "width",
    debias: bool = False,
    where: ArrayLike | None = None,
) -> Float[Array, ""]:
    """Calibration error of every class: distance of its probability from its frequency.

        l1     (1/K) sum_k sum_b (n_bk / N) |freq_bk - conf_bk|
        l2     sqrt( (1/K) sum_k sum_b (n_bk / N) (freq_bk - conf_bk)^2 )
        max    max_{k, b} |freq_bk - conf_bk|                          over bins that are not empty

    Every probability counts, not only the largest: for class k the rows are binned by p_k,
    conf_bk is the mean of p_k in bin b, and freq_bk the share of its rows with label k. This is the
    classwise ECE of Kull et al., or the static calibration error of Nixon et al.; with binning
    "mass", which gives every class edges of its own, their adaptive calibration error. l2 is the
    marginal calibration error of Kumar et al. with classes of equal weight; the debiased one is cut
    off at 0 after the sum over classes, not before, which would bias it again.

    With many classes almost all p_k are near 0 and so is the l1 error of any classifier.

    Args, Returns and Raises are those of `expected_calibration_error`.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> probs = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> labels = jnp.array([0, 1, 1, 1])
        >>> print(f"{xentjax.classwise_calibration_error(probs, labels, num_bins=2):.3f}")
        0.350

    Source: M. Kull et al., "Beyond temperature scaling" (2019), arXiv:1910.12656; J. Nixon et al.,
    "Measuring calibration in deep learning" (2019), arXiv:1904.01685.
    """
    bins = _check_binning(num_bins, binning)
    _check_norm(norm, debias)
    predictions = parse_probabilities(probs, labels, where)
    return _classwise_error(predictions, bins, norm, binning, bool(debias))


def reliability_curve(
    probs: ArrayLike,
    labels: ArrayLike,
    *,
    num_bins: SupportsIndex = 15,
    binning: Binning = "width",
    where: ArrayLike | None = None,
) -> ReliabilityCurve:
    """Confidence and accuracy of each bin, of which calibration errors are averages.

    A reliability diagram is accuracy over confidence, with `edges` as the ends of its bars; a
    confidence histogram is `counts` over `edges`, with lines at the two means.
    `confidence_intervals` of a bin's wrong and right rows gives the uncertainty of its accuracy.

    Args:
        probs: pmfs, [N, K]. Half precision is computed in float32.
        labels: integers 0..K-1, [N].
        num_bins: B >= 1, static.
        binning: "width" or "mass", as in `expected_calibration_error`.
        where: bool [N], the rows to count; None counts all.

    Returns:
        The curve, float32 (float64 for float64 `probs`), counts int32. Under jit, where values are
        unknown, a label outside 0..K-1 or a NaN in `probs` makes the means it is part of NaN.

    Raises:
        ValueError: as `expected_calibration_error`.
        TypeError: for arrays of the wrong dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> probs = jnp.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6]])
        >>> curve = xentjax.reliability_curve(probs, jnp.array([0, 1, 1, 1]), num_bins=4)
        >>> print(curve.edges, curve.counts)
        [0.   0.25 0.5  0.75 1.  ] [0 0 2 2]
        >>> print(curve.confidence, curve.accuracy)
        [ nan  nan 0.65 0.85] [nan nan 1.  0.5]

    Source: M. DeGroot and S. Fienberg, "The comparison and evaluation of forecasters" (1983);
    C. Guo et al., "On calibration of modern neural networks" (2017).
    """
    bins = _check_binning(num_bins, binning)
    return _curve(parse_probabilities(probs, labels, where), bins, binning)


def _check_binning(num_bins: SupportsIndex, binning: str) -> int:
    checked = check_index("num_bins", num_bins)
    if checked < 1:
        raise_value_error("num_bins", "an integer >= 1", repr(num_bins))
    check_choice("binning", binning, Binning)
    return checked


def _check_norm(norm: str, debias: bool) -> None:
    check_choice("norm", norm, Norm)
    check_flag("debias", debias)
    if debias and norm != "l2":
        raise_value_error(
            "debias", f"False with norm {norm!r} (only squares can be debiased)", debias
        )


@partial(jax.jit, static_argnums=(1, 2))
def _curve(predictions: Predictions, num_bins: int, binning: str) -> ReliabilityCurve:
    sums = _top_sums(predictions, num_bins, binning)
    accuracy, confidence = _known_means(sums)
    total = BinSums(sums.edges, *(x.sum(keepdims=True) for x in sums[1:]))
    mean_accuracy, mean_confidence = _known_means(total)
    return ReliabilityCurve(
        sums.edges, confidence, accuracy, sums.counts, mean_confidence[0], mean_accuracy[0]
    )


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _expected_error(
    predictions: Predictions, num_bins: int, norm: str, binning: str, debias: bool
) -> Float[Array, ""]:
    return _error(_top_sums(predictions, num_bins, binning), norm, debias)


@partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _classwise_error(
    predictions: Predictions, num_bins: int, norm: str, binning: str, debias: bool
) -> Float[Array, ""]:
    @on_auto_axes
    def of_classes(predictions: Predictions) -> BinSums:
        probs, labels, keep = predictions
        bad = predictions.bad

        def of_class(column: tuple[Array, Array]) -> BinSums:
            k, p = column
            return bin_sums(p, keep & (labels == k), keep, bad, num_bins, binning)

        # Class by class: all at once would take several times the memory of the probabilities.
        classes = jnp.arange(probs.shape[-1], dtype=labels.dtype)
        return jax.lax.map(of_class, (classes, probs.T))

    return _error(of_classes(predictions), norm, debias)


def _top_sums(predictions: Predictions, num_bins: int, binning: str) -> BinSums:
    @on_auto_axes
    def of_tops(predictions: Predictions) -> BinSums:
        probs, labels, keep = predictions
        hit = keep & (jnp.argmax(probs, -1).astype(labels.dtype) == labels)
        return bin_sums(probs.max(-1), hit, keep, predictions.bad, num_bins, binning)

    return of_tops(predictions)


def _known_means(sums: BinSums) -> tuple[Array, Array]:
    """Return accuracy and confidence of each bin; NaN if it is empty or has a bad row."""
    accuracy, confidence = _means(sums)
    known = (sums.counts > 0) & ~jnp.isnan(confidence)
    unknown = nan_unless(known, confidence.dtype)
    return accuracy + unknown, confidence + unknown


def _means(sums: BinSums) -> tuple[Array, Array]:
    """Return accuracy and confidence of each bin; 0 if empty, NaN confidence for a bad row."""
    dtype = sums.confidence.dtype
    count = jnp.maximum(sums.counts, 1).astype(dtype)
    return sums.hits.astype(dtype) / count, sums.confidence / count


def _error(sums: BinSums, norm: str, debias: bool) -> Float[Array, ""]:
    """Compute the norm of the gaps over the bins of one class, or of classes of equal weight."""
    accuracy, confidence = _means(sums)
    gap = accuracy - confidence
    count = sums.counts.astype(gap.dtype)
    rows = accurate_sum(count.ravel())  # N times the number of classes may not fit in int32
    if norm == "max":
        return largest(jnp.abs(gap).ravel()) + nan_unless(rows > 0, rows.dtype)
    if norm == "l1":
        return accurate_sum((count * jnp.abs(gap)).ravel()) / rows
    square = jnp.square(gap)
    if debias:
        variance = accuracy * (1 - accuracy) / jnp.maximum(count - 1, 1)
        square = jnp.where(sums.counts == 1, 0 * gap, square - variance)  # keeps NaN
    mean = accurate_sum((count * square).ravel()) / rows
    # At 0 the derivative of the root would be infinite.
    vanishes = mean <= 0
    return jnp.where(vanishes, 0, jnp.sqrt(jnp.where(vanishes, 1, mean)))
