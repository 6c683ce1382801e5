"""The optimum of softmax regression, in standardised features and in the given ones."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from xentjax.categorical.counts import count_indices
from xentjax.softmax_regression.arrays import Array, host_or_compiled, namespace
from xentjax.softmax_regression.descent import at_optimum, minimise
from xentjax.softmax_regression.large import start_of_many
from xentjax.softmax_regression.linear_systems import centre, in_features, inverse
from xentjax.softmax_regression.objective import Problem, log_likelihood_gain
from xentjax.softmax_regression.standardised import standardise


class Solution(NamedTuple):
    """Computed fields of a `SoftmaxRegressionFit`, which documents those without a text here."""

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    log_likelihood: Float[Array, ""]
    null_log_likelihood: Float[Array, ""]
    likelihood_ratio: Float[Array, ""]
    covariance: Float[Array, "p p"] | None
    gradient_norm: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]
    identified: Bool[Array, ""] | None
    counts: Float[Array, " k"]
    """Total weight of the rows of each class."""


@host_or_compiled
def solve_regression(
    x: Array,
    labels: Array,
    weights: Array | None,
    order: Array,
    rank: Array,
    l2: Array,
    max_steps: Array,
    tol: Array,
    rounding: Array,
) -> Solution:
    """Return the optimum.

    Args:
        x: features [N, D].
        labels: [N]; those outside 0..K-1 make everything NaN.
        weights: [N], or None.
        order: the classes [K], with the baseline first.
        rank: place [K] of each class in `order`.
        l2: strength of the penalty.
        max_steps: largest number of steps.
        tol: fall of the objective at which one more step is the last.
        rounding: relative rounding of the features.

    Returns:
        The optimum, whose covariance is relative to the baseline.
    """
    xp, k = namespace(x), len(rank)
    valid = ((labels >= 0) & (labels < k)).all()
    nan = xp.zeros_like(x, shape=()) / valid.astype(x.dtype)
    counts = _counts(labels, weights, k, x.dtype)
    total = counts.sum()
    log_pmf = xp.log(counts / total) + nan
    standard = standardise(x, weights, total, l2)
    scale = standard.scale + nan
    to_unit = 1 / scale  # its square may be infinite
    occurs = (counts > 0) | ~valid
    zero = xp.zeros_like(x, shape=1)
    problem = Problem(
        features=standard.features,
        labels=xp.take(rank, labels.clip(0, k - 1)),
        weights=weights,
        start=xp.concatenate([xp.zeros_like(x, shape=(x.shape[1], k)), log_pmf[order][None]]),
        occurs=occurs[order],
        penalty=xp.concatenate([l2 * to_unit * to_unit, zero]),
    )
    if xp is np:
        end = minimise(problem, start_of_many(problem), max_steps, tol)
        point, hessian = end.point, end.hessian
    else:
        start = xp.zeros_like(problem.start)
        end = minimise(*jax.lax.stop_gradient((problem, start, max_steps, tol)))
        point, hessian = at_optimum(problem, end.point, end.hessian)

    kernel = centre(point[:-1][:, rank], occurs)
    bias = point[-1][rank] + xp.where(occurs, log_pmf, 0) - standard.offset @ kernel
    bias = xp.where(occurs, centre(bias[None], occurs)[0], -xp.inf)
    covariance = identified = None
    if hessian is not None:
        covariance, independent = inverse(hessian, rounding)
        known = problem.occurs[1:] & problem.occurs[:1] & independent & ~end.separated
        covariance = in_features(covariance, to_unit, standard.offset, known)
        identified = independent & ~end.separated
    null = (counts * xp.where(occurs, log_pmf, 0)).sum()
    gain = log_likelihood_gain(problem, point)
    return Solution(
        kernel=kernel / scale[:, None],
        bias=bias,
        log_likelihood=null + gain,
        null_log_likelihood=null,
        likelihood_ratio=2 * gain,
        covariance=covariance,
        gradient_norm=abs(end.gradient).max() / total,
        steps=end.steps,
        converged=end.converged,
        separated=end.separated,
        identified=identified,
        counts=counts,
    )


def _counts(labels: Array, weights: Array | None, k: int, dtype: jnp.dtype) -> Array:
    if isinstance(labels, np.ndarray):
        return np.bincount(labels, weights, k).astype(np.float64)
    return count_indices(labels, weights, None, k).astype(dtype)
