"""The box of Sison and Glaz: simultaneous deviations of a multinomial's counts from their means."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import pvary_all
from xentjax.categorical._tails import gamma_tail
from xentjax.categorical.likelihood import factorial_remainder

MOST_STEPS = 2.0**17
"""Largest halfwidth to try one by one; wider boxes (counts above about 10^9) are bisected."""


class _Masses(NamedTuple):
    """Probabilities that a class's count is at an end of the box, and inside it."""

    top: Float[Array, " k"]
    """Probability of count + halfwidth, 0 above N."""
    bottom: Float[Array, " k"]
    """Probability of count - halfwidth, 0 below 0."""
    inside: Float[Array, " k"]


class _Box(NamedTuple):
    """The box of counts within `halfwidth` of their means, and its probability."""

    halfwidth: Float[Array, ""]
    inner_coverage: Float[Array, ""]
    """Coverage of the next narrower box."""
    coverage: Float[Array, ""]
    expansion: Float[Array, ""]
    """Coverage by the Edgeworth expansion."""
    failed: Bool[Array, ""]
    """Whether the expansion has fallen while the box grew."""
    poisson: _Masses
    binomial: _Masses | None
    """None while Bonferroni's bound is not needed."""
    moments: Float[Array, "4 k"]
    """Sums of Poisson probability * deviation^r over the box, for r = 1..4."""


class _Bracket(NamedTuple):
    """Two halfwidths, one too narrow and one wide enough."""

    low: Float[Array, ""]
    high: Float[Array, ""]
    low_coverage: Float[Array, ""]
    high_coverage: Float[Array, ""]


def halfwidth(
    counts: Float[Array, " k"],
    others: Float[Array, " k"],
    alpha: Float[Array, ""],
    *,
    few: bool,
) -> Float[Array, "2"]:
    """Find c, and the fraction g of the step from c to c + 1 at which the coverage is 1 - alpha.

    If the X_k are independent Poisson variables of means c_k, then X given sum_k X_k = N is
    multinomial with these means. So

        P(all |X_k - c_k| <= c) = prod_k P(|X_k - c_k| <= c) P(sum_k Y_k = N) / P(sum_k X_k = N)

    where Y_k is X_k given that it lies in the box, and an Edgeworth expansion gives the density of
    its sum. c is the first halfwidth whose coverage is at most 1 - alpha while that of c + 1 is
    above. Each halfwidth adds two terms to the sums of the one before, so trying all of them costs
    as much as summing the last one.

    The expansion fails where one class has nearly all samples: it falls as c grows, and may never
    reach 1 - alpha. From there on the coverage is taken to be at least Bonferroni's bound: one
    minus the sum over k of the probability that X_k, binomial given N, deviates by more than c.

    Args:
        counts: c, float64.
        others: N - c.
        alpha: 1 less the coverage.
        few: promises that N is at most `MOST_STEPS`, so that the bisection is not compiled.
    """
    n, level = counts.sum(), 1 - alpha
    # Stacked, so that the function is compiled once rather than three times.
    numbers = jnp.stack([jnp.full_like(counts, n), counts, others])
    remainders = factorial_remainder(numbers, whole=True)
    log_total = remainders[0, 0]

    def widen(box: _Box) -> _Box:
        c = box.halfwidth + 1
        above, below = counts + c, jnp.maximum(counts - c + 1, 0)
        inside_n, some = above <= n, jnp.maximum(counts, 1)
        zero = jnp.zeros_like(counts)
        poisson = _add(
            box.poisson,
            jnp.where(inside_n, box.poisson.top * counts / above, zero),
            box.poisson.bottom * below / some,
        )
        added = jnp.stack([(poisson.top + (-1) ** r * poisson.bottom) * c**r for r in range(1, 5)])
        moments = box.moments + added
        expansion = _expansion(poisson.inside, moments, log_total)
        failed = box.failed | (expansion < box.expansion)
        coverage, binomial = expansion, None
        if box.binomial is not None:
            odds = counts / jnp.maximum(others, 1)
            binomial = _add(
                box.binomial,
                jnp.where(inside_n, box.binomial.top * odds * (others - c + 1) / above, zero),
                box.binomial.bottom * (others / some) * below / jnp.maximum(others + c, 1),
            )
            bound = 1 - (1 - binomial.inside).sum()
            coverage = jnp.where(failed, jnp.maximum(expansion, bound), expansion)
        # A box of halfwidth N holds every table.
        coverage = jnp.where(c < n, coverage, jnp.ones_like(n))
        return _Box(c, box.coverage, coverage, expansion, failed, poisson, binomial, moments)

    def too_narrow(box: _Box) -> Array:
        return (box.coverage <= level) & (box.halfwidth < jnp.minimum(n, MOST_STEPS))

    zero = jnp.zeros_like(n)
    poisson, binomial = (
        _Masses(middle, middle, middle)
        for middle in jnp.exp(
            jnp.stack([-remainders[1], remainders[0] - remainders[1] - remainders[2]])
        )
    )
    moments = jnp.zeros((4, *counts.shape), counts.dtype)
    start = _Box(zero, zero, zero, zero, zero > 1, poisson, None, moments)
    start, level, binomial = pvary_all((start, level, binomial))  # constants vary over no mesh
    # The bound costs as much as the expansion, which seldom fails. So the first search does without
    # it; where the expansion fails, a second one starts from the beginning.
    box = jax.lax.while_loop(lambda box: too_narrow(box) & ~box.failed, widen, start)
    anew = start._replace(binomial=binomial)
    box = jax.tree.map(
        lambda x, y: jnp.where(box.failed, x, y), anew, box._replace(binomial=binomial)
    )
    box = jax.lax.while_loop(too_narrow, widen, box)

    def between(bracket: _Bracket) -> Array:
        return jnp.floor(bracket.low / 2 + bracket.high / 2)

    def undecided(bracket: _Bracket) -> Array:
        middle = between(bracket)
        return (bracket.low < middle) & (middle < bracket.high)

    def halve(bracket: _Bracket) -> _Bracket:
        middle = between(bracket)
        coverage = _expansion(*_moments(counts, n, middle), log_total)
        narrow = coverage <= level
        return _Bracket(
            jnp.where(narrow, middle, bracket.low),
            jnp.where(narrow, bracket.high, middle),
            jnp.where(narrow, coverage, bracket.low_coverage),
            jnp.where(narrow, bracket.high_coverage, coverage),
        )

    found = (box.coverage > level) | (box.halfwidth >= n)
    bracket = _Bracket(
        jnp.where(found, box.halfwidth - 1, box.halfwidth),
        jnp.where(found, box.halfwidth, n),
        jnp.where(found, box.inner_coverage, box.coverage),
        jnp.where(found, box.coverage, jnp.ones_like(n)),
    )
    if not few:
        bracket = jax.lax.while_loop(undecided, halve, bracket)
    rise = bracket.high_coverage - bracket.low_coverage
    # Both coverages are 1 where 1 - alpha rounds to 1.
    fraction = jnp.where(rise > 0, (level - bracket.low_coverage) / rise, 0)
    return jnp.stack([bracket.low, fraction + nan_unless(n < jnp.inf, n.dtype)])


def _add(masses: _Masses, top: Array, bottom: Array) -> _Masses:
    return _Masses(top, bottom, masses.inside + top + bottom)


def _moments(counts: Array, n: Array, halfwidth: Array) -> tuple[Array, Array]:
    """Return each class's Poisson probability of the box, and its moments about the count there.

    They follow from E[(X - c) g(X)] = c E[g(X + 1) - g(X)] and terms at the ends of the box.
    """
    low, high = jnp.maximum(counts - halfwidth, 0), jnp.minimum(counts + halfwidth, n)
    c = jnp.maximum(counts, 1)
    # Poisson tails are gamma tails: P(X < low) = P(G_low > c) and P(X > high) = P(G_(high+1) < c).
    shape = jnp.stack([jnp.maximum(low, 1), high + 1])
    lower = jnp.stack([jnp.ones_like(c, bool), jnp.zeros_like(c, bool)])
    log_tail, tail_over_density = gamma_tail(shape, jnp.stack([c, c]), lower)
    tails = jnp.exp(log_tail)
    # Densities over log c are c times the probabilities of low - 1 and high.
    (below, above), (before, last) = tails, tails / tail_over_density
    below, before = jnp.where(low > 0, below, 0), jnp.where(low > 0, before, 0)
    mass = 1 - below - above
    down, up = low - c, high + 1 - c
    m1 = before - last
    m2 = c * mass + before * down - last * up
    m3 = c * (2 * m1 + mass) + before * down**2 - last * up**2
    m4 = c * (3 * (m2 + m1) + mass) + before * down**3 - last * up**3
    occurs = counts > 0
    return jnp.where(occurs, mass, 1), jnp.where(occurs, jnp.stack([m1, m2, m3, m4]), 0)


def _expansion(mass: Array, moments: Array, log_total: Array) -> Array:
    """Compute the coverage; `log_total` is -log P(sum_k X_k = N)."""
    m1, m2, m3, m4 = moments / mass[None]
    variance = m2 - m1**2
    third = m3 - 3 * m2 * m1 + 2 * m1**3
    fourth = m4 - 4 * m3 * m1 + 6 * m2 * m1**2 - 3 * m1**4
    total = variance.sum()
    skewness = third.sum() / total**1.5
    kurtosis = (fourth - 3 * variance**2).sum() / total**2
    x = -m1.sum() / jnp.sqrt(total)
    edgeworth = 1 + skewness * (x**3 - 3 * x) / 6 + kurtosis * (x**4 - 6 * x**2 + 3) / 24
    edgeworth += skewness**2 * (x**6 - 15 * x**4 + 45 * x**2 - 15) / 72
    # Where the expansion is negative the probability is taken to be 0.
    log_density = jnp.log(jnp.maximum(edgeworth, 0)) - (x**2 + jnp.log(2 * jnp.pi * total)) / 2
    return jnp.exp(jnp.log(mass).sum() + log_density + log_total)
