"""The posterior of the entropy of a die under the prior of Nemenman, Shafee and Bialek.

Given the concentration a of a symmetric Dirichlet prior, the posterior of the pmf is Dirichlet with
w_k = c_k + a, S = sum_k w_k, and the moments of its entropy are known (Wolpert and Wolf, 1995):

    mean      mu = sum_k w_k / S b_k,    b_k = psi(S + 1) - psi(w_k + 1)
    variance  sum_k w_k / S ((b_k - mu)^2 + t(w_k) - t(S)) / (S + 1),   t(x) = (x + 1) psi'(x + 1)

Both are written with terms >= 0. The prior on a makes xi(a) = psi(K a + 1) - psi(a + 1), the mean
entropy before any data, uniform on (0, log K). So the posterior density of u = log a is

    exp(L(u)) dxi/du,   exp(L) = Gamma(K a) / Gamma(N + K a) prod_k Gamma(c_k + a) / Gamma(a)

The density is analytic and decays at least as fast as exp(-|u|) at both ends, so Gauss-Legendre
quadrature over the window where it is not negligible converges fast. L is of order N, but only its
differences of order 1 matter, and float32 would lose them. The code therefore computes the score
dL/du and integrates it from node to node.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xentjax.information.pmf import entropy

_FALL = 30.0
"""Fall of the log density from its maximum to the ends of the window."""
_ZOOMS = 4
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(128)


def _integration_matrix() -> np.ndarray:
    """Return the matrix that takes values at the nodes to integrals up to each node."""
    degree = len(_NODES)
    p = np.polynomial.legendre.legvander(_NODES, degree)
    integrals = np.column_stack([1 + _NODES, p[:, 2:] - p[:, :-2]])
    return integrals @ (p[:, :-1] * _WEIGHTS[:, None]).T / 2


_INTEGRALS = _integration_matrix()


def entropy_moments(
    counts: Float[Array, "*batch k"], others: Float[Array, "*batch k"]
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """Posterior mean and standard deviation of the entropy, in nats, of K >= 2 classes.

    `others` is N less each count. The nodes are visited one after the other, so that no array of
    nodes by classes is needed.
    """
    dtype, k = counts.dtype, counts.shape[-1]
    n = counts.sum(-1)[None]  # the first axis is that of the nodes
    nodes, weights, before, after = (
        jnp.asarray(x, dtype).reshape(-1, *(1 for _ in n.shape[1:]))
        for x in (_NODES, _WEIGHTS, np.append(-1, _NODES[:-1]), np.append(_NODES[1:], 1))
    )

    fixed_counts = jax.lax.stop_gradient(counts)

    def zoom(_step: Array, window: tuple[Array, Array]) -> tuple[Array, Array]:
        middle, half = window
        a = jnp.exp(middle + half * nodes)
        score, log_prior = jax.lax.map(lambda a: _slopes(fixed_counts, a), a)
        # Trapezoids keep the sign of the score, however far apart the nodes are.
        rise = (score[1:] + score[:-1]) / 2 * (nodes[1:] - nodes[:-1]) * half
        log_density = jnp.cumsum(jnp.concatenate([jnp.zeros_like(rise[:1]), rise]), 0)
        log_density = log_density + log_prior
        kept = log_density > log_density.max(0, keepdims=True) - _FALL
        lower = jnp.where(kept, before, 1.0).min(0, keepdims=True)
        upper = jnp.where(kept, after, -1.0).max(0, keepdims=True)
        return middle + half * (upper + lower) / 2, half * (upper - lower) / 2

    # Below K a = 1 / log N the density grows as a; above a = N it falls as 1 / a.
    lowest, highest = -math.log(k) - _FALL - 5, jnp.log(n) + _FALL + 5
    window = ((highest + lowest) / 2, (highest - lowest) / 2)
    # The integral does not depend on the window, so neither does its gradient.
    middle, half = jax.lax.stop_gradient(jax.lax.fori_loop(0, _ZOOMS, zoom, window))
    # exp(middle + half * nodes) would round the sum and so shift the nodes of a narrow window.
    a = jnp.exp(middle) * jnp.exp(half * nodes)
    # An entropy close to log K varies by far less than its size: measure it from log K.
    nearly_uniform = entropy(counts / n[0][..., None]) > math.log(k) / 2
    bound = jnp.where(nearly_uniform, jnp.full_like(n[0], math.log(k)), 0.0)
    score, log_prior, mean, variance = jax.lax.map(
        lambda a: _slopes_and_moments(counts, others, a, bound), a
    )
    integrals = jnp.asarray(_INTEGRALS, dtype)
    log_evidence = half * jnp.tensordot(integrals, score, 1, precision=jax.lax.Precision.HIGHEST)
    log_density = log_evidence + log_prior
    weights = weights * jnp.exp(log_density - log_density.max(0, keepdims=True))
    weights = weights / weights.sum(0, keepdims=True)
    overall = (weights * mean).sum(0, keepdims=True)
    variance = (weights * (variance + (mean - overall) ** 2)).sum(0)
    return bound + overall[0], jnp.sqrt(variance)


def digamma_excess(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Compute `psi(x + 1) - log x`, and that less 1 / (2 x), precisely at large x too."""
    small = x < _SHIFT
    y = jnp.where(small, x + _SHIFT, x)
    rest = -_even_powers(1 / y, [b / (2 * i + 2) for i, b in enumerate(_BERNOULLI)])
    value = 1 / (2 * y) + rest
    near = value + (jnp.log(y) - jnp.log(x)) - sum(1 / (x + i) for i in range(1, _SHIFT + 1))
    return jnp.where(small, near, value), jnp.where(small, near - 1 / (2 * x), rest)


def _trigamma(x: Float[Array, "*s"]) -> tuple[Float[Array, "*s"], Float[Array, "*s"]]:
    """Compute `psi'(x + 1)` and `1 - x psi'(x + 1)`, precisely at large x too."""
    small = x < _SHIFT
    y = jnp.where(small, x + _SHIFT, x)
    rest = 1 / (2 * y) - _even_powers(1 / y, _BERNOULLI)
    value = (1 - rest) / y
    near = value + sum(1 / (x + i) ** 2 for i in range(1, _SHIFT + 1))
    return jnp.where(small, near, value), jnp.where(small, 1 - x * near, rest)


# From here on seven terms of the asymptotic series are exact in float64; smaller x are shifted.
_SHIFT = 8
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6)


def _even_powers(x: Array, coefficients: Sequence[float]) -> Array:
    """Return sum_i coefficients[i] x^(2 i + 2)."""
    total = jnp.zeros_like(x)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * (x * x)
    return total


def _deviations(counts: Array) -> Array:
    """Compute `c_k - N / K`, and subtract the mean that the rounding of N / K leaves."""
    from_mean = counts - counts.mean(-1, keepdims=True)
    return from_mean - from_mean.mean(-1, keepdims=True)


def _minus_log(z: Array, one_plus_z: Array) -> Array:
    """Compute `z - log(1 + z)` >= 0 to full relative precision; 1 + z may be close to 0."""
    series = jnp.zeros_like(z)
    for i in range(12, 1, -1):
        series = 1 / i - z * series
    return jnp.where(jnp.abs(z) < 0.1, z * z * series, z - jnp.log(one_plus_z))


class _Special(NamedTuple):
    """Results of `digamma_excess` and `_trigamma`."""

    digamma: tuple[Array, Array]
    trigamma: tuple[Array, Array]


def _slopes(counts: Array, a: Array) -> tuple[Array, Array]:
    """Return both slopes at `a`: see `_slopes_given`."""
    k, a = counts.shape[-1], a[..., None]
    n = counts.sum(-1, keepdims=True)
    # One call for all three, so that each function is compiled once.
    totals = jnp.concatenate([n + k * a, a, k * a], -1)
    at_totals = _Special(digamma_excess(totals), _trigamma(totals))
    return _slopes_given(counts, a, digamma_excess(counts + a)[1], at_totals)


def _slopes_given(
    counts: Array, a: Array, rest_of_w: Array, at_totals: _Special
) -> tuple[Array, Array]:
    """Return dL / dlog a and the log of dxi / dlog a = K a psi'(K a + 1) - a psi'(a + 1).

    In the first, a sum_k log(1 + c_k/a) and K a log(1 + N/Ka) would cancel. With psi(x) = log x -
    1 / (2 x) + rest(x), and sum_k z_k = 0 where 1 + z_k = w_k / (S / K), their difference is
    -a sum_k (z_k - log(1 + z_k)). `at_totals` holds the values at S, a and K a.
    """
    k, n = counts.shape[-1], counts.sum(-1, keepdims=True)
    w, s = counts + a, n + k * a
    rest_of_s, rest_of_a, rest_of_ka = _columns(at_totals.digamma[1])
    logarithms = -a * _minus_log(_deviations(counts) / (s / k), w / (s / k))
    classes = logarithms + counts / (2 * w) + a * (rest_of_w - rest_of_a)
    score = classes.sum(-1) - (n / (2 * s) + k * a * (rest_of_s - rest_of_ka))[..., 0]
    (_, value, value_of_ka), (_, rest, rest_of_ka) = map(_columns, at_totals.trigamma)
    near = k * a * value_of_ka - a * value
    return score, jnp.log(jnp.where(k * a < 1, near, rest - rest_of_ka))[..., 0]


def _columns(x: Array) -> list[Array]:
    return jnp.split(x, x.shape[-1], -1)


def _slopes_and_moments(
    counts: Array, others: Array, a: Array, bound: Array
) -> tuple[Array, Array, Array, Array]:
    """Return both slopes, the mean entropy less `bound` (0 or log K) and its variance, at `a`."""
    k, a, bound = counts.shape[-1], a[..., None], bound[..., None]
    n = counts.sum(-1, keepdims=True)
    w, s = counts + a, n + k * a
    every = jnp.concatenate([w, s, a, k * a], -1)
    special = _Special(digamma_excess(every), _trigamma(every))
    at_w, at_totals = (
        jax.tree.map(lambda x, i=i: x[..., i], special) for i in (slice(k), slice(k, None))
    )
    score, log_prior = _slopes_given(counts, a, at_w.digamma[1], at_totals)
    above_zero = jnp.log1p((others + (k - 1) * a) / w)
    z = _deviations(counts) / (s / k)
    above_log_k = -jnp.where(jnp.abs(z) < 0.5, jnp.log1p(z), jnp.log(w / (s / k)))
    surprisal = jnp.where(bound > 0, above_log_k, above_zero)
    surprisal = surprisal + (_columns(at_totals.digamma[0])[0] - at_w.digamma[0])
    mean = (w / s * surprisal).sum(-1, keepdims=True)
    (value, rest), (value_of_s, rest_of_s) = at_w.trigamma, (x[..., :1] for x in at_totals.trigamma)
    excess = (value - rest) - (value_of_s - rest_of_s)
    variance = (w / s * ((surprisal - mean) ** 2 + excess)).sum(-1) / (s[..., 0] + 1)
    return score, log_prior, mean[..., 0], variance
