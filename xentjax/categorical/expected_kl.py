"""How far the pmf of n samples strays from the one they came from, on average."""

import math
from functools import partial
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax import _special
from xentjax._checks import check_floating, check_index, fail
from xentjax._dtypes import compute_dtype
from xentjax._pmfs import check_pmf_named
from xentjax._units import Base, in_units, nats_per_unit
from xentjax.categorical.likelihood import factorial_remainder

_NEGLIGIBLE = 40.0
"""Minus the log of a binomial tail that is left out."""
_BLOCK = 2**14
"""Terms that are in memory at a time."""


def expected_kl(p: ArrayLike, n: SupportsIndex, *, base: Base = None) -> Float[Array, "..."]:
    """Expected divergence of the pmf of n samples from the pmf that they are drawn from.

        E KL(c / n || p) = sum_k E[c_k log(c_k / (n p_k)) - c_k + n p_k] / n,
                           c_k ~ Binomial(n, p_k)

    It is how far the entropy of c / n falls short of that of p on average, and the price in mean
    log-likelihood of fitting p by c / n; about (K - 1) / (2 n) nats, for which
    `entropy_estimate` corrects. The sum is exact, not an expansion: its terms are all >= 0, so that
    a small result keeps its relative precision. Counts further from n p_k than a binomial strays
    with probability exp(-40) are left out, which leaves about 9 sqrt(n) a class; they are summed in
    blocks, so the memory does not depend on n.

    The slope in p_k is E[(c_k log(c_k / (n p_k)) - c_k + n p_k) (c_k - n p_k)] / (n p_k (1 - p_k)),
    +inf at 0; derivatives of second order are not supported.

    Args:
        p: pmf, [..., K]. A class of probability 0 adds nothing.
        n: number of samples, at most 2^24 where p is float32: a Python integer, each new one
            compiles anew.
        base: unit of the result: None or "nats", 2 or "bits", 10 or "hartleys", any positive real
            but 1.

    Returns:
        [...]; float32 for half precision.

    Raises:
        ValueError: for a concrete `p` that is not a pmf, an n out of range, or another base.
        TypeError: for p that is not floating or n that is not an integer.

    Example:
        >>> p = jnp.array([0.5, 0.25, 0.25])
        >>> print(f"{expected_kl(p, 100):.5f}, in the limit of many samples {2 / 200:.5f}")
        0.01008, in the limit of many samples 0.01000

    Source: the identity with the bias of the entropy is that of G. A. Miller, "Note on the bias of
    information estimates" (1955).
    """
    nats_per_unit(base)
    pmf = check_floating("p", p)
    pmf = pmf.astype(compute_dtype(pmf.dtype))
    if pmf.ndim == 0 or pmf.shape[-1] == 0:
        fail("p", "at least one class", f"shape {pmf.shape}")
    check_pmf_named("p", p)
    size, most = check_index("n", n), 2 ** (jnp.finfo(pmf.dtype).nmant + 1)
    if isinstance(n, bool) or not 1 <= size <= most:
        fail("n", f"an integer 1..{most}", repr(n))
    return in_units(_of_classes(pmf, size).sum(-1), base)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _of_classes(p: Array, n: int) -> Array:
    return _value_and_slope(p, n)[0]


@_of_classes.defjvp
def _(n, primals, tangents):
    value, slope = _value_and_slope(*primals, n)
    return value, _special.scale_tangent(slope, tangents[0])


@partial(jax.jit, static_argnums=1)
def _value_and_slope(p: Array, n: int) -> tuple[Array, Array]:
    """Of E[d] in p, with c ~ Binomial(n, p), d = (c log(c / (n p)) - c + n p) / n."""
    # Bernstein's inequality, with the variance at most n / 4.
    reach = math.ceil(math.sqrt(_NEGLIGIBLE * n / 2) + 2 * _NEGLIGIBLE / 3)
    support = min(n + 1, 2 * reach + 2)
    block = max(1, min(support, _BLOCK // max(1, p.size)))
    mean, others_mean = (n * p)[..., None], (n * (1 - p))[..., None]
    first = jnp.clip(jnp.floor(mean) - reach, 0, n + 1 - support)
    samples = jnp.asarray(n, p.dtype)
    offsets = jnp.arange(block, dtype=p.dtype).reshape(*(1 for _ in p.shape), block)

    def add(i: Array, sums: tuple[Array, Array]) -> tuple[Array, Array]:
        offset = i.astype(p.dtype) * block + offsets
        inside = offset < support  # the last block may be longer than what is left
        c = jnp.where(inside, first + offset, 0)
        divergence = _special.divergence_term(c, jnp.broadcast_to(mean, c.shape))
        others = _special.divergence_term(n - c, jnp.broadcast_to(others_mean, c.shape))
        log_coefficient = factorial_remainder(samples)
        log_coefficient -= factorial_remainder(c) + factorial_remainder(n - c)
        probability = jnp.exp(log_coefficient - divergence - others)
        # A count on p = 0 has probability 0 and divergence +inf.
        term = jnp.where(inside & (probability > 0), probability * divergence / n, 0)
        return sums[0] + term.sum(-1), sums[1] + (term * (c - mean)).sum(-1)

    zeros = jnp.zeros_like(p)
    value, covariance = jax.lax.fori_loop(0, -(-support // block), add, (zeros, zeros))
    interior = (p > 0) & (p < 1)
    slope = covariance / jnp.where(interior, p * (1 - p), 1)
    at_1 = -_special.divergence_term(samples - 1, samples)
    return value, jnp.where(interior, slope, jnp.where(p > 0, at_1, jnp.inf))
