"""Start near the optimum, for many rows: the optimum of a part of them.

The optimum of m of n rows is about p n / (2 m) nats worse than that of all rows. From there, steps
with the Hessian of the part, whose relative error is about 2 sqrt(p / m), cost one gradient each.
Only the last step, which proves the optimum, needs the Hessian of all rows.
"""

import numpy as np

from xentjax.softmax_regression.arrays import Array
from xentjax.softmax_regression.descent import MANY_ROWS, minimise
from xentjax.softmax_regression.linear_systems import solve
from xentjax.softmax_regression.objective import Problem, gradient, hessian

# The part has one of this many rows.
_SHARE = 8
_MOST_STEPS = 12


def start_of_many(problem: Problem) -> Array:
    """Return a point near the optimum of a NumPy problem; 0 for few rows, or if there is none."""
    found = None
    if problem.features.shape[1] >= MANY_ROWS:
        found = _of_part(problem)
    return np.zeros_like(problem.start) if found is None else _by_steps(problem, *found, 1e-17)


def _of_part(problem: Problem) -> tuple[Array, Array] | None:
    """Return the optimum of a part of the rows, and an estimate of the Hessian of all rows."""
    n = problem.features.shape[1]
    # One row of each `_SHARE` neighbours, at random, since neighbours may be alike.
    rows = np.arange(0, n - _SHARE + 1, _SHARE)
    rows += np.random.default_rng(0).integers(0, _SHARE, len(rows))
    weights = None if problem.weights is None else problem.weights[rows]
    part = problem._replace(
        features=problem.features[:, rows],
        labels=problem.labels[rows],
        weights=weights,
        penalty=problem.penalty / _SHARE,
    )
    if len(rows) >= MANY_ROWS:
        found = _of_part(part)
        if found is None:
            return None
        point = _by_steps(part, *found, 1e-7)
        curvature = hessian(part, point)
    else:
        end = minimise(part, np.zeros_like(part.start), np.int32(30), np.float64(0.1))
        if not end.converged:
            return None
        point, curvature = end.point, hessian(part, end.point)
    return point, _SHARE * curvature


def _by_steps(problem: Problem, point: Array, curvature: Array, tol: float) -> Array:
    """Take steps with a fixed Hessian until the next would gain less than `tol` nats per row."""
    before, last, n = point, np.inf, problem.features.shape[1]
    for _ in range(_MOST_STEPS):
        slope = gradient(problem, point)
        step = solve(curvature, slope, problem.occurs)
        gap = (slope * step).sum() / 2
        if not gap < last:  # the part represents the rows badly
            return before
        before, point = point, point - step
        fall = gap / last if last < np.inf else 0.1
        if fall > 0.25 or fall * gap <= tol * n:
            break
        last = gap
    return point
