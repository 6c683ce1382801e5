"""Tests of whether the rows and the columns of a two-way table are independent."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from xentjax._core.checks import check_choice
from xentjax._core.dtypes import in_float64
from xentjax._core.multiply_no_nan import nan_unless
from xentjax.categorical._arguments import parse_table
from xentjax.categorical._tails import chi_squared_survival
from xentjax.information.pmf import mutual_information


class IndependenceTest(NamedTuple):
    """Result of a test of independence of the rows and columns of a table."""

    statistic: Float[Array, "*batch"]
    """G or X^2; 0 where all rows are in the same ratios."""
    p_value: Float[Array, "*batch"]
    """Probability of so large a statistic under independence, by the chi-squared law."""
    dof: Int[Array, "*batch"]
    """Degrees of freedom, (R - 1) (C - 1) of the rows and columns that are not empty."""
    expected: Float[Array, "*batch r c"]
    """Expected counts under independence, of the same row and column sums."""
    residuals: Float[Array, "*batch r c"]
    """Adjusted standardised residuals, about standard normal in each cell under independence."""
    cramers_v: Float[Array, "*batch"]
    """Cramér's V, by X^2 whatever the statistic: 0 for independent rows and columns, 1 where one of
    the two determines the other."""
    mutual_information: Float[Array, "*batch"]
    """Mutual information of row and column in nats, corrected for its bias; below 0 where G is less
    than its mean under independence."""


def independence_test(table: ArrayLike, *, statistic: str = "g") -> IndependenceTest:
    """Test of independence of the rows and columns of a two-way table.

        E_ij = r_i c_j / N,    r_i, c_j the sums of rows and columns, N the sum of all

        g              G = 2 sum_ij O_ij log(O_ij / E_ij) = 2 N I
        chi_squared    X^2 = sum_ij (O_ij - E_ij)^2 / E_ij

        residuals             (O - E) / sqrt(E (1 - r_i / N) (1 - c_j / N))
        Cramér's V            sqrt(X^2 / (N min(R - 1, C - 1)))
        mutual information    I - (R - 1) (C - 1) / (2 N)

    Under independence both statistics follow the chi-squared law for large N. Whether the samples
    of rows are alike (homogeneity), where their sizes were chosen and not drawn, is the same test
    of the same numbers. There is no continuity correction, which
    `scipy.stats.chi2_contingency` applies to 2 x 2 tables unless told otherwise.

    A row or column that is empty is none: R and C are the numbers of those that are not, and the
    cells of the others have expected count and residual 0. With fewer than two rows or columns
    there is nothing to test: an error for a table that is known, under jit dof 0 and NaN as
    p-value and Cramér's V.

    Args:
        table: [..., R, C], whole numbers: how often each pair occurred.
        statistic: "g" or "chi_squared".

    Returns:
        Expected counts and residuals [..., R, C], the other fields [...]. They are computed in
        float64 from exact integers, and a p-value keeps its relative precision until it underflows.
        The derivative of G in a count is 2 log(O_ij / E_ij); those of X^2, V and the residuals
        leave out what the cells of empty rows and columns would add.

    Raises:
        ValueError: for another statistic; a table without two rows and two columns; concrete
            counts that are negative or not whole, or of which fewer than two rows or columns are
            not empty.
        TypeError: for counts that are not numbers.

    Example:
        >>> result = independence_test(jnp.array([[20, 30, 10], [25, 15, 20]]))
        >>> print(result.statistic.round(4), result.p_value.round(5), result.dof)
        9.0517 0.01083 2
        >>> print(result.cramers_v.round(4), result.residuals[0].round(2))
        0.2722 [-0.94  2.83 -2.11]

    Source: A. Agresti, "Categorical Data Analysis", 3rd ed. (2013), sections 3.2 and 3.3;
    H. Cramér, "Mathematical Methods of Statistics" (1946), section 21.9; G. A. Miller, "Note on the
    bias of information estimates" (1955).
    """
    check_choice("statistic", statistic, ("g", "chi_squared"))
    return _independence(parse_table("table", table), statistic=statistic)


@in_float64
def _independence(table: Array, *, statistic: str) -> IndependenceTest:
    rows, columns = table.sum(-1, keepdims=True), table.sum(-2, keepdims=True)
    n = rows.sum(-2, keepdims=True)
    number = n[..., 0, 0]
    expected = rows * (columns / n)
    occurring_rows, occurring_columns = (
        (sums > 0).sum((-2, -1), dtype=jnp.int32) for sums in (rows, columns)
    )
    dof = (occurring_rows - 1) * (occurring_columns - 1)
    least = jnp.minimum(occurring_rows, occurring_columns) - 1

    difference = table - expected
    # A square of the difference would overflow where the quotient does not.
    pearson = (difference * (difference / _or_one(expected))).sum((-2, -1))
    information = mutual_information(table / n, math.inf)
    value = 2 * number * information if statistic == "g" else pearson
    variance = expected * ((n - rows) / n) * ((n - columns) / n)
    square = pearson / (number * jnp.maximum(least, 1).astype(number.dtype))
    defined = nan_unless(dof > 0, value.dtype)
    return IndependenceTest(
        statistic=value,
        p_value=chi_squared_survival(value, dof) + defined,
        dof=dof,
        expected=expected,
        residuals=difference / jnp.sqrt(_or_one(variance)),
        # The derivative at 0, where V has a corner, is taken as 0.
        cramers_v=jnp.where(square == 0, 0, jnp.sqrt(_or_one(square))) + defined,
        mutual_information=information - dof.astype(number.dtype) / (2 * number),
    )


def _or_one(x: Array) -> Array:
    """Return x, and 1 where it is 0: a divisor of what is 0 there itself."""
    return jnp.where(x == 0, 1, x)
