"""Minimisation for softmax regression: Newton or L-BFGS steps without values of the objective.

Over the rows, with features z_n standardised and a column of ones for the bias,

    F(B) = sum_n H(y_n, softmax(z_n B)) + sum_d penalty_d / 2 ||B_d||^2

Gradient, Hessian and what the line search needs are sums over the rows, taken by chunks.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Integer

from xentjax._core.varying import pvary_all
from xentjax.losses._keywords import Keywords
from xentjax.losses.cross_entropy import cross_entropy
from xentjax.losses.softmax import normalized
from xentjax.ops import Rows, Target

# Beyond, ten Hessians cost more than the gradients of L-BFGS, and their memory grows as p^2.
_MAX_COEFFICIENTS = 1000
# Numbers in the largest array of a chunk of rows.
_CHUNK = 2**19


class Problem(NamedTuple):
    """The coefficients, kernel and then bias, are `start` plus the point that is sought."""

    features: Float[Array, "n d1"]
    """Features, standardised or smaller, and a column of ones for the bias."""
    labels: Integer[Array, " n"]
    start: Float[Array, "d1 k"]
    occurs: Bool[Array, " k"]
    penalty: Float[Array, " d1"]
    """l2 in the scale of the features."""


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
    """Search along a direction; a reach is the spread of a row's logits that a move causes."""

    length: Float[Array, ""]
    last_reach: Float[Array, ""]
    slope: Float[Array, ""]
    tries: Int[Array, ""]
    first_slope: Float[Array, ""]
    gap: Float[Array, ""]
    """Fall of the objective to the minimum of its quadratic model where the search began."""
    reach: Float[Array, ""]
    """Reach of the move to that minimum."""


def minimise(problem: Problem, max_steps: Array, tol: Array) -> State:
    """Take steps until the objective can fall by at most `tol` nats, or seems to fall for ever."""
    start = jnp.zeros_like(problem.start)
    d1, k = start.shape
    p = (k - 1) * d1
    newton = p <= _MAX_COEFFICIENTS
    lbfgs = optax.scale_by_lbfgs()
    rounding = max(1e-10, 300 * float(jnp.finfo(start.dtype).eps))
    penalised = (problem.penalty > 0).any()  # so that there is an optimum, however far

    def body(state: State) -> State:
        point, hessian, memory = state.point, None, state.memory
        gradient = _gradient(problem, point)
        if newton:
            hessian = _hessian(problem, point)
            uphill = _solve(hessian, gradient, problem.occurs)
        else:
            with jax.numpy_dtype_promotion("standard"):  # as in optax's Adam, "strict" fails
                uphill, memory = lbfgs.update(gradient, memory, point)
        search = _line_search(problem, point, -jnp.asarray(uphill, point.dtype))
        # Newton's reach below 1 proves that an optimum exists: p - H u z, for z the features and u
        # the step, are then positive probabilities whose residuals balance exactly. For separated
        # data it tends to 1 or more instead, and only rounding makes it small at last.
        small = search.reach < 0.5
        separated = ~small & (search.gap <= rounding) & ~state.converged & ~penalised
        finished = state.converged | separated | (state.steps == max_steps) | ~(search.gap >= 0)
        move = jnp.where(finished, 0, search.length) * -jnp.asarray(uphill, point.dtype)
        return State(
            point=point + move,
            gradient=gradient,
            hessian=hessian,
            memory=memory,
            steps=state.steps + jnp.where(finished, 0, 1),
            converged=state.converged | (small & (search.gap <= tol)),
            separated=separated,
            finished=finished,
        )

    no = jnp.zeros((), bool)
    initial = State(
        point=start,
        gradient=start,
        hessian=jnp.zeros_like(start, shape=(p, p)) if newton else None,
        memory=None if newton else lbfgs.init(start),
        steps=jnp.zeros((), jnp.int32),
        converged=no,
        separated=no,
        finished=no,
    )
    # What a loop carries has to vary over a mesh from its start, zeros too.
    initial, problem, max_steps, tol = pvary_all((initial, problem, max_steps, tol))
    return jax.lax.while_loop(lambda state: ~state.finished, body, initial)


@jax.custom_jvp
def at_optimum(problem: Problem, point: Array, hessian: Array | None) -> tuple[Array, Array | None]:
    """The point and the Hessian there, with the derivatives of the minimum that was sought.

    The gradient stays 0 where the problem moves: H d_point = -d_gradient. Steps of a loop would be
    refused by reverse mode.
    """
    del problem
    return point, hessian


@at_optimum.defjvp
def _(
    primals: tuple[Problem, Array, Array | None], tangents: tuple[Problem, Any, Any]
) -> tuple[Any, Any]:
    (problem, point, hessian), d_problem = primals, tangents[0]

    def derivative(function: Callable[[Problem], Array]) -> Array:
        return jax.jvp(function, (problem,), (d_problem,))[1]

    d_gradient = derivative(lambda problem: _gradient(problem, point))
    if hessian is None:
        d_point = -jax.lax.custom_linear_solve(
            lambda direction: jax.jvp(partial(_gradient, problem), (point,), (direction,))[1],
            d_gradient,
            lambda product, b: jax.scipy.sparse.linalg.cg(product, b)[0],
            symmetric=True,
        )
        return (point, None), (d_point, None)
    d_point = -_solve(_hessian(problem, point), d_gradient, problem.occurs)
    d_hessian = jax.jvp(_hessian, (problem, point), (d_problem, d_point))[1]
    return (point, hessian), (d_point, d_hessian)


def _line_search(problem: Problem, point: Array, direction: Array) -> _Search:
    """Take steps certain to lower the objective, until the slope is a tenth of the first."""

    def body(state: _Search) -> _Search:
        slope, curvature, spread = _directional(
            problem, point + state.length * direction, direction
        )
        # Where nothing moves any more all three are 0.
        newton = -slope / jnp.where(curvature > 0, curvature, 1)
        reach = spread * jnp.abs(newton)
        # Short steps are safe without shortening, and then converge quadratically.
        shrink = jnp.where(reach < 0.5, 1, jnp.log1p(reach) / jnp.maximum(reach, 0.5))
        first = state.tries == 0
        return _Search(
            length=state.length + shrink * newton,
            last_reach=shrink * reach,
            slope=slope,
            tries=state.tries + 1,
            first_slope=jnp.where(first, slope, state.first_slope),
            gap=jnp.where(first, -slope * newton / 2, state.gap),
            reach=jnp.where(first, reach, state.reach),
        )

    def unfinished(state: _Search) -> Array:
        steep = (state.tries < 2) | (jnp.abs(state.slope) > 0.1 * jnp.abs(state.first_slope))
        return steep & (state.last_reach > 0.3) & (state.tries < 20)

    zero = jnp.zeros_like(point, shape=())
    start = _Search(zero, zero + jnp.inf, zero, jnp.zeros((), jnp.int32), zero, zero, zero)
    start, problem, point, direction = pvary_all((start, problem, point, direction))
    return jax.lax.while_loop(unfinished, body, start)


def _logits(features: Array, coefficients: Array) -> Array:
    # The bias may be -inf, which a product with the ones could turn into NaN.
    return features[:, :-1] @ coefficients[:-1] + coefficients[-1:]


def _softmax(logits: Array) -> Array:
    return normalized(Rows(logits), log=False, implementation=None)


def _gradient(problem: Problem, point: Array) -> Array:
    def of_rows(features: Array, labels: Array) -> Array:
        others, is_label = _other_probabilities(features, labels, problem.start + point)
        # p_y - 1 would cancel where p_y is near 1, and separated data would seem at rest.
        residual = others - is_label * others.sum(-1, keepdims=True)
        return features.T @ residual

    return _sum_over_rows(of_rows, problem) + problem.penalty[:, None] * point


def _other_probabilities(
    features: Array, labels: Array, coefficients: Array
) -> tuple[Array, Array]:
    """The probability of each class but the label, whose own is 0 here, and where the label is."""
    is_label = jax.nn.one_hot(labels, coefficients.shape[-1], dtype=features.dtype)
    return _softmax(_logits(features, coefficients)) * (1 - is_label), is_label


def _hessian(problem: Problem, point: Array) -> Array:
    """Hessian in the coefficients relative to class 0, class by class."""
    d1, k = problem.start.shape
    diagonal = jnp.arange(k - 1)

    def of_rows(features: Array, labels: Array) -> Array:
        del labels
        p = _softmax(_logits(features, problem.start + point))
        # 1 - p would cancel where p is near 1, and the matrix would lose its sign.
        variance = (p * (p @ (1 - jnp.eye(k, dtype=p.dtype))))[:, 1:, None] * features[:, None]
        weighted = p[:, 1:, None] * features[:, None]
        flat = weighted.reshape(features.shape[0], (k - 1) * d1)
        products = (flat.T @ flat).reshape(k - 1, d1, k - 1, d1)
        blocks = jnp.einsum("nkd,ne->kde", variance, features)
        return (-products).at[diagonal, :, diagonal, :].set(blocks)

    hessian = _sum_over_rows(of_rows, problem)
    # That of the squared norm after each row is centred over the classes.
    occurs = problem.occurs.astype(point.dtype)
    centring = jnp.diag(occurs) - jnp.outer(occurs, occurs) / occurs.sum()
    penalty = jnp.kron(centring[1:, 1:], jnp.diag(problem.penalty))
    # Makes the coefficients of a class that never occurs stay where they are.
    absent = jnp.diag(jnp.repeat(1 - occurs[1:], d1))
    return hessian.reshape(penalty.shape) + penalty + absent


def _directional(problem: Problem, point: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Slope and curvature of the objective, and the largest spread of a row's logits' change."""

    def of_rows(features: Array, labels: Array) -> tuple[Array, Array, Array]:
        others, is_label = _other_probabilities(features, labels, problem.start + point)
        change = features @ direction
        change -= (is_label * change).sum(-1, keepdims=True)
        mean = (others * change).sum(-1, keepdims=True)
        of_label = 1 - others.sum(-1, keepdims=True)
        curvature = (others * jnp.square(change - mean)).sum() + (of_label * mean**2).sum()
        spread = (change.max(-1) - change.min(-1)).max(initial=0)
        return mean.sum(), curvature, spread

    slope, curvature, spread = _sum_over_rows(
        of_rows, problem, lambda a, b: (a[0] + b[0], a[1] + b[1], jnp.maximum(a[2], b[2]))
    )
    penalised = problem.penalty[:, None] * direction
    return slope + (penalised * point).sum(), curvature + (penalised * direction).sum(), spread


def log_likelihood(problem: Problem, point: Array) -> Array:
    """Sum over the rows in nats, without the penalty."""

    def of_rows(features: Array, labels: Array) -> Array:
        logits = _logits(features, problem.start + point)
        loss = cross_entropy(Rows(logits, Target(labels)), Keywords(reduction="sum"))
        assert not isinstance(loss, tuple)  # which it is with statistics
        return loss

    return -_sum_over_rows(of_rows, problem)


def _sum_over_rows(
    function: Callable[[Array, Array], Any],
    problem: Problem,
    add: Callable[[Any, Any], Any] = operator.add,
) -> Any:
    """`function(features, labels)` of all rows, by chunks that bound its memory and rounding."""
    n, d1 = problem.features.shape
    k = problem.start.shape[-1]
    p = (k - 1) * d1
    chunk = max(1, _CHUNK // (max(p, 1) if p <= _MAX_COEFFICIENTS else k + d1))
    full, rest = divmod(n, chunk)

    def of_chunk(i: Array, total: Any) -> Any:
        rows = [
            jax.lax.dynamic_slice_in_dim(array, rest + i * chunk, chunk)
            for array in (problem.features, problem.labels)
        ]
        return add(total, function(*rows))

    first = function(problem.features[:rest], problem.labels[:rest])
    return jax.lax.fori_loop(0, full, of_chunk, first) if full else first


def centre(coefficients: Array, occurs: Array) -> Array:
    """0 for a class that never occurs, and sums 0 over the others."""
    kept = jnp.broadcast_to(occurs, coefficients.shape)
    return jnp.where(kept, coefficients - coefficients.mean(-1, keepdims=True, where=kept), 0)


def _solve(hessian: Array, gradient: Array, occurs: Array) -> Array:
    """The direction that leads to the minimum of the quadratic model, by its negative."""
    scaled, scale = unit_diagonal(hessian)
    # Where features are linearly dependent, or data separated, it keeps the factor finite.
    ridge = 8 * hessian.shape[0] * float(jnp.finfo(hessian.dtype).eps)
    ridge *= jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    factor = jax.scipy.linalg.cho_factor(scaled + ridge, lower=True)
    by_class = gradient[:, 1:].T
    solution = scale * jax.scipy.linalg.cho_solve(factor, scale * by_class.ravel())
    relative = solution.reshape(by_class.shape).T
    return centre(jnp.concatenate([jnp.zeros_like(gradient[:, :1]), relative], 1), occurs)


def unit_diagonal(matrix: Array) -> tuple[Array, Array]:
    """`scale[:, None] * matrix * scale`, and the scale that makes its diagonal 1."""
    diagonal = jnp.diag(matrix)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    return scale[:, None] * matrix * scale[None], scale
