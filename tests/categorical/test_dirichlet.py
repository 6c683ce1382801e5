"""Dirichlet fits of many dice against SciPy's optimiser, published values and the boundaries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from tests.support.tolerances import VALUE
from xentjax import fit_dirichlet, log_evidence, multinomial_log_likelihood

DICE = np.array([[8, 1, 1], [2, 7, 1], [5, 4, 1], [9, 1, 0], [3, 3, 4]])
FAMILIES = np.array([3, 24, 104, 286, 670, 1033, 1343, 1112, 829, 478, 181, 45, 7])
"""Families of twelve children in Saxony by their number of boys (Geissler, 1889)."""
fit = jax.jit(fit_dirichlet)


def drawn(seed, concentration, sizes):
    rng = np.random.default_rng(seed)
    return rng.multinomial(sizes, rng.dirichlet(concentration, len(sizes)))


def gradient(a, counts):
    psi, n = scipy.special.digamma, counts.sum(1)
    of_all = (psi(a.sum()) - psi(a.sum() + n)).sum()
    return of_all + (psi(counts + a) - psi(a)).sum(0)


def information(a, counts):
    """Minus the second derivative of the log-likelihood."""
    psi, n = lambda x: scipy.special.polygamma(1, x), counts.sum(1)
    of_all = (psi(a.sum() + n) - psi(a.sum())).sum()
    return of_all + np.diag((psi(a) - psi(counts + a)).sum(0))


TABLES = [
    drawn(0, [2.0, 1.0, 0.5, 4.0], np.full(12, 20)),
    drawn(1, [20.0, 10.0, 5.0, 1.0], np.geomspace(1, 3000, 12).astype(int)),
    drawn(2, [0.05, 0.1, 0.02, 0.2], np.full(12, 9)),
    drawn(3, [300.0, 100.0, 200.0, 50.0], np.full(12, 200_000)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_agrees_with_scipys_root_of_the_gradient(dtype):
    with jax.enable_x64(dtype == "float64"):
        result = fit(np.stack(TABLES))
        evidence = [
            log_evidence(t, a).sum() for t, a in zip(TABLES, result.concentration, strict=True)
        ]
        errors = np.asarray(result.standard_errors)
        result, evidence = jax.tree.map(np.asarray, (result, evidence))
    rtol = {"float32": VALUE["float32"], "float64": 1e-7}[dtype]  # SciPy's in large concentrations
    for i, table in enumerate(TABLES):
        start = np.log(np.asarray(result.concentration[i], float)) + 0.01
        root = scipy.optimize.root(
            lambda u, t=table: np.exp(u) * gradient(np.exp(u), t), start, tol=1e-13
        )
        a = np.exp(root.x)
        np.testing.assert_allclose(result.concentration[i], a, rtol)
        np.testing.assert_allclose(result.mean[i], a / a.sum(), rtol)
        np.testing.assert_allclose(result.correlation[i], 1 / (1 + a.sum()), rtol)
        covariance = np.linalg.inv(information(a, table))
        np.testing.assert_allclose(result.covariance[i], covariance, 10 * rtol)
        np.testing.assert_allclose(errors[i], np.sqrt(np.diag(covariance)), 10 * rtol)
    np.testing.assert_allclose(result.log_likelihood, evidence, VALUE["float32"])
    assert result.converged.all()
    assert (result.certificate <= 1e-8).all()
    assert (result.steps < 10).all()


def test_is_the_global_maximum_of_random_tables():
    """Likelihoods of SciPy's optimiser from several starts are no higher."""
    rng = np.random.default_rng(5)
    tables = np.zeros((12, 8, 3), int)
    for table in tables:
        a = 10 ** rng.uniform(-1, 3) * rng.dirichlet([2, 2, 2])
        table[:] = rng.multinomial(rng.integers(1, 60, 8), rng.dirichlet(a, 8))
    with jax.enable_x64(True):
        result = fit(tables)
    assert result.converged.all()

    def minus(u, c):
        mean, t, j = np.exp(u[:-1]) / np.exp(u[:-1]).sum(), np.exp(u[-1]), np.arange(c.sum(1).max())
        columns = [*zip(c.T, mean, strict=True), (c.sum(1), 1.0)]
        terms = [(x[:, None] > j).sum(0) @ np.log(m + j * t) for x, m in columns]
        return terms[-1] - sum(terms[:-1])

    for i, c in enumerate(tables):
        n = scipy.special.gammaln
        constant = n(c.sum(1) + 1).sum() - n(c + 1).sum()
        start = np.log(np.maximum(c.sum(0), 0.1))
        best = min(
            scipy.optimize.minimize(minus, np.append(start, t), args=(c,)).fun for t in (-9, -3, 1)
        )
        assert float(result.log_likelihood[i]) > constant - best - 1e-6


def test_published_values():
    """Skellam's example: A = 65.7 boys and girls, and a log-likelihood of -12492.9."""
    boys = np.repeat(np.arange(13), FAMILIES)
    result = fit_dirichlet(np.stack([boys, 12 - boys], 1))
    np.testing.assert_allclose(result.concentration, [34.09558, 31.5715], 3e-4)  # to 5 digits
    np.testing.assert_allclose(result.log_likelihood, -12492.87, 1e-6)


def test_recovers_the_concentration():
    a = np.array([3.0, 1.0, 0.3])
    result = fit_dirichlet(drawn(7, a, np.full(2000, 30)))
    assert (abs(result.concentration - a) < 4 * result.standard_errors).all()
    assert (result.standard_errors < 0.06 * a).all()


def test_counts_that_vary_no_more_than_those_of_one_pmf():
    counts = np.array([[5, 3, 2, 0], [6, 2, 2, 0], [5, 3, 2, 0]])
    result = fit_dirichlet(counts)
    np.testing.assert_array_equal(result.concentration, [np.inf, np.inf, np.inf, 0])
    pooled = counts.sum(0) / 30
    np.testing.assert_allclose(result.mean, pooled, 1e-6)
    expected = multinomial_log_likelihood(pooled, counts).sum()
    np.testing.assert_allclose(result.log_likelihood, expected, 1e-6)
    assert (result.correlation, result.converged, result.steps) == (0, True, 0)
    assert result.certificate <= 1e-8
    assert np.isnan(result.covariance).all()


def test_dice_of_one_class_each():
    counts = np.array([[5, 0, 0], [0, 7, 0], [2, 0, 0], [0, 0, 0], [0, 1, 0], [1, 0, 0]])
    result = fit_dirichlet(counts)
    np.testing.assert_array_equal(result.concentration, [0, 0, 0])
    np.testing.assert_allclose(result.mean, [0.6, 0.4, 0], 1e-6)
    expected = 3 * np.log(0.6) + 2 * np.log(0.4)
    np.testing.assert_allclose(result.log_likelihood, expected, 1e-6)
    assert (result.correlation, result.converged) == (1, True)


def test_what_says_nothing_changes_nothing():
    """A class that never occurs, and dice without samples."""
    more = np.zeros((7, 4), int)
    more[1:6, [0, 1, 3]] = DICE
    result, expected = fit_dirichlet(more), fit_dirichlet(DICE)
    np.testing.assert_allclose(
        result.concentration[np.array([0, 1, 3])], expected.concentration, 1e-6
    )
    assert result.concentration[2] == 0
    np.testing.assert_allclose(result.log_likelihood, expected.log_likelihood, 1e-6)
    errors = result.standard_errors
    assert np.isnan(errors[2])
    np.testing.assert_allclose(errors[np.array([0, 1, 3])], expected.standard_errors, 1e-5)


def test_a_maximum_beyond_one_at_infinity():
    """Large dice that are too alike, small ones that are not: the likelihood has two maxima."""
    counts = np.array([[5000, 5000]] * 6 + [[4, 0], [0, 4]] * 12)
    result = fit_dirichlet(counts)
    below = np.array([log_evidence(counts, np.full(2, a)).sum() for a in (1e6, 1e8)])
    assert below[1] > below[0]  # rising again
    assert result.log_likelihood > below[1] + 1
    assert result.converged
    assert result.concentration.max() < 1e6


def test_large_counts_and_many_dice():
    counts = drawn(3, [30.0, 10.0, 60.0], np.full(50, 10**9))
    result = fit_dirichlet(counts)
    assert result.converged
    assert (
        abs(result.concentration - np.array([30.0, 10.0, 60.0])) < 4 * result.standard_errors
    ).all()


def test_batches_under_jit_and_vmap():
    tables = np.stack([DICE, DICE[::-1], DICE + 2, 3 * DICE]).reshape(2, 2, 5, 3)
    expected = fit_dirichlet(tables)
    for found in (jax.vmap(jax.vmap(fit_dirichlet))(jnp.array(tables)), fit(tables)):
        for got, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(got, wanted, 1e-5, atol=1e-7)
    assert expected.covariance.shape == (2, 2, 3, 3)


def test_counts_that_determine_nothing_under_jit():
    for counts in ([[1, 0], [0, 1]], [[3, 0], [4, 0]], [[3, 4], [0, 0]]):
        result = fit(np.array(counts))
        assert np.isnan(result.mean).all()
        assert not result.converged


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        (
            [1, 2, 3],
            r"counts: expected at least 2 rows.*; of one die: fit_categorical or dirichlet",
        ),
        ([[1, 2]], r"counts: expected at least 2 rows and 2 columns, got shape \(1, 2\); of one"),
        ([[1, 2], [0, 0]], r"counts: expected at least two rows with counts, got 1$"),
        ([[1, 0], [2, 0]], r"counts: expected at least two columns with counts, got 1$"),
        ([[1, 0], [0, 1]], r"counts: expected a die of at least 2 samples, got 1 at most$"),
        ([[1, -2], [3, 4]], r"counts: expected finite numbers >= 0, got -2$"),
        ([[0.5, 0.5], [1, 0]], r"counts: expected whole numbers, got 0\.5$"),
    ],
)
def test_bad_counts(counts, line):
    with pytest.raises(ValueError, match=f"^{line}"):
        fit_dirichlet(np.array(counts))


def test_there_is_no_derivative():
    with pytest.raises(TypeError, match=r"^counts: expected whole numbers without a derivative"):
        jax.grad(lambda c: fit_dirichlet(c).log_likelihood)(jnp.array(DICE, float))
