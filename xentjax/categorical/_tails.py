"""Tails of the gamma and beta distributions, precise for any size of counts.

The incomplete gamma and beta functions of `jax.scipy.special` compute x^a exp(-x) and gamma(a)
separately. In float32 this loses four digits at 1000 degrees of freedom, and at a million counts
the continued fraction of the beta function stops too early. As functions of log x (for the beta, of
the log odds) both densities are

    exp(constant - deviance),    where the deviance is a sum of terms x log(x / y) - x + y >= 0

and are smooth and log-concave. So nothing cancels, and Gauss-Legendre quadrature gives the tail
over the window in which the density falls to exp(-40) of its value at the tail's end. The logarithm
of the tail is concave too, so Newton's method finds the quantile from any start.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import digamma
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax.categorical.likelihood import factorial_remainder
from xentjax.information.pmf import divergence_term

_FALL = 40.0
NEWTON_STEPS = 12
_NODES = {"float32": 32, "float64": 64}
_PANEL = {"float32": 10, "float64": 20}
"""Nodes in each panel of the beta distribution's tails."""
_KINK = {"float32": (16.0, 6.0), "float64": (36.0, 8.0)}
"""Distances in log odds from the kink to the ends of panels, for small a and b."""
_WIDE = 32.0
"""Width from which on a window has panels of different widths."""
_FARTHEST = {"float32": 60.0, "float64": 500.0}
"""Log odds beyond which the density is exponential."""


def chi_squared_survival(
    statistic: Float[Array, "*s"], dof: Int[Array, "*s"]
) -> Float[Array, "*s"]:
    """P-value of a test statistic; at 0 degrees of freedom, 1 unless the statistic is infinite."""
    half = jnp.maximum(dof, 1).astype(statistic.dtype) / 2
    p_value = gamma_survival(half, statistic / 2)
    return jnp.where((dof == 0) & (statistic < math.inf), jnp.ones_like(p_value), p_value)


@jax.custom_jvp
def gamma_survival(a: Float[Array, "*s"], x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """P(X > x) of the gamma distribution of shape `a` > 0 and scale 1; differentiable in x."""
    inside = (x > 0) & (x < math.inf)
    y = jnp.where(inside, x, a)
    upper = y >= a
    log_tail = gamma_tail(a, y, upper)[0]
    survival = jnp.where(upper, jnp.exp(log_tail), -jnp.expm1(log_tail))
    end = jnp.where(x <= 0, jnp.ones_like(x), jnp.where(x == math.inf, jnp.zeros_like(x), x))
    return jnp.where(inside, survival, end)


@gamma_survival.defjvp
def _(primals, tangents):
    a, x = primals
    # Where the density is 0 so is the tangent, even if the statistic's derivative is infinite.
    at_0 = jnp.where(a == 1, jnp.ones_like(x), jnp.where(a < 1, math.inf, 0))
    inside = (x > 0) & (x < math.inf)
    near = jnp.exp(_gamma_log_scale(a) - divergence_term(a, jnp.where(inside, x, a))) / x
    density = jnp.where(inside, near, jnp.where(x == math.inf, 0, at_0))
    tangent = jnp.where(density == 0, 0, tangents[1])
    return gamma_survival(a, x), multiply_no_nan(-density, tangent)


def gamma_tail(
    a: Float[Array, "*s"], x: Float[Array, "*s"], upper: Bool[Array, "*s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Return the log of the mass above x (or below it), and the mass over the density of log x.

    Both are precise where the tail does not contain `a`, or only just contains it.
    """
    # The positive root of x w^2 / 2 + (x - a) w = _FALL, in a form that does not overflow.
    above = 2 * _FALL / (x - a + jnp.hypot(x - a, jnp.sqrt(2 * _FALL * x)))
    for _ in range(3):
        above = jnp.log1p((_FALL + a * above) / x)
    below = _width_below(a - x, x, (_FALL + x) / a)
    window = jnp.where(upper, above, -below)
    deviance, masses = _tail(lambda y: divergence_term(a[..., None], y), x, window)
    tail_over_density = masses.sum(-1)
    return _gamma_log_scale(a) - deviance + jnp.log(tail_over_density), tail_over_density


@jax.custom_jvp
def gamma_quantile(a: Float[Array, "*s"], survival: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Find the x whose `gamma_survival` is `survival`, in (0, 1); differentiable in `survival`."""
    upper = survival < 0.5
    target = jnp.where(upper, jnp.log(survival), jnp.log1p(-survival))
    outward = jnp.where(upper, -jnp.ones_like(a), 1)

    def newton(_: Array, x: Array) -> Array:
        log_tail, tail_over_density = gamma_tail(a, x, upper)
        return x * jnp.exp(outward * (target - log_tail) * tail_over_density)

    # The bound of Laurent and Massart (2000) lies beyond the quantile, and from there no step of
    # Newton's method passes it.
    start = jnp.where(upper, a + jnp.sqrt(-2 * a * target) - target, a)
    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, start)


@gamma_quantile.defjvp
def _(primals, tangents):
    a, survival = primals
    x = gamma_quantile(a, survival)
    upper = survival < 0.5
    side = jnp.where(upper, survival, 1 - survival)
    return x, -x * gamma_tail(a, x, upper)[1] / side * tangents[1]


@jax.custom_jvp
def beta_quantile_odds(
    a: Float[Array, "*s"], b: Float[Array, "*s"], probability: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Find the odds x / (1 - x) where the beta distribution reaches `probability` <= 1/2."""
    return odds_at(a / b, _beta_quantile(a, b, probability))


@beta_quantile_odds.defjvp
def _(primals, tangents):
    """Use d log P(t < x) / da = E[log t | t < x] - E[log t], and likewise for b and 1 - t."""
    a, b, probability = primals
    offset = _beta_quantile(a, b, probability)
    odds, tail = odds_at(a / b, offset), beta_tail(a, b, offset)
    a_derivative = tail.mean_log - (digamma(a) - digamma(a + b))
    b_derivative = tail.mean_log_rest - (digamma(b) - digamma(a + b))
    rise = tangents[2] / probability - a_derivative * tangents[0] - b_derivative * tangents[1]
    return odds, odds * tail.over_density * rise


def _beta_quantile(a: Array, b: Array, probability: Array) -> Array:
    target = jnp.log(probability)

    def newton(_: Array, offset: Array) -> Array:
        return offset + newton_step(beta_tail(a, b, offset), target)

    # The start is 0, written so that it varies over a mesh as the arguments do.
    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, (a - a) / b)


def odds_at(mode: Array, offset: Array) -> Array:
    """Return `mode * exp(offset)`, at most a quarter of the largest number.

    The factor comes in two halves, since exp(offset) may overflow where the product does not.
    """
    half = jnp.exp(offset / 2)
    return jnp.minimum(mode * half * half, float(jnp.finfo(offset.dtype).max) / 4)


class BetaTail(NamedTuple):
    """The mass of a beta distribution below t."""

    log_mass: Array
    over_density: Array
    """The mass over the density of the log odds."""
    width: Array
    """Width of the log odds over which the density falls by `_FALL`."""
    mean_log: Array
    """The mean of log t there."""
    mean_log_rest: Array
    """The mean of log(1 - t) there."""


def newton_step(tail: BetaTail, target: Array) -> Array:
    """Return Newton's step of the log odds towards a log mass of `target`."""
    step = (target - tail.log_mass) * tail.over_density
    # A longer step might end where log_mass has no digits left to step back by.
    return jnp.maximum(step, -tail.width)


def beta_tail(a: Array, b: Array, offset: Array) -> BetaTail:
    """Return the tail below the t whose log odds are `offset` above those of the mode, a / b.

    Where a or b is small the density is hundreds of log odds wide: exponential on either side of a
    kink of width 1. Far out, t or 1 - t is 0 in the dtype although its logarithm is finite. So the
    integral is taken in panels, which end at the kink and where the density becomes exponential.
    """
    n, mode = a + b, a / b
    remainders = factorial_remainder(jnp.stack([n, a, b]))  # stacked: compiled once
    log_scale = remainders[0] - remainders[1] - remainders[2] + jnp.log(a / n * b)
    log_mode = jnp.log(mode)
    farthest = _FARTHEST[offset.dtype.name]

    def deviance(offset: Array) -> Array:
        far = log_mode[..., None] + offset
        near = jnp.clip(far, -farthest, farthest)
        beyond = far - near
        odds = odds_at(mode[..., None], offset - beyond)
        shares = jnp.stack([odds / (1 + odds), 1 / (1 + odds)])
        pair = jnp.broadcast_to(jnp.stack([a, b])[..., None], shares.shape)
        terms = divergence_term(pair, n[None, ..., None] * shares).sum(0)
        return terms + jnp.where(beyond > 0, b[..., None], -a[..., None]) * beyond

    log_odds = log_mode + offset
    odds = odds_at(mode, offset)
    below, above = n * (odds / (1 + odds)), n / (1 + odds)
    most = _FALL + n * jnp.log1p(odds)
    width = _width_below(a - below, below / (1 + odds), most / a)

    def narrow(_: Array, width: Array) -> Array:  # two bounds; which is smaller depends on t
        by_a = (most - n * jnp.log1p(odds * jnp.exp(-width))) / a
        by_b = jnp.log1p(jnp.expm1((_FALL + b * width) / n) * n / above)
        return jnp.minimum(by_a, by_b)

    width = jax.lax.fori_loop(0, 3, narrow, width)
    drops, weights = _in_panels(log_odds, width, a, b)
    # The end is one more node, of weight 0, so that the deviance is compiled once.
    heights = deviance(offset[..., None] - jnp.pad(drops, [(0, 0)] * a.ndim + [(1, 0)]))
    here = heights[..., :1]
    masses = jnp.exp(here - heights[..., 1:]) * weights
    mass = masses.sum(-1)
    nodes, share = log_odds[..., None] - drops, masses / mass[..., None]
    log_rest = -jnp.logaddexp(0, nodes)
    return BetaTail(
        log_mass=log_scale - here[..., 0] + jnp.log(mass),
        over_density=mass,
        width=width,
        mean_log=(share * (nodes + log_rest)).sum(-1),
        mean_log_rest=(share * log_rest).sum(-1),
    )


def _in_panels(log_odds: Array, width: Array, a: Array, b: Array) -> tuple[Array, Array]:
    """Return the nodes of a quadrature, as distances below the log odds, and their weights.

    In a wide window, panels end at the kink and on either side of it.
    """
    kind, rank = log_odds.dtype.name, log_odds.ndim
    far, near = _KINK[kind]
    constants = (
        [math.inf, far, near, 0, -near, -far, -math.inf],
        [1, 1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1],
        np.linspace(0, 1, 7),
    )
    places, of_a, of_b, equal = (
        jnp.expand_dims(jnp.asarray(x, a.dtype), range(rank)) for x in constants
    )
    places = places + of_a * jnp.log1p(a)[..., None] - of_b * jnp.log1p(b)[..., None]
    width = width[..., None]
    wide = jnp.clip(log_odds[..., None] - places, 0, width)
    ends = jnp.where(width > _WIDE, wide, width * equal)
    sizes = jnp.diff(ends)[..., None]
    x, w = (
        jnp.expand_dims(jnp.asarray(v, a.dtype) / 2, range(rank + 1))
        for v in np.polynomial.legendre.leggauss(_PANEL[kind])
    )
    nodes, weights = ends[..., :-1, None] + sizes * (x + 0.5), sizes * w
    shape = *log_odds.shape, -1
    return nodes.reshape(shape), weights.reshape(shape)


def _gamma_log_scale(a: Array) -> Array:
    return jnp.log(a) - factorial_remainder(a)


def _width_below(slope: Array, curvature: Array, limit: Array) -> Array:
    """Return a width below x over which the log density falls by at least `_FALL`.

    The curvature falls no faster than exp(-width), so the fall is at least slope * width +
    curvature * width^2 / (2 + width). `limit` is a width that always suffices.
    """
    both = slope + curvature
    half = _FALL / 2 - slope
    root = (half + jnp.hypot(half, jnp.sqrt(2 * _FALL * jnp.maximum(both, 0)))) / both
    return jnp.where(both > 0, jnp.minimum(root, limit), limit)


def _tail(deviance: Callable[[Array], Array], x: Array, window: Array) -> tuple[Array, Array]:
    """Return the deviance at x, and the weighted densities of log x relative to that at x."""
    legendre = np.polynomial.legendre.leggauss(_NODES[x.dtype.name])
    # x is one more node, of weight 0, so that the deviance is compiled once.
    nodes, weights = (
        jnp.asarray(np.append(0, v / 2), x.dtype).reshape(*(1 for _ in x.shape), -1)
        for v in (1 + legendre[0], legendre[1])
    )
    heights = deviance(x[..., None] * jnp.exp(window[..., None] * nodes))
    here = heights[..., :1]
    masses = jnp.exp(here - heights) * weights * jnp.abs(window)[..., None]
    return here[..., 0], masses
