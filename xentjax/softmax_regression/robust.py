"""The sandwich covariance of the estimates, valid even if the model is wrong."""

from typing import Any

from jaxtyping import Float

from xentjax.softmax_regression.arrays import Array, host_or_compiled, sum_over_rows
from xentjax.softmax_regression.fitted import Fitted, problem_at
from xentjax.softmax_regression.information import information, information_sums, width_of_sums
from xentjax.softmax_regression.linear_systems import in_features, inverse
from xentjax.softmax_regression.objective import logits_of, prior_of, residuals, softmax


@host_or_compiled
def robust_covariance(fitted: Fitted, valid: Array, rounding: Array) -> Float[Array, "p p"]:
    """Return H^-1 (sum_n w s_n s_n^T) H^-1 for the scores s_n of the rows, NaN unless `valid`."""
    problem, scale, offset = problem_at(fitted)
    k = len(fitted.rank)

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
