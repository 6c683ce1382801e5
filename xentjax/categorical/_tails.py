"""Tails of the gamma and beta distributions, to the precision of the dtype at any size of counts.

The incomplete gamma and beta functions of `jax.scipy.special` take x^a exp(-x) and gamma(a) apart:
in float32 they lose four digits at 1000 degrees of freedom, and the continued fraction of the beta
does not end in time at a million counts. Over log x (log odds, for the beta) both densities are

    exp(constant - deviance),    the deviance a sum of terms x log(x / y) - x + y >= 0,

smooth and log-concave. So nothing cancels, Gauss-Legendre over the window where the density falls
to exp(-40) of its value at the tail's end gives the tail, and Newton's method on its logarithm,
which is concave too, converges from anywhere to the quantile.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from xentjax._special import divergence_term
from xentjax.categorical.likelihood import factorial_remainder

_FALL = 40.0
_NEWTON_STEPS = 12
_NODES = {"float32": 32, "float64": 64}


@jax.custom_jvp
def gamma_survival(a: Float[Array, "*s"], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """P(X > x) of the gamma distribution of shape `a` > 0 and scale 1; its slope is that in x."""
    inside = (x > 0) & (x < math.inf)
    y = jnp.where(inside, x, a)
    upper = y >= a
    log_tail = _gamma_tail(a, y, upper)[0]
    survival = jnp.where(upper, jnp.exp(log_tail), -jnp.expm1(log_tail))
    end = jnp.where(x <= 0, jnp.ones_like(x), jnp.where(x == math.inf, jnp.zeros_like(x), x))
    return jnp.where(inside, survival, end)


@gamma_survival.defjvp
def _(primals, tangents):
    a, x = primals
    # x^(a-1) exp(-x) / gamma(a), where the first factor is 1 at a = 1 even for x = 0.
    density = jnp.exp((a - 1) * jnp.log(jnp.where(a == 1, jnp.ones_like(x), x)) - x)
    density = density / jnp.exp(jax.lax.lgamma(a))
    inside = (x > 0) & (x < math.inf)
    near = jnp.exp(_gamma_log_scale(a) - divergence_term(a, jnp.where(inside, x, a))) / x
    return gamma_survival(a, x), -jnp.where(inside, near, density) * tangents[1]


def gamma_quantile(a: Float[Array, "*s"], survival: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The x that `gamma_survival` takes to `survival`, in (0, 1)."""
    upper = survival < 0.5
    target = jnp.where(upper, jnp.log(survival), jnp.log1p(-survival))
    outward = jnp.where(upper, -jnp.ones_like(a), 1)

    def newton(_: Array, x: Array) -> Array:
        log_tail, tail_over_density = _gamma_tail(a, x, upper)
        return x * jnp.exp(outward * (target - log_tail) * tail_over_density)

    # Above, no further out than the bound of Laurent and Massart (2000): from beyond the quantile
    # Newton's method does not overshoot.
    start = jnp.where(upper, a + jnp.sqrt(-2 * a * target) - target, a)
    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, start)


def beta_quantile_odds(
    a: Float[Array, "*s"], b: Float[Array, "*s"], probability: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """x / (1 - x) at the x where the beta distribution reaches `probability`, at most 1/2."""
    target, n = jnp.log(probability), a + b
    log_scale = factorial_remainder(n) - factorial_remainder(a) - factorial_remainder(b)
    log_scale += jnp.log(a / n * b)

    def deviance(odds: Array) -> Array:
        wide = [x[..., None] for x in (a, b, n)]
        return divergence_term(wide[0], wide[2] * (odds / (1 + odds))) + divergence_term(
            wide[1], wide[2] / (1 + odds)
        )

    def newton(_step: Array, odds: Array) -> Array:
        below, above = n * (odds / (1 + odds)), n / (1 + odds)
        width = _width_below(a - below, below / (1 + odds), (_FALL + n * jnp.log1p(odds)) / a)
        for _ in range(3):  # two forms of the equation for the width, each better at one end
            by_a = (_FALL + n * jnp.log1p(odds) - n * jnp.log1p(odds * jnp.exp(-width))) / a
            by_b = jnp.log1p(jnp.expm1((_FALL + b * width) / n) * n / above)
            width = jnp.minimum(by_a, by_b)
        deviance_here, tail_over_density = _tail(deviance, odds, -width)
        log_tail = log_scale - deviance_here + jnp.log(tail_over_density)
        step = (target - log_tail) * tail_over_density
        # No further at a time than where log_tail still has digits to step back by.
        return odds * jnp.exp(jnp.maximum(step, -width))

    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, a / b)


def _gamma_log_scale(a: Array) -> Array:
    return jnp.log(a) - factorial_remainder(a)


def _gamma_tail(a: Array, x: Array, upper: Bool[Array, "*s"]) -> tuple[Array, Array]:
    """Log of the mass on one side of x, and that mass over the density of log x."""
    # The positive root of x w^2 / 2 + (x - a) w = _FALL, in a form that does not overflow.
    above = 2 * _FALL / (x - a + jnp.hypot(x - a, jnp.sqrt(2 * _FALL * x)))
    for _ in range(3):
        above = jnp.log1p((_FALL + a * above) / x)
    below = _width_below(a - x, x, (_FALL + x) / a)
    window = jnp.where(upper, above, -below)
    deviance, tail_over_density = _tail(lambda y: divergence_term(a[..., None], y), x, window)
    return _gamma_log_scale(a) - deviance + jnp.log(tail_over_density), tail_over_density


def _width_below(slope: Array, curvature: Array, limit: Array) -> Array:
    """A width over which the log-density falls by `_FALL` downwards, not much too wide.

    The curvature falls at most as exp(-width), so the fall is at least slope * width +
    curvature * width^2 / (2 + width); `limit` is a width that is enough in any case.
    """
    both = slope + curvature
    half = _FALL / 2 - slope
    root = (half + jnp.hypot(half, jnp.sqrt(2 * _FALL * jnp.maximum(both, 0)))) / both
    return jnp.where(both > 0, jnp.minimum(root, limit), limit)


def _tail(deviance: Callable[[Array], Array], x: Array, window: Array) -> tuple[Array, Array]:
    """The deviance at x and the integral of the density over log x from there, relative to it."""
    legendre = np.polynomial.legendre.leggauss(_NODES[x.dtype.name])
    nodes, weights = (
        jnp.asarray(v / 2, x.dtype).reshape(*(1 for _ in x.shape), -1)
        for v in (1 + legendre[0], legendre[1])
    )
    points = x[..., None] * jnp.exp(window[..., None] * nodes)
    here = deviance(x[..., None])
    integral = (jnp.exp(here - deviance(points)) * weights).sum(-1)
    return here[..., 0], integral * jnp.abs(window)
