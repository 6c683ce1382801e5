"""Exact and simulated tests of a pmf, by the distribution of the counts themselves."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_choice,
    check_num_steps,
    in_one_line,
    raise_value_error,
)
from xentjax._core.choices import Computation, Order
from xentjax._core.dtypes import result_dtype
from xentjax.categorical._arguments import check_known, parse_pmf_and_counts
from xentjax.categorical._tables import draw_tables, enumerate_tables, number_of_tables

_AUTO_TABLES = 10**6
_MOST_TABLES = 10**7


class MultinomialTest(NamedTuple):
    """Result of an exact or simulated test of counts against a pmf.

    The first three fields are those of `TestResult`.

    Attributes:
        statistic: Statistic that orders the tables; +inf where an impossible class occurred.
        p_value: Probability of at least this statistic if the pmf is right, or its estimate.
        dof: Degrees of freedom: the number of classes with positive probability, minus one.
        standard_error: Standard error of the p-value where it is simulated; 0 where it is exact.
    """

    statistic: Float[Array, "*batch"]
    p_value: Float[Array, "*batch"]
    dof: Int[Array, "*batch"]
    standard_error: Float[Array, "*batch"]


def multinomial_test(
    counts: ArrayLike,
    q: ArrayLike,
    *,
    method: Computation = "auto",
    order: Order = "probability",
    key: PRNGKeyArray | None = None,
    num_samples: int = 100_000,
) -> MultinomialTest:
    """Test whether counts come from the pmf `q`, exactly or by simulation.

        p = P(T(X) >= T(c)),    X ~ multinomial(N, q)

        order          T(c)
        probability    -log P(X = c)
        g              2 sum_k c_k log(c_k / (N q_k))
        chi_squared    sum_k (c_k - N q_k)^2 / (N q_k)

        method         p-value
        exact          the sum of P(X = x) over all tables x with T(x) >= T(c)
        monte_carlo    (1 + M) / (1 + num_samples), M of num_samples drawn tables have T >= T(c)
        auto           exact for at most 10^6 tables of each row, else monte_carlo for all rows

    N samples of K possible classes have C(N + K - 1, K - 1) tables, which are counted beforehand.
    Since rounding makes equal statistics differ, a table counts as extreme if its statistic is at
    least T(c) - 1e-7, or T(c) - 1e-7 max(1, T(c)) for the last two orders. A class of probability 0
    is ignored, as in `g_test`; if it occurs, T = +inf and the p-value is 0 by either method.

    Tables are enumerated and drawn on the host, in blocks of bounded memory; nothing is compiled.
    The arguments therefore have to be known, not traced by jit, vmap or grad.

    Args:
        counts: [..., K], whole numbers.
        q: pmf, [..., K], broadcast with the counts.
        method: "auto", "exact" or "monte_carlo".
        order: "probability", "g" or "chi_squared".
        key: random key, for "monte_carlo".
        num_samples: number of tables that "monte_carlo" draws for each row of counts.

    Returns:
        Statistic, p-value, degrees of freedom and standard error, [...]; the latter is
        sqrt(p (1 - p) / (1 + num_samples)) where simulated. All are computed in float64, and an
        exact p-value keeps its relative precision until it underflows.

    Raises:
        ValueError: for another method or order; "exact" with a row of more than 10^7 tables;
            "monte_carlo" without a key; num_samples < 1; more than 2^53 samples;
            counts that are negative, not whole or all 0, a `q` that is not a pmf, or shapes that do
            not fit.
        TypeError: for q that is not floating, counts that are not numbers, a num_samples that is
            not an integer, a key that is not a random key, or arguments that are traced.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> result = xentjax.multinomial_test(jnp.array([7, 2, 1]), jnp.full(3, 1 / 3))
        >>> print(result.p_value.round(5), result.standard_error)
        0.09313 0.0

    Source: A. C. Davison and D. V. Hinkley, "Bootstrap Methods and their Application" (1997),
    section 4.2; N. Cressie and T. R. C. Read, "Multinomial goodness-of-fit tests" (1984).
    """
    check_choice("method", method, Computation)
    check_choice("order", order, Order)
    check_num_steps("num_samples", num_samples)
    pmf, whole = parse_pmf_and_counts("multinomial_test(counts, q)", q, counts, whole=True)
    dtype, shape = result_dtype(pmf, whole), pmf.shape
    rows = check_known("counts", whole).reshape(-1, shape[-1])
    pmfs = check_known("q", pmf).reshape(rows.shape).astype(np.float64)
    pmfs /= pmfs.sum(-1, keepdims=True)
    if (most := rows.sum(-1, dtype=float).max(initial=0)) > 2**53:
        raise_value_error("counts", "at most 2^53 samples", f"{most:.3g}")
    rows = rows.astype(np.int64)
    simulated = method == "monte_carlo"
    if not simulated:
        number = number_of_tables(rows, pmfs)
        simulated = method == "auto" and number > _AUTO_TABLES
        if not simulated and number > _MOST_TABLES:
            found = f"{number:,}" if number < 10**15 else "more than 10^15"
            expected = f"at most {_MOST_TABLES:,} tables (else method='monte_carlo')"
            raise_value_error("counts", expected, found)
    if simulated:
        rng = np.random.default_rng(_seed(key))
        statistic, p_value = draw_tables(rng, rows, pmfs, order, num_samples)
    else:
        statistic, p_value = enumerate_tables(rows, pmfs, order)
    variance = p_value * (1 - p_value) / (1 + num_samples) if simulated else np.zeros(len(rows))
    statistic, p_value, error = (
        jnp.asarray(x.reshape(shape[:-1]), dtype) for x in (statistic, p_value, np.sqrt(variance))
    )
    dof = jnp.asarray((pmfs > 0).sum(-1).reshape(shape[:-1]) - 1, jnp.int32)
    return MultinomialTest(statistic, p_value, dof, error)


def _seed(key: PRNGKeyArray | None) -> np.ndarray:
    if key is None:
        raise_value_error("key", "a random key, since tables are drawn", None)
    try:
        data = jax.random.key_data(key)
    except TypeError:
        raise TypeError(f"key: expected a random key, got {in_one_line(key)}") from None
    return check_known("key", data).ravel()
