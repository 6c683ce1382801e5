"""The box of Sison and Glaz: how far all counts of a multinomial stray from their means at once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax.categorical.likelihood import factorial_remainder


class _Box(NamedTuple):
    """The classes' Poisson variables within `halfwidth` of their means, and the box's coverage."""

    halfwidth: Float[Array, ""]
    inner_coverage: Float[Array, ""]
    """Of the box that is narrower by 1."""
    coverage: Float[Array, ""]
    top: Float[Array, " k"]
    """Poisson probability of count + halfwidth, 0 above N."""
    bottom: Float[Array, " k"]
    """Of count - halfwidth, 0 below 0."""
    moments: Float[Array, "5 k"]
    """sum of probability * deviation^r over the box, r = 0..4."""


def halfwidth(counts: Float[Array, " k"], alpha: Float[Array, ""]) -> Float[Array, "2"]:
    """c and the fraction g of the way from c to c + 1 at which the coverage is 1 - alpha.

    With X_k Poisson of mean c_k, a multinomial of these means is X given sum_k X_k = N, so

        P(all |X_k - c_k| <= c) = prod_k P(|X_k - c_k| <= c) P(sum_k Y_k = N) / P(sum_k X_k = N)

    where Y_k is X_k within the box and the density of its sum is an Edgeworth expansion. c is the
    first at which this is at most 1 - alpha < that at c + 1. Each c adds two probabilities to the
    sums for the last, so all of them together cost what the last one does by itself. Deviations are
    from the count, which leaves nothing to cancel in float32.
    """
    n, level = counts.sum(), 1 - alpha

    def widen(box: _Box) -> _Box:
        c = box.halfwidth + 1
        top = jnp.where(counts + c <= n, box.top * counts / (counts + c), jnp.zeros_like(counts))
        bottom = box.bottom * jnp.maximum(counts - c + 1, 0) / jnp.maximum(counts, 1)
        added = jnp.stack([(top + (-1) ** r * bottom) * c**r for r in range(5)])
        moments = box.moments + added
        # A box of halfwidth N is all there is.
        coverage = jnp.where(c < n, _coverage(moments, n), jnp.ones_like(n))
        return _Box(c, box.coverage, coverage, top, bottom, moments)

    def too_narrow(box: _Box) -> Array:
        return (box.coverage <= level) & (box.halfwidth < n)

    zero = jnp.zeros_like(n)
    middle = jnp.exp(-factorial_remainder(counts))
    moments = jnp.stack([middle] + 4 * [jnp.zeros_like(middle)])
    box = widen(_Box(zero, zero, zero, middle, middle, moments))
    box = jax.lax.while_loop(too_narrow, widen, box)
    fraction = (level - box.inner_coverage) / (box.coverage - box.inner_coverage)
    return jnp.stack([box.halfwidth - 1, fraction])


def _coverage(moments: Array, n: Array) -> Array:
    mass, *raw = moments
    m1, m2, m3, m4 = (moment / mass for moment in raw)
    variance = m2 - m1**2
    third = m3 - 3 * m2 * m1 + 2 * m1**3
    fourth = m4 - 4 * m3 * m1 + 6 * m2 * m1**2 - 3 * m1**4
    total = variance.sum()
    skewness = third.sum() / total**1.5
    kurtosis = (fourth - 3 * variance**2).sum() / total**2
    x = -m1.sum() / jnp.sqrt(total)
    edgeworth = 1 + skewness * (x**3 - 3 * x) / 6 + kurtosis * (x**4 - 6 * x**2 + 3) / 24
    edgeworth += skewness**2 * (x**6 - 15 * x**4 + 45 * x**2 - 15) / 72
    # The expansion may dip below 0, where it stands for a probability of 0.
    log_density = jnp.log(jnp.maximum(edgeworth, 0)) - (x**2 + jnp.log(2 * jnp.pi * total)) / 2
    return jnp.exp(jnp.log(mass).sum() + log_density + factorial_remainder(n))
