"""The multinomial test against fractions, brute force, SciPy and its own simulation."""

import math
from collections import defaultdict
from fractions import Fraction
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.support.tolerances import VALUE
from xentjax import chi_squared_test, g_test, multinomial_log_likelihood, multinomial_test

ORDERS = pytest.mark.parametrize("order", ["probability", "g", "chi_squared"])


def tables_of(n, k):
    """All counts of n samples of k classes."""
    if k == 1:
        return [(n,)]
    return [(first, *rest) for first in range(n + 1) for rest in tables_of(n - first, k - 1)]


def exact_score(c, parts, order):
    """An integer that is a growing function of the statistic, for the pmf parts / sum(parts)."""
    if order == "chi_squared":
        return sum(x * x * (math.prod(parts) // a) for x, a in zip(c, parts, strict=True))
    if order == "g":
        n = sum(c)
        return math.prod(x**x * a ** (n - x) for x, a in zip(c, parts, strict=True))
    return -exact_mass(c, parts)


def exact_mass(c, parts):
    """Probability of the counts times sum(parts)^N, an integer."""
    coefficient = math.factorial(sum(c)) // math.prod(map(math.factorial, c))
    return coefficient * math.prod(a**x for x, a in zip(c, parts, strict=True))


def exact_p_values(tables, parts, order):
    """P-values of all tables of N samples, in whole numbers."""
    mass = defaultdict(int)
    scores = [exact_score(c, parts, order) for c in tables]
    for c, score in zip(tables, scores, strict=True):
        mass[score] += exact_mass(c, parts)
    total, found = 0, {}
    for score in sorted(mass, reverse=True):
        total += mass[score]
        found[score] = total
    return [float(Fraction(found[score], sum(parts) ** sum(tables[0]))) for score in scores]


@ORDERS
@pytest.mark.parametrize(
    "parts", [(1, 1), (3, 7), (1, 1, 1), (2, 3, 5), (1, 1, 1, 1), (1, 2, 3, 4)]
)
def test_every_table_of_12_samples_and_fewer(order, parts):
    """The rows of one call have different numbers of samples."""
    groups = [tables_of(n, len(parts)) for n in range(1, 13)]
    expected = np.concatenate([exact_p_values(tables, parts, order) for tables in groups])
    counts, q = np.concatenate(groups), np.array(parts) / sum(parts)
    with jax.enable_x64(True):
        result = multinomial_test(counts, q, method="exact", order=order)
        np.testing.assert_allclose(result.p_value, expected, 1e-12)
    assert not result.standard_error.any()
    narrow = multinomial_test(counts, q, order=order)
    assert {x.dtype.name for x in narrow} == {"float32", "int32"}
    np.testing.assert_allclose(narrow.p_value, expected, VALUE["float32"])


@ORDERS
def test_p_values_down_to_1e_30(order):
    """Two classes: the binomial's tail, or both of them, by SciPy's logarithm of the mass."""
    n, q = 120, 0.3
    x = np.arange(n + 1)
    log_mass = scipy.stats.binom.logpmf(x, n, q)
    score = {
        "probability": -log_mass,
        "g": scipy.special.rel_entr(x, n * q) + scipy.special.rel_entr(n - x, n * (1 - q)),
        "chi_squared": abs(x - n * q),
    }[order]
    expected = np.array([np.exp(log_mass[score >= s - 1e-9]).sum() for s in score])
    assert expected.min() < 1e-30
    with jax.enable_x64(True):
        result = multinomial_test(np.stack([x, n - x], -1), np.array([q, 1 - q]), order=order)
    np.testing.assert_allclose(result.p_value, expected, 1e-10)


def test_agrees_with_scipys_binomial_test():
    """Sizes at which the terms of the logarithm are of order 10^6."""
    counts = np.array([[50_300, 49_700], [49_000, 51_000], [2_000, 98_000]])
    with jax.enable_x64(True):
        result = multinomial_test(counts, np.array([0.5, 0.5]))
    expected = np.array([scipy.stats.binomtest(int(c), 100_000).pvalue for c, _ in counts])
    np.testing.assert_allclose(result.p_value, expected, 1e-9)


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
def test_the_statistics_are_those_of_the_other_functions(method):
    counts, q = np.array([[7, 2, 1, 0], [2, 3, 0, 0]]), np.array([0.4, 0.3, 0.3, 0.0])
    keywords = {"method": method, "key": jax.random.key(0), "num_samples": 10}
    found = {
        order: multinomial_test(counts, q, order=order, **keywords)
        for order in ("probability", "g", "chi_squared")
    }
    for order, expected in {
        "probability": -multinomial_log_likelihood(q, counts),
        "g": g_test(counts, q).statistic,
        "chi_squared": chi_squared_test(counts, q).statistic,
    }.items():
        np.testing.assert_allclose(found[order].statistic, expected, VALUE["float32"])
        np.testing.assert_array_equal(found[order].dof, 2)


@pytest.mark.parametrize("method", ["exact", "monte_carlo"])
@ORDERS
def test_impossible_classes(method, order):
    keywords = {"method": method, "order": order, "key": jax.random.key(0), "num_samples": 10}
    counts = np.array([[3, 1, 0], [3, 1, 1]])
    result = multinomial_test(counts, np.array([0.5, 0.5, 0.0]), **keywords)
    assert (result.statistic[1], result.p_value[1], result.standard_error[1]) == (np.inf, 0, 0)
    if method == "exact":
        without = multinomial_test(counts[0, :2], np.array([0.5, 0.5]), **keywords)
        assert tuple(x[0] for x in result) == tuple(without)
    certain = multinomial_test(np.array([5, 0]), np.array([1.0, 0.0]), **keywords)
    assert (certain.p_value, certain.dof, certain.standard_error) == (1, 0, 0)


@ORDERS
def test_simulated_within_4_standard_errors(order):
    rng = np.random.default_rng(0)
    q = np.array([0.1, 0.2, 0.3, 0.4])
    counts = rng.multinomial([5, 12, 30, 30, 60, 60], [0.1, 0.3, 0.2, 0.4])
    exact = multinomial_test(counts, q, method="exact", order=order)
    keywords = {"method": "monte_carlo", "order": order, "num_samples": 10_001}
    simulated = multinomial_test(counts, q, key=jax.random.key(1), **keywords)
    p = np.asarray(exact.p_value, np.float64)
    assert (abs(simulated.p_value - p) < 4 * np.sqrt(p * (1 - p) / 10_001) + 1e-4).all()
    np.testing.assert_allclose(
        simulated.standard_error,
        np.sqrt(simulated.p_value * (1 - simulated.p_value) / 10_002),
        1e-5,
    )
    np.testing.assert_allclose(simulated.statistic, exact.statistic, VALUE["float32"])


def test_simulations_of_large_counts():
    """Samples of number 3 10^9, where the chi-squared law holds; the same for the same key."""
    counts, q = 10**9 + np.array([30_000, -10_000, -20_000]), np.full(3, 1 / 3)
    for order in ("probability", "g", "chi_squared"):
        keywords = {"key": jax.random.key(3), "num_samples": 20_000, "order": order}
        result = multinomial_test(counts, q, **keywords)
        expected = chi_squared_test(counts, q).p_value
        assert abs(result.p_value - expected) < 4 * result.standard_error
        assert tuple(result) == tuple(multinomial_test(counts, q, **keywords))
        assert (
            result.p_value
            != multinomial_test(counts, q, **{**keywords, "key": jax.random.key(4)}).p_value
        )


def test_large_batches_of_large_tables_are_cut_into_blocks(monkeypatch):
    counts = np.array([[4, 3, 5, 2, 1], [1, 2, 3, 4, 5], [3, 3, 3, 3, 3]])
    expected = multinomial_test(counts, np.full(5, 0.2))
    monkeypatch.setattr("xentjax.categorical._tables._BLOCK", 50)
    result = multinomial_test(counts, np.full(5, 0.2))
    np.testing.assert_allclose(result.p_value, expected.p_value, VALUE["float32"])


@ORDERS
def test_dice_of_one_pmf_share_their_tables(order):
    """Many dice of one pmf, of few and of one each, in any order, against each by itself."""
    rng = np.random.default_rng(5)
    q = rng.dirichlet(np.full(3, 4.0), 6)[np.r_[np.zeros(20, int), 1, 1, 2, 3, np.full(17, 4)]]
    q = rng.permutation(q)
    counts = rng.multinomial(rng.integers(4, 6, len(q)), q)
    together = multinomial_test(counts, q, order=order)
    alone = [multinomial_test(c, p, order=order).p_value for c, p in zip(counts, q, strict=True)]
    np.testing.assert_allclose(together.p_value, alone, VALUE["float32"])


def test_auto_simulates_where_tables_are_many():
    counts, q = np.full(12, 5), np.full(12, 1 / 12)
    result = multinomial_test(counts, q, key=jax.random.key(0), num_samples=100)
    assert result.p_value == 1
    with pytest.raises(ValueError, match=r"^key: expected a random key, .*, got None$"):
        multinomial_test(counts, q)
    with pytest.raises(ValueError, match=r"^counts: expected at most .*'monte_carlo'\), got"):
        multinomial_test(counts, q, method="exact")
    assert multinomial_test(np.zeros((0, 3), int), np.full(3, 1 / 3)).p_value.shape == (0,)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("keywords", "line"),
    [
        ({"method": "exakt"}, "method: expected one of 'auto', 'exact', 'monte_carlo', got"),
        ({"order": "G"}, "order: expected one of 'probability', 'g', 'chi_squared', got 'G'"),
        ({"num_samples": 0}, "num_samples: expected an integer 1"),
        ({"method": "monte_carlo"}, "key: expected a random key, since tables are drawn, got None"),
    ],
)
def test_bad_keywords(keywords, line):
    with pytest.raises(ValueError, match=f"^{line}") as error:
        multinomial_test(np.array([1, 2]), np.array([0.5, 0.5]), **keywords)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["auto", "exact", "monte_carlo"])
def test_arguments_have_to_be_known(method):
    counts, q = jnp.array([1, 2]), jnp.array([0.5, 0.5])
    test = partial(multinomial_test, method=method, key=jax.random.key(0))
    with pytest.raises(
        TypeError, match=r"^counts: expected an array that is known \(not under jit"
    ):
        jax.jit(lambda c: test(c, np.array([0.5, 0.5])))(counts)
    with pytest.raises(TypeError, match=r"^(counts|q): expected an array that is known"):
        jax.grad(lambda q: test(np.array([1, 2]), q).statistic)(q)
    with pytest.raises(ValueError, match=r"are the arguments of multinomial_test.* swapped"):
        test(q, counts)


@pytest.mark.usefixtures("unchecked_annotations")
def test_keys():
    test = partial(multinomial_test, np.array([1, 2]), np.array([0.5, 0.5]), method="monte_carlo")
    assert test(key=jax.random.PRNGKey(5)).p_value == test(key=jax.random.key(5)).p_value
    with pytest.raises(TypeError, match=r"^key: expected a random key, got 5$"):
        test(key=5)  # pyright: ignore[reportArgumentType]


def test_sizes_that_no_test_takes():
    with pytest.raises(ValueError, match=r"^counts: expected at most 2\^53 samples, got 1e\+20$"):
        multinomial_test(np.array([1e20, 0.0]), np.array([0.5, 0.5]))
    with pytest.raises(ValueError, match=r"^counts: .*'monte_carlo'\), got more than 10\^15$"):
        multinomial_test(np.full(1000, 10**6), np.full(1000, 1e-3), method="exact")
