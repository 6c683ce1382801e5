"""Expected divergence of an empirical pmf from the true one."""

from functools import partial
from typing import SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_index, naming_order, raise_value_error, scalar_first
from xentjax._core.dtypes import result_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import explicit_spec, on_auto_axes
from xentjax.categorical._arguments import parse_pmf_of_classes
from xentjax.categorical.likelihood import factorial_remainder
from xentjax.information.pmf import divergence_term
from xentjax.information.units import Base, in_units_of, nats_per_unit

_NEGLIGIBLE = 40.0
"""Minus the log probability of the binomial tails that are left out."""
_BLOCK = 2**14
"""Number of terms in memory at a time."""
_GROUP = 2**9
"""Number of classes summed together; all get as many terms as the largest needs."""


def expected_kl(p: ArrayLike, n: SupportsIndex, *, base: Base = None) -> Float[Array, "..."]:
    """Compute the expected divergence of the empirical pmf of n samples from the true pmf.

        E KL(c / n || p) = sum_k E[c_k log(c_k / (n p_k)) - c_k + n p_k] / n,
                           c_k ~ Binomial(n, p_k)

    This is the mean amount by which the entropy of c / n falls short of that of p, and the mean
    log-likelihood that fitting p by c / n costs. It is about (K - 1) / (2 n) nats, for which
    `entropy_estimate` corrects. The sum is exact, not an expansion, and all its terms are >= 0, so
    that a small result keeps its relative precision. Counts in the tails of a binomial, of
    probability exp(-40), are left out: about 18 sqrt(n p_k) + 54 remain for class k. They are
    summed in blocks, so that the memory does not depend on n.

    The derivative in p_k is E[(c_k log(c_k / (n p_k)) - c_k + n p_k) (c_k - n p_k)] / (n p_k (1 -
    p_k)), +inf at 0; derivatives of second order are not supported.

    Args:
        p: pmf, [..., K]. A class of probability 0 adds nothing.
        n: number of samples, a Python integer, at most 2^24 where p is float32. Every new n is
            compiled anew.
        base: unit of the result: None or "nats", 2 or "bits", 10 or "hartleys", any positive real
            except 1.

    Returns:
        [...]; float32 for half precision.

    Raises:
        ValueError: for a concrete `p` that is not a pmf, an n out of range, or another base.
        TypeError: for p that is not floating or n that is not an integer.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> p = jnp.array([0.5, 0.25, 0.25])
        >>> print(f"{xentjax.expected_kl(p, 100):.5f}, in the limit of many samples {2 / 200:.5f}")
        0.01008, in the limit of many samples 0.01000

    Source: the identity with the bias of the entropy is that of G. A. Miller, "Note on the bias of
    information estimates" (1955).
    """
    unit = nats_per_unit(base)
    with naming_order("expected_kl(p, n)", lambda: scalar_first(p, n)):
        pmf, size = parse_pmf_of_classes("p", p), check_index("n", n)
    pmf = pmf.astype(result_dtype(pmf))
    most = 2 ** (jnp.finfo(pmf.dtype).nmant + 1)
    if not 1 <= size <= most:
        raise_value_error("n", f"an integer 1..{most}", repr(n))
    return in_units_of(_of_classes(pmf, size).sum(-1), unit)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _of_classes(p: Array, n: int) -> Array:
    return _value_and_derivative(p, n)[0]


@_of_classes.defjvp
def _(n, primals, tangents):
    value, derivative = _value_and_derivative(*primals, n)
    return value, multiply_no_nan(derivative, tangents[0])


@partial(jax.jit, static_argnums=1)
def _value_and_derivative(p: Array, n: int) -> tuple[Array, Array]:
    """Return E[d] and its derivative in p: d = (c log(c/(np)) - c + np) / n, c ~ Binomial(n, p)."""
    return on_auto_axes(partial(_by_groups, n=n), explicit_spec(p))(p)


def _by_groups(p: Array, *, n: int) -> tuple[Array, Array]:
    # Classes of similar size share a block, which the terms of the largest fill.
    flat = p.ravel()
    group = max(1, min(flat.size, _GROUP))  # there may be no rows
    order = jnp.argsort(flat * (1 - flat))
    sorted_p = jnp.concatenate([flat[order], jnp.zeros(-flat.size % group, p.dtype)])
    sums = jax.lax.map(lambda q: _sums(q, n), sorted_p.reshape(-1, group))
    value, covariance = (
        jnp.zeros_like(flat).at[order].set(x.ravel()[: flat.size]).reshape(p.shape) for x in sums
    )
    interior = (p > 0) & (p < 1)
    derivative = covariance / jnp.where(interior, p * (1 - p), 1)
    samples = jnp.asarray(n, p.dtype)
    at_1 = -divergence_term(samples - 1, samples)
    return value, jnp.where(interior, derivative, jnp.where(p > 0, at_1, jnp.inf))


def _sums(p: Array, n: int) -> tuple[Array, Array]:
    """Return E[d] and n times the covariance of d and c / n, for a few classes [K]."""
    samples = jnp.asarray(n, p.dtype)
    mean, others_mean = n * p, n * (1 - p)
    # Bernstein's inequality bounds how far counts deviate.
    variance = mean * (1 - p)
    reach = jnp.ceil(jnp.sqrt(2 * _NEGLIGIBLE * variance) + 2 * _NEGLIGIBLE / 3)
    first = jnp.clip(jnp.floor(mean) - reach, 0, samples)
    support = jnp.minimum(jnp.floor(mean) + reach + 1, samples) - first + 1
    block = max(1, min(n + 1, _BLOCK // p.size))
    offsets = jnp.arange(block, dtype=p.dtype)

    def add(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        start, value, covariance = state
        offset = start + offsets
        inside = offset[None, :] < support[:, None]
        c = jnp.where(inside, first[:, None] + offset[None, :], 0)
        divergence = divergence_term(c, jnp.broadcast_to(mean[:, None], c.shape))
        others = divergence_term(n - c, jnp.broadcast_to(others_mean[:, None], c.shape))
        log_coefficient = factorial_remainder(samples)
        log_coefficient -= factorial_remainder(c) + factorial_remainder(n - c)
        probability = jnp.exp(log_coefficient - divergence - others)
        # At p = 0 a positive count has probability 0 and divergence +inf.
        term = probability * jnp.where(inside & (probability > 0), divergence, 0) / n
        covariance = covariance + (term * (c - mean[:, None])).sum(-1)
        return start + block, value + term.sum(-1), covariance

    zeros = jnp.zeros_like(p)
    start = jnp.zeros((), p.dtype)
    return jax.lax.while_loop(lambda state: (state[0] < support).any(), add, (start, zeros, zeros))[
        1:
    ]
