"""The shortest interval of a beta distribution that holds a given probability.

With A = a - 1, B = b - 1, n = A + B the log-density of x is below that of the mode A / n by

    D(x) = divergence(A, n x) + divergence(B, n (1 - x)),    divergence(y, z) = y log(y/z) - y + z

which is convex in the log odds of x. So the two x of a given fall are found by Newton's method from
outside, with no integral; and the fall whose two tails have probability alpha together by Newton's
method again, from that of a normal distribution.

Where a <= 1 the density falls all the way (rises, where b <= 1), and the interval begins at 0 (ends
at 1). Where both are below 1 it is the shorter of the two that do either.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from xentjax.categorical._tails import beta_quantile_odds, beta_tail
from xentjax.information.pmf import divergence_term

_STEPS_OF_ENDS = 12
_STEPS_OF_FALL = 8
_LEAST_LOG_ODDS = -600.0
"""Log odds of what is 0 in every dtype."""


def highest_density(
    a: Float[Array, "*s"], b: Float[Array, "*s"], alpha: Float[Array, "*s"]
) -> Float[Array, "*s 2"]:
    """Ends of the shortest interval of probability 1 - alpha; both are 1 where b is 0."""
    inner = (a > 1) & (b > 1)
    safe_a, safe_b = (jnp.where(inner, x, 2) for x in (a, b))
    lower, upper = _between(safe_a, safe_b, alpha)

    alone = b == 0
    one_a, one_b = (jnp.where(inner | alone, 1, x) for x in (a, b))
    from_0, to_1 = _one_sided(one_a, one_b, alpha)
    falling = (a <= 1) & ((b > 1) | (from_0 <= 1 - to_1))
    flat = (a == 1) & (b == 1)
    lower = jnp.where(inner, lower, jnp.where(flat, alpha / 2, jnp.where(falling, 0, to_1)))
    upper = jnp.where(inner, upper, jnp.where(flat, 1 - alpha / 2, jnp.where(falling, from_0, 1)))
    return jnp.where(alone[..., None], 1, jnp.stack([lower, upper], -1))


def _one_sided(a: Array, b: Array, alpha: Array) -> tuple[Array, Array]:
    """The x with 1 - alpha below it, and the one with 1 - alpha above it."""
    # Quantiles are known for probabilities up to 1/2: of the distribution of 1 - x beyond.
    many = alpha > 0.5
    pair = jnp.stack([b, a]), jnp.stack([a, b])
    first, second = (jnp.where(many[None], pair[1 - i], pair[i]) for i in (0, 1))
    rest = jnp.where(many, 1 - alpha, alpha)
    odds = beta_quantile_odds(first, second, jnp.stack([rest, rest]))
    near, far = odds / (1 + odds), 1 / (1 + odds)
    above, below = jnp.where(many[None], far, near), jnp.where(many[None], near, far)
    return below[0], above[1]


def _between(a: Array, b: Array, alpha: Array) -> tuple[Array, Array]:
    """Both ends of the interval for a, b > 1."""
    first, second = jnp.stack([a, b]), jnp.stack([b, a])

    def step(_: Array, fall: Array) -> Array:
        log_odds = _log_odds_at(first - 1, second - 1, fall[None])
        tail = beta_tail(first, second, jnp.exp(log_odds))
        mass = jnp.exp(tail.log_mass)
        # A tail's mass falls by its density of the log odds over the slope of D there.
        slope = -_slope(first - 1, second - 1, log_odds)
        decay = (mass / tail.over_density / slope).sum(0) / mass.sum(0)
        excess = jnp.log(mass.sum(0)) - jnp.log(alpha)
        return jnp.clip(fall + excess / decay, fall / 8, 8 * fall)

    fall = jax.lax.fori_loop(0, _STEPS_OF_FALL, step, ndtri(alpha / 2) ** 2 / 2)
    lower, upper = jnp.exp(_log_odds_at(first - 1, second - 1, fall[None]))
    return lower / (1 + lower), 1 / (1 + upper)


def _log_odds_at(a: Array, b: Array, fall: Array) -> Array:
    """Log odds of the x below a / (a + b) at which D is `fall`."""
    n = a + b
    curvature = a / n * b
    # The curvature falls at most as exp(-width): D is at least curvature width^2 / (2 + width).
    half = fall / 2
    width = (half + jnp.hypot(half, jnp.sqrt(2 * fall * curvature))) / curvature

    def step(_: Array, u: Array) -> Array:
        x, rest = jax.nn.sigmoid(u), jax.nn.sigmoid(-u)
        height = divergence_term(a, n * x) + divergence_term(b, n * rest)
        return jnp.maximum(u + (fall - height) / _slope(a, b, u), _LEAST_LOG_ODDS)

    start = jnp.maximum(jnp.log(a / b) - width, _LEAST_LOG_ODDS)
    return jax.lax.fori_loop(0, _STEPS_OF_ENDS, step, start)


def _slope(a: Array, b: Array, u: Array) -> Array:
    """dD / du, below 0 on the lower side of the mode."""
    return b * jax.nn.sigmoid(u) - a * jax.nn.sigmoid(-u)
