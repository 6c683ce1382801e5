"""Sums of log(m + j t) over j < c, for many counts c at once, and their derivatives in m and t.

They are logarithms of rising factorials, t^c Gamma(m / t + c) / Gamma(m / t), in a form that is
regular at t = 0 and cancels nothing: the first eight terms one by one, the others by the formula of
Euler and Maclaurin, with x = m + 8 t, n = c - 8 and z = n t / x,

    n (log x + mu(z)) - log(1 + z) / 2 + sum_i B_2i / (2i (2i - 1)) (w^(2i-1) - (t/x)^(2i-1)),

where w = (t / x) / (1 + z) and mu(z) = int_0^1 log(1 + z s) ds. For t / x <= 1/8 six terms of the
sum are enough for float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_FIRST = 8
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


class Expansion(NamedTuple):
    """Sums of each column and their derivatives in (m, t)."""

    value: Float[Array, " k"]
    slope: Float[Array, "k 2"]
    curvature: Float[Array, "k 2 2"]


class LogRising(NamedTuple):
    """Columns of counts; their sums are functions of one m for each and one t for all."""

    exceeding: Float[Array, "8 k"]
    """How many counts are more than 0, 1, ..., 7."""
    beyond: Float[Array, "n k"]
    """What each count has beyond 8, at least 0."""

    def values(self, m: Float[Array, " k"], t: Float[Array, ""]) -> Float[Array, " k"]:
        """Return sum_i sum_{j < c_ik} log(m_k + j t), for m > 0 and t >= 0."""
        steps = jnp.arange(_FIRST, dtype=m.dtype)[:, None]
        first = (self.exceeding * jnp.log(m + t * steps)).sum(0)
        x = m + t * _FIRST
        z = self.beyond * (t / x)
        rest = self.beyond * _mean_log1p(z) - jnp.log1p(z) / 2 + _tail(t / x / (1 + z))
        rest = rest - _tail(t / x)
        return first + self.beyond.sum(0) * jnp.log(x) + rest.sum(0)

    def expansion(self, m: Float[Array, " k"], t: Float[Array, ""]) -> Expansion:
        """Return the sums and their derivatives of first and second order."""

        def moved(by: Array) -> Array:
            return self.values(m + by[0], t + by[1])

        def value_and_slope(by: Array) -> tuple[Array, tuple[Array, Array]]:
            value, pushforward = jax.linearize(moved, by)
            slope = jax.vmap(pushforward, out_axes=1)(jnp.eye(2, dtype=m.dtype))
            return slope, (value, slope)

        curvature, (value, slope) = jax.jacfwd(value_and_slope, has_aux=True)(jnp.zeros(2, m.dtype))
        return Expansion(value, slope, curvature)


def log_rising_of(counts: Float[Array, "n k"]) -> LogRising:
    exceeding = jnp.stack([(counts > j).sum(0) for j in range(_FIRST)])
    return LogRising(exceeding.astype(counts.dtype), jnp.maximum(counts - _FIRST, 0))


def _mean_log1p(z: Array) -> Array:
    """int_0^1 log(1 + z s) ds = v + (1 + v) (artanh(v) / v - 1),  v = z / (2 + z)."""
    small = z < 0.5
    near = jnp.where(small, z, 0) / (2 + jnp.where(small, z, 0))
    series = jnp.zeros_like(z)
    for k in range(25, 1, -2):
        series = (series + 1 / k) * near**2
    far = jnp.where(small, 1, z)
    excess = jnp.where(small, series, jnp.log1p(far) * (2 + far) / (2 * far) - 1)
    v = z / (2 + z)
    return v + (1 + v) * excess


def _tail(w: Array) -> Array:
    total = jnp.zeros_like(w)
    for coefficient in reversed(_STIRLING):
        total = total * w**2 + coefficient
    return total * w
