"""Confidence intervals for the probabilities of a die, one class at a time or simultaneous."""

from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_alpha,
    check_choice,
    concrete,
    is_known,
    raise_value_error,
)
from xentjax._core.choices import IntervalMethod
from xentjax._core.dtypes import in_float64, result_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan, nan_unless
from xentjax._core.varying import explicit_spec, on_auto_axes
from xentjax.categorical._arguments import parse_counts
from xentjax.categorical._sison_glaz import MOST_STEPS, halfwidth
from xentjax.categorical._tails import beta_quantile_odds, gamma_quantile
from xentjax.categorical.counts import ComparedCounts, with_others


def confidence_intervals(
    counts: ArrayLike, *, method: IntervalMethod = "goodman", alpha: ArrayLike = 0.05
) -> Float[Array, "*batch k 2"]:
    """Compute confidence intervals of level 1 - alpha for the probabilities of the classes.

    For one class at a time, each with coverage of about 1 - alpha; p = c / N, z = z_{1-alpha/2}:

        wald            p -+ z sqrt(p (1 - p) / N)
        wilson          score(z^2)
        agresti_coull   wald with z^2 / 2 added to c and z^2 to N
        jeffreys        quantiles alpha/2 and 1 - alpha/2 of Beta(c + 1/2, N - c + 1/2)

    For all classes at once, with joint coverage of about 1 - alpha:

        goodman             score(chi2_{1; 1-alpha/K})
        quesenberry_hurst   score(chi2_{K-1; 1-alpha})
        sison_glaz          [p - h / N, p + (h + 2 g) / N]

    where score(x) = (x + 2c -+ sqrt(x^2 + 4 x c (1 - c/N))) / (2 (N + x)). For sison_glaz, h is the
    largest number such that the counts of a new sample from c / N are all within h of c with
    probability at most 1 - alpha, and g in [0, 1) interpolates between h and h + 1. goodman and
    quesenberry_hurst are made for counts >= 5; sison_glaz is made for K >= 7, where it is the
    narrowest if the probabilities are similar.

    Everything is computed in the dtype of the counts, float32 unless x64 is on, in forms that do
    not cancel, from exact differences of the counts; sison_glaz is computed in float64. Its
    probability of a box is an Edgeworth expansion, which fails where one class has nearly all
    samples: it falls as the box grows. From there on Bonferroni's bound on the probability is used
    too, so that h exists for any counts. The search tries every h up to 131072, with K operations
    for each, and bisects beyond; h is a few times sqrt(max_k c_k).

    Args:
        counts: [..., K], whole numbers.
        method: a name of the table.
        alpha: probability of an interval that misses, in (0, 1).

    Returns:
        [..., K, 2], lower and upper end, in [0, 1]. The lower end of jeffreys is 0 at count 0, and
        its upper end is 1 at count N. NaN where N is 0 and unknown (under jit).

    Raises:
        ValueError: for another method; alpha outside (0, 1), or so small that alpha / (2 K) is 0 in
            the dtype; concrete counts that are negative, not whole or all 0; no classes.
        TypeError: for counts or an alpha that are not numbers, and for a derivative of sison_glaz,
            whose h is a whole number.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import xentjax
        >>> print(np.asarray(xentjax.confidence_intervals(jnp.array([23, 12, 44]))).round(3))
        [[0.186 0.424]
         [0.079 0.272]
         [0.424 0.682]]

    Source: L. D. Brown, T. T. Cai and A. DasGupta, "Interval estimation for a binomial proportion"
    (2001) for the first four; L. A. Goodman, "On simultaneous confidence intervals for multinomial
    proportions" (1965); C. P. Quesenberry and D. C. Hurst, "Large sample simultaneous confidence
    intervals for multinomial proportions" (1964); C. P. Sison and J. Glaz, "Simultaneous confidence
    intervals and sample size determination for multinomial proportions" (1995).
    """
    check_choice("method", method, IntervalMethod)
    alpha = check_alpha(alpha)
    counts = parse_counts("counts", counts, whole=True)
    # alpha / (2 K) below this is 0, and its quantile infinite.
    k, dtype = counts.shape[-1], result_dtype(counts)
    least = float(jnp.finfo(dtype).tiny)
    known = concrete(alpha)
    if known is not None and known < 2 * k * least:
        raise_value_error(
            "alpha", f"a number >= {2 * k * least:.2g} for {k} classes in {dtype}", known
        )
    alpha = jnp.asarray(alpha, dtype)
    if method == "sison_glaz":
        known = concrete(counts)
        few = known is not None and bool((known.sum(-1, dtype=float) <= MOST_STEPS).all())
        alpha = jnp.broadcast_to(alpha, counts.shape[:-1])
        if is_known(counts) and is_known(alpha):  # the derivative's rule would take longer than h
            return _box(counts, alpha, few=few)
        return _sison_glaz(few, counts, alpha)
    return _intervals(with_others(counts), alpha, method)


@partial(jax.jit, static_argnames="method")
def _intervals(counts: ComparedCounts, alpha: Array, method: str) -> Array:
    ends = jnp.stack(_METHODS[method](counts, alpha), -1)
    ends += nan_unless(counts.n[..., None] > 0, ends.dtype)
    return jnp.where(
        ends < 0, 0, jnp.where(ends > 1, 1, ends)
    )  # jnp.clip halves derivatives at 0 and 1


_Ends: TypeAlias = tuple[Array, Array]


def _wald(counts: ComparedCounts, alpha: Array) -> _Ends:
    own, others, n = counts
    half = -ndtri(alpha / 2) * _deviation(own, others, n) / n
    # At counts 0 and N the end is clipped, and the infinite derivative of `half` has no effect.
    return (
        jnp.where(own == 0, jnp.zeros_like(n), own / n - half),
        jnp.where(others == 0, jnp.ones_like(n), own / n + half),
    )


def _wilson(counts: ComparedCounts, alpha: Array) -> _Ends:
    return _score(counts, ndtri(alpha / 2) ** 2)


def _agresti_coull(counts: ComparedCounts, alpha: Array) -> _Ends:
    square = ndtri(alpha / 2) ** 2
    own, others, n = counts
    return _wald(ComparedCounts(own + square / 2, others + square / 2, n + square), alpha)


def _jeffreys(counts: ComparedCounts, alpha: Array) -> _Ends:
    own, others, n = counts
    # The upper end is 1 minus the lower end of all other classes together.
    pair = jnp.stack([own + 0.5, others + 0.5])
    lower, upper = beta_quantile_odds(pair, pair[::-1], jnp.broadcast_to(alpha / 2, pair.shape))
    return (
        jnp.where(own == 0, jnp.zeros_like(n), lower / (1 + lower)),
        jnp.where(others == 0, jnp.ones_like(n), 1 / (1 + upper)),
    )


def _goodman(counts: ComparedCounts, alpha: Array) -> _Ends:
    return _score(counts, ndtri(alpha / (2 * counts.n.shape[-1])) ** 2)


def _quesenberry_hurst(counts: ComparedCounts, alpha: Array) -> _Ends:
    k = counts.n.shape[-1]
    if k == 1:  # without degrees of freedom, the probability is 1
        return _score(counts, jnp.zeros_like(alpha))
    return _score(counts, 2 * gamma_quantile(jnp.full_like(alpha, (k - 1) / 2), alpha))


def _score(counts: ComparedCounts, square: Array) -> _Ends:
    """Solve (c - N p)^2 = square N p (1 - p); the lower p comes from the product of both."""
    own, others, n = counts
    root = jnp.sqrt(square * (square + 4 * own * (others / n)))
    both = square + 2 * own + root
    lower = own * (2 * own / jnp.where(own == 0, jnp.ones_like(both), both)) / n
    upper = both / (2 * (n + square))
    # At count N the upper p is 1, but would be rounded to less.
    return lower, upper + jax.lax.stop_gradient(jnp.where(others == 0, 1 - upper, 0))


@jax.custom_jvp
def _deviation(own: Array, others: Array, n: Array) -> Array:
    """Compute sqrt(n p (1 - p)) at p = own / n; its derivative in `own` is +inf at 0."""
    return jnp.sqrt(own * (others / n))


@_deviation.defjvp
def _(primals, tangents):
    own, others, n = primals
    deviation = _deviation(*primals)
    by_own, by_others = jnp.sqrt(others / n / own) / 2, jnp.sqrt(own / n / others) / 2
    dot = multiply_no_nan(by_own, tangents[0]) + multiply_no_nan(by_others, tangents[1])
    return deviation, dot - deviation / (2 * n) * tangents[2]


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _sison_glaz(few: bool, counts: Array, alpha: Array) -> Array:
    return _box(counts, alpha, few=few)


@_sison_glaz.defjvp
def _(_few, _primals, _tangents):
    expected = "a method other than sison_glaz, whose whole numbers have no derivative"
    raise TypeError(f"method: expected {expected}, got sison_glaz")


@in_float64
def _box(counts: Array, alpha: Array, *, few: bool) -> Array:
    n = counts.sum(-1, keepdims=True)
    search = jnp.vectorize(partial(halfwidth, few=few), signature="(k),(k),()->(2)")
    found = on_auto_axes(search, explicit_spec(counts)[:-1])(counts, n - counts, alpha)
    h, g = found[..., :1], found[..., 1:]
    ends = jnp.stack([(counts - h) / n, (counts + h + 2 * g) / n], -1)
    return jnp.clip(ends + nan_unless(n[..., None] > 0, ends.dtype), 0, 1)


_METHODS = {
    "wald": _wald,
    "wilson": _wilson,
    "agresti_coull": _agresti_coull,
    "jeffreys": _jeffreys,
    "goodman": _goodman,
    "quesenberry_hurst": _quesenberry_hurst,
}
