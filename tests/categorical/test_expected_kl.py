"""The expected divergence against scipy's binomial, published values and an enumeration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.special import xlogy

from tests.support.compiled import temporary_bytes
from tests.support.tolerances import GRADIENT, VALUE
from xentjax import entropy, entropy_estimate, expected_kl
from xentjax.information.units import Base

P = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01])
RTOL = {"float32": 2e-6, "float64": 1e-10}


def oracle(p, n):
    """Sum over all counts, class by class."""
    c = np.arange(n + 1)
    terms = [scipy.stats.binom.pmf(c, n, x) * (xlogy(c, c / (n * x)) - c + n * x) for x in p[p > 0]]
    return np.sum(terms) / n


@pytest.mark.parametrize(
    ("p", "n", "expected"),
    # A binomial sum in float64, beside the expansion (K - 1) / (2 n) + (sum_k 1/p_k - 1) / (12 n^2)
    [
        (P, 100, 0.04765443194),
        (P, 1000, 4.522846233e-3),
        (P, 50000, 9.000855961e-5),
        (np.full(100, 0.01), 1000, 0.05044002387),
    ],
    ids=["100", "1000", "50000", "uniform"],
)
def test_reference_values(p, n, expected):
    result = expected_kl(jnp.array(p, jnp.float32), n)
    np.testing.assert_allclose(result, expected, RTOL["float32"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 77])
def test_every_size_of_sample(n, dtype):
    """Rows of few classes are filled up with probability 0, which adds nothing."""
    p = np.zeros((5, 10))
    p[0], p[1, :2], p[2, :3] = P, [1 - 2**-20, 2**-20], [0.5, 0.5 - 1e-10, 1e-10]
    p[3, 1:3], p[4, :3] = [0.25, 0.75], [0.7, 0.3, 1e-30]
    with jax.enable_x64(dtype == "float64"):
        p = jnp.array(p, dtype)
        result = expected_kl(p, n)
        assert result.dtype == dtype
        expected = [oracle(row, n) for row in np.asarray(p, float)]
    np.testing.assert_allclose(result, expected, RTOL[dtype])


def test_a_million_samples():
    p = np.array([0.5, 0.375, 0.125])
    result = expected_kl(jnp.array(p, jnp.float32), 10**6)
    expansion = 2 / (2 * 10**6) + ((1 / p).sum() - 1) / (12 * 10**12)
    np.testing.assert_allclose(result, expansion, RTOL["float32"])


def test_is_the_bias_of_the_plug_in_entropy():
    """E[H(c / n)] = H(p) - E[KL(c / n || p)], here over all 66 counts of 10 samples."""
    n, p = 10, np.array([0.6, 0.3, 0.1])
    c = np.array([c for c in itertools.product(range(n + 1), repeat=3) if sum(c) == n])
    probability = scipy.stats.multinomial.pmf(c, n, p)
    with jax.enable_x64(True):
        mean = probability @ np.asarray(entropy_estimate(c, method="plug_in"))
        bias = entropy(jnp.array(p)) - mean
        np.testing.assert_allclose(expected_kl(jnp.array(p), n), bias, 1e-12)


def test_units():
    p = jnp.array([0.5, 0.5])
    units: dict[Base, float] = {"bits": math.log(2), 10: math.log(10)}
    for base, size in units.items():
        result = expected_kl(p, 5, base=base) * size
        np.testing.assert_allclose(result, expected_kl(p, 5), VALUE["float32"])


def test_batches_are_loops_also_under_jit_and_vmap():
    p = jnp.array([[[0.5, 0.25, 0.25], [1, 0, 0]], [[0.125, 0.125, 0.75], [0.5, 0.5, 0]]])
    rows = jnp.stack([jnp.stack([expected_kl(row, 30) for row in block]) for block in p])
    mapped = jax.jit(jax.vmap(lambda p: expected_kl(p, 30)))
    np.testing.assert_allclose(mapped(p), rows, VALUE["float32"])


def test_half_precision_is_computed_in_float32():
    p = jnp.array([0.5, 0.25, 0.25], jnp.bfloat16)
    result = expected_kl(p, 30)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, expected_kl(p.astype(jnp.float32), 30))


def test_memory_does_not_grow_with_n():
    def temporaries(n):
        p = jnp.full((8, 16), 1 / 16)
        return temporary_bytes(jax.jit(expected_kl, static_argnums=1), p, n)

    assert temporaries(2**24) <= temporaries(2**12) + 1024


class TestGradient:
    def test_against_differences(self):
        with jax.enable_x64(True):
            p, n = jnp.array([0.6, 0.3, 0.1]), 10
            gradient = jax.grad(expected_kl)(p, n)
            slopes = []
            for h in 1e-6 * np.eye(3):
                difference = oracle(np.asarray(p) + h, n) - oracle(np.asarray(p) - h, n)
                slopes.append(difference / 2e-6)
            np.testing.assert_allclose(gradient, slopes, 1e-7)
            _, dot = jax.jvp(lambda p: expected_kl(p, n), (p,), (jnp.array([1.0, -1, 0]),))
            np.testing.assert_allclose(dot, slopes[0] - slopes[1], 1e-7)

    def test_at_the_ends(self):
        """One-sided: at 0 the slope of -x log x, at 1 of q ((n - 1) log((n - 1) / n) + 1)."""
        p, n = jnp.array([0.0, 1.0]), 5
        assert expected_kl(p, n) == 0
        gradient = jax.grad(expected_kl)(p, n)
        assert gradient[0] == np.inf
        np.testing.assert_allclose(gradient[1], -(4 * math.log(4 / 5) + 1), GRADIENT["float32"])
        assert jax.jvp(lambda p: expected_kl(p, n), (p,), (jnp.zeros(2),))[1] == 0


@pytest.mark.parametrize(
    ("p", "n", "message"),
    [
        ([0.5, 0.6], 10, r"p: expected probabilities with sum 1 .*, got sum 1\.1"),
        ([1.5, -0.5], 10, r"p: expected probabilities >= 0, got -0\.5"),
        ([0.5, 0.5], 0, r"n: expected an integer 1\.\.16777216, got 0"),
        ([0.5, 0.5], 2**24 + 1, r"n: expected an integer 1\.\.16777216, got 16777217"),
        (1.0, 10, r"p: expected at least one class, got shape \(\)"),
    ],
)
def test_bad_values(p, n, message):
    with pytest.raises(ValueError, match=message):
        expected_kl(jnp.array(p), n)


def test_bad_types():
    with pytest.raises(TypeError, match="n: expected an integer, got True"):
        expected_kl(jnp.array([0.5, 0.5]), True)
    with pytest.raises(TypeError, match="p: expected a floating dtype, got int32"):
        expected_kl(jnp.array([0, 1]), 10)
    with pytest.raises(TypeError):
        expected_kl(jnp.array([0.5, 0.5]), 2.5)  # pyright: ignore[reportArgumentType]


def test_many_classes_take_the_terms_that_each_needs():
    """10^5 classes and 10^4 samples took two minutes; against a sum over all likely counts."""
    rng, n, k = np.random.default_rng(0), 10**4, 10**5
    p = rng.dirichlet(np.ones(k)).astype(np.float32)
    p[0] = 0.0
    p = (p / p.sum(dtype=np.float64)).astype(np.float32)
    c, total = np.arange(80)[:, None], 0.0
    for part in np.array_split(p.astype(float)[1:], 20):
        log_ratio = np.log(np.maximum(c, 1) / (n * part))
        total += (scipy.stats.binom.pmf(c, n, part) * (c * log_ratio - c + n * part)).sum()
    np.testing.assert_allclose(expected_kl(jnp.array(p), n), total / n, 1e-6)


def test_one_large_class_among_many_small_ones():
    p = np.full(2001, 0.5 / 2000)
    p[1000] = 0.5
    n = 1000
    c = np.arange(n + 1)[:, None]
    log_ratio = np.log(np.maximum(c, 1) / (n * p))
    expected = (scipy.stats.binom.pmf(c, n, p) * (c * log_ratio - c + n * p)).sum() / n
    result = expected_kl(jnp.array(p, jnp.float32), n)
    np.testing.assert_allclose(result, expected, 2e-6)
    batch = jax.vmap(lambda p: expected_kl(p, n))(jnp.array([p, p], jnp.float32))
    np.testing.assert_allclose(batch, [expected] * 2, 2e-6)


def test_no_pmfs():
    assert expected_kl(jnp.zeros((0, 3)), 5).shape == (0,)
