"""Likelihood of a pmf given counts, its derivatives in the logits, and sampling."""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma
from jaxtyping import Array, Float, Int, PRNGKeyArray

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_key, is_key, naming_order, scalar_first
from xentjax._core.dtypes import in_float64, result_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import explicit_spec, on_auto_axes
from xentjax.categorical._arguments import (
    check_shape,
    parse_pmf_and_counts,
    parse_pmf_of_classes,
    parse_sample_sizes,
)
from xentjax.information.pmf import (
    cross_entropy,
    divergence_term,
    kl_divergence,
    log,
    sum_tolerance,
    times_power,
)
from xentjax.information.units import Base, in_units


def log_likelihood(q: ArrayLike, counts: ArrayLike, *, base: Base = None) -> Float[Array, "..."]:
    """Compute the log-likelihood of a pmf given samples in their order.

        l(q) = log prod_n q(x_n) = sum_k c_k log q_k = -N H(c / N, q)

    A class with count 0 adds 0, even at q_k = 0; a positive count at q_k = 0 gives -inf.

    Args:
        q: pmf, [..., K].
        counts: [..., K], integer or floating.
        base: unit of the result: None or "nats", 2 or "bits", 10 or "hartleys", any positive real
            except 1.

    Returns:
        [...], a sum over the samples.

    Raises:
        ValueError: for a concrete q that is not a pmf, concrete counts that are negative or not
            finite, or shapes that do not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> q, counts = jnp.array([0.5, 0.25, 0.25]), jnp.array([2, 1, 0])
        >>> print(xentjax.log_likelihood(q, counts, base="bits"))
        -4.0
    """
    call = "log_likelihood(q, counts)"
    return in_units(_log_likelihood(*parse_pmf_and_counts(call, q, counts)), base)


def multinomial_log_likelihood(q: ArrayLike, counts: ArrayLike) -> Float[Array, "..."]:
    """Compute the log-likelihood of a pmf given counts, in any order of the samples.

        log multinomial(c | N, q) = log N! - sum_k log c_k! + sum_k c_k log q_k

    The three terms are of order N log N and nearly cancel. With log n! = n log n - n + r(n) their
    sum is r(N) - sum_k r(c_k) - N KL(c / N || q), where nothing cancels, and this is computed.
    Counts need not be whole: x! is Gamma(x + 1).

    Args:
        q: pmf, [..., K].
        counts: [..., K], integer or floating.

    Returns:
        [...], in nats; -inf for a positive count at q_k = 0.

    Raises:
        ValueError: for a concrete q that is not a pmf, concrete counts that are negative or not
            finite, or shapes that do not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> q, heads_and_tails = jnp.array([0.5, 0.5]), jnp.array([1, 1])
        >>> print(f"{jnp.exp(xentjax.multinomial_log_likelihood(q, heads_and_tails)):.3f}")
        0.500

    Source: C. Loader, "Fast and accurate computation of binomial probabilities" (2000).
    """
    q, counts = parse_pmf_and_counts("multinomial_log_likelihood(q, counts)", q, counts)
    return _multinomial(q, counts, rounding=sum_tolerance(q.dtype, q.shape[-1]))


def score(q: ArrayLike, counts: ArrayLike) -> Float[Array, "..."]:
    """Compute the derivative of the log-likelihood in the logits of q = softmax(logits).

        d l / d logits_k = c_k - N q_k

    Args:
        q: pmf, [..., K].
        counts: [..., K], integer or floating.

    Returns:
        [..., K], in nats.

    Raises:
        ValueError: for a concrete q that is not a pmf, concrete counts that are negative or not
            finite, or shapes that do not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.score(jnp.array([0.5, 0.5]), jnp.array([3, 1])))
        [ 1. -1.]
    """
    return _score(*parse_pmf_and_counts("score(q, counts)", q, counts))


def fisher_information(q: ArrayLike, n: ArrayLike) -> Float[Array, "*batch k k"]:
    """Compute the Fisher information of n samples about the logits of q = softmax(logits).

        I(q) = n (diag(q) - q q^T)

    It equals minus the second derivative of the log-likelihood for any counts of n samples. It is
    singular: a constant added to all logits changes nothing.

    Args:
        q: pmf, [..., K].
        n: number of samples, [...], broadcast with the leading shape of q.

    Returns:
        [..., K, K], in nats.

    Raises:
        ValueError: for a concrete q that is not a pmf, a concrete n that is negative or not finite,
            or shapes that do not fit.
        TypeError: for q that is not floating, or n that is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.fisher_information(jnp.array([0.5, 0.5]), 4))
        [[ 1. -1.]
         [-1.  1.]]
    """
    with naming_order("fisher_information(q, n)", lambda: scalar_first(q, n)):
        q = parse_pmf_of_classes("q", q)
    size = parse_sample_sizes("n", n, q.shape[:-1])
    batch = jnp.broadcast_shapes(q.shape[:-1], size.shape)
    q = q.astype(result_dtype(q))
    return _fisher_information(q, size, batch)


@partial(jax.jit, static_argnums=2)
def _fisher_information(q: Array, size: Array, batch: tuple[int, ...]) -> Array:
    size = jnp.broadcast_to(size.astype(q.dtype), batch)[..., None, None]
    q = jnp.broadcast_to(q, (*batch, q.shape[-1]))
    unit = jnp.expand_dims(jnp.eye(q.shape[-1], dtype=q.dtype), range(len(batch)))
    return size * (unit * q[..., None] - q[..., :, None] * q[..., None, :])


def sample(key: PRNGKeyArray, q: ArrayLike, shape: tuple[int, ...] = ()) -> Int[Array, "..."]:
    """Draw independent samples from a pmf.

    It inverts the cumulative pmf at uniform numbers. This takes memory for K + N numbers, where
    `jax.random.categorical` takes N K. A class of probability 0 is never drawn. Probabilities are
    summed in float64 and resolved to 2^-53 for any dtype of q.

    Args:
        key: random key.
        q: pmf, [..., K].
        shape: of the samples of each pmf.

    Returns:
        int32 in 0..K-1, of shape (*shape, ...).

    Raises:
        ValueError: for a concrete q that is not a pmf, or a shape with a negative size.
        TypeError: for a key that is not a random key, q that is not floating, or a shape that is
            not a tuple of integers.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.sample(jax.random.key(0), jnp.array([0.0, 1.0]), (3,)))
        [1 1 1]
    """
    with naming_order("sample(key, q, shape)", lambda: is_key(q) and not is_key(key)):
        check_key("key", key)
        q = parse_pmf_of_classes("q", q)
    check_shape("shape", shape)
    q = q.astype(result_dtype(q))
    with jax.enable_x64(True):
        return _rolls(key, q, shape)


@partial(jax.jit, static_argnames="shape")
def _rolls(key: PRNGKeyArray, q: Array, shape: tuple[int, ...]) -> Array:
    # Rounding may raise the running sum at a class of probability 0; the maximum undoes this.
    cumulative = jnp.where(q > 0, jnp.cumsum(q.astype(jnp.float64), axis=-1), -jnp.inf)
    cumulative = jax.lax.cummax(cumulative, axis=q.ndim - 1)
    batch, size = q.shape[:-1], math.prod(shape)
    uniform = _uniform(key, (*batch, size))
    search = jnp.vectorize(jnp.searchsorted, signature="(k),(n)->(n)")
    rows = explicit_spec(q)[:-1]
    rolls = on_auto_axes(search, rows)(cumulative, uniform * cumulative[..., -1:])
    rolls = rolls.astype(jnp.int32)
    return jnp.moveaxis(rolls, -1, 0).reshape(*shape, *batch)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...]) -> Array:
    """Draw float64 numbers in (0, 1] from two 32-bit words: TPUs draw no 64-bit floats."""
    low, high = (jax.random.bits(k, shape, jnp.uint32) for k in jax.random.split(key))
    whole = high.astype(jnp.float64) * 2**21 + (low >> jnp.uint32(11)).astype(jnp.float64)
    return (whole + 0.5) * 2.0**-53


def log_likelihood_of(q: Array, counts: Array) -> Array:
    """Compute `log_likelihood` of checked arguments, in nats."""
    return -cross_entropy(counts, q)


_log_likelihood = in_float64(log_likelihood_of)


@in_float64
def _score(q: Array, counts: Array) -> Array:
    return counts - counts.sum(-1, keepdims=True) * q


@in_float64
def _multinomial(q: Array, counts: Array, *, rounding: float) -> Array:
    return _of_multinomial(q, counts, rounding)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _of_multinomial(q: Array, counts: Array, rounding: float) -> Array:
    n = counts.sum(-1, keepdims=True)
    coefficient = factorial_remainder(n[..., 0]) - factorial_remainder(counts).sum(-1)
    return coefficient - kl_divergence(counts, n * q, rounding)


@_of_multinomial.defjvp
def _(rounding, primals, tangents):
    q, counts = primals
    n = counts.sum(-1, keepdims=True)
    q_derivative = times_power(counts, q, -1)
    counts_derivative = digamma(n + 1) - digamma(counts + 1) + log(q)
    dot = multiply_no_nan(q_derivative, tangents[0])
    dot += multiply_no_nan(counts_derivative, tangents[1])
    return _of_multinomial(q, counts, rounding), dot.sum(-1)


def factorial_remainder(x: Array, *, whole: bool = False) -> Array:
    """Compute r(x) = log x! - (x log x - x), which is of order log x.

    Seven terms of Stirling's series are exact in float64 at x + 10 (in float32 at x + 3). From
    there r(x) = r(x + 1) - (x log(x / (x + 1)) + 1), a divergence term, leads back to x. For
    a small `whole` x a table is used instead, which is much faster but has no derivatives.
    """
    shift = 10 if x.dtype == jnp.float64 else 3
    if whole:
        result = _stirling(jnp.maximum(x, 1))
        for k in range(shift):
            result = jnp.where(x == k, math.lgamma(k + 1) - k * math.log(max(k, 1)) + k, result)
        return result
    below = jnp.stack([x + k for k in range(shift)], -1)
    return _stirling(x + shift) - divergence_term(below, below + 1).sum(-1)


def _stirling(x: Array) -> Array:
    bernoulli = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    series = sum(coefficient / x ** (2 * k + 1) for k, coefficient in enumerate(bernoulli))
    return jnp.log(2 * math.pi * x) / 2 + series
