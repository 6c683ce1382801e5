"""The objective of softmax regression and its derivatives: sums over the rows, chunk by chunk.

For rows of standardised features and a 1 for the bias, z_n, with weights w_n,

    F(B) = sum_n w_n H(y_n, softmax(z_n B)) + sum_d penalty_d / 2 ||B_d||^2

Arrays have the rows on their last axis, which makes sums over classes and features fast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Integer

from xentjax.softmax_regression.arrays import Array, add, namespace, sum_over_rows
from xentjax.softmax_regression.information import information, information_sums, width_of_sums


class Problem(NamedTuple):
    """Data of a fit. The coefficients, kernel and then bias, are `start` plus the point to find."""

    features: Float[Array, "d1 n"]
    """Features, standardised or smaller, and a row of ones for the bias."""
    labels: Integer[Array, " n"]
    weights: Float[Array, " n"] | None
    start: Float[Array, "d1 k"]
    occurs: Bool[Array, " k"]
    penalty: Float[Array, " d1"]
    """l2 in the scale of the features."""


def softmax(logits: Array) -> Array:
    """Return the softmax over the first axis."""
    unnormalised = namespace(logits).exp(shifted(logits))
    return unnormalised / unnormalised.sum(0, keepdims=True)


def shifted(logits: Array) -> Array:
    """Subtract the largest logit of each row, which is a constant for derivatives.

    The derivative of the maximum would be 0 / 0 in a program that recomputes the logits with
    another rounding, so that none equals the maximum.
    """
    largest = logits.max(0, keepdims=True)
    return logits - (largest if namespace(logits) is np else jax.lax.stop_gradient(largest))


def logits_of(features: Array, coefficients: Array) -> Array:
    """Return the logits [K, n]."""
    # The bias may be -inf, which a product with the ones could turn into NaN.
    return coefficients[:-1].T @ features[:-1] + coefficients[-1][:, None]


def is_label(labels: Array, k: int) -> Array:
    """Return whether each class is the row's label, [K, n]."""
    xp = namespace(labels)
    return labels[None] == xp.arange(k, dtype=labels.dtype)[:, None]


def residuals(p: Array, labels: Array) -> Array:
    """Return the probabilities minus 1 for the label.

    p_y - 1 would cancel where p_y is near 1, and the gradient of separated data would seem to be 0.
    """
    xp = namespace(p)
    if xp is np:
        rows, others = np.arange(len(labels)), p.copy()
        others[labels, rows] = 0
        others[labels, rows] = -others.sum(0)
        return others
    chosen = is_label(labels, len(p))
    others = xp.where(chosen, 0, p)
    return xp.where(chosen, -others.sum(0, keepdims=True), others)


def gradient(problem: Problem, point: Array) -> Array:
    """Return the gradient [D1, K]."""

    def of_rows(features: Array, labels: Array, weights: Array | None) -> tuple[Array]:
        p = softmax(logits_of(features, problem.start + point))
        return (_weighted(features, weights) @ residuals(p, labels).T,)

    return _over_rows(of_rows, problem, 1)[0] + _penalty(problem, point)


def gradient_and_hessian(problem: Problem, point: Array, prior: Array) -> tuple[Array, Array]:
    """Return the gradient, and the Hessian in coefficients relative to class 0, class by class."""

    def of_rows(features: Array, labels: Array, weights: Array | None) -> tuple[Array, Array]:
        p = softmax(logits_of(features, problem.start + point))
        first = _weighted(features, weights) @ residuals(p, labels).T
        return first, information_sums(p, features, weights)

    first, sums = _over_rows(of_rows, problem, width_of_sums(*problem.start.shape))
    return first + _penalty(problem, point), information(sums, *problem.start.shape) + prior


def hessian(problem: Problem, point: Array) -> Array:
    """Return the Hessian in coefficients relative to class 0, class by class."""

    def of_rows(features: Array, _labels: Array, weights: Array | None) -> tuple[Array]:
        p = softmax(logits_of(features, problem.start + point))
        return (information_sums(p, features, weights),)

    (sums,) = _over_rows(of_rows, problem, width_of_sums(*problem.start.shape))
    return information(sums, *problem.start.shape) + prior_of(problem)


def directional(problem: Problem, point: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Return slope and curvature, and the largest change of a row's logit differences."""

    def of_rows(features: Array, labels: Array, weights: Array | None) -> tuple[Array, ...]:
        xp = namespace(features)
        p = softmax(logits_of(features, problem.start + point))
        chosen = is_label(labels, len(p))
        others = xp.where(chosen, 0, p)
        change = direction.T @ features
        change = change - xp.where(chosen, change, 0).sum(0, keepdims=True)
        mean = (others * change).sum(0, keepdims=True)
        of_label = 1 - others.sum(0, keepdims=True)
        square = (others * xp.square(change - mean)).sum(0) + (of_label * mean**2)[0]
        spread = (change.max(0) - change.min(0)).max(initial=0)
        if weights is None:
            return mean.sum(), square.sum(), spread
        return (mean[0] * weights).sum(), (square * weights).sum(), spread

    xp = namespace(point)
    slope, curvature, spread = _over_rows(
        of_rows, problem, 1, lambda a, b: (a[0] + b[0], a[1] + b[1], xp.maximum(a[2], b[2]))
    )
    penalised = _penalty(problem, direction)
    return slope + (penalised * point).sum(), curvature + (penalised * direction).sum(), spread


def log_likelihood_gain(problem: Problem, point: Array) -> Array:
    """Return the log-likelihood minus that of the pmf in the bias of `start`, in nats.

    It sums the differences of the rows, which are smaller than the log-likelihoods.
    """

    def of_rows(features: Array, labels: Array, weights: Array | None) -> tuple[Array]:
        xp = namespace(features)
        relative = shifted(logits_of(features, problem.start + point))
        known = xp.where(problem.occurs, problem.start[-1], 0)[:, None]
        of_label = xp.where(is_label(labels, len(relative)), relative - known, 0).sum(0)
        gain = of_label - xp.log(xp.exp(relative).sum(0))
        return ((gain if weights is None else gain * weights).sum(),)

    return _over_rows(of_rows, problem, 1)[0]


def _over_rows(
    function: Callable[..., tuple[Any, ...]],
    problem: Problem,
    width: int,
    merge: Callable[..., tuple[Any, ...]] = add,
) -> tuple[Any, ...]:
    rows = problem.features, problem.labels, problem.weights
    return sum_over_rows(function, rows, max(width, sum(problem.start.shape)), merge)


def _weighted(features: Array, weights: Array | None) -> Array:
    return features if weights is None else features * weights[None]


def _penalty(problem: Problem, point: Array) -> Array:
    return problem.penalty[:, None] * point


def prior_of(problem: Problem) -> Array:
    """Return the Hessian of the penalty on the squared norm of the centred coefficients."""
    xp, dtype = namespace(problem.start), problem.start.dtype
    occurs = problem.occurs.astype(dtype)
    centring = xp.diag(occurs) - xp.outer(occurs, occurs) / occurs.sum()
    penalty = xp.kron(centring[1:, 1:], xp.diag(problem.penalty))
    # The second term keeps the coefficients of a class that never occurs unchanged.
    return penalty + xp.diag(xp.repeat(1 - occurs[1:], len(problem.start)))
