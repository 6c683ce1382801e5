"""Sums of log(m + j t) over j < c, for many counts c at once, and their derivatives in m and t.

Each is the logarithm of a rising factorial, t^c Gamma(m / t + c) / Gamma(m / t), in a form that is
regular at t = 0 and in which nothing cancels. The first eight terms are added one by one, and the
formula of Euler and Maclaurin gives the others: with x = m + 8 t, n = c - 8 and z = n t / x,

    n (log x + int_0^1 log(1 + z s) ds) + e(x (1 + z)) - e(x),
    e(x) = -log(x) / 2 + sum_i B_2i / (2i (2i - 1)) (t / x)^(2i-1).

As t / x <= 1/8, six terms of e are enough for float64.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

_FIRST = 8
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)


class Expansion(NamedTuple):
    """The sum of each column, and its first and second derivatives."""

    value: Float[Array, " k"]
    m: Float[Array, " k"]
    t: Float[Array, " k"]
    mm: Float[Array, " k"]
    mt: Float[Array, " k"]
    tt: Float[Array, " k"]


class LogRising(NamedTuple):
    """Columns of counts; their sums are functions of one m for each column and of a common t."""

    exceeding: Float[Array, "8 k"]
    """Number of counts above 0, above 1, ..., above 7."""
    beyond: Float[Array, "n k"]
    """The counts minus 8, at least 0."""

    def expansion(self, m: Float[Array, " k"], t: Float[Array, ""]) -> Expansion:
        """Return sum_i sum_{j < c_ik} log(m_k + j t) and its derivatives, at m > 0 and t >= 0."""
        m, j = m[None], jnp.arange(_FIRST, dtype=m.dtype)[:, None]
        x = m + t * j
        share = self.exceeding / x
        square = share / x
        first = (
            self.exceeding * jnp.log(x),
            share,
            j * share,
            -square,
            -j * square,
            -j * j * square,
        )

        x, n, first_j = m + t * _FIRST, self.beyond, float(_FIRST)
        z = n * (t / x)
        moments = _moments(z)
        share, square = n / x, n / (x * x)
        s0, s1, s2 = square * moments.k0, square * n * moments.k1, square * n * n * moments.k2
        integrals = (
            n * (jnp.log(x) + moments.log),
            share * moments.j0,
            share * (first_j * moments.j0 + n * moments.j1),
            -s0,
            -(first_j * s0 + s1),
            -(first_j**2 * s0 + 2 * first_j * s1 + s2),
        )
        upper, lower = _end(x * (1 + z), n + first_j, m, t), _end(x, first_j, m, t)
        parts = zip(integrals, upper, lower, strict=True)
        rest = jnp.stack([i + (u - v) for i, u, v in parts])  # summed in one pass
        return Expansion(*(jnp.stack(first).sum(1) + rest.sum(1)))


def log_rising_of(counts: Float[Array, "n k"]) -> LogRising:
    steps = jnp.arange(_FIRST, dtype=counts.dtype)[:, None, None]
    exceeding = (counts[None] > steps).sum(1)
    return LogRising(exceeding.astype(counts.dtype), jnp.maximum(counts - _FIRST, 0))


class _Moments(NamedTuple):
    """Integrals over s in (0, 1): log(1 + z s), s^i / (1 + z s) and s^i / (1 + z s)^2."""

    log: Array
    j0: Array
    j1: Array
    k0: Array
    k1: Array
    k2: Array


def _moments(z: Array) -> _Moments:
    """Express them in v = z / (2 + z) and h = (artanh(v) / v - 1) / v^2, which is 1 / 3 at 0."""
    v, u = z / (2 + z), 2 / (2 + z)  # u = 1 - v
    w = (1 + z) * u  # 1 + v
    small = z < 0.5
    square = jnp.where(small, v * v, 0)
    series = jnp.zeros_like(z)
    for k in range(25, 1, -2):
        series = series * square + 1 / k
    far = jnp.where(small, 0.5, v)
    h = jnp.where(small, series, (jnp.log1p(z) / (2 * far) - 1) / far**2)
    return _Moments(
        log=v + w * v * v * h,
        j0=u * (1 + v * v * h),
        j1=u / 2 * (1 - u * v * h),
        k0=u / w,
        k1=u * u / 2 * (1 / w + v * h),
        k2=u * u / 2 * (1 / w - u * h),
    )


def _end(x: Array, j: Array | float, m: Array, t: Array) -> tuple[Array, ...]:
    """Return e(x) at x = m + j t, and its derivatives in the order of `Expansion`."""
    w = t / x
    series, slope, curvature = jnp.zeros_like(w), jnp.zeros_like(w), jnp.zeros_like(w)
    for i, coefficient in reversed(list(enumerate(_STIRLING))):
        series = series * w**2 + coefficient
        slope = slope * w**2 + (2 * i + 1) * coefficient
        if i > 0:
            curvature = curvature * w**2 + (2 * i + 1) * 2 * i * coefficient
    curvature, ratio, square = curvature * w, m / x, x * x
    both = curvature * w + 2 * slope
    return (
        series * w - jnp.log(x) / 2,
        -(0.5 + w * slope) / x,
        (slope * ratio - j / 2) / x,
        (0.5 + w * both) / square,
        (j / 2 + slope - both * ratio) / square,
        (j * j / 2 - 2 * slope * j * ratio + curvature * ratio**2) / square,
    )
