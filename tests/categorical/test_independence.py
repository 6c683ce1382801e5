"""Tests of independence against scipy, statsmodels, exact fractions and what empty rows do."""

from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from scipy.stats.contingency import association, expected_freq
from statsmodels.stats.contingency_tables import Table

from tests.support.tolerances import GRADIENT, VALUE
from xentjax import g_test, independence_test

LAMBDA = {"g": "log-likelihood", "chi_squared": "pearson"}
STATISTICS = pytest.mark.parametrize("statistic", LAMBDA)
TABLE = np.array([[20, 30, 10], [25, 15, 20]])
# Small counts, zeros among them, and some up to 10^12.
TABLES = [
    np.random.default_rng(0).poisson(5, (40, 3, 4)) + np.eye(3, 4, dtype=int),
    np.random.default_rng(1).integers(1, 10 ** np.arange(1, 13)[:, None, None], (12, 3, 4)),
]


def scipys(table, statistic) -> Any:
    return scipy.stats.chi2_contingency(table, correction=False, lambda_=LAMBDA[statistic])


@STATISTICS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tables", TABLES, ids=["small", "large"])
def test_agrees_with_scipy(statistic, dtype, tables):
    with jax.enable_x64(dtype == "float64"):
        result = independence_test(tables, statistic=statistic)
    assert {x.dtype.name for x in result} == {dtype, "int32"}
    np.testing.assert_array_equal(result.dof, 6)
    rtol = {"float32": 1e-6, "float64": 1e-9}[dtype]  # scipy's terms of G cancel
    tiny = float(np.finfo(dtype).tiny)
    for i, table in enumerate(tables):
        expected = scipys(table, statistic)
        size = max(1, expected.statistic)
        np.testing.assert_allclose(result.statistic[i], expected.statistic, rtol, atol=rtol)
        np.testing.assert_allclose(result.p_value[i], expected.pvalue, rtol * size, atol=tiny)
        np.testing.assert_allclose(result.expected[i], expected_freq(table), VALUE[dtype])
        np.testing.assert_allclose(result.cramers_v[i], association(table), VALUE[dtype])
        residuals: Any = Table(table, shift_zeros=False).standardized_resids
        np.testing.assert_allclose(result.residuals[i], residuals, rtol, atol=rtol)


@STATISTICS
def test_p_values_down_to_1e_30(statistic):
    """The logarithm of the tail, next to that of scipy for the statistic of the table itself."""
    tables = np.array([[[50 + d, 50 - d], [50 - d, 50 + d]] for d in range(0, 49, 4)])
    with jax.enable_x64(True):
        result = independence_test(tables, statistic=statistic)
    expected = scipy.stats.chi2.logsf(np.asarray(result.statistic), 1)
    assert expected[-1] < np.log(1e-30)
    np.testing.assert_allclose(np.log(result.p_value), expected, 1e-12, atol=1e-12)
    narrow = independence_test(tables, statistic=statistic).p_value
    kept = np.asarray(result.p_value) > 1e-30
    np.testing.assert_allclose(narrow[kept], result.p_value[kept], VALUE["float32"])


@pytest.mark.parametrize("n", [10**4, 10**12, 10**15])
def test_integers_are_subtracted_before_they_are_rounded(n):
    root = round(n**0.5)
    table = [[3 * n // 10 + root // 3, 2 * n // 10], [n // 10, 4 * n // 10 - root // 7]]
    rows, columns = [sum(row) for row in table], [sum(x) for x in zip(*table, strict=True)]
    differences = [
        (x - (e := Fraction(r * c, sum(rows)))) ** 2 / e
        for row, r in zip(table, rows, strict=True)
        for x, c in zip(row, columns, strict=True)
    ]
    result = independence_test(np.array(table), statistic="chi_squared")
    np.testing.assert_allclose(result.statistic, float(sum(differences)), VALUE["float32"])


@STATISTICS
def test_homogeneity_of_samples_against_a_known_pmf(statistic):
    """A large sample of a pmf makes the test of another the test of fit to that pmf."""
    if statistic == "g":
        counts = np.array([13, 9, 30])
        large = 10**9 * np.array([1, 1, 2])
        homogeneity = independence_test(np.stack([counts, large]))
        fit = g_test(counts, jnp.array([0.25, 0.25, 0.5]))
        np.testing.assert_allclose(homogeneity[:3], fit, 1e-6)
    transposed = independence_test(TABLE.T, statistic=statistic)
    for got, wanted in zip(transposed, independence_test(TABLE, statistic=statistic), strict=True):
        np.testing.assert_allclose(got.T, wanted, 1e-6, atol=1e-7)


def test_mutual_information_is_free_of_the_first_order_bias():
    """G / (2 N) less its mean under independence; exact for the columns of R's `entropy` docs."""
    result = independence_test(np.array([[4, 2], [5, 4], [1, 4]]))
    np.testing.assert_allclose(result.mutual_information, 0.06795961471815898 - 2 / 40, 2e-6)
    rng = np.random.default_rng(0)
    p = np.outer([0.3, 0.7], [0.2, 0.3, 0.5])
    tables = rng.multinomial(400, p.ravel(), 20_000).reshape(-1, 2, 3)
    estimates = np.asarray(jax.jit(independence_test)(tables).mutual_information)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean()) < 4 * error + 0.1 * 2 / 800  # of second order


def information_and_variance(p):
    rows, columns = p.sum(-1, keepdims=True), p.sum(-2, keepdims=True)
    ratio = np.log(np.where(p > 0, p / (rows * columns), 1))
    information = (p * ratio).sum((-2, -1))
    return information, (p * ratio**2).sum((-2, -1)) - information**2


def interval(table, alpha):
    """Ends by scipy's noncentral chi-squared law."""
    n, dof = table.sum(), (table.shape[0] - 1) * (table.shape[1] - 1)
    more = expected_freq(table) * (dof + 2) / n
    information, variance = information_and_variance((table + more) / (n + dof + 2))
    scale = (variance + 3 * dof / n) / (2 * information + 3 * dof / n)
    x = (2 * n * information_and_variance(table / n)[0] - dof) / scale + dof
    ends = []
    for below in (1 - alpha / 2, alpha / 2):
        some = scipy.special.chndtr(x, dof, 0) > below
        ends.append(scale * scipy.special.chndtrinc(x, dof, below) / (2 * n) if some else 0)
    return np.minimum(ends, np.log(min(table.shape)))


INTERVAL = jax.jit(lambda table, alpha: independence_test(table).mutual_information_interval(alpha))


@pytest.mark.parametrize("alpha", [0.01, 0.5])
def test_intervals_of_mutual_information_agree_with_scipy(alpha):
    tables = np.stack([TABLE, 10 * TABLE, 1000 * TABLE, [[2, 30, 1], [40, 0, 3]]])
    expected = [interval(table, alpha) for table in tables]
    np.testing.assert_allclose(INTERVAL(tables, alpha), expected, 2e-6, atol=1e-9)
    with jax.enable_x64(True):
        wide = INTERVAL(tables, alpha)
    assert wide.dtype == np.float64
    np.testing.assert_allclose(wide, expected, 1e-9, atol=1e-12)


def test_intervals_of_no_information_and_of_all():
    none = independence_test(np.array([[10, 10], [10, 10]])).mutual_information_interval()
    np.testing.assert_array_equal(none, [0, 0])
    lower, upper = independence_test(np.diag([30, 30])).mutual_information_interval()
    assert 0.4 < lower < upper == np.float32(np.log(2))
    with_empty = independence_test(np.diag([30, 30, 0])).mutual_information_interval()
    np.testing.assert_array_equal(with_empty, [lower, upper])
    empty = jax.jit(lambda t: independence_test(t).mutual_information_interval())
    assert np.isnan(empty(jnp.array([[1, 2], [0, 0]]))).all()


@pytest.mark.parametrize(("share", "most"), [(0.0, 0.06), (0.9, 0.065)])
def test_coverage_of_intervals_of_mutual_information(share, most):
    """Misses at 5 %, of independent rows and columns and others."""
    independent = np.outer([0.4, 0.6], [0.3, 0.3, 0.4])
    p = (1 - share) * independent + share * np.array([[0.3, 0.1, 0], [0, 0.2, 0.4]])
    tables = np.random.default_rng(3).multinomial(200, p.ravel(), 500).reshape(-1, 2, 3)
    lower, upper = np.asarray(INTERVAL(tables, 0.05), np.float64).T
    information = information_and_variance(p)[0] if share else 0
    missed = np.mean((lower > information) | (upper < information))
    assert missed < most + 3 * np.sqrt(0.05 * 0.95 / 500)
    assert (lower <= upper).all()


def test_derivatives_of_the_interval():
    with jax.enable_x64(True):
        table, direction = jnp.array(TABLE, float), jnp.array([[1.0, -0.5, 0.2], [-1, 0.3, 0]])
        step = 1e-4 * direction
        up, down = INTERVAL(jnp.stack([table + step, table - step]), 0.1)
        dot = jax.jvp(lambda t: INTERVAL(t, 0.1), (table,), (direction,))[1]
        np.testing.assert_allclose(dot, (up - down) / 2e-4, 1e-5)
    with pytest.raises(ValueError, match=r"^alpha: expected a number in \(0, 1\), got 5$"):
        independence_test(TABLE).mutual_information_interval(5)


@STATISTICS
def test_size_of_the_test(statistic):
    """Rejections of independent rows and columns of many samples, at 5 %."""
    p = np.outer([0.4, 0.6], [0.3, 0.3, 0.4])
    tables = np.random.default_rng(2).multinomial(500, p.ravel(), 20_000).reshape(-1, 2, 3)
    p_values = jax.jit(independence_test, static_argnames="statistic")(tables, statistic=statistic)
    rejected = np.mean(np.asarray(p_values.p_value) < 0.05)
    assert abs(rejected - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 20_000) + 1e-3


@STATISTICS
def test_empty_rows_and_columns_are_none(statistic):
    with_empty = np.zeros((4, 4), int)
    with_empty[np.ix_([0, 2], [0, 1, 3])] = TABLE
    result, without = (independence_test(t, statistic=statistic) for t in (with_empty, TABLE))
    for field in ("statistic", "p_value", "dof", "cramers_v", "mutual_information"):
        np.testing.assert_allclose(getattr(result, field), getattr(without, field), 1e-6)
    for field in ("expected", "residuals"):
        kept = np.zeros((4, 4))
        kept[np.ix_([0, 2], [0, 1, 3])] = getattr(without, field)
        np.testing.assert_allclose(getattr(result, field), kept, 1e-6)


@STATISTICS
def test_rows_in_equal_ratios_and_rows_that_tell_the_column(statistic):
    alike = independence_test(np.array([[1, 2, 3], [2, 4, 6]]), statistic=statistic)
    assert (alike.statistic, alike.p_value, alike.cramers_v) == (0, 1, 0)
    told = independence_test(np.diag([5, 5]), statistic=statistic)
    np.testing.assert_allclose(told.cramers_v, 1, 1e-6)
    expected = {"g": 20 * np.log(2), "chi_squared": 10}[statistic]
    np.testing.assert_allclose(told.statistic, expected, 1e-6)
    np.testing.assert_allclose(told.residuals, np.sqrt(10) * np.array([[1, -1], [-1, 1]]), 1e-6)


@pytest.mark.parametrize("table", [[[3, 4], [0, 0]], [[3, 0], [4, 0]], [[0, 0], [0, 0]]])
def test_an_undefined_test_under_jit(table):
    result = jax.jit(independence_test)(jnp.array(table))
    assert result.dof == 0 or not any(map(any, table))
    assert np.isnan(result.p_value)
    assert np.isnan(result.cramers_v)


@STATISTICS
def test_batches_under_jit_and_vmap(statistic):
    def test(table):
        return independence_test(table, statistic=statistic)

    tables = jnp.array(TABLES[0][:6].reshape(2, 3, 3, 4))
    each = [test(table) for table in tables.reshape(6, 3, 4)]
    for batched in (test, jax.jit(test), jax.vmap(jax.vmap(test))):
        for got, *wanted in zip(batched(tables), *each, strict=True):
            flat = got.reshape(6, *got.shape[2:])
            np.testing.assert_allclose(flat, np.stack(wanted), 1e-6, atol=1e-7)


@STATISTICS
def test_derivatives_in_the_counts(statistic):
    """Slopes by differences; of G they are 2 log(O / E)."""
    with jax.enable_x64(True):
        table, steps = jnp.array(TABLE, float), 1e-3 * np.eye(6).reshape(6, 2, 3)
        points = jnp.array([*(TABLE + steps), *(TABLE - steps)])
        inner = jax.jit(independence_test, static_argnames="statistic")
        values = inner(points, statistic=statistic)
        for field in ("statistic", "p_value", "cramers_v", "mutual_information"):
            slope = jax.grad(lambda t, f=field: getattr(inner(t, statistic=statistic), f))(table)
            up, down = np.asarray(getattr(values, field)).reshape(2, 2, 3)
            np.testing.assert_allclose(slope, (up - down) / 2e-3, 1e-5, atol=1e-8)
            if (statistic, field) == ("g", "statistic"):
                ratio = TABLE / expected_freq(TABLE)
                np.testing.assert_allclose(slope, 2 * np.log(ratio), GRADIENT["float64"])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([[1, -2], [3, 4]], r"table: expected finite numbers >= 0, got -2"),
        ([[1, 2.5], [3, 4]], r"table: expected whole numbers, got 2\.5"),
        ([[1, 2]], r"table: expected at least 2 rows and 2 columns, got shape \(1, 2\)"),
        ([1, 2], r"table: expected at least 2 rows and 2 columns, got shape \(2,\)"),
        ([[1, 2], [0, 0]], r"table: expected at least two rows with counts, got 1$"),
        (
            [[[1, 2], [2, 1]], [[1, 0], [2, 0]]],
            r"table: expected at least two columns with counts, got 1 in table 1$",
        ),
    ],
)
def test_bad_input(table, message):
    with pytest.raises(ValueError, match=message):
        independence_test(np.array(table))


@pytest.mark.usefixtures("unchecked_annotations")
def test_a_bad_statistic():
    with pytest.raises(ValueError, match="statistic: expected one of 'g', 'chi_squared', got 'G'"):
        independence_test(TABLE, statistic="G")  # pyright: ignore[reportArgumentType]
