"""Tests of fit against scipy, published values, and what an impossible class does."""

from fractions import Fraction
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings, strategies as st

from tests.support.tolerances import GRADIENT
from xentjax import chi_squared_test, g_test

RTOL = {"float32": GRADIENT["float32"], "float64": 1e-6}
TESTS = [g_test, chi_squared_test]
LAMBDA = {g_test: "log-likelihood", chi_squared_test: "pearson"}


@cache
def compiled_slopes(test, *counts):
    """Slopes in q, in one program: without jit each operation of the pullback is compiled alone."""
    return jax.jit(jax.jacrev(lambda q: test(np.array(counts), q)[:2]))


@pytest.mark.parametrize("test", TESTS, ids=lambda f: f.__name__)
class TestBoth:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @settings(max_examples=50, deadline=None, derandomize=True)
    @given(seed=st.integers(0, 2**32), n=st.integers(1, 2000), spread=st.sampled_from([1.0, 1e3]))
    def test_agrees_with_scipy(self, test, dtype, seed, n, spread):
        rng = np.random.default_rng(seed)
        # In 1/1024, so that q and N q are exact in float32: the statistic is sensitive to both.
        q = (1 + rng.multinomial(1024 - 7, rng.dirichlet(np.ones(7)))) / 1024
        c = rng.multinomial(n, rng.dirichlet(spread * q))
        expected = scipy.stats.power_divergence(c, n * q, lambda_=LAMBDA[test])
        with jax.enable_x64(dtype == "float64"):
            result = test(c, jnp.array(q, dtype))
            assert result.statistic.dtype == result.p_value.dtype == dtype
        assert result.dof == 6
        rtol = RTOL[dtype]
        np.testing.assert_allclose(result.statistic, expected.statistic, rtol, atol=rtol)
        # The law's slope turns a relative error of the statistic into one of statistic / 2 more.
        tail = rtol * max(1, expected.statistic / 20)
        tiny = float(np.finfo(dtype).tiny)
        np.testing.assert_allclose(result.p_value, expected.pvalue, tail, atol=tiny)

    @pytest.mark.parametrize("k", [2, 3, 100, 20000])
    @pytest.mark.parametrize("excess", [-2, 0, 1, 10])
    def test_p_value_at_any_number_of_classes(self, test, k, excess):
        """Statistics `excess` deviations from the mean lose no digit on the way to the p-value."""
        half = np.sqrt(2 * (k - 1)) * excess + k - 1
        per_class = np.sqrt(max(half, 0.1) / k)
        signs = np.where(np.arange(k) % 2, 1, -1)
        c = np.round(4096 + 64 * per_class * signs)
        c[0] += 4096 * k - c.sum()
        result = test(c, jnp.full(k, 1 / k))
        expected = scipy.stats.power_divergence(c, lambda_=LAMBDA[test])
        np.testing.assert_allclose(result.statistic, expected.statistic, 1e-7)
        np.testing.assert_allclose(result.p_value, expected.pvalue, 1e-6)

    @pytest.mark.parametrize("n", [10**4, 10**12, 10**15])
    def test_whole_counts_are_subtracted_before_they_are_rounded(self, test, n):
        """G in float32 at n = 10^12 gave p = .441 instead of .426."""
        root = round(n**0.5)
        c = np.array([3 * n // 10 + root // 3, 7 * n // 10 - root // 3])
        q = np.array([0.3, 0.7])
        exact = [Fraction(int(x)) / n - Fraction(p, 10) for x, p in zip(c, (3, 7), strict=True)]
        expected = float(
            sum(n * d**2 / Fraction(p, 10) for d, p in zip(exact, (3, 7), strict=True))
        )
        third = (
            -sum(n * d**3 / Fraction(p, 10) ** 2 for d, p in zip(exact, (3, 7), strict=True))
        ) / 3
        expected += float(third) if test is g_test else 0
        result = test(c, q)
        rtol = 1e-4 if n == 10**4 else 1e-6  # of the terms that the expansion leaves out
        np.testing.assert_allclose(result.statistic, expected, rtol)
        np.testing.assert_allclose(result.p_value, scipy.stats.chi2.sf(expected, 1), rtol)

    def test_counts_of_the_device_beyond_float32(self, test):
        """int32 counts past 2^24, as `counts` returns them, under jit too."""
        c = 2**29 + np.array([1001, -1000, 500, -501])
        expected = scipy.stats.power_divergence(c, lambda_=LAMBDA[test])
        for run in (test, jax.jit(test)):
            result = run(jnp.array(c, jnp.int32), jnp.full(4, 0.25))
            np.testing.assert_allclose(result[:2], expected, 1e-6)

    def test_a_statistic_whose_square_overflows(self, test):
        result = test(jnp.array([10, 1]), jnp.array([1.0, 1e-25]))
        assert result.p_value < 1e-15
        expected = (
            scipy.stats.power_divergence([10, 1], [11.0, 1.1e-24], lambda_=LAMBDA[test])[0]
            if test is chi_squared_test
            else 2 * (10 * np.log(10 / 11) + np.log(1 / 1.1e-24))
        )
        np.testing.assert_allclose(result.statistic, expected, 1e-6)

    @pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
    @pytest.mark.parametrize("exponent", [-37, -30, -20, -10])
    def test_statistics_up_to_infinity(self, test, exponent, x64):
        """Derivatives too: nothing is NaN where the p-value has underflowed."""
        with jax.enable_x64(x64):
            q = jnp.array([1 - 10.0**exponent, 10.0**exponent])
            for c in ([1, 1], [10**6, 1], [0, 10**15]):
                statistic, p_value, _ = test(np.array(c), q)
                assert statistic > 2
                assert p_value >= 0
                assert p_value < 0.1
                assert not np.isnan(compiled_slopes(test, *c)(q)).any()

    def test_one_degree_of_freedom_in_float64(self, test):
        with jax.enable_x64(True):
            c = np.array([[60, 40], [500, 501], [520, 480], [900, 100]])
            result = test(c, jnp.array([0.5, 0.5]))
        expected = scipy.special.erfc(np.sqrt(np.asarray(result.statistic) / 2))
        np.testing.assert_allclose(result.p_value, expected, 1e-13)
        np.testing.assert_allclose(result.p_value[:3], expected[:3], 1e-14)

    def test_an_impossible_class(self, test):
        q = jnp.array([0.5, 0.5, 0.0])
        absent = test(jnp.array([4, 6, 0]), q)
        without = test(jnp.array([4, 6]), q[:2])
        np.testing.assert_array_equal(absent, without)
        assert absent.dof == 1
        present = test(jnp.array([4, 6, 1]), q)
        assert (present.statistic, present.p_value, present.dof) == (np.inf, 0, 1)

    def test_a_single_possible_class(self, test):
        q = jnp.array([1.0, 0.0])
        assert tuple(test(jnp.array([3, 0]), q)) == (0, 1, 0)
        assert tuple(test(jnp.array([3, 1]), q)) == (np.inf, 0, 0)
        assert tuple(test(jnp.array([3]), q[:1])) == (0, 1, 0)

    def test_a_class_that_does_not_occur(self, test):
        expected = scipy.stats.power_divergence([0, 6, 2], [2, 4, 2], lambda_=LAMBDA[test])
        result = test(jnp.array([0, 6, 2]), jnp.array([0.25, 0.5, 0.25]))
        np.testing.assert_allclose(result[:2], expected, rtol=1e-6)

    def test_a_perfect_fit(self, test):
        assert tuple(test(jnp.array([2, 4, 2]), jnp.array([0.25, 0.5, 0.25]))) == (0, 1, 2)

    def test_batches_are_loops_also_under_jit_and_vmap(self, test):
        c = jnp.array([[4, 0, 9, 2], [1, 0, 0, 0], [3, 3, 3, 0]])
        q = jnp.array([0.5, 0.125, 0.25, 0.125])
        rows = [jnp.stack(x) for x in zip(*(test(row, q) for row in c), strict=True)]
        for batched in (test, jax.jit(test), jax.vmap(test, (0, None))):
            for got, expected in zip(batched(c, q), rows, strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-6)

    def test_derivatives_in_the_pmf(self, test):
        c, logits = jnp.array([4, 3, 9, 2]), jnp.array([0.1, -0.3, 0.4, 0.0])

        def of(field):
            return jax.jit(lambda logits: test(c, jax.nn.softmax(logits))[field])

        with jax.enable_x64(True):
            logits = logits.astype(jnp.float64)
            for field in (0, 1):
                value, steps = of(field), 1e-5 * np.eye(4)
                slope = jax.jit(jax.grad(value))(logits)
                differences = [(value(logits + h) - value(logits - h)) / 2e-5 for h in steps]
                np.testing.assert_allclose(slope, differences, rtol=1e-6, atol=1e-8)

    @pytest.mark.parametrize(
        ("c", "q", "message"),
        [
            ([1, -2], [0.5, 0.5], r"counts: expected finite numbers >= 0, got -2"),
            ([1, 2.5], [0.5, 0.5], r"counts: expected whole numbers, got 2\.5"),
            ([0, 0], [0.5, 0.5], "counts: expected at least one count > 0, got all 0"),
            ([1, 1, 1], [0.5, 0.5], "counts: expected 2 classes as in q, got 3"),
            ([1, 1], [0.5, 0.6], r"q: expected probabilities with sum 1 .*, got sum 1\.1"),
            ([1, 1], [1.5, -0.5], r"q: expected probabilities >= 0, got -0\.5"),
        ],
    )
    def test_bad_input(self, test, c, q, message):
        with pytest.raises(ValueError, match=message):
            test(np.array(c, np.float32), jnp.array(q))


@pytest.mark.parametrize(
    ("q", "pearson", "g", "p_of_g"),
    [
        ([8, 8, 8, 8], 4, 4.185985150116383, 0.2420687883789546),
        ([2, 16, 12, 2], 24, 16.635532333438686, 8.398028213531089e-04),
    ],
    ids=["uniform", "skewed"],
)
def test_values_of_the_tests_of_scipy(q, pearson, g, p_of_g):
    """scipy/stats/tests/test_stats.py, power_divergence of [4, 8, 12, 8]."""
    c, q = jnp.array([4, 8, 12, 8]), jnp.array(q) / 32
    np.testing.assert_allclose(chi_squared_test(c, q).statistic, pearson, rtol=1e-6)
    np.testing.assert_allclose(g_test(c, q)[:2], [g, p_of_g], rtol=2e-6)


def test_chi_squared_of_the_examples_of_entropy():
    """R's `entropy`: chi2.empirical, which is the statistic over N."""
    c, q = jnp.array([4, 2, 3, 1, 6, 4]), jnp.array([0.1, 0.15, 0.35, 0.05, 0.2, 0.15])
    np.testing.assert_allclose(chi_squared_test(c, q).statistic / 20, 0.2976190476190476, 1e-6)
    np.testing.assert_allclose(g_test(c, q).statistic / 40, 0.1501641931658976, 1e-6)


def test_tail_of_the_p_value_until_it_underflows():
    c = jnp.array([[60, 140], [40, 160], [20, 180], [15, 185]])
    result = chi_squared_test(c, jnp.array([0.5, 0.5]))
    np.testing.assert_allclose(
        result.p_value, scipy.stats.chi2.sf(np.asarray(result.statistic, float), 1), 1e-5
    )
    assert result.p_value[-1] < 1e-30


@pytest.mark.parametrize("test", TESTS, ids=lambda f: f.__name__)
def test_swapped_arguments_are_told_so(test):
    pmf = jnp.array([0.5, 0.25, 0.25])
    swapped = rf"are the arguments of {test.__name__}\(counts, q\) swapped\?$"
    with pytest.raises(ValueError, match=r"^counts: expected whole numbers, got 0\.5.*" + swapped):
        test(pmf, jnp.array([3, 1, 2]))
    with pytest.raises(ValueError, match=r"^q: .* got sum 6; counts go .*entropy_estimate$"):
        test(jnp.array([3, 1, 2]), jnp.array([3.0, 1.0, 2.0]))


@pytest.mark.parametrize(("test", "power"), [(g_test, 0), (chi_squared_test, 1)])
def test_slopes_in_q_along_the_simplex(test, power):
    """The Cressie-Read power 0 of scipy is G, 1 is X^2."""
    c, q = np.array([4.0, 8, 12, 8]), np.array([0.1, 0.2, 0.3, 0.4])

    def value(q):
        expected = c.sum() * q / q.sum()
        return scipy.stats.power_divergence(c, expected, lambda_=power).statistic

    steps = 1e-5 * np.eye(4)
    slopes = [(value(q + step) - value(q - step)) / 2e-5 for step in steps]
    gradient = jax.jit(jax.grad(lambda q: test(jnp.array(c), q).statistic))(q.astype(np.float32))
    along, expected = gradient - gradient.mean(), np.array(slopes) - np.mean(slopes)
    np.testing.assert_allclose(along, expected, rtol=1e-5, atol=1e-4)
