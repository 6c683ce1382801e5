"""Power of the G-test against SciPy's noncentral chi-squared law, sums and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from tests.support.tolerances import GRADIENT, VALUE
from xentjax import g_test, power, sample_size
from xentjax.categorical._noncentral import noncentral_tails

FAIR = np.full(6, 1 / 6)
LOADED = np.array([0.15, 0.15, 0.15, 0.15, 0.15, 0.25])
ALPHAS = [0.9, 0.5, 0.05, 1e-3, 1e-12, 1e-30]
NONCENTRALITIES = np.array([1e-6, 0.01, 0.3, 1, 3, 10, 30, 100, 300, 1e3, 1e4])
sizes = jax.jit(power)


def mixture(a, x, y, of_chi_squared):
    """A tail as a mixture over a Poisson distribution, whose terms are all positive."""
    reach = 12 * np.sqrt(y) + 80
    j = np.arange(max(0, int(y - reach)), int(y + reach) + 1)
    return scipy.stats.poisson.pmf(j, y) @ of_chi_squared(2 * x, 2 * (a + j))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [2, 3, 31, 1001])
def test_scipys_law(dtype, k):
    q = np.full(k, 1 / k)
    p = q * (1 + 0.5 * np.resize([1, -1, 0.3, -0.3], k))
    p = p / p.sum()
    n = NONCENTRALITIES / (2 * scipy.stats.entropy(p, q))
    with jax.enable_x64(dtype == "float64"):
        found = [power(p, q, n, alpha=alpha) for alpha in ALPHAS]
        assert {x.dtype.name for x in found} == {dtype}
    critical = scipy.stats.chi2.isf(np.array(ALPHAS)[:, None], k - 1)
    expected = scipy.stats.ncx2.sf(critical, k - 1, NONCENTRALITIES)
    # Of scipy, which is what differs: 1e-10 at 1000 degrees of freedom and a tail of 1e-30.
    rtol = {"float32": VALUE["float32"], "float64": 1e-10}[dtype]
    np.testing.assert_allclose(found, expected, rtol)


def test_both_tails_of_any_size():
    """Degrees of freedom and noncentralities to 1e5, 6 deviations to either side of the mean."""
    rng = np.random.default_rng(0)
    a = np.maximum(np.round(np.exp(rng.uniform(np.log(0.5), np.log(1e5), 300))), 1) / 2
    y = np.exp(rng.uniform(-8, np.log(1e5), 300))
    deviation = rng.uniform(-6, 6, 300) * np.sqrt(a + 2 * y)
    x = np.maximum(a + y + deviation, a * 0.01)
    with jax.enable_x64(True):
        tails = jax.jit(noncentral_tails)(a, x, y)
    laws = {"upper": scipy.stats.chi2.sf, "lower": scipy.stats.chi2.cdf}
    for name, law in laws.items():
        expected = [mixture(*row, law) for row in zip(a, x, y, strict=True)]
        np.testing.assert_allclose(getattr(tails, name), expected, 1e-9)  # of the Poisson pmf


def test_far_noncentralities_are_normal():
    """10^10 and more, where scipy fails: the root of X is normal, of deviation 1."""
    with jax.enable_x64(True):
        y = np.array([1e10, 1e12, 1e14])
        z = np.array([-3.0, 0, 3])[:, None]
        root = np.sqrt(2 * y) + z
        x, y = np.broadcast_arrays(root**2 / 2, y)
        tails = jax.jit(noncentral_tails)(np.full(y.shape, 0.5), x, y)
    expected = np.broadcast_to(scipy.stats.norm.sf(z), y.shape)
    np.testing.assert_allclose(tails.upper, expected, 1e-7)  # of the root's own rounding


@pytest.mark.parametrize("alpha", [0.05, 1e-6])
def test_slopes(alpha):
    """Slopes in n and alpha by SciPy's densities, in p by a difference."""
    n = 200.0
    divergence = scipy.stats.entropy(LOADED, FAIR)
    critical, noncentrality = scipy.stats.chi2.isf(alpha, 5), 2 * n * divergence
    by_n = 2 * divergence * scipy.stats.ncx2.pdf(critical, 7, noncentrality)
    density = scipy.stats.ncx2.pdf(critical, 5, noncentrality)
    by_alpha = density / scipy.stats.chi2.pdf(critical, 5)
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            slopes = jax.grad(lambda n, alpha: power(LOADED, FAIR, n, alpha=alpha), (0, 1))
            found = jax.jit(slopes)(*(jnp.asarray(v, dtype) for v in (n, alpha)))
        rtol = {"float32": GRADIENT["float32"], "float64": 1e-10}[dtype]  # of scipy
        np.testing.assert_allclose(found, [by_n, by_alpha], rtol)
    with jax.enable_x64(True):
        direction = np.array([1, -2, 1, 0, 0.5, -0.5])
        slopes = jax.jit(jax.grad(lambda p: power(p, FAIR, n, alpha=alpha)))(jnp.array(LOADED))
        slope = slopes @ direction
        up, down = map(
            float, power(LOADED + np.array([[1e-5], [-1e-5]]) * direction, FAIR, n, alpha=alpha)
        )
    np.testing.assert_allclose(slope, (up - down) / 2e-5, 1e-6)


def test_slopes_at_the_ends():
    at_0 = jax.jit(jax.grad(lambda n: power(LOADED, FAIR, n)))(0.0)
    divergence = scipy.stats.entropy(LOADED, FAIR)
    critical = scipy.stats.chi2.isf(0.05, 5)
    np.testing.assert_allclose(at_0, 2 * divergence * scipy.stats.chi2.pdf(critical, 7), 1e-5)
    certain = jax.jit(jax.grad(lambda q: power(np.array([0.5, 0.5]), q, 3.0)))(np.array([1.0, 0.0]))
    np.testing.assert_array_equal(certain, 0)


def test_simulated_dice():
    """Shares of 10^5 dice that are rejected: of 1 / n beside the power, for a loaded and fair."""
    n, p = 2000, FAIR + 0.012 * np.array([1, -1, 1, -1, 0.5, -0.5])
    test = jax.jit(lambda counts: g_test(counts, FAIR).p_value)
    for truth in (p, FAIR):
        counts = np.random.default_rng(0).multinomial(n, truth, 100_000)
        rejected = np.mean(np.asarray(test(counts)) < 0.05)
        expected = float(power(truth, FAIR, n))
        error = np.sqrt(expected * (1 - expected) / 100_000)
        assert abs(rejected - expected) < 4 * error + 5 / n
    assert 0.5 < float(power(p, FAIR, n)) < 0.9


def test_the_ends():
    np.testing.assert_allclose(power(FAIR, FAIR, 10**9), 0.05, VALUE["float32"])
    np.testing.assert_allclose(power(LOADED, FAIR, 0), 0.05, VALUE["float32"])
    excluded, certain = np.array([0.5, 0.5, 0]), np.array([0.5, 0.25, 0.25])
    assert power(certain, excluded, 3) == 1
    np.testing.assert_allclose(power(certain, excluded, 0), 0.05, VALUE["float32"])
    assert power(np.array([1.0, 0]), np.array([1.0, 0]), 5) == 0
    # A class that neither has is none.
    added = [power(np.append(v, 0), np.append(FAIR, 0), 100) for v in (LOADED, FAIR)]
    np.testing.assert_allclose(added, [power(v, FAIR, 100) for v in (LOADED, FAIR)], 1e-6)


def test_batches_under_jit_and_vmap():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), (3, 2)), rng.dirichlet(np.ones(4), 2)
    n = np.array([[5], [20], [80]])
    expected = np.array([[power(p[i, j], q[j], n[i, 0]) for j in range(2)] for i in range(3)])
    np.testing.assert_allclose(power(p, q, n), expected, 1e-6)
    each = jax.vmap(jax.vmap(power, (0, 0, None)), (0, None, 0))
    np.testing.assert_allclose(jax.jit(each)(p, q, n[:, 0]), expected, 1e-6)


@pytest.mark.parametrize(
    ("wanted", "alpha"), [(0.8, 0.05), (0.0501, 0.05), (0.3, 1e-12), (0.999, 1e-6), (0.99, 0.9)]
)
def test_the_least_number_of_samples(wanted, alpha):
    """Dice from far apart to so alike that int32 would not hold the number."""
    rng = np.random.default_rng(1)
    p, q = rng.dirichlet(np.ones(5), (2, 100))
    p[:50] = q[:50] * (1 + np.logspace(-6, -1, 50)[:, None] * rng.uniform(-1, 1, (50, 5)))
    p /= p.sum(-1, keepdims=True)
    n = sample_size(p, q, power=wanted, alpha=alpha)
    assert n.dtype == np.int64
    assert n.max() > 2**31
    with jax.enable_x64(True):
        enough, fewer = (np.asarray(sizes(p, q, m.astype(float), alpha=alpha)) for m in (n, n - 1))
    assert (enough >= wanted * (1 - 1e-12)).all()
    assert ((fewer < wanted + 1e-12) | (n == 1)).all()  # rounding of the upper tail


def test_powers_near_1():
    """Powers that differ from 1 by less than the rounding of the upper tail."""
    wanted = 1 - 2.0**-40
    n = int(sample_size(LOADED, FAIR, power=wanted))
    critical, divergence = scipy.stats.chi2.isf(0.05, 5), scipy.stats.entropy(LOADED, FAIR)
    missed = scipy.stats.ncx2.cdf(critical, 5, 2 * divergence * np.array([n - 1, n]))
    assert missed[0] > 2.0**-40 >= missed[1]


def test_what_no_number_of_samples_tells():
    assert sample_size(np.array([0.5, 0.5]), np.array([1.0, 0.0])) == 1
    with pytest.raises(ValueError, match=r"^p: expected another pmf than q.*, got q in row 1$"):
        sample_size(np.stack([LOADED, FAIR]), FAIR)
    near = FAIR + np.array([1e-9, -1e-9, 0, 0, 0, 0])
    with pytest.raises(ValueError, match=r"^p: expected a pmf that 2\^53 samples .* = 6e-18$"):
        sample_size(near, FAIR)


@pytest.mark.parametrize(
    ("keywords", "error", "line"),
    [
        ({"p": LOADED[:3]}, ValueError, "p: expected probabilities with sum 1"),
        ({"q": np.array([0.5, 0.5])}, ValueError, "q: expected 6 classes as in p, got 2$"),
        ({"p": np.arange(6)}, TypeError, "p: expected a floating dtype.*empirical_pmf$"),
        ({"alpha": 0.0}, ValueError, r"alpha: expected a number in \(0, 1\), got 0.0$"),
        ({"alpha": 1e-40, "power": None}, ValueError, "alpha: expected a number >= .* float32"),
        ({"n": -1, "power": None}, ValueError, "n: expected finite numbers >= 0, got -1$"),
        ({"n": np.ones(3), "q": np.stack([FAIR, FAIR])}, ValueError, "n: expected a shape that"),
        ({"power": 0.04}, ValueError, r"power: expected a number in \(alpha, 1\), .* got 0.04$"),
    ],
)
def test_bad_arguments(keywords, error, line):
    of_both = {"p": LOADED, "q": FAIR, "alpha": 0.05, **keywords}
    wanted = of_both.pop("power", 0.8)
    if "power" not in keywords or wanted is None:
        with pytest.raises(error, match=f"^{line}"):
            power(**{"n": 100, **of_both})
    of_both.pop("n", None)
    if "n" not in keywords and wanted is not None:
        with pytest.raises(error, match=f"^{line}"):
            sample_size(**of_both, power=wanted)


def test_a_sample_size_is_of_known_arguments():
    with pytest.raises(TypeError, match=r"^p: expected an array that is known"):
        jax.jit(lambda p: sample_size(p, FAIR))(LOADED)
