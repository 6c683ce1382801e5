"""Power of the G-test of a pmf, and the number of samples that it needs for a given power."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_alpha, check_scalar, concrete, raise_value_error
from xentjax._core.dtypes import in_float64, result_dtype
from xentjax._core.varying import sharded_alike
from xentjax.categorical._arguments import check_known, parse_sample_sizes, parse_two_pmfs
from xentjax.categorical._noncentral import least_number, noncentral_survival
from xentjax.categorical._tails import gamma_quantile
from xentjax.information.pmf import kl_divergence

_MOST_SAMPLES = 2**53


def power(
    p: ArrayLike, q: ArrayLike, n: ArrayLike, *, alpha: ArrayLike = 0.05
) -> Float[Array, "..."]:
    """Compute the power of the G-test of the pmf `q` with n samples of the pmf p.

        P(X > c),    X ~ noncentral chi-squared,  noncentrality 2 n KL(p || q),
                     c the quantile 1 - alpha of the chi-squared law

    both with K - 1 degrees of freedom, where K is the number of classes that `q` allows. This is
    the probability that `g_test(counts, q)` gives a p-value below alpha. The formula holds for many
    samples and a p near `q`, just as the chi-squared distribution of G holds for many samples;
    `multinomial_test` needs neither.

    At p = q, and at n = 0, the power is alpha. If a class that `q` excludes can occur, KL(p || q)
    and the noncentrality are infinite and the power is 1; exactly, it is at least 1 - (1 - s)^n,
    the probability of seeing such a class, where s is the sum of their p_k. If `q` allows only one
    class, the test cannot reject what it allows, and the power is 0.

    Args:
        p: pmf that the samples are drawn from, [..., K].
        q: pmf that is tested, [..., K], broadcast with p.
        n: number of samples, >= 0, [...], broadcast with the leading shape of both.
        alpha: size of the test, in (0, 1).

    Returns:
        [...], computed in float64; even a power of 1e-30 keeps its relative precision.

    Raises:
        ValueError: for a concrete p or `q` that is not a pmf, a concrete n that is negative or not
            finite, an alpha outside (0, 1) or below what the dtype holds, or shapes that do not
            fit.
        TypeError: for p or `q` that is not floating, or an n or alpha that is not a number.

    Example:
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import xentjax
        >>> fair, loaded = jnp.full(6, 1 / 6), jnp.array([0.15, 0.15, 0.15, 0.15, 0.15, 0.25])
        >>> print(np.asarray(xentjax.power(loaded, fair, jnp.array([100, 300, 600]))).round(3))
        [0.325 0.82  0.99 ]

    Source: S. Kullback, "Information Theory and Statistics" (1959), chapter 5; J. Cohen,
    "Statistical Power Analysis for the Behavioral Sciences", 2nd ed. (1988), chapter 7.
    """
    alpha = check_alpha(alpha)
    pmf, tested = parse_two_pmfs(p, q)
    size = parse_sample_sizes("n", n, pmf.shape[:-1])
    dtype = result_dtype(pmf, tested, size)
    known, least = concrete(alpha), float(jnp.finfo(dtype).tiny)
    if known is not None and known < least:
        raise_value_error("alpha", f"a number >= {least:.2g} in {jnp.dtype(dtype)}", known)
    with jax.enable_x64(True):
        size = jnp.expand_dims(size, -1)
    return _power(pmf, tested, size, jnp.asarray(alpha, dtype).reshape(1))


def sample_size(
    p: ArrayLike, q: ArrayLike, *, power: ArrayLike = 0.8, alpha: ArrayLike = 0.05
) -> Int[np.ndarray, "..."]:
    """Find the least number of samples with which the G-test of the pmf `q` has a given power.

        min {n >= 1: power(p, q, n, alpha=alpha) >= power}

    with `xentjax.power` in float64. If a class that `q` excludes can occur, that power is 1 for
    every n >= 1, and the result is 1.

    The result may be too large for int32. It is therefore a NumPy array, and the arguments have to
    be known; in functions that jax traces, use `xentjax.power`.

    Args:
        p: pmf that the samples are drawn from, [..., K].
        q: pmf that is tested, [..., K], broadcast with p.
        power: wanted probability of a rejection if p is true, in (alpha, 1).
        alpha: size of the test, in (0, 1).

    Returns:
        int64 [...].

    Raises:
        ValueError: for p = q, which no number of samples can tell apart, or a p so near to `q` that
            more than 2^53 are needed; a power outside (alpha, 1) or an alpha outside (0, 1); a p or
            `q` that is not a pmf, or shapes that do not fit.
        TypeError: for p or `q` that is not floating, a power or alpha that is not a number, or
            arguments that are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> fair, loaded = jnp.full(6, 1 / 6), jnp.array([0.15, 0.15, 0.15, 0.15, 0.15, 0.25])
        >>> print(xentjax.sample_size(loaded, fair), xentjax.sample_size(loaded, fair, power=0.99))
        288 599

    Source: as of `power`.
    """
    alpha = _known_scalar("alpha", alpha, "a number in (0, 1)", 0.0)
    power = _known_scalar("power", power, f"a number in (alpha, 1), alpha = {alpha:.6g}", alpha)
    pmf, tested = parse_two_pmfs(p, q)
    for name, array in (("p", pmf), ("q", tested)):
        check_known(name, array)
    with jax.enable_x64(True):
        found = _least_sizes(pmf, tested, jnp.float64(power), jnp.float64(alpha))
    numbers, divergence = (np.asarray(x) for x in found)
    if (same := divergence == 0).any():
        where = f" in row {', '.join(map(str, np.argwhere(same)[0]))}" if same.ndim else ""
        raise_value_error("p", "another pmf than q, which samples can tell from it", f"q{where}")
    if (many := ~(numbers <= _MOST_SAMPLES)).any():
        expected = "a pmf that 2^53 samples can tell from q"
        raise_value_error("p", expected, f"KL(p || q) = {divergence[many].min():.3g}")
    return numbers.astype(np.int64)


def _known_scalar(name: str, value: ArrayLike, expected: str, least: float) -> float:
    scalar = check_scalar(name, value, expected, lambda known: least < known < 1)
    return float(check_known(name, scalar))


@in_float64
def _power(p: Array, q: Array, n: Array, alpha: Array) -> Array:
    divergence, dof = _compare(p, q)
    arrays = divergence, dof, n[..., 0], alpha[0]
    shape = jnp.broadcast_shapes(dof.shape, n.shape[:-1])
    divergence, dof, n, alpha = sharded_alike(*(jnp.broadcast_to(v, shape) for v in arrays))
    a = _half(dof, n.dtype)
    # Without samples the power is alpha, even where the divergence is infinite.
    unseen = (n == 0) & (divergence == math.inf)
    y = jnp.where(unseen, jnp.zeros_like(n), divergence) * n
    survival = noncentral_survival(a, gamma_quantile(a, alpha), y)
    return jnp.where((dof == 0) & (y == 0), jnp.zeros_like(y), survival)


@jax.jit
def _least_sizes(p: Array, q: Array, power: Array, alpha: Array) -> tuple[Array, Array]:
    """Return the least numbers of samples, and KL(p || q), in float64."""
    divergence, dof = _compare(p.astype(power.dtype), q.astype(power.dtype))
    power, alpha = (jnp.broadcast_to(v, dof.shape) for v in (power, alpha))
    return least_number(_half(dof, power.dtype), alpha, power, divergence), divergence


def _half(dof: Array, dtype: DTypeLike) -> Array:
    """Return dof / 2, or 1/2 where dof is 0."""
    return jnp.maximum(dof, 1).astype(dtype) / 2


def _compare(p: Array, q: Array) -> tuple[Array, Array]:
    """Return KL(p || q) and the degrees of freedom, int32."""
    # Divide out the rounding of the sum, which is a constant to derivatives.
    p, q = (v / jax.lax.stop_gradient(v.sum(-1, keepdims=True)) for v in (p, q))
    return kl_divergence(p, q, math.inf), (q > 0).sum(-1, dtype=jnp.int32) - 1
