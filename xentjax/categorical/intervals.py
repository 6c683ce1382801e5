"""Confidence intervals for the probabilities of a die, class by class or for all at once."""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._checks import check_choice, check_scalar
from xentjax.categorical._sison_glaz import halfwidth
from xentjax.categorical._tails import beta_quantile_odds, gamma_quantile
from xentjax.categorical.counts import check_whole_counts


def confidence_intervals(
    counts: ArrayLike, *, method: str = "goodman", alpha: ArrayLike = 0.05
) -> Float[Array, "*batch k 2"]:
    """Intervals that hold the probabilities of the classes with confidence 1 - alpha.

    One class at a time, each right with probability about 1 - alpha; p = c / N, z = z_{1-alpha/2}:

        wald            p -+ z sqrt(p (1 - p) / N)
        wilson          score(z^2)
        agresti_coull   wald with z^2 / 2 added to c and z^2 to N
        jeffreys        quantiles alpha/2 and 1 - alpha/2 of Beta(c + 1/2, N - c + 1/2)

    All classes at once, right together with probability about 1 - alpha:

        goodman             score(chi2_{1; 1-alpha/K})
        quesenberry_hurst   score(chi2_{K-1; 1-alpha})
        sison_glaz          [p - h / N, p + (h + 2 g) / N]

    where score(x) = (x + 2c -+ sqrt(x^2 + 4 x c (1 - c/N))) / (2 (N + x)), h is the largest number
    for which all N counts of such a die, drawn anew, stay within h of c with probability at most
    1 - alpha, and g in [0, 1) says how much of the step to h + 1 is missing. goodman and
    quesenberry_hurst are made for counts >= 5; sison_glaz for K >= 7, where it is the narrowest if
    the probabilities are alike.

    Everything is computed in the dtype of the counts, float32 unless x64 is on, in forms that do
    not cancel; float32 moves h by 1 only where the coverage at h is 1 - alpha to some 1e-6. The
    search for h takes h steps of K operations, h a few times sqrt(max_k c_k).

    Args:
        counts: [..., K], whole numbers.
        method: one of the seven names.
        alpha: probability of an interval that misses, in (0, 1).

    Returns:
        [..., K, 2], lower and upper end, in [0, 1]. jeffreys is 0 below at count 0 and 1 above at
        count N. NaN where N is 0 and unknown (under jit).

    Raises:
        ValueError: for another method; alpha outside (0, 1), or so small that alpha / (2 K) is 0 in
            the dtype; concrete counts that are negative, not whole or all 0; no classes.
        TypeError: for counts or an alpha that are not numbers.

    Example:
        >>> import numpy as np
        >>> print(np.asarray(confidence_intervals(jnp.array([23, 12, 44]))).round(3))
        [[0.186 0.424]
         [0.079 0.272]
         [0.424 0.682]]

    Source: L. D. Brown, T. T. Cai and A. DasGupta, "Interval estimation for a binomial proportion"
    (2001) for the first four; L. A. Goodman, "On simultaneous confidence intervals for multinomial
    proportions" (1965); C. P. Quesenberry and D. C. Hurst, "Large sample simultaneous confidence
    intervals for multinomial proportions" (1964); C. P. Sison and J. Glaz, "Simultaneous confidence
    intervals and sample size determination for multinomial proportions" (1995).
    """
    check_choice("method", method, tuple(_METHODS))
    check_scalar("alpha", alpha, "a number in (0, 1)", lambda value: 0 < value < 1)
    counts = check_whole_counts("counts", counts)
    # Below, alpha / (2 K) is 0 and its quantile infinite.
    k, least = counts.shape[-1], float(jnp.finfo(counts.dtype).tiny)
    expected = f"a number from {2 * k * least:.2g} on for {k} classes in {counts.dtype}"
    check_scalar("alpha", alpha, expected, lambda value: value >= 2 * k * least)
    return _intervals(counts, jnp.asarray(alpha, counts.dtype), method)


@partial(jax.jit, static_argnames="method")
def _intervals(counts: Array, alpha: Array, method: str) -> Array:
    n = jnp.broadcast_to(counts.sum(-1, keepdims=True), counts.shape)
    ends = jnp.stack(_METHODS[method](counts, n, alpha), -1)
    return jnp.clip(jnp.where(n[..., None] > 0, ends, jnp.nan), 0, 1)


_Ends: TypeAlias = tuple[Array, Array]


def _wald(counts: Array, n: Array, alpha: Array) -> _Ends:
    half = -ndtri(alpha / 2) * jnp.sqrt(counts * ((n - counts) / n)) / n
    return counts / n - half, counts / n + half


def _wilson(counts: Array, n: Array, alpha: Array) -> _Ends:
    return _score(counts, n, ndtri(alpha / 2) ** 2)


def _agresti_coull(counts: Array, n: Array, alpha: Array) -> _Ends:
    square = ndtri(alpha / 2) ** 2
    return _wald(counts + square / 2, n + square, alpha)


def _jeffreys(counts: Array, n: Array, alpha: Array) -> _Ends:
    a, b = counts + 0.5, n - counts + 0.5
    probability = jnp.broadcast_to(alpha / 2, counts.shape)
    # The upper end is 1 minus the lower end of the other classes together.
    lower = beta_quantile_odds(a, b, probability)
    others = beta_quantile_odds(b, a, probability)
    return (
        jnp.where(counts == 0, jnp.zeros_like(n), lower / (1 + lower)),
        jnp.where(counts == n, jnp.ones_like(n), 1 / (1 + others)),
    )


def _goodman(counts: Array, n: Array, alpha: Array) -> _Ends:
    return _score(counts, n, ndtri(alpha / (2 * counts.shape[-1])) ** 2)


def _quesenberry_hurst(counts: Array, n: Array, alpha: Array) -> _Ends:
    k = counts.shape[-1]
    if k == 1:  # no degrees of freedom: the probability is 1
        return _score(counts, n, jnp.zeros_like(alpha))
    return _score(counts, n, 2 * gamma_quantile(jnp.full_like(alpha, (k - 1) / 2), alpha))


def _sison_glaz(counts: Array, n: Array, alpha: Array) -> _Ends:
    found = jnp.vectorize(halfwidth, signature="(k),()->(2)")(counts, alpha)
    h, g = found[..., :1], found[..., 1:]
    return (counts - h) / n, (counts + h + 2 * g) / n


def _score(counts: Array, n: Array, square: Array) -> _Ends:
    """The p at which (c - N p)^2 = square N p (1 - p); the lower from the product of the two."""
    root = jnp.sqrt(square**2 + 4 * square * counts * ((n - counts) / n))
    both = square + 2 * counts + root
    lower = counts * (2 * counts / jnp.where(counts == 0, jnp.ones_like(both), both)) / n
    # The upper is 1 at count N, and would round to less.
    return lower, jnp.maximum(both / (2 * (n + square)), counts / n)


_METHODS = {
    "wald": _wald,
    "wilson": _wilson,
    "agresti_coull": _agresti_coull,
    "jeffreys": _jeffreys,
    "goodman": _goodman,
    "quesenberry_hurst": _quesenberry_hurst,
    "sison_glaz": _sison_glaz,
}
