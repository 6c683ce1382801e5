"""The sandwich covariance: the spread of the estimates whether the model is right or not."""

from typing import Any

from jaxtyping import Float

from xentjax.softmax_regression.arrays import Array, host_or_compiled, namespace, sum_over_rows
from xentjax.softmax_regression.information import information, information_sums, width_of_sums
from xentjax.softmax_regression.linear_systems import in_features, inverse
from xentjax.softmax_regression.objective import (
    Problem,
    logits_of,
    prior_of,
    residuals,
    softmax,
)
from xentjax.softmax_regression.standardised import standardise


def problem_at(
    x: Array,
    labels: Array,
    weights: Array | None,
    kernel: Array,
    bias: Array,
    order: Array,
    rank: Array,
    l2: Array,
) -> tuple[Problem, Array, Array]:
    """Return the problem in standardised features that starts at a fit, their scale and offset."""
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


@host_or_compiled
def robust_covariance(
    x: Array,
    labels: Array,
    weights: Array | None,
    kernel: Array,
    bias: Array,
    order: Array,
    rank: Array,
    l2: Array,
    valid: Array,
    rounding: Array,
) -> Float[Array, "p p"]:
    """Return H^-1 (sum_n w s_n s_n^T) H^-1 for the scores s_n of the rows, NaN unless `valid`."""
    problem, scale, offset = problem_at(x, labels, weights, kernel, bias, order, rank, l2)
    k = len(rank)

    def of_rows(features: Array, labels: Array, weights: Array | None) -> tuple[Any, ...]:
        p = softmax(logits_of(features, problem.start))
        residual = residuals(p, labels)[1:]
        scores = (residual[:, None] * features[None]).reshape(-1, features.shape[1])
        outer = scores @ (scores if weights is None else scores * weights[None]).T
        return outer, information_sums(p, features, weights)

    rows = problem.features, problem.labels, problem.weights
    width = max(k * len(problem.features), width_of_sums(len(problem.features), k))
    scores, parts = sum_over_rows(of_rows, rows, width)
    bread, independent = inverse(
        information(parts, len(problem.features), k) + prior_of(problem), rounding
    )
    known = problem.occurs[1:] & problem.occurs[:1] & independent & valid
    return in_features(bread @ scores @ bread, 1 / scale, offset, known)
