"""The overdispersion test against all arrangements of the samples, and its size and power."""

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.support.tolerances import VALUE
from xentjax import independence_test, overdispersion_test

TABLES = [
    [[2, 1], [1, 2]],
    [[2, 0], [0, 1]],
    [[3, 1, 0], [1, 0, 2]],
    [[2, 1, 1], [0, 1, 0], [1, 1, 0]],
    [[4, 1], [0, 1], [1, 0]],
    [[1, 0, 1, 0], [1, 0, 2, 2], [0, 0, 0, 0]],
]
jitted = jax.jit(overdispersion_test)


def statistic(c):
    n, classes, total = c.sum(1), c.sum(0), c.sum()
    difference = c - np.outer(n, classes) / total
    return (difference**2)[:, classes > 0].sum(0) @ (1 / classes[classes > 0])


def arrangements(c):
    """The statistics of all ways to give the samples to the dice."""
    die = np.repeat(np.arange(len(c)), c.sum(1))
    found = []
    for labels in set(permutations(np.repeat(np.arange(c.shape[1]), c.sum(0)))):
        table = np.zeros_like(c)
        np.add.at(table, (die, np.array(labels)), 1)
        found.append(statistic(table))
    return np.array(found)


@pytest.mark.parametrize("table", TABLES)
def test_has_the_moments_of_all_arrangements(table):
    table = np.array(table)
    every = arrangements(table)
    with jax.enable_x64(True):
        result = overdispersion_test(table)
    ratio = 2 * every.mean() / every.var()
    expected = statistic(table) * ratio, every.mean() * ratio
    np.testing.assert_allclose((result.statistic, result.dof), expected, 1e-12)
    p_value = scipy.stats.chi2.sf(*expected)
    np.testing.assert_allclose(result.p_value, p_value, 1e-12)


def test_many_throws_of_equal_dice_are_tested_by_pearsons_statistic():
    counts = np.random.default_rng(0).multinomial(10**6, [0.5, 0.3, 0.2], 4)
    result, pearson = (
        overdispersion_test(counts),
        independence_test(counts, statistic="chi_squared"),
    )
    np.testing.assert_allclose(result.statistic, pearson.statistic, 1e-5)
    np.testing.assert_allclose(result.p_value, pearson.p_value, 1e-5)
    np.testing.assert_allclose(result.dof, pearson.dof, 1e-5)


@pytest.mark.parametrize(
    ("sizes", "p"),
    [
        ([100, 100], [0.3, 0.7]),
        ([200, 10, 30], [0.5, 0.25, 0.12, 0.08, 0.04, 0.01]),
        ([20] * 10, np.full(6, 1 / 6)),
        ([2, 4, 8, 16, 32, 64], [0.5, 0.3, 0.2]),
    ],
)
def test_size(sizes, p):
    """Rejections at 5 % and 1 % of dice of one pmf, few of them and unequal."""
    tables = np.random.default_rng(0).multinomial(sizes, p, (10_000, len(sizes)))
    p_values = np.asarray(jitted(tables).p_value)
    assert abs(np.mean(p_values < 0.05) - 0.05) < 0.01
    assert abs(np.mean(p_values < 0.01) - 0.01) < 0.006


def test_power_against_dice_from_a_dirichlet():
    rng = np.random.default_rng(0)
    tables = rng.multinomial(30, rng.dirichlet([6, 3, 1], (2000, 20)))
    assert np.mean(np.asarray(jitted(tables).p_value) < 0.05) > 0.95


def test_large_dice_beside_a_small_one():
    """Nearly all samples are of one die: nothing cancels."""
    with jax.enable_x64(True):
        result = overdispersion_test(np.array([[3 * 10**9, 10**9], [4, 4]]))
    # The large die is the pmf itself: X^2 of 8 samples, whose variance is that of a binomial.
    variance = 2 - 6 / 8 + (1 / 0.75 + 1 / 0.25 - 4) / 8 + 0.5
    np.testing.assert_allclose(result.dof, 2 / variance, 0.3)
    np.testing.assert_allclose(
        result.statistic / result.dof, 4**2 * 0 + 8 * (0.25**2 / 0.1875), 1e-6
    )


def test_nothing_to_tell():
    for counts in ([[1, 1, 0], [0, 0, 1]], [[2, 2, 2], [1, 1, 1]]):
        result = overdispersion_test(np.array(counts))
        assert result.p_value > 0.9
    assert overdispersion_test(np.array([[1, 1, 0], [0, 0, 1]])) == (0, 1, 0)


def test_batches_dtypes_and_empty_rows():
    tables = np.array([[[8, 1, 1], [2, 7, 1]], [[3, 3, 3], [1, 5, 2]]])
    wide = np.zeros((2, 4, 5), int)
    wide[:, 1:3, [0, 2, 4]] = tables
    expected = [overdispersion_test(table) for table in tables]
    for found in (jitted(tables), jax.vmap(overdispersion_test)(jnp.array(tables)), jitted(wide)):
        np.testing.assert_allclose(np.array(found).T, expected, VALUE["float32"] * 4)
        assert {x.dtype.name for x in found} == {"float32"}


def test_errors():
    for counts, line in [
        ([3, 4], "counts: expected at least 2 rows and 2 columns.*; of one die: fit_categorical"),
        ([[1, 0], [0, 1]], "counts: expected a die of at least 2 samples, got 1 at most$"),
    ]:
        with pytest.raises(ValueError, match=f"^{line}"):
            overdispersion_test(np.array(counts))
    assert np.isnan(jitted(np.array([[1, 0], [0, 1]])).p_value)
    with pytest.raises(TypeError, match=r"^counts: expected whole numbers without a derivative"):
        jax.grad(lambda c: overdispersion_test(c).p_value)(jnp.array([[2.0, 1], [1, 3]]))
