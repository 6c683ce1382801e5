"""Selective prediction: the errors that remain when the least confident rows are rejected."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.sums import accurate_sum
from xentjax._core.varying import on_auto_axes
from xentjax.calibration._predictions import Predictions, parse_probabilities


class RiskCoverage(NamedTuple):
    """Rows from the most to the least confident; masked rows are last, and NaN.

    Attributes:
        threshold: The confidence from which rows are accepted, that of the row itself.
        coverage: Share of the rows that are accepted.
        risk: Share of wrong predictions among them.
        aurc: Area under the curve: the mean of `risk`.
        excess_aurc: Excess of `aurc` over that of the best order of these predictions; >= 0.
    """

    threshold: Float[Array, " n"]
    coverage: Float[Array, " n"]
    risk: Float[Array, " n"]
    aurc: Float[Array, ""]
    excess_aurc: Float[Array, ""]


def risk_coverage(
    probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> RiskCoverage:
    """Error rate among the rows at least as confident as each row (the risk-coverage curve).

        coverage_n = #{m : conf_m >= conf_n} / N
        risk_n     = #{m : conf_m >= conf_n, wrong} / #{m : conf_m >= conf_n}
        AURC       = (1/N) sum_n risk_n

    Rows of equal confidence are accepted together and share a point of the curve, so that their
    order has no effect; float32 probabilities that round to 1 are such ties. The best order puts
    all right predictions first: with e errors its AURC is (1/N) sum_{i=1..e} i / (N - e + i), and
    the excess over it (E-AURC) is the potential gain of better confidences.

    Args:
        probs: pmfs, [N, K]; confidence is the largest probability, the prediction its first class.
        labels: integers 0..K-1, [N].
        where: bool [N], the rows to count; None counts all.

    Returns:
        The curve, float32 (float64 for float64 `probs`). Its derivatives in `probs` are 0, except
        the thresholds'. Under jit, where values are unknown, a label outside 0..K-1, a NaN in
        `probs` or no row to count make risk and areas NaN.

    Raises:
        ValueError: for shapes that do not fit, no rows, concrete rows that are not pmfs, and
            concrete labels outside 0..K-1.
        TypeError: for arrays of the wrong dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> probs = jnp.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.6, 0.4]])
        >>> curve = xentjax.risk_coverage(probs, jnp.array([0, 0, 1, 0]))
        >>> print(curve.coverage, curve.risk.round(3))
        [0.25 0.5  0.75 1.  ] [0.    0.5   0.333 0.25 ]
        >>> print(f"{curve.aurc:.4f} {curve.excess_aurc:.4f}")
        0.2708 0.2083

    Source: R. El-Yaniv and Y. Wiener, "On the foundations of noise-free selective classification"
    (2010); Y. Geifman et al., "Bias-reduced uncertainty estimation for deep neural classifiers"
    (2019), with the sum for the best order itself instead of its limit for many rows.
    """
    return _risk_coverage(parse_probabilities(probs, labels, where))


@jax.jit
@on_auto_axes
def _risk_coverage(predictions: Predictions) -> RiskCoverage:
    probs, labels, keep = predictions
    n = labels.size
    wrong = keep & (jnp.argmax(probs, -1).astype(labels.dtype) != labels)
    key = jnp.where(keep, -probs.max(-1), jnp.inf)
    key, wrong = jax.lax.sort((key, wrong.astype(jnp.int32)), num_keys=1)
    position = jnp.arange(n, dtype=jnp.int32)
    total = keep.sum(dtype=jnp.int32)
    counts = position < total

    is_last = jnp.concatenate([key[1:] != key[:-1], jnp.ones(1, bool)])
    last = jax.lax.cummin(jnp.where(is_last, position, n - 1), reverse=True)
    accepted, errors = last + 1, jnp.cumsum(wrong, dtype=jnp.int32)
    valid = ~predictions.bad.any() & (total > 0)
    dtype = probs.dtype
    scale = total.astype(dtype) + nan_unless(valid, dtype)
    refused = nan_unless(counts, dtype)
    risk = errors[last].astype(dtype) / accepted.astype(dtype)
    least = jnp.maximum(position + 1 - (total - errors[-1]), 0)  # the errors of the best order
    best = least.astype(dtype) / (position + 1).astype(dtype)

    def mean(x: Array) -> Array:
        return accurate_sum(jnp.where(counts, x, 0)) / scale

    aurc = mean(risk)
    return RiskCoverage(
        threshold=-key + refused,
        coverage=accepted.astype(dtype) / jnp.maximum(total, 1).astype(dtype) + refused,
        risk=risk + nan_unless(counts & valid, dtype),
        aurc=aurc,
        excess_aurc=jnp.maximum(mean(risk - best), 0),
    )
