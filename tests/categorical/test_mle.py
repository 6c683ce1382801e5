"""Maximum likelihood: the closed form, descent to it, and the certificate of both."""

import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from hypothesis import given, settings, strategies as st

from tests.support.oracles import information as oracle
from tests.support.tolerances import VALUE
from xentjax import fit_categorical, kkt_certificate, log_likelihood

SGD = optax.sgd(1.0)
INTERIOR = np.array([50, 30, 15, 5])
WITH_ZERO = np.array([5, 3, 2, 0])


def assert_optimal(certificate, n, tolerance=1e-6):
    np.testing.assert_allclose(certificate.multiplier, n, rtol=tolerance)
    for name in ("stationarity", "dual_residual", "complementarity", "duality_gap"):
        assert abs(getattr(certificate, name)) <= tolerance * n, name
    assert certificate.primal_residual <= tolerance
    assert (certificate.inequality_multipliers >= 0).all()


class TestClosedForm:
    @pytest.mark.parametrize("counts", [INTERIOR, WITH_ZERO, [7], [0, 0, 3]], ids=str)
    def test_is_counts_over_their_number(self, counts):
        counts = np.array(counts)
        fit = fit_categorical(jnp.array(counts))
        p = counts / counts.sum()
        np.testing.assert_allclose(fit.pmf, p, rtol=1e-7)
        np.testing.assert_allclose(fit.log_likelihood, -counts.sum() * oracle.entropy(p), 1e-6)
        assert_optimal(fit.certificate, counts.sum())
        assert fit.converged
        assert fit.steps == 0
        assert fit.history.shape == (0,)

    def test_a_numerical_maximiser_agrees(self):
        counts = np.array([4.0, 1.0, 2.5])
        found = scipy.optimize.minimize(
            lambda q: -(counts * np.log(q)).sum(),
            np.full(3, 1 / 3),
            bounds=[(1e-9, 1)] * 3,
            constraints={"type": "eq", "fun": lambda q: q.sum() - 1},
            tol=1e-12,
        )
        np.testing.assert_allclose(fit_categorical(jnp.array(counts)).pmf, found.x, atol=1e-5)

    def test_jit_vmap_and_batches_agree(self):
        counts = jnp.array([INTERIOR, WITH_ZERO], jnp.int32)
        batch = fit_categorical(counts)
        mapped = jax.jit(jax.vmap(fit_categorical))(counts)
        chex.assert_trees_all_close(mapped, batch, rtol=1e-6, atol=1e-4)  # of 100 counts
        single, second = fit_categorical(counts[1]), jax.tree.map(lambda x: x[1], batch)
        chex.assert_trees_all_close(single, second, rtol=1e-6, atol=1e-5)

    def test_gradients_also_on_the_boundary(self):
        counts = jnp.array([2.0, 1.0, 1.0, 0.0])
        jacobian = jax.jit(jax.jacrev(lambda c: fit_categorical(c).pmf))(counts)
        expected = (np.eye(4) - np.array(counts / 4)[:, None]) / 4
        np.testing.assert_allclose(jacobian, expected, atol=1e-7)
        # L* = sum_k c_k log(c_k / N), whose slope is log(c_k / N)
        slope = jax.jit(jax.grad(lambda c: fit_categorical(c).log_likelihood))(counts)
        np.testing.assert_allclose(slope, oracle.log([0.5, 0.25, 0.25, 0]), 1e-6)

    def test_float64_and_counts_beyond_32_bits(self):
        big = np.array([2**40, 3 * 2**40])
        np.testing.assert_allclose(fit_categorical(big).pmf, [0.25, 0.75], rtol=1e-7)
        with jax.enable_x64(True):
            fit = fit_categorical(jnp.array([1, 2]))
            assert fit.pmf.dtype == fit.certificate.duality_gap.dtype == jnp.float64
            np.testing.assert_allclose(fit.pmf, [1 / 3, 2 / 3], rtol=1e-15)

    def test_under_jit_counts_without_a_fit_give_nan(self):
        fit = jax.jit(fit_categorical)(jnp.zeros(3))
        assert np.isnan(fit.pmf).all()
        assert not fit.converged


class TestPrior:
    @pytest.mark.parametrize(
        ("prior", "expected"),
        [
            (1, [0.5, 0.3, 0.2, 0]),
            (2.0, [6 / 14, 4 / 14, 3 / 14, 1 / 14]),
            (jnp.array([1.0, 1.0, 1.5, 3.0]), [5 / 12.5, 3 / 12.5, 2.5 / 12.5, 2 / 12.5]),
        ],
        ids=["flat", "add-one", "vector"],
    )
    def test_mode_of_the_posterior(self, prior, expected):
        fit = fit_categorical(jnp.array(WITH_ZERO), prior=prior)
        np.testing.assert_allclose(fit.pmf, expected, VALUE["float32"])
        assert_optimal(fit.certificate, sum(WITH_ZERO + np.asarray(prior) - 1))
        # Likelihood is of the samples alone.
        np.testing.assert_allclose(
            fit.log_likelihood, log_likelihood(fit.pmf, jnp.array(WITH_ZERO)), rtol=1e-6
        )

    def test_makes_samples_dispensable(self):
        np.testing.assert_array_equal(fit_categorical(jnp.zeros(2), prior=3).pmf, [0.5, 0.5])

    def test_below_1_where_every_class_occurs(self):
        fit = fit_categorical(jnp.array([1, 2]), prior=0.5)
        np.testing.assert_allclose(fit.pmf, [0.25, 0.75], rtol=1e-6)

    @pytest.mark.parametrize(
        ("prior", "message"),
        [
            (0, r"prior: expected finite concentrations > 0, got 0"),
            (-1.0, r"prior: expected finite concentrations > 0, got -1\.0"),
            (jnp.array([1, 1, 1, np.nan]), r"prior: expected finite concentrations > 0, got nan"),
            (np.inf, r"prior: expected finite concentrations > 0, got inf"),
            (0.5, r"prior: expected counts \+ prior >= 1 in every class, got 0\.5"),
            (jnp.ones(3), r"prior: expected a scalar or shape \(4,\), got shape \(3,\)"),
        ],
        ids=["zero", "negative", "nan", "inf", "unbounded", "shape"],
    )
    def test_bad_priors(self, prior, message):
        with pytest.raises(ValueError, match=message):
            fit_categorical(jnp.array(WITH_ZERO), prior=prior)

    def test_not_a_number(self):
        with pytest.raises(TypeError, match="prior: expected numbers, got bool"):
            fit_categorical(jnp.array(WITH_ZERO), prior=True)

    def test_an_unbounded_posterior_is_nan_under_jit(self):
        fit = jax.jit(lambda a: fit_categorical(jnp.array(WITH_ZERO), prior=a))(0.5)
        assert np.isnan(fit.pmf).all()


class TestOptimizer:
    @pytest.mark.parametrize(
        "solver", [SGD, optax.adam(0.1), optax.lbfgs()], ids=["sgd", "adam", "lbfgs"]
    )
    def test_reaches_the_closed_form(self, solver):
        fit = fit_categorical(jnp.array(INTERIOR), solver=solver)
        p = INTERIOR / INTERIOR.sum()
        assert fit.converged
        assert 0 < fit.steps < 1000
        assert oracle.kl_divergence(p, np.asarray(fit.pmf, np.float64)) <= 1.001e-6
        assert fit.certificate.duality_gap <= 1e-6 * INTERIOR.sum()
        np.testing.assert_allclose(fit.pmf.sum(), 1, rtol=1e-6)

    @pytest.mark.parametrize("n", [10**4, 10**9, 10**12])
    @pytest.mark.parametrize(
        "solver",
        ["newton", "exponentiated_gradient", optax.adam(0.03)],
        ids=["newton", "exponentiated_gradient", "adam"],
    )
    def test_converged_is_within_a_small_part_of_a_standard_error(self, solver, n):
        c = n // 100 * INTERIOR + np.array([3, -7, 5, -1]) * (n // 10**4)
        fit = fit_categorical(c, solver=solver, max_steps=3000)
        assert fit.converged
        p = c / c.sum()
        error = np.sqrt(p * (1 - p) / c.sum())
        # At 10^12 a float32 probability itself resolves a tenth of it.
        part = 0.05 if n < 10**12 else 0.5
        assert (np.abs(np.asarray(fit.pmf, float) - p) <= part * error).all()

    @pytest.mark.parametrize("solver", ["newton", optax.sgd(3.0)], ids=["newton", "optax"])
    def test_derivatives_are_those_of_the_maximum(self, solver):
        c = jnp.array([4.0, 3.0, 1.0])
        expected = (np.eye(3) - np.array(c / 8)[:, None]) / 8

        def pmf(c):
            return fit_categorical(c, solver=solver).pmf

        @jax.jit
        def compiled(c):
            batch = jax.vmap(jax.grad(lambda c: pmf(c)[0]))(jnp.stack([c, c]))
            slope = jax.grad(lambda c: fit_categorical(c, solver=solver).log_likelihood)(c)
            return (jax.jacrev(pmf)(c), jax.jacfwd(pmf)(c)), batch, slope

        jacobians, batch, slope = compiled(c)
        for jacobian in (jax.jacrev(pmf)(c), *jacobians):
            np.testing.assert_allclose(jacobian, expected, 1e-5, 1e-7)
        np.testing.assert_allclose(batch, [expected[0]] * 2, 1e-5, 1e-7)
        np.testing.assert_allclose(slope, np.log(c / 8), 1e-2)

    def test_history_is_the_divergence_from_the_closed_form(self):
        fit = fit_categorical(jnp.array(INTERIOR), solver=SGD, max_steps=200)
        steps, p = int(fit.steps), INTERIOR / INTERIOR.sum()
        assert fit.history.shape == (200,)
        assert steps < 200
        logits, expected = np.zeros(4), []
        for _ in range(steps):
            q = np.exp(logits) / np.exp(logits).sum()
            logits += p - q
            expected.append(oracle.kl_divergence(p, np.exp(logits) / np.exp(logits).sum()))
        np.testing.assert_allclose(fit.history[:steps], expected, rtol=1e-3)
        np.testing.assert_array_equal(fit.history[steps:], fit.history[steps - 1])
        assert fit.history[steps - 2] > 1e-6 >= fit.history[steps - 1]

    def test_descent_converges_at_the_rate_of_the_smallest_curvature(self):
        p = INTERIOR / INTERIOR.sum()
        curvature = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[1]
        fit = fit_categorical(jnp.array(INTERIOR), solver=SGD, tol=1e-9)
        last = int(fit.steps) - 1
        rate = float(fit.history[last] / fit.history[last - 20]) ** (1 / 20)
        assert rate == pytest.approx((1 - curvature) ** 2, abs=1e-3)

    def test_a_class_that_never_occurred_is_approached_sublinearly_and_reported(self):
        """t KL -> 1 / (eta (1 + 1/m)), m classes that occurred."""
        fit = fit_categorical(jnp.array(WITH_ZERO), solver=optax.sgd(2.0), max_steps=3000)
        assert not fit.converged
        assert fit.steps == 3000
        assert 3000 * fit.history[-1] == pytest.approx(0.375, rel=0.01)
        assert fit.certificate.complementarity == pytest.approx(10 * float(fit.pmf[3]), rel=1e-5)
        assert fit_categorical(jnp.array(WITH_ZERO), solver=SGD, prior=2.0).converged

    def test_divergence_is_not_convergence(self):
        fit = fit_categorical(jnp.array(INTERIOR), solver=optax.sgd(1e38), max_steps=10)
        assert not fit.converged

    def test_starts_at_the_solution(self):
        fit = fit_categorical(jnp.array([3, 3]), solver=SGD, max_steps=5)
        assert fit.converged
        assert fit.steps == 0
        np.testing.assert_array_equal(fit.history, np.zeros(5))

    def test_vmap_and_batches_agree_with_single_fits(self):
        counts = jnp.array([INTERIOR, [10, 10, 10, 10], [1, 2, 3, 4]])
        batch = fit_categorical(counts, solver=SGD, max_steps=300)
        mapped = jax.vmap(lambda c: fit_categorical(c, solver=SGD, max_steps=300))(counts)
        chex.assert_trees_all_close(batch, mapped, rtol=1e-6)
        for i, c in enumerate(counts):
            single = fit_categorical(c, solver=SGD, max_steps=300)
            assert single.steps == batch.steps[i]
            np.testing.assert_allclose(single.pmf, batch.pmf[i], rtol=1e-5)

    def test_one_trace_a_solver_and_shape(self):
        traced_once: Any = chex.assert_max_traces(SGD.update, n=1)
        solver = optax.GradientTransformation(SGD.init, traced_once)
        for first in (1, 2, 3):
            fit_categorical(jnp.array([first, 5, 9]), solver=solver, max_steps=7, tol=first / 1e5)

    @pytest.mark.usefixtures("unchecked_annotations")
    @pytest.mark.parametrize("solver", ["Newton", "", "sgd"])
    def test_unknown_solver(self, solver):
        names = "'closed_form', 'exponentiated_gradient', 'natural_gradient', 'newton'"
        with pytest.raises(ValueError, match=f"solver: expected one of {names}, got {solver!r}"):
            fit_categorical(jnp.array(INTERIOR), solver=solver)

    @pytest.mark.parametrize(
        ("keywords", "message"),
        [
            ({"max_steps": 0}, "max_steps: expected an integer 1..2147483647, got 0"),
            ({"max_steps": True}, "max_steps: expected an integer 1..2147483647, got True"),
            ({"max_steps": 2**40}, "max_steps: expected an integer 1..2147483647, got 10995"),
            ({"tol": -1e-3}, "tol: expected a number >= 0, got -0.001"),
            ({"tol": np.nan}, "tol: expected a number >= 0, got nan"),
        ],
    )
    def test_bad_limits(self, keywords, message):
        with pytest.raises(ValueError, match=message):
            fit_categorical(jnp.array(INTERIOR), solver=SGD, **keywords)


weights = st.lists(st.sampled_from([1e-3, 0.1, 0.5, 1.0, 4.0]), min_size=4, max_size=4)
numbers = st.lists(st.sampled_from([0, 0, 1, 2, 10, 1000]), min_size=4, max_size=4).filter(any)
certify = jax.jit(kkt_certificate)


class TestCertificate:
    def test_by_hand(self):
        certificate = kkt_certificate(jnp.array([0.5, 0.25, 0.25]), jnp.array([2, 1, 0]))
        assert certificate.multiplier == 3
        np.testing.assert_array_equal(certificate.inequality_multipliers, [0, 0, 3])
        assert certificate.stationarity == 1  # |-2 / .5 + 3|
        assert certificate.primal_residual == 0
        assert certificate.dual_residual == 0
        assert certificate.complementarity == 0.75  # 3 * .25
        gap = 2 * math.log(2 / 1.5) + math.log(1 / 0.75)
        np.testing.assert_allclose(certificate.duality_gap, gap, VALUE["float32"])

    @settings(deadline=None, derandomize=True, max_examples=60)
    @given(weights, numbers)
    def test_gap_bounds_the_distance_from_the_maximum(self, q_weights, counts):
        q, c = np.array(q_weights) / sum(q_weights), np.array(counts, np.float64)
        gap = float(certify(jnp.array(q, jnp.float32), jnp.array(c, jnp.float32)).duality_gap)
        distance = c.sum() * oracle.kl_divergence(c / c.sum(), q)  # L* - L(q)
        assert gap >= 0
        assert gap >= distance * (1 - 1e-5) - 1e-9 * c.sum()
        assert gap <= distance * (1 + 1e-5) + 1e-9 * c.sum()

    def test_an_impossible_count(self):
        certificate = kkt_certificate(jnp.array([0.0, 1.0]), jnp.array([1, 1]))
        assert certificate.stationarity == certificate.duality_gap == np.inf

    @pytest.mark.parametrize(
        ("q", "residual"), [([0.5, 0.75], 0.25), ([1.5, -0.5], 0.5)], ids=["sum", "negative"]
    )
    def test_not_a_pmf(self, q, residual):
        assert kkt_certificate(jnp.array(q), jnp.array([1, 1])).primal_residual == residual

    def test_batches_and_vmap(self):
        q = jnp.array([[0.5, 0.5], [0.25, 0.75]])
        counts = jnp.array([[1, 1], [0, 4]])
        batch = kkt_certificate(q, counts)
        assert batch.inequality_multipliers.shape == (2, 2)
        chex.assert_trees_all_close(jax.vmap(kkt_certificate)(q, counts), batch, rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [fit_categorical, lambda c: kkt_certificate(jnp.array([0.5, 0.5]), c)],
    ids=["fit", "certificate"],
)
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (jnp.array([1, -2]), r"counts: expected finite numbers >= 0, got -2"),
        (jnp.array([1, np.nan]), r"counts: expected finite numbers >= 0, got nan"),
        (jnp.array([np.inf, 1]), r"counts: expected finite numbers >= 0, got inf"),
        (jnp.zeros(2), r"counts: expected at least one count > 0, got all 0"),
        (jnp.zeros((1, 0)), r"counts: expected at least one class, got shape \(1, 0\)"),
    ],
    ids=["negative", "nan", "inf", "zeros", "no-class"],
)
def test_bad_counts(function, counts, message):
    with pytest.raises(ValueError, match=message):
        function(counts)


def test_wrong_number_of_classes():
    with pytest.raises(ValueError, match="counts: expected 2 classes as in q, got 3"):
        kkt_certificate(jnp.array([0.5, 0.5]), jnp.array([1, 1, 1]))


def test_a_diverged_solver_gives_a_fit_of_nan():
    fit = fit_categorical(jnp.array([3, 1, 5]), solver=optax.sgd(float("nan")), max_steps=5)
    assert np.isnan(fit.pmf).all()
    assert not fit.converged
