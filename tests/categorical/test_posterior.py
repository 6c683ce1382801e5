"""The posterior of a die against scipy's distributions, sums over all counts and closed forms."""

from itertools import product
from math import comb
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats

from tests.support.tolerances import GRADIENT, VALUE
from xentjax import (
    DirichletPosterior,
    dirichlet_posterior,
    log_evidence,
    multinomial_log_likelihood,
)

# Concentrations from priors alone to a million samples, in one batch: one program for all.
SCALES = np.array([0.3, 1.0, 3.0, 30.0, 1e3, 1e6])
CONCENTRATIONS = SCALES[:, None] * np.random.default_rng(0).gamma(2, size=(len(SCALES), 4))
OTHERS = CONCENTRATIONS.sum(-1, keepdims=True) - CONCENTRATIONS
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
ALPHAS = pytest.mark.parametrize("alpha", [0.01, 0.05, 0.5, 0.9])


def posteriors(dtype):
    return DirichletPosterior(jnp.array(CONCENTRATIONS, dtype))


@DTYPES
def test_moments_agree_with_scipy(dtype):
    with jax.enable_x64(dtype == "float64"):
        posterior = posteriors(dtype)
        mean, sd, covariance = posterior.mean, posterior.sd, posterior.covariance
        mode = posterior.mode
        np.testing.assert_array_equal(posterior.predictive, mean)
    rtol = VALUE[dtype]
    for i, a in enumerate(CONCENTRATIONS):
        law = scipy.stats.dirichlet(a)
        np.testing.assert_allclose(mean[i], law.mean(), rtol)
        np.testing.assert_allclose(sd[i], np.sqrt(law.var()), rtol)
        np.testing.assert_allclose(covariance[i], law.cov(), rtol)
        expected = (a - 1) / (a - 1).sum() if (a >= 1).all() else np.full(4, np.nan)
        np.testing.assert_allclose(mode[i], expected, 10 * rtol)  # a is rounded before the 1 goes


def test_the_mode_has_the_largest_density():
    a = np.array([3.5, 1.0, 2.0])
    mode = np.asarray(DirichletPosterior(jnp.array(a)).mode)
    np.testing.assert_allclose(mode, [2.5 / 3.5, 0, 1 / 3.5], 1e-6)
    assert np.isnan(dirichlet_posterior(np.zeros(3, int)).mode).all()  # the flat density
    assert np.isnan(dirichlet_posterior(np.array([3, 0]), 0.5).mode).all()


@DTYPES
@ALPHAS
def test_equal_tails_agree_with_scipy(dtype, alpha):
    with jax.enable_x64(dtype == "float64"):
        ends = posteriors(dtype).credible_intervals(alpha)
    law = scipy.stats.beta(CONCENTRATIONS, OTHERS)
    rtol = {"float32": 2e-6, "float64": 1e-11}[dtype]  # of a rounded in float32, and of scipy
    np.testing.assert_allclose(ends[..., 0], law.ppf(alpha / 2), rtol, atol=1e-30)
    np.testing.assert_allclose(ends[..., 1], law.isf(alpha / 2), rtol)


@DTYPES
def test_equal_tails_of_tiny_concentrations_agree_with_scipy(dtype):
    sizes = np.array([1e-4, 1e-3, 0.01, 0.03, 0.1, 1, 2.5, 40, 1e3])
    a = np.stack(np.meshgrid(sizes, sizes), -1).reshape(-1, 2).astype(dtype)
    rtol = {"float32": 2e-6, "float64": 1e-10}[dtype]
    for alpha in (0.01, 0.05, 0.5, 0.8, 0.95, 0.99):
        with jax.enable_x64(dtype == "float64"):
            ends = np.asarray(DirichletPosterior(jnp.array(a)).credible_intervals(alpha)[:, 0])
        law = scipy.stats.beta(*a.astype(float).T)
        for found, expected in ((ends[:, 0], law.ppf(alpha / 2)), (ends[:, 1], law.isf(alpha / 2))):
            # A quantile is about a power 1 / a: the digits of its logarithm are those of a.
            digits = rtol * (1 - np.log(np.maximum(expected, 1e-300)))
            smallest = np.where(expected < 1e-36, 1e-36, 0)  # of float32; below 1e-300, of scipy
            assert (np.abs(found - expected) <= digits * expected + smallest).all()


def shortest(a, b, alpha):
    """Ends by the share of alpha that is below, of scipy's quantiles."""
    law: Any = scipy.stats.beta(a, b)

    def interval(logit):
        return law.ppf(alpha * scipy.special.expit(logit)), law.isf(
            alpha * scipy.special.expit(-logit)
        )

    if a > 1 and b > 1:
        return interval(
            scipy.optimize.brentq(
                lambda s: np.subtract(*law.logpdf(interval(s))), -200, 30, xtol=1e-12
            )
        )
    candidates = [(0, law.isf(alpha)), (law.ppf(alpha), 1)]
    return min(candidates, key=lambda ends: ends[1] - ends[0])


@DTYPES
@ALPHAS
def test_highest_densities_agree_with_scipy(dtype, alpha):
    with jax.enable_x64(dtype == "float64"):
        ends = np.asarray(posteriors(dtype).credible_intervals(alpha, "highest_density"))
    expected = np.array([
        [shortest(a, b, alpha) for a, b in zip(*rows, strict=True)]
        for rows in zip(CONCENTRATIONS, OTHERS, strict=True)
    ])  # fmt: skip
    # scipy's root is where two densities of order N are alike.
    rtol = {"float32": 2e-6, "float64": 1e-9}[dtype]
    np.testing.assert_allclose(ends, expected, rtol, atol=1e-12)


@pytest.mark.parametrize(
    ("a", "expected"),
    [
        ([1.0, 1.0], [0.05, 0.95]),
        ([1.0, 3.0], [0, 1 - 0.1 ** (1 / 3)]),
        ([3.0, 1.0], [0.1 ** (1 / 3), 1]),
        ([3.0, 0.5], [scipy.stats.beta.ppf(0.1, 3, 0.5), 1]),
        ([4.0], [1, 1]),
        ([1 + 1e-5, 4.0], [0, 1 - 0.1**0.25]),
    ],
)
def test_highest_densities_at_the_ends(a, expected):
    posterior = DirichletPosterior(jnp.array(a))
    ends = posterior.credible_intervals(0.1, "highest_density")[0]
    np.testing.assert_allclose(ends, expected, 1e-5, atol=1e-6)
    if len(a) == 1:
        np.testing.assert_array_equal(posterior.credible_intervals()[0], [1, 1])


def test_small_concentrations_leave_quantiles_that_underflow():
    ends = DirichletPosterior(jnp.array([1e-3, 5.0])).credible_intervals()
    np.testing.assert_allclose(ends[0], [0, 0], atol=1e-9)
    np.testing.assert_allclose(ends[1], [1, 1], 1e-6)


@DTYPES
def test_expected_entropy_and_divergence(dtype):
    """Closed forms in digammas; the divergence from the mean is (K - 1) / (2 A) for large A."""
    q = np.array([0.125, 0.25, 0.5, 0.125])
    with jax.enable_x64(dtype == "float64"):
        posterior = posteriors(dtype)
        entropy = posterior.expected_entropy(base="bits")
        divergence = posterior.expected_kl(jnp.array(q, dtype))
        from_mean = posterior.expected_kl(posterior.mean)
    total = CONCENTRATIONS.sum(-1)
    mean, psi = CONCENTRATIONS / total[:, None], scipy.special.digamma
    expected = psi(total + 1) - (mean * psi(CONCENTRATIONS + 1)).sum(-1)
    rtol = VALUE[dtype]
    np.testing.assert_allclose(entropy, expected / np.log(2), rtol)
    np.testing.assert_allclose(divergence, -expected - mean @ np.log(q), 4 * rtol)
    loss = -(mean * np.log(mean)).sum(-1) - expected
    np.testing.assert_allclose(from_mean, loss, rtol, atol=1e-14)  # the loss cancels
    np.testing.assert_allclose(from_mean[-1], 3 / (2 * total[-1]), 1e-5)


def test_samples_have_the_moments():
    posterior = DirichletPosterior(jnp.array([[2.0, 1.0, 0.5], [20.0, 30.0, 5.0]]))
    samples = np.asarray(posterior.sample(jax.random.key(0), (20_000,)), float)
    assert samples.shape == (20_000, 2, 3)
    np.testing.assert_allclose(samples.sum(-1), 1, 1e-5)
    sd = np.asarray(posterior.sd)
    assert (np.abs(samples.mean(0) - posterior.mean) < 4 * sd / np.sqrt(20_000)).all()
    np.testing.assert_allclose(samples.std(0), sd, 0.05)
    assert posterior.sample(jax.random.key(0)).shape == (2, 3)


def test_samples_follow_the_concentrations():
    """The mean of the derivatives of samples is the derivative of their mean."""
    a = jnp.array([2.0, 0.5, 3.0])
    slope = jax.grad(
        lambda a: DirichletPosterior(a).sample(jax.random.key(0), (4000,))[:, 0].mean()
    )(a)
    expected = np.array([3.5, -2, -2]) / 5.5**2
    np.testing.assert_allclose(slope, expected, atol=0.006)


def test_credible_intervals_hold_what_they_say():
    posterior = DirichletPosterior(jnp.array([2.0, 1.0, 0.5, 9.0]))
    samples = posterior.sample(jax.random.key(1), (40_000,))
    for kind in ("equal_tailed", "highest_density"):
        lower, upper = jnp.moveaxis(posterior.credible_intervals(0.2, kind), -1, 0)
        held = np.mean((samples >= lower[None]) & (samples <= upper[None]), 0)
        np.testing.assert_allclose(held, 0.8, atol=4 * np.sqrt(0.8 * 0.2 / 40_000))


def test_counts_beyond_float32_are_added_before_they_are_rounded():
    posterior = dirichlet_posterior(np.array([2**53 - 1, 1]), 0.5)
    np.testing.assert_array_equal(posterior.concentration, np.array([2**53 - 0.5, 1.5], np.float32))
    with jax.enable_x64(True):
        assert dirichlet_posterior(np.array([3, 0])).concentration.dtype == np.float64
        assert dirichlet_posterior(jnp.ones(2, jnp.float32)).concentration.dtype == np.float32


@DTYPES
def test_evidence_agrees_with_scipy(dtype):
    rng = np.random.default_rng(1)
    counts = rng.multinomial(rng.integers(0, 40, len(SCALES)), np.full(4, 0.25))
    with jax.enable_x64(dtype == "float64"):
        got = jnp.stack([log_evidence(c, a) for c, a in zip(counts, CONCENTRATIONS, strict=True)])
        assert got.dtype == dtype
    expected = [
        scipy.stats.dirichlet_multinomial.logpmf(c, a, c.sum())
        for c, a in zip(counts, CONCENTRATIONS, strict=True)
    ]
    rtol = {"float32": VALUE["float32"], "float64": 1e-9}[dtype]  # scipy's log-gammas cancel
    np.testing.assert_allclose(got, expected, rtol, atol=rtol)


@pytest.mark.parametrize("n", [0, 1, 100, 10**6, 10**12, 10**15])
def test_evidence_of_the_flat_prior_is_one_of_all_counts_alike(n):
    counts = np.array([n // 3, n // 2, n - n // 3 - n // 2])
    for dtype in ("float32", "float64"):
        with jax.enable_x64(dtype == "float64"):
            got = log_evidence(counts, 1)
        rtol = VALUE[dtype]
        np.testing.assert_allclose(got, -np.log(float(comb(n + 2, 2))), rtol, atol=rtol)


def test_evidence_sums_to_1_over_all_counts():
    every = np.array([c for c in product(range(7), repeat=3) if sum(c) == 6])
    prior = np.array([0.3, 2.0, 1.1])
    np.testing.assert_allclose(jnp.exp(log_evidence(every, prior)).sum(), 1, 1e-6)


def test_evidence_of_a_certain_prior_is_the_likelihood():
    counts, q = np.array([5, 1, 3]), np.array([0.5, 0.125, 0.375])
    expected = multinomial_log_likelihood(jnp.array(q), counts)
    np.testing.assert_allclose(log_evidence(counts, 1e12 * q), expected, 1e-6)


def test_derivatives_of_the_evidence():
    """Slopes in the prior and the counts against digammas; second derivatives in the prior."""
    counts, prior = jnp.array([5.0, 1.0, 0.0]), jnp.array([0.5, 2.0, 1.5])
    with jax.enable_x64(True):
        c, a = np.asarray(counts, float), np.asarray(prior, float)
        psi = scipy.special.digamma
        by_prior = psi(a.sum()) - psi(6 + a.sum()) + psi(c + a) - psi(a)
        by_counts = psi(7) - psi(6 + a.sum()) + psi(c + a) - psi(c + 1)
        got = jax.jit(jax.grad(log_evidence, (0, 1)))(jnp.array(c), jnp.array(a))
        np.testing.assert_allclose(got, [by_counts, by_prior], GRADIENT["float64"])
        trigamma = lambda x: scipy.special.polygamma(1, x)  # noqa: E731
        second = np.diag(trigamma(c + a) - trigamma(a)) - trigamma(6 + a.sum()) + trigamma(a.sum())
        hessian = jax.jit(jax.hessian(log_evidence, 1))(jnp.array(c), jnp.array(a))
        np.testing.assert_allclose(hessian, second, 1e-9)
    slope = jax.jit(jax.grad(log_evidence, 1))
    np.testing.assert_allclose(slope(counts, prior), by_prior, GRADIENT["float32"])
    large = slope(counts, 1e6 * prior)
    exact = c / (1e6 * a) - 6 / (1e6 * a.sum())
    np.testing.assert_allclose(large, exact, 1e-4)


def test_derivatives_of_equal_tails():
    with jax.enable_x64(True):
        a = jnp.array([2.5, 0.8, 4.0])

        def ends(a):
            return DirichletPosterior(a).credible_intervals(0.1)

        steps = 1e-5 * np.eye(3)
        points = jnp.array([*(np.asarray(a) + steps), *(np.asarray(a) - steps)])
        up, down = np.asarray(ends(points)).reshape(2, 3, 3, 2)
        jacobian = np.moveaxis(jax.jit(jax.jacrev(ends))(a), -1, 0)
        np.testing.assert_allclose(jacobian, (up - down) / 2e-5, 1e-6, atol=1e-8)


def test_no_derivatives_of_highest_densities():
    message = "kind: expected 'equal_tailed' for derivatives, got 'highest_density'"

    def lower(a):
        return DirichletPosterior(a).credible_intervals(0.1, "highest_density")[0, 0]

    with pytest.raises(TypeError, match=message):
        jax.grad(lower)(jnp.array([2.0, 3.0]))


def test_batches_under_jit_and_vmap():
    counts, prior = jnp.array([[4, 0, 9], [1, 0, 0]]), jnp.array([0.5, 1.0, 2.0])

    def everything(counts):
        posterior = dirichlet_posterior(counts, prior)
        kinds = ("equal_tailed", "highest_density")
        intervals = [posterior.credible_intervals(0.1, kind) for kind in kinds]
        moments = [posterior.mean, posterior.sd, posterior.covariance]
        return [*moments, *intervals, posterior.expected_entropy(), log_evidence(counts, prior)]

    eager = everything(counts)
    for batched in (jax.jit(everything), jax.vmap(everything)):
        for got, expected in zip(batched(counts), eager, strict=True):
            np.testing.assert_allclose(got, expected, 1e-6)


@pytest.mark.parametrize("function", [dirichlet_posterior, log_evidence])
@pytest.mark.parametrize(
    ("counts", "prior", "message"),
    [
        ([1, -2], 1.0, "counts: expected finite numbers >= 0, got -2"),
        ([1, 2], 0.0, "prior: expected finite concentrations > 0, got 0"),
        ([1, 2], [1.0, np.inf], "prior: expected finite concentrations > 0, got inf"),
        ([1, 2], [1.0, 1, 1], r"prior: expected a scalar or shape \(2,\), got shape \(3,\)"),
    ],
)
def test_bad_counts_and_priors(function, counts, prior, message):
    with pytest.raises(ValueError, match=message):
        function(np.array(counts), np.array(prior))


@pytest.mark.usefixtures("unchecked_annotations")
def test_bad_arguments_of_the_methods():
    posterior = dirichlet_posterior(np.array([1, 2]))
    with pytest.raises(ValueError, match=r"alpha: expected a number in \(0, 1\), got 1"):
        posterior.credible_intervals(1.0)
    with pytest.raises(ValueError, match="kind: expected one of 'equal_tailed', 'highest_density'"):
        posterior.credible_intervals(0.1, "hpd")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"q: expected a shape that broadcasts to \(2,\), got"):
        posterior.expected_kl(jnp.array([0.5, 0.25, 0.25]))
    with pytest.raises(ValueError, match="shape: expected sizes >= 0"):
        posterior.sample(jax.random.key(0), (-1,))
