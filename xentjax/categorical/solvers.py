"""Iterative solvers of the categorical maximum likelihood, and their trajectories.

All start from the uniform pmf and minimise KL(p || q), p = c / N, which differs from the mean
negative log-likelihood of q by a constant. They differ in the measure of a small step:

    solver                  step                                    every class occurs    one never
    gradient descent        logits += eta (p - q)                   1 - eta lambda        1 / t
    exponentiated gradient  q *= exp(eta p / q) / Z                 1 - eta               exp(-eta)
    natural gradient        q += eta (p - q)                        1 - eta               1 - eta
    Newton                  logits += (diag q - q q^T)^+ (p - q)    quadratic             exp(-1)

The third column is the factor by which each late step shrinks the error q - p; it shrinks KL by the
square. lambda, about min_k p_k, is the least positive eigenvalue of diag p - p p^T, not counting
directions between classes of equal p_k, which stay equal from the uniform pmf on. The last column
is the factor by which KL shrinks if a class never occurred. Its logit has to go to -inf, where the
gradient vanishes with q_k. So gradient descent is sublinear: after t steps KL is about
1 / (eta t (1 + 1/m)), where m classes did occur.

With eta = 1 the exponentiated gradient is Newton's method, and also the natural gradient in logits
instead of probabilities: (diag q - q q^T)(p / q) = p - q.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_num_steps, check_scalar
from xentjax._core.varying import explicit_spec, on_auto_axes
from xentjax.categorical._arguments import parse_counts
from xentjax.categorical.certificate import certificate_of
from xentjax.categorical.counts import shares
from xentjax.information.pmf import divergence_term, times_power


class Solver(NamedTuple):
    """Three pure functions, of one pmf each. Any three such functions are a solver."""

    init: Callable[[Array], Any]
    """Empirical pmf [K] -> state at the uniform pmf."""
    step: Callable[[Array, Any], Any]
    """Empirical pmf [K], state -> next state."""
    pmf: Callable[[Any], Array]
    """State -> pmf [K]."""


class Trajectory(NamedTuple):
    """Iterates of a solver, after each of its steps."""

    pmf: Float[Array, "*batch steps k"]
    """q_t."""
    kl: Float[Array, "*batch steps"]
    """KL(p || q_t), which is (L* - L(q_t)) / N: the distance to the maximum of the log-likelihood
    L, in nats a sample."""
    gap: Float[Array, "*batch steps"]
    """max_k p_k / q_k - 1 >= KL(p || q_t), in nats a sample: the duality gap (Frank and Wolfe's) of
    the dual point that q_t itself gives."""
    residual: Float[Array, "*batch steps"]
    """Residual of the Karush-Kuhn-Tucker conditions over N: max_k |p_k / q_k - 1| over the classes
    that occur, which is at least the probability of those that do not."""


def solve(counts: ArrayLike, solver: Solver, num_steps: int) -> Trajectory:
    """Run a solver for a number of steps from the uniform pmf.

        q_0 = 1 / K,    q_t = step(p, q_{t-1}),    p = c / N

    Args:
        counts: [..., K], integer or floating; for the mode of a posterior, counts plus Dirichlet
            concentrations minus 1.
        solver: one of this module, or your own. Every new object is compiled anew, so reuse it.
        num_steps: T.

    Returns:
        The iterates [..., T, K] and the distance of each from the maximum [..., T]. Under jit,
        where values are unknown, counts that have no fit give NaN.

    Raises:
        ValueError: for concrete counts that are negative, not finite or all 0; fewer than 1 step.
        TypeError: for counts that are not numbers, not a Solver, or a non-integer number of steps.

    Example:
        >>> import jax.numpy as jnp
        >>> path = solve(jnp.array([2, 1, 1]), newton(), 3)
        >>> print(path.pmf.round(4))
        [[0.5142 0.2429 0.2429]
         [0.5    0.25   0.25  ]
         [0.5    0.25   0.25  ]]
        >>> print(path.kl <= path.gap)
        [ True  True  True]
    """
    if not isinstance(solver, Solver):
        kind = type(solver).__name__
        raise TypeError(f"solver: expected a Solver, such as newton(), got {kind}")
    check_num_steps("num_steps", num_steps)
    counts = parse_counts("counts", counts, some=True)
    return _run_rows(shares(counts), solver=solver, num_steps=num_steps)


@partial(jax.jit, static_argnames=("solver", "num_steps"))
def _run_rows(p: Array, *, solver: Solver, num_steps: int) -> Trajectory:
    run = partial(_run, solver=solver, num_steps=num_steps)
    for _ in p.shape[:-1]:
        run = jax.vmap(run)
    return on_auto_axes(run, explicit_spec(p)[:-1])(p)


def _run(p: Array, *, solver: Solver, num_steps: int) -> Trajectory:
    def advance(state: Any, _: None) -> tuple[Any, Trajectory]:
        state = solver.step(p, state)
        q = solver.pmf(state)
        kl = divergence(p, q)
        # Rounding must not take the bound below the divergence that it bounds.
        gap = jnp.maximum((times_power(p, q, -1) - 1).max(), kl)
        return state, Trajectory(q, kl, gap, certificate_of(q, p, rounding=math.inf).stationarity)

    return jax.lax.scan(advance, solver.init(p), length=num_steps)[1]


def gradient_descent(optimizer: optax.GradientTransformation) -> Solver:
    """Make a solver that descends on the logits by any optax optimizer.

        minimise H(p, q)  over the logits of  q = softmax(logits),    gradient q - p

    `optax.sgd(eta)` converges for every eta < 4, since the curvature diag q - q q^T is at most 1/2:
    linearly where every class occurs and sublinearly where one does not, as this module says.

    Args:
        optimizer: such as `optax.adam(0.1)`; it is told the loss too, so `optax.lbfgs()` works.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> path = solve(jnp.array([2, 1, 1]), gradient_descent(optax.sgd(4.0)), 20)
        >>> print(path.pmf[-1].round(4))
        [0.5  0.25 0.25]
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        kind = type(optimizer).__name__
        raise TypeError(f"optimizer: expected an optax.GradientTransformation, got {kind}")
    optimizer = optax.with_extra_args_support(optimizer)

    def init(p: Array) -> tuple[Array, optax.OptState]:
        logits = jnp.zeros_like(p)
        return logits, optimizer.init(logits)

    def step(p: Array, state: tuple[Array, optax.OptState]) -> tuple[Array, optax.OptState]:
        def loss(logits: Array) -> Array:
            return -(p * jax.nn.log_softmax(logits)).sum()

        logits, optimizer_state = state
        value, gradient = jax.value_and_grad(loss)(logits)
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam fails under "strict"
            updates, optimizer_state = optimizer.update(
                gradient, optimizer_state, logits, value=value, grad=gradient, value_fn=loss
            )
        return jnp.asarray(optax.apply_updates(logits, updates)), optimizer_state

    return Solver(init, step, lambda state: jax.nn.softmax(state[0]))


def natural_gradient(step_size: float | int = 1.0) -> Solver:
    """Make a solver by natural gradient: steepest ascent in the geometry of pmfs.

        q <- q + eta F(q)^{-1} grad = q + eta (p - q)

    with the Fisher information F of the probabilities (q_1, ..., q_{K-1}), whose inverse is
    diag q - q q^T. In this metric the problem is as easy as it can be: eta = 1 reaches p at once,
    and smaller step sizes approach it on a straight line.

    Args:
        step_size: eta, in (0, 1]; above 1 the line would leave the simplex.

    Raises:
        ValueError: for another step size.

    Example:
        >>> import jax.numpy as jnp
        >>> print(solve(jnp.array([2, 1, 1, 0]), natural_gradient(), 1).pmf)
        [[0.5  0.25 0.25 0.  ]]

    Source: S. Amari, "Natural gradient works efficiently in learning" (1998).
    """
    return _natural_gradient(_check_step_size(step_size))


@cache  # solvers with the same step size are one object, compiled once
def _natural_gradient(eta: float) -> Solver:
    return Solver(_uniform, lambda p, q: (1 - eta) * q + eta * p, lambda q: q)


def exponentiated_gradient(step_size: float | int = 1.0) -> Solver:
    """Make a solver by mirror descent: gradient steps measured by the KL divergence.

        q <- argmin_x  -<p / q, x> + KL(x || q) / eta  =  q exp(eta p / q) / Z

    It never leaves the simplex. Where q_k is far below p_k a whole step may overshoot without
    limit. If a step does not lower the objective by a quarter of what the derivative promises, it
    is shortened to eta = log(1 + R) / R with R = max_k p_k / q_k - min_k p_k / q_k. This lowers the
    objective from every q: along the step, the second derivative grows by a factor of at most
    exp(R eta), and this eta minimises the bound that follows. Close to p the whole step is always
    good enough.

    Args:
        step_size: eta, in (0, 1]; 1 is Newton's method.

    Raises:
        ValueError: for another step size.

    Example:
        >>> import jax.numpy as jnp
        >>> path = solve(jnp.array([2, 1, 1, 0]), exponentiated_gradient(0.5), 60)
        >>> print(path.pmf[-1].round(4))
        [0.5  0.25 0.25 0.  ]

    Source: J. Kivinen and M. K. Warmuth, "Exponentiated gradient versus gradient descent for linear
    predictors" (1997); A. Beck and M. Teboulle, "Mirror descent and nonlinear projected subgradient
    methods for convex optimization" (2003); the bound is F. Bach, "Self-concordant analysis for
    logistic regression" (2010), proposition 1.
    """
    return _exponentiated_gradient(_check_step_size(step_size))


@cache
def _exponentiated_gradient(eta: float) -> Solver:
    def step(p: Array, q: Array) -> Array:
        ratio = times_power(p, q, -1)

        def move(size: ArrayLike) -> Array:
            weights = q * jnp.exp(size * (ratio - ratio.max()))
            return weights / weights.sum()

        spread = ratio.max() - ratio.min()
        shortened = jnp.log1p(spread) / jnp.where(spread > 0, spread, 1)
        whole, promised = move(eta), eta * ((p - q) * (ratio - 1)).sum()
        enough = divergence(p, whole) <= divergence(p, q) - promised / 4
        return jnp.where(enough, whole, move(jnp.minimum(shortened, eta)))

    return Solver(_uniform, step, lambda q: q)


def newton() -> Solver:
    """Make a solver by Newton's method on the logits.

        logits <- logits + H^+ (p - q),    H = diag q - q q^T

    H is singular, because a constant added to all logits changes nothing, but p / q solves
    H x = p - q. So no matrix is built: a step is one of `exponentiated_gradient` with eta = 1, and
    is shortened in the same way if it would overshoot. Convergence is quadratic if every class
    occurs; the logit of a class that does not occur falls by 1 a step, so that KL shrinks by
    exp(-1).

    Example:
        >>> import jax.numpy as jnp
        >>> print(solve(jnp.array([60, 30, 10]), newton(), 5).kl < 1e-9)
        [False False False  True  True]

    Source: S. Boyd and L. Vandenberghe, Convex Optimization (2004), section 9.5.
    """
    return exponentiated_gradient(1.0)


def _check_step_size(step_size: float | int) -> float:
    check_scalar("step_size", step_size, "a number in (0, 1]", lambda value: 0 < value <= 1)
    return float(step_size)


def _uniform(p: Array) -> Array:
    return jnp.full_like(p, 1 / p.shape[-1])


@jax.jit
def divergence(p: Array, q: Array) -> Array:
    """Compute KL(p || q) of pmfs whose sums differ by rounding only.

    The difference of the sums is left out, so that no divergence is negative.
    """
    return divergence_term(p, q).sum(-1)
