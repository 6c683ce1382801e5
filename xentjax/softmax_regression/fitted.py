"""The minimisation problem of a fit at its optimum, for statistics that are sums over the rows."""

from typing import NamedTuple

from xentjax.softmax_regression.arrays import Array, namespace
from xentjax.softmax_regression.objective import Problem
from xentjax.softmax_regression.standardised import standardise


class Fitted(NamedTuple):
    """A fit, and the rows it was fitted to."""

    x: Array
    labels: Array
    weights: Array | None
    kernel: Array
    bias: Array
    order: Array
    """Classes, with the baseline first."""
    rank: Array
    """Place of each class in `order`."""
    l2: Array


def problem_at(fitted: Fitted) -> tuple[Problem, Array, Array]:
    """Return the problem in standardised features, started at the fit, and their scale, offset."""
    x, labels, weights, kernel, bias, order, rank, l2 = fitted
    xp = namespace(x)
    total = len(x) * xp.ones_like(l2) if weights is None else weights.sum()
    features, scale, offset = standardise(x, weights, total, l2)
    coefficients = kernel * scale[:, None]
    problem = Problem(
        features=features,
        labels=xp.take(rank, labels.clip(0, len(rank) - 1)),
        weights=weights,
        start=xp.concatenate([coefficients, (bias + offset @ coefficients)[None]])[:, order],
        occurs=(bias > -xp.inf)[order],
        penalty=xp.concatenate([l2 / scale / scale, xp.zeros_like(x, shape=1)]),
    )
    return problem, scale, offset
