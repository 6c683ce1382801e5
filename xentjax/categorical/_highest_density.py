"""The shortest interval of a beta distribution that holds a given probability.

With A = a - 1, B = b - 1 and n = A + B, the log density at x is below that at the mode A / n by

    D(x) = divergence(A, n x) + divergence(B, n (1 - x)),    divergence(y, z) = y log(y/z) - y + z

which is convex in the log odds of x. Both ends of the interval have the same D. For a given D,
Newton's method finds both ends from outside without an integral. A second Newton's method, starting
from the D of a normal distribution, finds the D at which both tails together have probability
alpha.

Where a <= 1 the density falls everywhere and the interval begins at 0; where b <= 1 it rises and
the interval ends at 1. Where a and b are below 1, it is the shorter of the two.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from xentjax.categorical._tails import NEWTON_STEPS, beta_tail, newton_step, odds_at
from xentjax.information.pmf import divergence_term

_STEPS_OF_ENDS = 12
_LEAST_LOG_ODDS = -600.0
"""Log odds of a probability that is 0 in every dtype."""


def highest_density(
    a: Float[Array, "*s"], b: Float[Array, "*s"], alpha: Float[Array, "*s"]
) -> Float[Array, "*s 2"]:
    """Return the ends of the shortest interval of probability 1 - alpha; both 1 where b is 0."""
    inner, alone = (a > 1) & (b > 1), b == 0
    many = alpha > 0.5
    low, high = _ends(jnp.where(alone, 1, a), jnp.where(alone, 1, b), alpha, inner)
    # `beta_quantile_odds` takes probabilities up to 1/2.
    from_0, to_1 = jnp.where(many, low, high), jnp.where(many, high, low)
    falling = (a <= 1) & ((b > 1) | (from_0 <= 1 - to_1))
    flat = (a == 1) & (b == 1)
    lower = jnp.where(inner, low, jnp.where(flat, alpha / 2, jnp.where(falling, 0, to_1)))
    upper = jnp.where(inner, high, jnp.where(flat, 1 - alpha / 2, jnp.where(falling, from_0, 1)))
    return jnp.where(alone[..., None], 1, jnp.stack([lower, upper], -1))


def _ends(a: Array, b: Array, alpha: Array, inner: Array) -> tuple[Array, Array]:
    """Return both ends of an `inner` interval, otherwise the quantiles of x and of 1 - x.

    These are the quantiles of the smaller of alpha and 1 - alpha. One loop serves both searches,
    so that the tail is compiled once.
    """
    first, second = jnp.stack([a, b]), jnp.stack([b, a])
    less_1, less_1_other = (jnp.where(inner[None], x - 1, 1) for x in (first, second))
    target, log_mode = jnp.log(jnp.minimum(alpha, 1 - alpha)), jnp.log(first / second)

    def step(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        fall, offset = state
        log_odds = _log_odds_at(less_1, less_1_other, fall[None])
        offset = jnp.where(inner[None], log_odds - log_mode, offset)
        tail = beta_tail(first, second, offset)
        mass = jnp.exp(tail.log_mass)
        # d mass / dD is the density of the log odds over the slope of D.
        slope = -_slope(less_1, less_1_other, log_odds)
        decay = (mass / tail.over_density / slope).sum(0) / mass.sum(0)
        excess = jnp.log(mass.sum(0)) - jnp.log(alpha)
        new_fall = jnp.clip(fall + excess / decay, fall / 8, 8 * fall)
        moved = offset + newton_step(tail, target[None])
        return jnp.where(inner, new_fall, fall), jnp.where(inner[None], offset, moved)

    # The search starts at the mode; this 0 varies over a mesh as the arguments do.
    start = ndtri(alpha / 2) ** 2 / 2, first - first
    offset = jax.lax.fori_loop(0, NEWTON_STEPS, step, start)[1]
    low, high = odds_at(first / second, offset)
    return low / (1 + low), 1 / (1 + high)


def _log_odds_at(a: Array, b: Array, fall: Array) -> Array:
    """Find the log odds of the x below a / (a + b) at which D is `fall`."""
    n, pair = a + b, jnp.stack([a, b])
    curvature = a / n * b
    # The curvature falls no faster than exp(-width), so D >= curvature width^2 / (2 + width).
    half = fall / 2
    width = (half + jnp.hypot(half, jnp.sqrt(2 * fall * curvature))) / curvature

    def step(_: Array, u: Array) -> Array:
        x, rest = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
        height = divergence_term(pair, n[None] * jnp.stack([x, rest])).sum(0)
        return jnp.maximum(u + (fall - height) / _slope(a, b, u), _LEAST_LOG_ODDS)

    start = jnp.maximum(jnp.log(a / b) - width, _LEAST_LOG_ODDS)
    return jax.lax.fori_loop(0, _STEPS_OF_ENDS, step, start)


def _slope(a: Array, b: Array, u: Array) -> Array:
    """Compute dD / du, which is negative below the mode."""
    return b * jax.nn.sigmoid(u) - a * jax.nn.sigmoid(-u)
