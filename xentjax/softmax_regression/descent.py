"""Minimisation for softmax regression: Newton or L-BFGS steps without values of the objective."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from xentjax.softmax_regression.arrays import Array, namespace, while_loop
from xentjax.softmax_regression.linear_systems import solve
from xentjax.softmax_regression.objective import (
    Problem,
    directional,
    gradient,
    gradient_and_hessian,
    hessian,
    prior_of,
)

# Largest number p of coefficients for Newton's method. With more, ten Hessians cost more than all
# gradients of L-BFGS, and their memory grows as p^2.
_MAX_COEFFICIENTS = 1000
# Smallest number of rows for which a start near the optimum saves time, on the host.
MANY_ROWS = 2**16
# A move that changes the differences of a row's logits by at most this changes the Hessian by at
# most the same fraction: too little to notice or, with many rows, to be worth another Hessian.
_SHORT, _SHORT_OF_MANY = 1e-8, 1e-6


def by_newton(num_features: int, k: int) -> bool:
    """Whether Newton's method is used, which NumPy can run too; otherwise it is L-BFGS."""
    return (k - 1) * (num_features + 1) <= _MAX_COEFFICIENTS


class State(NamedTuple):
    """State of the minimisation; `gradient` and `hessian` are those before the last move."""

    point: Float[Array, "d1 k"]
    gradient: Float[Array, "d1 k"]
    hessian: Float[Array, "p p"] | None
    memory: Any
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]
    finished: Bool[Array, ""]


class _Search(NamedTuple):
    """State of a line search; a move's reach is its largest change of a row's logit differences."""

    length: Float[Array, ""]
    last_reach: Float[Array, ""]
    slope: Float[Array, ""]
    tries: Int[Array, ""]
    first_slope: Float[Array, ""]
    gap: Float[Array, ""]
    """Fall of the objective that its quadratic model at the start of the search predicts."""
    reach: Float[Array, ""]
    """Reach of the move to the minimum of that model."""


def minimise(problem: Problem, point: Array, max_steps: Array, tol: Array) -> State:
    """Take steps until the objective can fall by at most `tol` nats or seems to have no minimum."""
    xp = namespace(point)
    d1, k = point.shape
    newton = by_newton(d1 - 1, k)
    short = _SHORT if problem.labels.shape[0] < MANY_ROWS else _SHORT_OF_MANY
    lbfgs = optax.scale_by_lbfgs()
    rounding = max(1e-10, 300 * float(xp.finfo(point.dtype).eps))

    def body(
        state: State, problem: Problem, prior: Array | None, max_steps: Array, tol: Array
    ) -> State:
        point, curvature, memory = state.point, None, state.memory
        if newton:
            slope, curvature = gradient_and_hessian(problem, point, prior)
            uphill = solve(curvature, slope, problem.occurs)
        else:
            slope = gradient(problem, point)
            with jax.numpy_dtype_promotion("standard"):  # optax fails with "strict"
                uphill, memory = lbfgs.update(slope, memory, point)
            uphill = jnp.asarray(uphill, point.dtype)
        search = _line_search(problem, point, -uphill)
        # A Newton step with a reach below 1 proves that an optimum exists: p - H u z, with features
        # z and step u, are then positive probabilities at which the gradient is exactly 0. For
        # separated data the reach tends to 1 or more, until rounding makes it small.
        small = search.reach < 0.5
        penalised = (problem.penalty > 0).any()  # then an optimum exists, however far away
        separated = ~small & (search.gap <= rounding) & ~state.converged & ~penalised
        finished = state.converged | separated | (state.steps == max_steps) | ~(search.gap >= 0)
        converged = state.converged | (small & (search.gap <= tol))
        # Such a short move leaves gradient and Hessian as they were.
        settled = converged & (search.reach <= short)
        return State(
            point=point - xp.where(finished, 0, search.length) * uphill,
            gradient=slope,
            hessian=curvature,
            memory=memory,
            steps=state.steps + xp.where(finished, 0, 1).astype(state.steps.dtype),
            converged=converged,
            separated=separated,
            finished=finished | settled,
        )

    no, p = xp.zeros((), bool)[()], (k - 1) * d1
    initial = State(
        point=point,
        gradient=xp.zeros_like(point),
        hessian=xp.zeros_like(point, shape=(p, p)) if newton else None,
        memory=None if newton else lbfgs.init(point),
        steps=xp.zeros((), xp.int32)[()],
        converged=no,
        separated=no,
        finished=no,
    )
    prior = prior_of(problem) if newton else None
    constants = problem, prior, max_steps, tol
    return while_loop(lambda state: ~state.finished, body, initial, *constants)


@jax.custom_jvp
def at_optimum(
    problem: Problem, point: Array, curvature: Array | None
) -> tuple[Array, Array | None]:
    """Return the point and its Hessian, with the derivatives of the exact minimum.

    The gradient stays 0 as the problem changes: H d_point = -d_gradient. Reverse mode could not
    differentiate the loop itself.
    """
    del problem
    return point, curvature


@at_optimum.defjvp
def _(
    primals: tuple[Problem, Array, Array | None], tangents: tuple[Problem, Any, Any]
) -> tuple[Any, Any]:
    (problem, point, curvature), d_problem = primals, tangents[0]

    def derivative(function: Callable[[Problem], Array]) -> Array:
        return jax.jvp(function, (problem,), (d_problem,))[1]

    d_gradient = derivative(lambda problem: gradient(problem, point))
    if curvature is None:
        d_point = -jax.lax.custom_linear_solve(
            lambda direction: jax.jvp(partial(gradient, problem), (point,), (direction,))[1],
            d_gradient,
            lambda product, b: jax.scipy.sparse.linalg.cg(product, b)[0],
            symmetric=True,
        )
        return (point, None), (d_point, None)
    d_point = -solve(hessian(problem, point), d_gradient, problem.occurs)
    d_hessian = jax.jvp(hessian, (problem, point), (d_problem, d_point))[1]
    return (point, curvature), (d_point, d_hessian)


def _line_search(problem: Problem, point: Array, direction: Array) -> _Search:
    """Take steps, each sure to lower the objective, until the slope is a tenth of the first."""
    xp = namespace(point)

    def body(state: _Search, problem: Problem, point: Array, direction: Array) -> _Search:
        slope, curvature, spread = directional(problem, point + state.length * direction, direction)
        # If the direction changes nothing, all three are 0.
        newton = -slope / xp.where(curvature > 0, curvature, 1)
        reach = spread * abs(newton)
        # Short steps are safe as they are, and unshortened they converge quadratically.
        shrink = xp.where(reach < 0.5, 1, xp.log1p(reach) / xp.maximum(reach, 0.5))
        first = state.tries == 0
        return _Search(
            length=state.length + shrink * newton,
            last_reach=shrink * reach,
            slope=slope,
            tries=state.tries + 1,
            first_slope=xp.where(first, slope, state.first_slope),
            gap=xp.where(first, -slope * newton / 2, state.gap),
            reach=xp.where(first, reach, state.reach),
        )

    def unfinished(state: _Search) -> Array:
        steep = (state.tries < 2) | (abs(state.slope) > 0.1 * abs(state.first_slope))
        return steep & (state.last_reach > 0.3) & (state.tries < 20)

    zero, no_tries = xp.zeros((), point.dtype)[()], xp.zeros((), xp.int32)[()]
    start = _Search(zero, zero + xp.inf, zero, no_tries, zero, zero, zero)
    return while_loop(unfinished, body, start, problem, point, direction)
