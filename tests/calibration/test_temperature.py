"""The temperature against the minimum that scipy finds in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from xentjax.calibration import fit_temperature


def mean_nll(logits, labels, temperature):
    rows = np.arange(len(labels))
    shifted = np.asarray(logits, np.float64) - np.asarray(logits, np.float64).max(-1, keepdims=True)
    return -log_softmax(shifted / temperature, axis=-1)[rows, labels].mean()


def best_temperature(logits, labels):
    found = minimize_scalar(
        lambda log: mean_nll(logits, labels, np.exp(log)), bracket=(-1, 1), tol=1e-14
    )
    return np.exp(found.x), found.fun


def network(seed, temperature, n=200, k=5):
    """Logits that are calibrated once divided by the temperature, and labels."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, k))
    labels = np.array([rng.choice(k, p=np.exp(row)) for row in log_softmax(logits, axis=-1)])
    return logits * temperature, labels


class TestTemperature:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("offset", [0.0, 1e5])
    @pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 2.5, 40.0])
    def test_scipy_agrees(self, temperature, offset, dtype):
        logits, labels = network(0, temperature)
        logits = (logits + offset).astype(dtype)
        expected, nll = best_temperature(logits, labels)
        with jax.enable_x64(dtype == "float64"):
            fit = fit_temperature(jnp.asarray(logits), labels)
            assert {fit.temperature.dtype, fit.nll.dtype, fit.nll_before.dtype} == {
                jnp.dtype(dtype)
            }
            fit = jax.tree.map(np.asarray, fit)
        assert fit.converged
        assert fit.steps <= 8
        assert 0.8 < fit.temperature / temperature < 1.25
        np.testing.assert_allclose(fit.temperature, expected, rtol=1e-6)
        np.testing.assert_allclose(fit.nll, nll, rtol=1e-6)
        np.testing.assert_allclose(fit.nll_before, mean_nll(logits, labels, 1), rtol=1e-6)

    def test_half_precision(self):
        logits, labels = network(0, 0.5)
        logits = jnp.asarray(logits, jnp.bfloat16)
        fit = fit_temperature(logits, labels)
        assert fit.temperature.dtype == "float32"
        expected, _ = best_temperature(np.asarray(logits, np.float32), labels)
        np.testing.assert_allclose(fit.temperature, expected, rtol=1e-6)

    @pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e25])
    def test_any_scale(self, scale):
        logits, labels = network(0, 1.0)
        expected, nll = best_temperature(logits, labels)
        fit = fit_temperature((logits * scale).astype(np.float32), labels)
        np.testing.assert_allclose(fit.temperature, expected * scale, rtol=2e-6)
        np.testing.assert_allclose(fit.nll, nll, rtol=1e-6)

    @pytest.mark.parametrize("margin", [1e-6, 1e-3, 0.1, 10.0, 300.0])
    def test_one_wrong_row(self, margin):
        """Small margins leave classes nearly separable, large ones leave logits nearly useless."""
        logits = np.zeros((200, 3), np.float32)
        logits[:, 0] = np.linspace(1, 3, 200)
        logits[7, 1] = logits[7, 0] + np.float32(margin)
        labels = np.zeros(200, int)
        fit = fit_temperature(logits, labels)
        with jax.enable_x64(True):
            exact = jax.tree.map(float, fit_temperature(logits.astype(np.float64), labels))
        assert exact.converged
        assert exact.steps < 30
        for change in (0.999, 1.001):
            assert mean_nll(logits, labels, exact.temperature * change) > exact.nll
        assert fit.converged
        np.testing.assert_allclose(fit.temperature, exact.temperature, rtol=1e-5)

    @pytest.mark.filterwarnings("ignore:logits")
    def test_random_hard_rows(self):
        """Heavy tails and few rows: every end is a minimum or a limit that is said."""
        rng = np.random.default_rng(0)
        kinds = []
        with jax.enable_x64(True):
            for _ in range(60):
                logits = rng.standard_t(1, size=(6, 3)) * 10.0 ** rng.uniform(-3, 3)
                labels = np.where(rng.uniform(size=6) < 0.8, logits.argmax(-1), 0)
                fit = jax.tree.map(float, fit_temperature(logits, labels))
                kinds.append((fit.temperature > 0) + (fit.temperature == np.inf))
                assert fit.converged == (0 < fit.temperature < np.inf)
                middle = min(max(fit.temperature, 1e-12), 1e12)
                np.testing.assert_allclose(
                    mean_nll(logits, labels, middle), fit.nll, rtol=1e-9, atol=1e-9
                )
                for other in middle * np.array([1e-2, 0.9, 0.999, 1.001, 1.1, 1e2]):
                    assert mean_nll(logits, labels, other) >= fit.nll * (1 - 1e-9)
        assert set(kinds) == {0, 1, 2}

    def test_separable_rows_have_temperature_0(self):
        logits = jnp.array([[3.0, 0.0, -1.0], [0.0, 2.0, 2.0], [1.0, 0.5, 4.0]])
        labels = jnp.array([0, 1, 2])
        with pytest.warns(UserWarning, match="logits: every label has the largest logit"):
            fit = fit_temperature(logits, labels)
        assert fit.temperature == 0
        assert not fit.converged
        np.testing.assert_allclose(fit.nll, np.log(2) / 3, rtol=1e-6)  # a tie of two stays
        np.testing.assert_allclose(fit.nll_before, mean_nll(logits, labels, 1), rtol=1e-6)
        assert jax.jit(fit_temperature)(logits, labels).temperature == 0  # and no warning

    @pytest.mark.parametrize("logits", [[[0.0, 1.0], [0.0, 3.0]], [[2.0, 2.0], [5.0, 5.0]]])
    def test_useless_logits_have_temperature_inf(self, logits):
        logits, labels = jnp.array(logits), jnp.array([0, 0])
        with pytest.warns(UserWarning, match="logits: no better than equal probabilities"):
            fit = fit_temperature(logits, labels)
        assert fit.temperature == jnp.inf
        assert not fit.converged
        np.testing.assert_allclose(fit.nll, np.log(2), rtol=1e-6)
        np.testing.assert_array_equal(jax.nn.softmax(logits / fit.temperature), 0.5)

    def test_a_class_with_logit_minus_inf_takes_no_part(self):
        logits, labels = network(0, 0.5, k=4)
        extended = np.insert(logits, [1, 4], -np.inf, axis=1)
        fit = fit_temperature(np.asarray(logits, np.float32), labels)
        other = fit_temperature(extended.astype(np.float32), labels + (labels >= 1))
        np.testing.assert_allclose(other.temperature, fit.temperature, rtol=1e-6)
        np.testing.assert_allclose(other.nll, fit.nll, rtol=1e-6)
        slope = jax.grad(lambda a: fit_temperature(a, labels + (labels >= 1)).temperature)(
            jnp.asarray(extended, jnp.float32)
        )
        assert jnp.isfinite(slope).all()
        np.testing.assert_array_equal(slope[:, 1], 0)

    def test_hidden_rows_vmap_and_bad_rows(self):
        logits, labels = network(0, 2.0, n=90)
        logits = logits.astype(np.float32)
        where = np.arange(90) % 3 > 0
        expected = fit_temperature(logits[where], labels[where])
        hidden, bad = logits.copy(), labels.copy()
        hidden[0], hidden[3], bad[6] = np.nan, np.inf, 99
        for function in (fit_temperature, jax.jit(fit_temperature)):
            fit = function(hidden, bad, where=where)
            np.testing.assert_allclose(fit[:3], expected[:3], rtol=1e-6)
            assert fit.converged

        others = np.stack([logits, logits * 3, logits * 0, logits, hidden])
        many = np.stack([labels, labels, labels, bad, labels])
        fits = jax.vmap(fit_temperature)(others, many)
        alone = fit_temperature(logits, labels)
        np.testing.assert_allclose(
            fits.temperature / alone.temperature, [1, 3, np.inf, np.nan, np.nan], rtol=2e-6
        )
        np.testing.assert_array_equal(fits.converged, [True, True, False, False, False])
        np.testing.assert_array_equal(np.isnan(fits.nll), [False, False, False, True, True])
        empty = jax.jit(fit_temperature)(logits, labels, where=np.zeros(90, bool))
        assert jnp.isnan(empty.temperature)

    def test_derivatives_of_the_optimum(self):
        with jax.enable_x64(True):
            logits, labels = network(0, 0.5, n=20, k=3)
            direction = np.random.default_rng(1).normal(size=logits.shape)

            def along(t):
                return fit_temperature(logits + t * direction, labels)[:2]

            @jax.jit
            def derivatives(t):
                return jax.jacfwd(along)(t), jax.jacfwd(jax.jacfwd(along))(t)

            step = 1e-4
            above, at, below = (np.array(along(t)) for t in (step, 0.0, -step))
            first, second = derivatives(0.0)
            np.testing.assert_allclose(first, (above - below) / (2 * step), rtol=1e-6)
            np.testing.assert_allclose(second, (above - 2 * at + below) / step**2, rtol=1e-4)
            slope, nll_slope = jax.jacrev(lambda a: fit_temperature(a, labels)[:2])(logits)
            np.testing.assert_allclose((slope * direction).sum(), first[0], rtol=1e-10)
            # At the optimum the temperature's own part vanishes.
            temperature = at[0]
            p = np.exp(log_softmax(logits / temperature, axis=-1))
            expected = (p - np.eye(3)[labels]) / temperature / 20
            np.testing.assert_allclose(nll_slope, expected, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("labels", [[0, 1], [1, 0]], ids=["separable", "useless"])
    def test_slope_at_a_limit_is_0(self, labels):
        slope = jax.grad(lambda a: jax.jit(fit_temperature)(a, jnp.array(labels)).temperature)(
            jnp.array([[2.0, 0.0], [0.0, 1.0]])
        )
        np.testing.assert_array_equal(slope, 0)
