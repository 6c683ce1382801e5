"""Maximum likelihood of a Dirichlet distribution of pmfs, from the counts of many dice."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import concrete, raise_value_error
from xentjax._core.dtypes import in_float64
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import explicit_spec, on_auto_axes, pvary_all
from xentjax.categorical._arguments import parse_table, without_derivative
from xentjax.categorical._rising import Expansion, log_rising_of
from xentjax.categorical.likelihood import factorial_remainder
from xentjax.information.pmf import x_log_x

_MOST_STEPS = 200
_TOL = 1e-8
"""Distance from the maximum, in standard errors, at which the search stops."""
_STARTS = 16
_LONGEST = 2.0
"""Largest change of a log probability, or of the log overdispersion, in one step."""


class DirichletFit(NamedTuple):
    """A fitted Dirichlet distribution; each die's pmf is a sample of it.

    Attributes:
        concentration: Concentrations a = A `mean`; 0 for a class that never occurs.
        mean: Mean pmf a / A; its ratios are defined even where A is 0 or infinite.
        correlation: Correlation of two samples of one die, 1 / (1 + A): 0 where all dice have the
            same pmf, 1 where each shows one class only.
        log_likelihood: Sum of `log_evidence(counts, concentration)` over the dice, in nats, or its
            limit.
        covariance: Covariance of the concentrations: the inverse of minus the second derivative of
            the log-likelihood. NaN where the maximum is on a boundary: for a class that never
            occurs, and for all where A is 0 or infinite.
        certificate: Distance from the maximum in standard errors, sqrt(g^T H^-1 g), with the
            gradient g and minus the second derivative H in the free variables; NaN where H is not
            positive definite.
        steps: Number of steps tried, from the best of the first values of t.
        converged: Whether the certificate is at most 1e-8, or the rounding error of counts above
            10^8.
    """

    concentration: Float[Array, "*batch k"]
    mean: Float[Array, "*batch k"]
    correlation: Float[Array, "*batch"]
    log_likelihood: Float[Array, "*batch"]
    covariance: Float[Array, "*batch k k"]
    certificate: Float[Array, "*batch"]
    steps: Int[Array, "*batch"]
    converged: Bool[Array, "*batch"]

    @property
    def standard_errors(self) -> Float[Array, "*batch k"]:
        """Standard errors of the concentrations."""
        return jnp.sqrt(jnp.diagonal(self.covariance, axis1=-2, axis2=-1))


def fit_dirichlet(counts: ArrayLike) -> DirichletFit:
    """Fit the Dirichlet distribution of the pmfs of many dice by maximum likelihood.

        p_i ~ Dirichlet(a),  c_i ~ Multinomial(N_i, p_i)

        maximise  sum_i log (Gamma(A) N_i! / Gamma(N_i + A)
                             prod_k Gamma(c_ik + a_k) / (Gamma(a_k) c_ik!)),    A = sum_k a_k

    This is the Dirichlet-multinomial likelihood; maximising it learns the prior of
    `dirichlet_posterior` from other dice (empirical Bayes). With the mean m = a / A and the
    overdispersion t = 1 / A, it is up to a constant

        sum_ik sum_{j < c_ik} log(m_k + j t) - sum_i sum_{j < N_i} log(1 + j t)

    This is also regular at t = 0, where all dice have the pmf m, so that a maximum at infinite A is
    found in few steps, like any other. In m and t, minus the second derivative is diagonal except
    for the row of t: a step of Newton's method costs K operations beside the sums over the counts.
    A step that lowers the likelihood is halved. The search starts at the best of 16 values of t,
    including 0, so that the fit is never worse than one common pmf.

    If the counts vary no more than those of one pmf, `concentration` is infinite, `correlation` is
    0 and `log_likelihood` is that of the pmf `mean`; `overdispersion_test` tests whether a larger
    variation is due to chance. If each die shows only one class, `concentration` is 0,
    `correlation` is 1 and `mean` is the share of the dice that show it. A class that never occurs
    has concentration 0. A die without samples has no influence, and a die with one sample only
    influences the mean.

    Args:
        counts: [..., M, K] of M dice, whole numbers.

    Returns:
        The fit of each [M, K], computed in float64 and without derivatives in the counts. Under
        jit, where values are unknown, counts that do not determine a fit give NaN.

    Raises:
        ValueError: for fewer than two dice or classes; concrete counts that are negative or not
            whole, of which fewer than two dice or classes occur or no die has two samples.
        TypeError: for counts that are not numbers, or a derivative.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import xentjax
        >>> counts = jnp.array([[8, 1, 1], [2, 7, 1], [5, 4, 1], [9, 1, 0], [3, 3, 4]])
        >>> fit = xentjax.fit_dirichlet(counts)
        >>> print(np.asarray(fit.concentration).round(2), np.asarray(fit.standard_errors).round(2))
        [4.3  2.58 1.25] [3.82 2.27 1.07]
        >>> print(fit.converged, fit.steps)
        True 3

    Source: T. P. Minka, "Estimating a Dirichlet distribution" (2000), section 3; the likelihood in
    m and t is that of J. E. Mosimann, "On the compound multinomial distribution" (1962).
    """
    table = parse_dice(counts)
    return _fits(without_derivative("counts", table))


def parse_dice(counts: ArrayLike) -> Array:
    """Check counts [..., M, K] of dice; where they are known, some die must have two samples."""
    hint = "; of one die: fit_categorical or dirichlet_posterior"
    table = parse_table("counts", counts, hint=hint)
    known = concrete(table)
    if known is not None and (most := known.sum(-1).max(-1)).min(initial=2) < 2:
        raise_value_error("counts", "a die of at least 2 samples", f"{most.min():g} at most")
    return table


@in_float64
def _fits(counts: Array) -> DirichletFit:
    fit = _fit
    for _ in counts.shape[:-2]:
        fit = jax.vmap(fit)
    return on_auto_axes(fit, explicit_spec(counts)[:-2])(counts)


class _Step(NamedTuple):
    """A Newton step from a point, and its parts."""

    log_mean: Array
    """Change of log m, [K]."""
    log_spread: Array
    """Change of log(1 + scale t)."""
    decrement: Array
    """Length in standard errors."""
    covariance: Array
    """Variances of m given t, [K], before the constraint that m sums to 1."""
    mean_slope: Array
    """dm / dt, [K], where m is the maximum given t."""
    information: Array
    """Minus the second derivative in t along these maxima."""


class _Search(NamedTuple):
    mean: Array
    spread: Array
    value: Array
    step: _Step
    length: Array
    """Fraction of the step to try next."""
    steps: Array
    converged: Array


def _fit(counts: Array) -> DirichletFit:
    n, totals = counts.sum(-1), counts.sum(0)
    seen, scale = totals > 0, n.max()
    rising = log_rising_of(jnp.concatenate([counts, n[:, None]], 1))
    signs = jnp.where(jnp.arange(seen.size + 1) < seen.size, 1, -1).astype(n.dtype)
    share = totals / totals.sum()

    # If no die shows two classes, the likelihood grows with t without end.
    alone = ((counts > 0).sum(-1) <= 1).all()
    equal_steps = jnp.arange(_STARTS, dtype=n.dtype) / (_STARTS - 1)
    starts = jnp.expm1(equal_steps * jnp.log1p(10 * scale)) / scale
    tol = _TOL + 4 * float(jnp.finfo(n.dtype).eps) * totals.sum()

    def advance(state: _Search) -> _Search:
        scanning = state.steps < 0
        moved = _moved(state.mean, state.spread, state.step, state.length, scale)
        mean = jnp.where(scanning, share, moved[0])
        spread = jnp.where(scanning, starts[state.steps + _STARTS], moved[1])
        terms = rising.expansion(_all(mean, seen), spread)
        found = terms.value @ signs
        slack = 8 * float(jnp.finfo(n.dtype).eps) * jnp.abs(terms.value).sum()
        kept = found > jnp.where(scanning, state.value, state.value - slack)
        step = _newton(mean, spread, terms, signs, seen, scale)
        one, steps = jnp.ones_like(spread), state.steps + 1
        tried = _Search(mean, spread, found, step, one, steps, step.decrement <= tol)
        shorter = jnp.where(scanning, 1, state.length / 2)
        others = state._replace(length=shorter, steps=steps)
        return jax.tree.map(lambda x, y: jnp.where(kept, x, y), tried, others)

    def unfinished(state: _Search) -> Array:
        searching = ~state.converged & (state.steps < _MOST_STEPS)
        return ~alone & ((state.steps < 0) | searching)

    none, zero = jnp.zeros_like(share), jnp.zeros_like(scale)
    standing = _Step(none, zero, jnp.full_like(zero, jnp.nan), none, none, zero)
    start = _Search(
        share, zero, jnp.full_like(zero, -jnp.inf), standing, zero,
        jnp.full((), -_STARTS, jnp.int32), jnp.zeros((), bool),
    )  # fmt: skip
    end = jax.lax.while_loop(unfinished, advance, pvary_all(start))

    occurs = (n > 0).sum().astype(n.dtype)
    dice = (counts > 0).sum(0).astype(n.dtype) / jnp.maximum(occurs, 1)
    mean = jnp.where(alone, dice, end.mean)
    spread = jnp.where(alone, jnp.inf, end.spread)
    found = jnp.where(alone, occurs * x_log_x(dice).sum(), end.value + _coefficient(counts, n))
    valid = (seen.sum() >= 2) & (scale >= 2) & (occurs >= 2)
    nan = nan_unless(valid, n.dtype)
    covariance = _covariance(end)
    interior = seen & (spread > 0) & ~alone
    return DirichletFit(
        concentration=jnp.where(seen, mean / spread, 0) + nan,
        mean=mean + nan,
        correlation=jnp.where(alone, 1, spread / (1 + spread)) + nan,
        log_likelihood=found + nan,
        covariance=jnp.where(jnp.outer(interior, interior), covariance, jnp.nan),
        certificate=jnp.where(alone, 0, end.step.decrement) + nan,
        steps=jnp.maximum(end.steps, 0),
        converged=(end.converged | alone) & valid,
    )


def _all(mean: Array, seen: Array) -> Array:
    """Return the m of each column: m of the classes, and 1 for the numbers of samples."""
    return jnp.append(jnp.where(seen, mean, 1), 1.0)


def _newton(
    mean: Array, spread: Array, terms: Expansion, signs: Array, seen: Array, scale: Array
) -> _Step:
    """Maximise the quadratic model in m, which sums to 1, then in t along these maxima."""
    slope = terms.m[:-1]
    variance = jnp.where(seen, -1 / jnp.where(seen, terms.mm[:-1], -1), 0)
    mixed = -terms.mt[:-1]

    def of_sum_0(direction: Array) -> Array:
        """Project a vector on the steps whose sum is 0."""
        return direction - (variance @ direction) / variance.sum()

    centred = of_sum_0(slope)
    towards, mean_slope = variance * centred, -variance * of_sum_0(mixed)
    gain = centred @ towards
    t_slope = terms.t @ signs - mixed @ towards
    information = mixed @ mean_slope - terms.tt @ signs
    bound = (spread == 0) & (t_slope <= 0)

    # In log(1 + scale t) the likelihood is nearly quadratic, both at 0 and where t is large.
    by_log = spread + 1 / scale
    curvature = information * by_log**2 - t_slope * by_log
    safe = jnp.where(curvature > 0, curvature, 1)
    log_spread = jnp.where(curvature > 0, t_slope * by_log / safe, jnp.sign(t_slope))
    log_spread = jnp.where(bound, 0, jnp.clip(log_spread, -_LONGEST, _LONGEST))
    t_step = jnp.maximum(by_log * jnp.expm1(log_spread), -spread)
    log_mean = (towards + mean_slope * t_step) / jnp.where(seen, mean, 1)
    shorter = jnp.minimum(1, _LONGEST / jnp.maximum(jnp.abs(log_mean).max(), _LONGEST))

    positive = information > 0
    t_gain = jnp.where(bound, 0, t_slope**2 / jnp.where(positive, information, jnp.nan))
    return _Step(
        log_mean=shorter * log_mean,
        log_spread=shorter * log_spread,
        decrement=jnp.sqrt(gain + t_gain),
        covariance=variance,
        mean_slope=mean_slope,
        information=information,
    )


def _moved(
    mean: Array, spread: Array, step: _Step, length: Array, scale: Array
) -> tuple[Array, Array]:
    moved = mean * jnp.exp(length * step.log_mean)
    rise = (spread + 1 / scale) * jnp.expm1(length * step.log_spread)
    return moved / moved.sum(), jnp.maximum(spread + rise, 0)


def _covariance(end: _Search) -> Array:
    """Compute the covariance of a = m / t from that of m given t and the variance of t."""
    _, _, _, variance, mean_slope, information = end.step
    t = end.spread
    given_t = jnp.diag(variance) - jnp.outer(variance, variance / variance.sum())
    slope = (mean_slope * t - end.mean) / t**2
    return given_t / t**2 + jnp.outer(slope, slope / information)


def _coefficient(counts: Array, n: Array) -> Array:
    """Compute the sum over the dice of log(N! / prod_k c_k!)."""
    both = jnp.concatenate([counts, n[:, None]], 1)
    logs = factorial_remainder(both, whole=True) + x_log_x(both)  # the rest, -N, cancels
    return (logs[:, -1] - logs[:, :-1].sum(-1)).sum()
