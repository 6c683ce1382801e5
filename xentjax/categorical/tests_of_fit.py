"""Tests of whether counts come from a given pmf."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.dtypes import in_float64
from xentjax.categorical._arguments import parse_pmf_and_counts
from xentjax.categorical._tails import chi_squared_survival
from xentjax.information.pmf import kl_divergence, times_power


class TestResult(NamedTuple):
    """Result of a test of counts against a pmf.

    Attributes:
        statistic: 0 where counts are in the ratios of the pmf, +inf where an impossible class
            occurred.
        p_value: Probability of at least this statistic if the pmf is right, by the chi-squared
            distribution.
        dof: Degrees of freedom: the number of classes with positive probability, minus one.
    """

    __test__ = False  # no test case for pytest, whatever its name begins with

    statistic: Float[Array, "*batch"]
    p_value: Float[Array, "*batch"]
    dof: Int[Array, "*batch"]


def g_test(counts: ArrayLike, q: ArrayLike) -> TestResult:
    """Test whether counts come from the pmf `q` by the likelihood ratio.

        G = 2 sum_k c_k log(c_k / (N q_k)) = 2 N KL(c / N || q)

    Under `q` it is chi-squared for large N (Wilks). A class with q_k = 0 that does not occur adds
    nothing to G or to the degrees of freedom. (scipy.stats.power_divergence counts it and gives
    NaN.) One that does occur refutes `q`: G = +inf, p-value 0. With one possible class there is
    nothing to test: G = 0, p-value 1.

    Args:
        counts: [..., K], whole numbers.
        q: pmf, [..., K], broadcast with the counts.

    Returns:
        Statistic, p-value and degrees of freedom, [...]. They are computed in float64 from exact
        integers, and a p-value keeps its relative precision until it underflows. `q` is divided by
        its sum, which is a constant to derivatives: they are right in directions that keep the sum,
        and d G / d q_k is -2 c_k / q_k.

    Raises:
        ValueError: for concrete counts that are negative, not whole or all 0, a concrete `q` that
            is not a pmf, or shapes that do not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> result = xentjax.g_test(jnp.array([4, 8, 12, 8]), jnp.full(4, 0.25))
        >>> print(result.statistic.round(4), result.p_value.round(4), result.dof)
        4.186 0.2421 3

    Source: S. S. Wilks, "The large-sample distribution of the likelihood ratio for testing
    composite hypotheses" (1938).
    """
    return _g_test(*_check("g_test(counts, q)", counts, q))


def chi_squared_test(counts: ArrayLike, q: ArrayLike) -> TestResult:
    """Test whether counts come from the pmf `q` by Pearson's statistic.

        X^2 = sum_k (c_k - N q_k)^2 / (N q_k)

    Everything else is as in `g_test`.

    Args:
        counts: [..., K], whole numbers.
        q: pmf, [..., K], broadcast with the counts.

    Returns:
        Statistic, p-value and degrees of freedom, [...]. Derivatives in `q` are those in directions
        that keep its sum, as in `g_test`.

    Raises:
        ValueError: for concrete counts that are negative, not whole or all 0, a concrete `q` that
            is not a pmf, or shapes that do not fit.
        TypeError: for q that is not floating or counts that are not numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> result = xentjax.chi_squared_test(jnp.array([4, 8, 12, 8]), jnp.full(4, 0.25))
        >>> print(result.statistic, result.p_value.round(4), result.dof)
        4.0 0.2615 3

    Source: K. Pearson, "On the criterion that a given system of deviations from the probable in the
    case of a correlated system of variables is such that it can be reasonably supposed to have
    arisen from random sampling" (1900).
    """
    return _chi_squared_test(*_check("chi_squared_test(counts, q)", counts, q))


def _check(call: str, counts: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    pmf, whole = parse_pmf_and_counts(call, q, counts, whole=True)
    return whole, pmf


@in_float64
def _g_test(counts: Array, q: Array) -> TestResult:
    return _result(2 * kl_divergence(counts, _expected(counts, q), math.inf), q)


@in_float64
def _chi_squared_test(counts: Array, q: Array) -> TestResult:
    expected = _expected(counts, q)
    difference = counts - expected
    # The square may overflow where the quotient does not.
    relative = times_power(difference, expected, -1)
    return _result((difference * relative).sum(-1), q)


def _expected(counts: Array, q: Array) -> Array:
    # Divide out the rounding of q's sum, which is no evidence against q. The sum is a constant to
    # derivatives, which are those of N q.
    return counts.sum(-1, keepdims=True) * (q / jax.lax.stop_gradient(q.sum(-1, keepdims=True)))


def _result(statistic: Array, q: Array) -> TestResult:
    dof = (q > 0).sum(-1, dtype=jnp.int32) - 1
    return TestResult(statistic, chi_squared_survival(statistic, dof), dof)
