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
"""Nodes of each panel of the beta's tails."""
_KINK = {"float32": (16.0, 6.0), "float64": (36.0, 8.0)}
"""Log odds on either side of the kink where panels end, for a and b that are small."""
_WIDE = 32.0
"""Width of a window from which on its panels have different widths."""
_FARTHEST = {"float32": 60.0, "float64": 500.0}
"""Log odds beyond which the density is exponential."""


def chi_squared_survival(
    statistic: Float[Array, "*s"], dof: Int[Array, "*s"]
) -> Float[Array, "*s"]:
    """P-value of a test statistic; 1 at no degrees of freedom, unless it is infinite."""
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
    # A derivative of 0 wins over a statistic whose own derivative is infinite.
    at_0 = jnp.where(a == 1, jnp.ones_like(x), jnp.where(a < 1, math.inf, 0))
    inside = (x > 0) & (x < math.inf)
    near = jnp.exp(_gamma_log_scale(a) - divergence_term(a, jnp.where(inside, x, a))) / x
    density = jnp.where(inside, near, jnp.where(x == math.inf, 0, at_0))
    tangent = jnp.where(density == 0, 0, tangents[1])
    return gamma_survival(a, x), multiply_no_nan(-density, tangent)


def gamma_tail(
    a: Float[Array, "*s"], x: Float[Array, "*s"], upper: Bool[Array, "*s"]
) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Log of the mass above x, or below it, and that mass over the density of log x.

    To full precision where that side is away from `a`, or hardly beyond it.
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
    """The x that `gamma_survival` takes to `survival`, in (0, 1); differentiable in `survival`."""
    upper = survival < 0.5
    target = jnp.where(upper, jnp.log(survival), jnp.log1p(-survival))
    outward = jnp.where(upper, -jnp.ones_like(a), 1)

    def newton(_: Array, x: Array) -> Array:
        log_tail, tail_over_density = gamma_tail(a, x, upper)
        return x * jnp.exp(outward * (target - log_tail) * tail_over_density)

    # Above, no further out than the bound of Laurent and Massart (2000): from beyond the quantile
    # Newton's method does not overshoot.
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
    """x / (1 - x) at the x where the beta distribution reaches `probability`, at most 1/2."""
    return odds_at(a / b, _beta_quantile(a, b, probability))


@beta_quantile_odds.defjvp
def _(primals, tangents):
    """d log P(t < x) / da = E[log t | t < x] - E[log t], and so for b and 1 - t."""
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

    # 0, which varies over a mesh as the arguments do.
    return jax.lax.fori_loop(0, NEWTON_STEPS, newton, (a - a) / b)


def odds_at(mode: Array, offset: Array) -> Array:
    """Return `mode * exp(offset)`, finite, by halves, of which none over- or underflows before."""
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
    """Return the change of the log odds to where the log of the mass below is `target`, about."""
    step = (target - tail.log_mass) * tail.over_density
    # No further at a time than where log_mass still has digits to step back by.
    return jnp.maximum(step, -tail.width)


def beta_tail(a: Array, b: Array, offset: Array) -> BetaTail:
    """Return the tail below the t whose log odds are `offset` above those of the mode, a / b.

    Where a or b is small the density is hundreds of log odds wide, exponential but for a kink of
    width 1; and beyond some log odds t or 1 - t is 0 in the dtype, but not its logarithm. So the
    integral is taken in panels, that end at the kink and where the density becomes exponential.
    """
    n, mode = a + b, a / b
    remainders = factorial_remainder(jnp.stack([n, a, b]))  # at once: it compiles once
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

    def narrow(_: Array, width: Array) -> Array:  # two forms, each better at one end
        by_a = (most - n * jnp.log1p(odds * jnp.exp(-width))) / a
        by_b = jnp.log1p(jnp.expm1((_FALL + b * width) / n) * n / above)
        return jnp.minimum(by_a, by_b)

    width = jax.lax.fori_loop(0, 3, narrow, width)
    drops, weights = _in_panels(log_odds, width, a, b)
    # The end itself is a node of weight 0, so that the deviance is compiled once.
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
    """Return how far below the log odds the nodes of a quadrature lie, and their weights.

    Its panels end, in a wide window, on either side of the kink and at the kink.
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
    """A width over which the log-density falls by `_FALL` downwards, not much too wide.

    The curvature falls at most as exp(-width), so the fall is at least slope * width +
    curvature * width^2 / (2 + width); `limit` is a width that is enough in any case.
    """
    both = slope + curvature
    half = _FALL / 2 - slope
    root = (half + jnp.hypot(half, jnp.sqrt(2 * _FALL * jnp.maximum(both, 0)))) / both
    return jnp.where(both > 0, jnp.minimum(root, limit), limit)


def _tail(deviance: Callable[[Array], Array], x: Array, window: Array) -> tuple[Array, Array]:
    """Return the deviance at x, and weighted densities over log x, relative to the one at x."""
    legendre = np.polynomial.legendre.leggauss(_NODES[x.dtype.name])
    # x itself is a node of weight 0, so that the deviance is compiled once.
    nodes, weights = (
        jnp.asarray(np.append(0, v / 2), x.dtype).reshape(*(1 for _ in x.shape), -1)
        for v in (1 + legendre[0], legendre[1])
    )
    heights = deviance(x[..., None] * jnp.exp(window[..., None] * nodes))
    here = heights[..., :1]
    masses = jnp.exp(here - heights) * weights * jnp.abs(window)[..., None]
    return here[..., 0], masses
