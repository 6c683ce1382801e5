"""Wald statistics and information criteria of a fit; pure functions for NumPy and for JAX.

Arrays of coefficients are [D+1, K-1]: a row for each feature, a last row for the constant, and a
column for each class except the baseline.
"""

import math
import statistics

import numpy as np
from jax.scipy.special import erfc, ndtri
from jaxtyping import Float, Int

from xentjax._core.dtypes import in_float64
from xentjax.categorical._tails import chi_squared_survival
from xentjax.softmax_regression.arrays import Array, in_dtype_of_first, namespace

_erfc = np.vectorize(math.erfc, otypes=[float])


@in_dtype_of_first
def relative(kernel: Array, bias: Array, order: Array) -> Float[Array, "d1 others"]:
    """Return the coefficients minus those of the baseline, the first class in `order`."""
    every = namespace(kernel).concatenate([kernel, bias[None]])[:, order]
    return every[:, 1:] - every[:, :1]


@in_dtype_of_first
def standard_errors(covariance: Array, coefficients: Array) -> Float[Array, "d1 others"]:
    """Return the square roots of the covariance's diagonal, with a column for each class."""
    xp = namespace(covariance)
    return xp.sqrt(xp.diagonal(covariance)).reshape(coefficients.shape[::-1]).T


@in_dtype_of_first
def ratios(estimates: Float[Array, "*s"], errors: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return z, the estimates over their standard errors."""
    return estimates / errors


@in_dtype_of_first
def p_values(estimates: Float[Array, "*s"], errors: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return P(|Z| > |z|) of a standard normal Z, to full relative precision."""
    tail = _erfc if namespace(estimates) is np else erfc
    return tail(abs(estimates / errors) / math.sqrt(2))


@in_dtype_of_first
def intervals(
    estimates: Float[Array, "*s"], errors: Float[Array, "*s"], alpha: Array
) -> Float[Array, "*s 2"]:
    """Return estimates -+ z_{1 - alpha/2} errors."""
    xp = namespace(estimates)
    if xp is np:
        half = -statistics.NormalDist().inv_cdf(alpha / 2) * errors
    else:
        half = -ndtri(alpha / 2) * errors
    return xp.stack([estimates - half, estimates + half], -1)


@in_dtype_of_first
def exponentials(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return exp(x)."""
    return namespace(x).exp(x)


@in_dtype_of_first
def aic(log_likelihood: Array, dof: Array) -> Float[Array, ""]:
    """Return Akaike's criterion."""
    return 2 * dof.astype(log_likelihood.dtype) - 2 * log_likelihood


@in_dtype_of_first
def bic(log_likelihood: Array, dof: Array, n: Array) -> Float[Array, ""]:
    """Return Schwarz's criterion."""
    return dof.astype(log_likelihood.dtype) * namespace(n).log(n) - 2 * log_likelihood


@in_dtype_of_first
def mcfadden_r2(likelihood_ratio: Array, null_log_likelihood: Array) -> Float[Array, ""]:
    """Return 1 - log_likelihood / null_log_likelihood, without subtracting large numbers."""
    return likelihood_ratio / (-2 * null_log_likelihood)


@in_dtype_of_first
def total(weights: Array) -> Float[Array, ""]:
    """Return the sum."""
    return weights.sum()


@in_dtype_of_first
def at_least_0(x: Array) -> Float[Array, ""]:
    """Return x, or 0 if it is negative."""
    return namespace(x).maximum(x, 0)


@in_dtype_of_first
def obeys_wilks(l2: Array, identified: Array, separated: Array) -> Float[Array, ""]:
    """Return 1 for a fit without a penalty whose features are independent, else 0."""
    return ((l2 == 0) & (identified | separated)).astype(l2.dtype)


@in_float64
def likelihood_ratio_p_value(statistic: Array, dof: Array, valid: Array) -> Float[Array, ""]:
    """Return the p-value by the chi-squared law; NaN unless `valid` is 1."""
    return chi_squared_survival(statistic, dof.astype(np.int32)) + 0 / valid


@in_dtype_of_first
def number_of_coefficients(bias: Array, rows: Array) -> Int[Array, ""]:
    """Return K - 1, for the K classes that occur, times the number of rows of coefficients."""
    occur = (bias > -math.inf).sum(dtype=np.int32)
    return (namespace(occur).maximum(occur - 1, 0) * rows).astype(np.int32)
