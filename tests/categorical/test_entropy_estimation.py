"""Estimates of entropy against R's `entropy`, ndd, and the definitions written out in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.special import polygamma, psi

from tests.support.tolerances import GRADIENT, VALUE
from xentjax import entropy_estimate, nsb_entropy
from xentjax.information.units import Base

RTOL = {"float32": GRADIENT["float32"], "float64": 1e-6}
Y = [4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1]  # of the examples of R's `entropy`


def entropy(p):
    p = p[p > 0]
    return -(p * np.log(p)).sum()


def oracle(c, method):
    c = np.asarray(c, float)
    n, k, p = c.sum(), len(c), c / c.sum()
    seen = c[c > 0]
    if method == "nsb":
        return nsb_oracle(c)[0]
    pseudocounts = {"jeffreys": 0.5, "laplace": 1, "perks": 1 / k, "minimax": np.sqrt(n) / k}
    if k == 1:
        return 0.0
    if method in pseudocounts:
        a = pseudocounts[method]
        return entropy((c + a) / (n + k * a))
    if method == "plug_in":
        return entropy(p)
    if method == "miller_madow":
        return entropy(p) + (len(seen) - 1) / (2 * n)
    if method == "chao_shen":
        singles = (c == 1).sum()
        coverage = 1 - (singles if singles < n else n - 1) / n
        q = coverage * seen / n
        return -(q * np.log(q) / (1 - (1 - q) ** n)).sum()
    if method == "grassberger":
        # as in the paper, by the parity of the count
        g = psi(seen) + (-1) ** seen / 2 * (psi((seen + 1) / 2) - psi(seen / 2))
        return np.log(n) - (seen * g).sum() / n
    distance = (n - 1) * ((p - 1 / k) ** 2).sum()
    intensity = min(1, (1 - (p**2).sum()) / distance) if distance > 0 else 1
    return entropy(intensity / k + (1 - intensity) * p)


def nsb_oracle(c):
    """The prior, the likelihood as a product over samples, and the moments of Wolpert and Wolf.

    The trapezoidal rule over log a, which is spectrally accurate for a density that is analytic
    and vanishes at both ends.
    """
    c = np.asarray(c, float)
    n, k = c.sum(), len(c)
    if k == 1:
        return 0.0, 0.0
    a = np.exp(np.linspace(-35, 35, 1401))[:, None]
    likelihood = sum(np.log1p(np.arange(x) / a).sum(1) for x in c)
    likelihood = likelihood - np.log1p(np.arange(n) / (k * a)).sum(1)
    prior = k * a * polygamma(1, k * a + 1) - a * polygamma(1, a + 1)
    weights = np.exp(likelihood - likelihood.max()) * prior[:, 0]
    weights /= weights.sum()
    w, s = c + a, n + k * a
    mean = psi(s[:, 0] + 1) - (w / s * psi(w + 1)).sum(1)
    i, j = psi(w + 1) - psi(s + 2), psi(w + 2) - psi(s + 2)
    pairs = (
        w[:, :, None] * w[:, None] * (i[:, :, None] * i[:, None] - polygamma(1, s + 2)[..., None])
    )
    pairs[:, np.arange(k), np.arange(k)] = (
        w * (w + 1) * (j**2 + polygamma(1, w + 2) - polygamma(1, s + 2))
    )
    square = (pairs / (s * (s + 1))[..., None]).sum((1, 2))
    overall = weights @ mean
    return overall, np.sqrt(weights @ (square - mean**2 + (mean - overall) ** 2))


METHODS = {  # and their values at Y, of R's `entropy`; the last digits and Grassberger's are ours
    "plug_in": 1.9683824087283812,
    "miller_madow": 2.152592935044171,
    "chao_shen": 2.201137101279585,
    "james_stein": 2.379602895309956,
    "jeffreys": 2.1794803827237024,
    "laplace": 2.257875518693044,
    "perks": 2.036887808123718,
    "minimax": 2.1540911899309605,
    "grassberger": 2.1446263860314274,
    "nsb": 2.18777446309210,
}


@st.composite
def problems(draw):
    """Counts of one size, so that nothing is compiled twice, some of them 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    concentration = draw(st.sampled_from([0.1, 1.0, 10.0]))
    n = draw(st.sampled_from([1, 2, 5, 20, 100, 300]))
    return rng.multinomial(n, rng.dirichlet(np.full(11, concentration)))


@functools.cache
def mapped(method):
    """Compile once for the tests that share it, which all use one shape."""
    return jax.jit(jax.vmap(lambda c: entropy_estimate(c, method=method)))


@pytest.mark.parametrize("method", [method for method in METHODS if method != "nsb"])
class TestEveryFormula:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(c=problems())
    def test_random_counts(self, method, dtype, c):
        with jax.enable_x64(dtype == "float64"):
            estimate = entropy_estimate(c, method=method)
            assert estimate.dtype == dtype
        np.testing.assert_allclose(estimate, oracle(c, method), RTOL[dtype], atol=1e-12)

    @pytest.mark.parametrize(("dtype", "rtol"), [("float32", 2e-6), ("float64", 1e-9)])
    @pytest.mark.parametrize(
        "first",
        [
            [10**6, 1],
            [10**6, 999_999, 1],
            [10**6 + 1000] + [10**6] * 10,
            [500],
            [1] * 11,
            [1, 1],
            [1],
        ],
        ids=["nearly certain", "two", "alike", "certain", "all alone", "two alone", "one sample"],
    )
    def test_extremes(self, method, first, dtype, rtol):
        c = np.array(first + [0] * (11 - len(first)))
        with jax.enable_x64(dtype == "float64"):
            result = entropy_estimate(c, method=method)
        np.testing.assert_allclose(result, oracle(c, method), rtol, atol=1e-3 * rtol)


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_published_value_in_any_unit(self, method):
        """The corrections are converted too."""
        units: dict[Base, float] = {None: 1, "bits": math.log(2), 10: math.log(10)}
        for base, nats in units.items():
            result = entropy_estimate(jnp.array(Y), method=method, base=base)
            np.testing.assert_allclose(result, METHODS[method] / nats, VALUE["float32"])

    def test_batches_are_loops_also_under_jit_and_vmap(self, method):
        c = np.array([[[4, 0, 9, 2], [1, 0, 0, 0]], [[3, 3, 3, 0], [1, 500, 2, 0]]])
        rows = [[oracle(row, method) for row in block] for block in c]
        result = mapped(method)(jnp.array(c, jnp.float32))
        np.testing.assert_allclose(result, rows, RTOL["float32"], atol=1e-7)

    def test_unknown_counts_that_are_none_give_nan(self, method):
        c = np.ones((2, 2, 4), np.float32)
        c[0, 0], c[0, 1, 0], c[1, 0, 0] = 0, np.inf, np.nan
        np.testing.assert_array_equal(np.isnan(mapped(method)(c)), [[True, True], [True, False]])

    def test_one_class_has_no_entropy(self, method):
        np.testing.assert_array_equal(entropy_estimate(jnp.array([[1], [7]]), method=method), 0)


class TestNSB:
    def test_published_posterior(self):
        """R's entropy.NSB gives 2.187774; its standard deviation is our own quadrature."""
        posterior = nsb_entropy(jnp.array(Y))
        np.testing.assert_allclose(posterior.mean, 2.187774, rtol=0, atol=1e-6)
        np.testing.assert_allclose(posterior.standard_deviation, 0.14089254, rtol=1e-5)

    def test_example_of_ndd(self):
        """NDD's README gives 2.80609 +- 0.11945; its quadrature limits the digits that agree."""
        c = np.zeros(100, int)
        c[:19] = [4, 12, 4, 5, 3, 1, 5, 1, 2, 2, 2, 2, 11, 3, 4, 12, 12, 1, 2]
        mean, standard_deviation = nsb_entropy(c)
        np.testing.assert_allclose(mean, 2.8060922529931225, rtol=0, atol=1e-5)
        np.testing.assert_allclose(standard_deviation, 0.11945501149743358, rtol=0, atol=1e-4)

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(c=problems())
    def test_random_counts(self, dtype, c):
        with jax.enable_x64(dtype == "float64"):
            posterior = nsb_entropy(c)
            assert posterior.mean.dtype == posterior.standard_deviation.dtype == dtype
        np.testing.assert_allclose(posterior, nsb_oracle(c), RTOL[dtype])

    @pytest.mark.parametrize(
        ("c", "mean", "standard_deviation"),
        # by mpmath in 60 digits
        [
            ([10**6] * 11, 2.39789518188931, 9.09090486029498e-8),
            ([10**6] + [0] * 10, 9.79368931255484e-7, 3.7657816494424e-6),
            ([10**6, 1] + [0] * 9, 1.63541885874582e-5, 1.4413791389907e-5),
            ([1000] * 1000, 6.90775427898481, 9.99995995956389e-7),
        ],
        ids=["alike", "certain", "nearly certain", "a thousand classes"],
    )
    def test_far_below_the_resolution_of_the_evidence(self, c, mean, standard_deviation):
        posterior = nsb_entropy(np.array(c))
        np.testing.assert_allclose(posterior, [mean, standard_deviation], RTOL["float32"])

    @pytest.mark.parametrize("k", [11, 1000])
    def test_one_sample_says_nothing(self, k):
        """The entropy's mean remains that of its prior, which is uniform on (0, log K)."""
        mean = nsb_entropy(np.eye(1, k, dtype=int)[0]).mean
        np.testing.assert_allclose(mean, math.log(k) / 2, VALUE["float32"])

    def test_errors_are_as_large_as_promised(self):
        """The error over dice drawn from the prior is 0 on average, and its square the variance."""
        rng = np.random.default_rng(0)
        k, n, dice = 7, 15, 4000
        grid = np.exp(np.linspace(-20, 20, 4001))
        xi = psi(k * grid + 1) - psi(grid + 1)
        a = np.interp(rng.uniform(0, math.log(k), dice), xi, grid)
        # log of gamma variates of small shape, which themselves would underflow
        logs = np.log(rng.gamma(a[:, None] + 1, size=(dice, k)))
        logs += np.log(rng.uniform(size=(dice, k))) / a[:, None]
        p = np.exp(logs - logs.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        posterior = nsb_entropy(rng.multinomial(n, p))
        error = np.asarray(posterior.mean) - [entropy(row) for row in p]
        variance = np.asarray(posterior.standard_deviation) ** 2
        assert abs(error.mean()) < 3 * error.std() / math.sqrt(dice)
        spread = np.std(error**2 - variance) / math.sqrt(dice)
        assert abs((error**2 - variance).mean()) < 3 * spread

    def test_units_and_the_method_of_the_same_name(self):
        nats, bits = nsb_entropy(jnp.array(Y)), nsb_entropy(jnp.array(Y), base="bits")
        np.testing.assert_allclose(np.array(bits) * math.log(2), nats, VALUE["float32"])
        estimate = entropy_estimate(jnp.array(Y), method="nsb", base="bits")
        np.testing.assert_allclose(estimate, bits.mean, VALUE["float32"])

    def test_one_class(self):
        np.testing.assert_array_equal(nsb_entropy(jnp.array([5])), [0, 0])


@pytest.mark.parametrize("function", [entropy_estimate, nsb_entropy])
@pytest.mark.parametrize(
    ("c", "keywords", "message"),
    [
        ([1, -2], {}, r"counts: expected finite numbers >= 0, got -2"),
        ([1, 2.5], {}, r"counts: expected whole numbers, got 2\.5"),
        ([[1, 1], [0, 0]], {}, "counts: expected at least one count > 0, got all 0"),
        (3, {}, r"counts: expected at least one class, got shape \(\)"),
        ([1, 1], {"base": 1}, "base: expected None, 'nats', .*, got 1"),
    ],
)
def test_bad_input(function, c, keywords, message):
    with pytest.raises(ValueError, match=message):
        function(jnp.array(c), **keywords)


@pytest.mark.usefixtures("unchecked_annotations")
def test_unknown_method():
    with pytest.raises(ValueError, match=r"method: expected one of 'plug_in', .*, got 'best'"):
        entropy_estimate(jnp.ones(2), method="best")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("method", ["plug_in", "miller_madow", "grassberger", "nsb"])
@pytest.mark.parametrize("n", [10**9, 10**14])
def test_a_rare_class_beside_very_many_samples(method, n):
    """N - c of the large class rounded to 0 in float32, so that 5 % of the entropy was missing."""
    result = entropy_estimate(np.array([n, 3]), method=method)
    plug_in = 3 / n * (np.log(n / 3) + 1)
    if method == "plug_in":
        np.testing.assert_allclose(result, plug_in, 1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(result, entropy_estimate(np.array([n, 3]), method=method), 2e-5)


@functools.cache
def slopes_of(method):
    """Slopes of an estimate in reverse mode and, but for NSB, in forward mode."""

    def estimate(c):
        return entropy_estimate(c, method=method)

    def slopes(c):
        return jax.grad(estimate)(c), None if method == "nsb" else jax.jacfwd(estimate)(c)

    return jax.jit(slopes)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("c", [[4.0, 0, 2], [7.0, 0, 0], [2.0, 2, 2], [1.0, 1, 1]], ids=str)
def test_slopes_in_counts_where_some_are_0(method, c):
    """No NaN; infinite where the limit is, as that of -p log p at 0."""
    with jax.enable_x64(method == "nsb"):  # in float32 its reverse mode is NaN beside a count of 0
        c = jnp.array(c)
        slopes, forward = slopes_of(method)(c)
    assert not np.isnan(slopes).any()
    if method in ("plug_in", "miller_madow"):
        np.testing.assert_array_equal(slopes == np.inf, c == 0)
    if method == "plug_in":
        p, occurs = np.asarray(c / c.sum()), np.asarray(c) > 0
        h = -(p[occurs] * np.log(p[occurs])).sum()
        expected = (-np.log(p[occurs]) - h) / c.sum()
        np.testing.assert_allclose(slopes[occurs], expected, 1e-5, 1e-7)
    if method != "nsb":  # whose slope at one class alone diverges as log 0 does
        np.testing.assert_allclose(forward, slopes, 1e-4, 1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 10**15)), min_size=3, max_size=3))
def test_nsb_ends_for_every_input(c):
    c[0] += 1
    mean, deviation = nsb_entropy(np.array(c))
    assert 0 <= mean <= np.log(3) * (1 + 1e-6)
    assert deviation >= 0
