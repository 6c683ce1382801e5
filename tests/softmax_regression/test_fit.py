"""Softmax regression against scikit-learn, statsmodels, a linear program and the KKT conditions."""

import warnings
from contextlib import nullcontext
from functools import cache
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from scipy.optimize import linprog, root
from scipy.special import log_softmax
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from xentjax import fit_categorical, fit_softmax_regression
from xentjax.softmax_regression import arrays, descent, large


@cache
def real_data(name):
    """Features and labels; the subsets without a penalty in the tests overlap."""
    loaded: Any = load_iris(), load_wine(), load_digits()
    iris, wine, digits = loaded
    return {
        "iris": (iris.data, iris.target),
        "iris, two species": (iris.data[50:], iris.target[50:] - 1),
        "wine": (wine.data, wine.target),
        "wine, three features": (wine.data[:, [1, 2, 4]], wine.target),
        "digits": (digits.data / 16, digits.target),
    }[name]


def fit(x, labels, dtype="float64", host=None, **keywords):
    """Fit on the host, and in float32 by the compiled program, which computes in it."""
    x, labels = np.asarray(x), np.asarray(labels)
    host = dtype == "float64" if host is None else host
    where = nullcontext() if host else mock.patch.object(arrays, "on_host", return_value=False)
    with jax.enable_x64(dtype == "float64"), where:
        fitted = fit_softmax_regression(
            jnp.asarray(x, dtype), labels, int(labels.max()) + 1, **keywords
        )
        assert {fitted.kernel.dtype, fitted.bias.dtype, fitted.log_likelihood.dtype} == {
            jnp.dtype(dtype)
        }
        return jax.tree.map(np.asarray, fitted)


def log_probs(x, kernel, bias):
    return log_softmax(x @ np.asarray(kernel, np.float64) + np.asarray(bias, np.float64), axis=-1)


def log_likelihood(x, labels, kernel, bias):
    return np.take_along_axis(log_probs(x, kernel, bias), labels[:, None], -1).sum()


def objective(x, labels, kernel, bias, l2):
    penalty = l2 / 2 * np.square(np.asarray(kernel, np.float64)).sum()
    return -log_likelihood(x, labels, kernel, bias) + penalty


def gradient(x, labels, kernel, bias, l2):
    """Gradient of the objective in the kernel and, as the last row, in the bias."""
    residual = np.exp(log_probs(x, kernel, bias)) - np.eye(len(bias))[labels]
    return np.concatenate([x.T @ residual + l2 * np.asarray(kernel), residual.sum(0)[None]])


def information(x, kernel, bias, l2=0.0):
    """Relative to class 0, row by row."""
    p = np.exp(log_probs(x, kernel, bias))
    z = np.concatenate([x, np.ones((len(x), 1))], 1)
    k, d1 = len(bias), z.shape[1]
    prior = np.kron(np.eye(k) - 1 / k, np.diag([l2] * (d1 - 1) + [0.0]))
    full = prior + sum(
        np.kron(np.diag(q) - np.outer(q, q), np.outer(row, row))
        for q, row in zip(p, z, strict=True)
    )
    return full[d1:, d1:]


def separated(x, labels, k):
    """Whether a linear program finds coefficients that no label loses by and some gains from."""
    z = np.concatenate([x, np.ones((len(x), 1))], 1)
    gains = np.array(
        [
            np.kron(np.eye(k)[y] - np.eye(k)[j], row)
            for y, row in zip(labels, z, strict=True)
            for j in range(k)
            if j != y
        ]
    )
    found = linprog(-gains.sum(0), A_ub=-gains, b_ub=np.zeros(len(gains)), bounds=(-1, 1))
    return -found.fun > 1e-6


@cache
def by_scikit_learn(name, l2):
    x, labels = real_data(name)
    # Its solver stops early where features differ in scale; without a penalty no scale matters.
    scale = np.ones(x.shape[1]) if l2 else x.std(0)
    solver, tol = ("lbfgs", 1e-8) if name == "digits" else ("newton-cg", 1e-10)
    c = (2 if labels.max() == 1 else 1) / l2 if l2 else np.inf
    model = LogisticRegression(C=c, solver=solver, tol=tol, max_iter=10**4)
    with threadpool_limits(1):
        model.fit(x / scale, labels)
    kernel, bias = model.coef_.T / scale[:, None], np.asarray(model.intercept_)
    if len(model.classes_) == 2:
        kernel, bias = np.concatenate([-kernel, kernel], 1) / 2, np.concatenate([-bias, bias]) / 2
    return kernel, bias - bias.mean()


class TestRealData:
    @pytest.mark.parametrize(
        ("name", "l2", "dtype"),
        [
            ("iris", 1.0, "float64"),
            ("iris, two species", 0.0, "float64"),
            ("iris, two species", 1.0, "float64"),
            ("wine", 1.0, "float32"),
            ("wine, three features", 0.0, "float64"),
            ("wine, three features", 5.0, "float64"),
            ("digits", 1.0, "float64"),
        ],
    )
    def test_scikit_learn_agrees(self, name, l2, dtype):
        x, labels = real_data(name)
        fitted = fit(x, labels, dtype, l2=l2)
        assert fitted.converged
        assert not fitted.separated
        kernel, bias = by_scikit_learn(name, l2)
        expected = log_likelihood(x, labels, kernel, bias)
        np.testing.assert_allclose(fitted.log_likelihood, expected, rtol=1e-5)
        ours = objective(x, labels, fitted.kernel, fitted.bias, l2)
        theirs = objective(x, labels, kernel, bias, l2)
        assert ours <= theirs * (1 + (1e-6 if dtype == "float32" else 1e-12))
        if dtype == "float64" and name != "digits":  # on which its solver stops earlier
            np.testing.assert_allclose(fitted.kernel, kernel, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        ("name", "l2"), [("iris", 1.0), ("iris, two species", 0.0), ("wine, three features", 5.0)]
    )
    def test_gradient_vanishes_and_gauge_is_symmetric(self, name, l2):
        x, labels = real_data(name)
        fitted = fit(x, labels, l2=l2)
        slope = gradient(x, labels, fitted.kernel, fitted.bias, l2)
        scale = len(x) * np.append(np.abs(x).max(0), 1)[:, None]
        np.testing.assert_allclose(slope / scale, 0, atol=1e-9)
        assert fitted.gradient_norm < 1e-8
        np.testing.assert_allclose(fitted.kernel.sum(1), 0, atol=1e-12)
        np.testing.assert_allclose(fitted.bias.sum(), 0, atol=1e-11)

    @pytest.mark.parametrize("name", ["iris, two species", "wine, three features"])
    def test_statsmodels_agrees_on_standard_errors_too(self, name):
        x, labels = real_data(name)
        fitted = fit(x, labels, tol=1e-12)
        model = sm.MNLogit(labels, np.concatenate([x, np.ones((len(x), 1))], 1))
        result = model.fit(method="newton", maxiter=100, tol=1e-9, disp=False)
        d1, others = result.params.shape
        np.testing.assert_allclose(fitted.log_likelihood, result.llf, rtol=1e-9)
        relative = np.concatenate([fitted.kernel, fitted.bias[None]])
        np.testing.assert_allclose(relative[:, 1:] - relative[:, :1], result.params, 1e-6)
        errors = np.sqrt(np.diag(fitted.covariance)).reshape(others, d1)
        np.testing.assert_allclose(errors, result.bse.T, 1e-6)

    @pytest.mark.parametrize("l2", [0.0, 5.0])
    def test_covariance_inverts_the_hessian(self, l2):
        x, labels = real_data("wine, three features")
        fitted = fit(x, labels, l2=l2)
        expected = np.linalg.inv(information(x, fitted.kernel, fitted.bias, l2))
        np.testing.assert_allclose(fitted.covariance, expected, 1e-8, 1e-10)
        assert fitted.identified

    @pytest.mark.parametrize("name", ["iris", "wine"])
    def test_separated_without_a_penalty(self, name):
        x, labels = real_data(name)
        dtype = {"iris": "float64", "wine": "float32"}[name]
        with pytest.warns(UserWarning, match="labels: separated by a hyperplane"):
            fitted = fit(x, labels, dtype)
        assert fitted.separated
        assert not fitted.converged
        assert not fitted.identified
        assert np.isnan(fitted.covariance).all()
        # setosa alone is separated from the other two, whose likelihood has a maximum
        supremum = {"iris": -5.949273395, "wine": 0}[name]
        np.testing.assert_allclose(fitted.log_likelihood, supremum, atol=1e-4)


def random_problem(seed):
    """30 rows, 2 features, 3 classes that all occur, of several kinds and signal strengths."""
    rng = np.random.default_rng(seed)
    x = [
        rng.normal(size=(30, 2)),
        rng.integers(0, 3, (30, 2)),
        rng.random((30, 2)) < 0.2,
        rng.normal(size=(30, 2)) * [1, 100] + 10,
    ][seed % 4].astype(np.float32)
    standard = (x - x.mean(0)) / x.std(0)
    logits = standard @ rng.normal(size=(2, 3)) * rng.choice([0.5, 2, 8])
    labels = (logits + rng.gumbel(size=(30, 3))).argmax(1)
    return x.astype(np.float64), labels


class TestSeparation:
    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    def test_a_linear_program_agrees(self, dtype):
        found = np.zeros((2, 2), int)
        for seed in range(48):
            x, labels = random_problem(seed)
            if len(np.unique(labels)) < 3:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                fitted = fit(x, labels, dtype)
            assert fitted.converged != fitted.separated, seed
            truth = separated((x - x.mean(0)) / x.std(0), labels, 3)
            assert fitted.separated == truth, seed
            found[int(truth), int(fitted.separated)] += 1
        assert (np.diag(found) > 8).all()

    @pytest.mark.parametrize("dtype", ["float64", "float32"])
    @pytest.mark.parametrize("l2", [1e-6, 1e-12, 1e-20])
    def test_a_penalty_however_small_has_an_optimum(self, dtype, l2):
        """The optimum is where the gradient of the losses is as small as that of the penalty."""
        x, labels = real_data("iris")
        labels = (labels == 0).astype(int)
        fitted = fit(x, labels, dtype, l2=l2, tol=0.01 * l2)
        assert fitted.converged
        assert not fitted.separated
        kernel = np.asarray(fitted.kernel, np.float64)
        others = np.exp(log_probs(x, kernel, fitted.bias)) * (1 - np.eye(2)[labels])
        residual = others - others.sum(1, keepdims=True) * np.eye(2)[labels]
        np.testing.assert_allclose(x.T @ residual, -l2 * kernel, 0.02)
        np.testing.assert_allclose(residual.sum(0), 0, atol=1e-3 * residual.max())

    def test_a_class_that_never_occurs(self):
        x, labels = random_problem(4)
        labels = np.where(labels == 1, 0, labels)
        with pytest.warns(UserWarning, match="labels: class 1 never occurs, its bias is -inf"):
            fitted = fit(x, labels)
        assert fitted.bias[1] == -np.inf
        assert (fitted.kernel[:, 1] == 0).all()
        assert fitted.converged
        slope = gradient(x, labels, fitted.kernel, fitted.bias, 0.0)
        np.testing.assert_allclose(slope, 0, atol=1e-6)
        np.testing.assert_allclose(fitted.bias[[0, 2]].sum(), 0, atol=1e-12)
        assert np.isnan(fitted.covariance[:3]).all()
        expected = np.linalg.inv(information(x, fitted.kernel, fitted.bias)[3:, 3:])
        np.testing.assert_allclose(fitted.covariance[3:, 3:], expected, 1e-6)


class TestFeatures:
    def test_float32_agrees_with_float64(self):
        x, labels = random_problem(0)
        single, double = fit(x, labels, "float32"), fit(x, labels)
        errors = np.sqrt(np.diag(double.covariance))
        np.testing.assert_allclose(np.sqrt(np.diag(single.covariance)), errors, 1e-4)
        np.testing.assert_allclose(single.kernel, double.kernel, atol=1e-3 * errors.min())
        np.testing.assert_allclose(single.log_likelihood, double.log_likelihood, 1e-6)

    def test_offset_and_scale_move_only_the_coefficients(self):
        x, labels = random_problem(0)
        plain, moved = fit(x, labels), fit(x * [1e-3, 1e3] + [5, -1e4], labels)
        np.testing.assert_allclose(moved.log_likelihood, plain.log_likelihood, 1e-9)
        np.testing.assert_allclose(moved.kernel, plain.kernel / [[1e-3], [1e3]], 1e-6)

    @pytest.mark.parametrize(
        ("dtype", "scales"), [("float32", [1e-30, 1e-20, 1e20, 1e37]), ("float64", [1e-200, 1e200])]
    )
    @pytest.mark.parametrize("l2", [0.0, 1.0])
    def test_features_of_any_scale(self, dtype, scales, l2):
        """Scales change only the coefficients if there is no penalty.

        With a penalty, a feature of 1e-20 is as good as none, and its coefficient is
        x^T (labels - p) / l2; a feature of 1e20 has practically no penalty.
        """
        x, labels = random_problem(0)
        tolerance = {"float32": 2e-3, "float64": 1e-6}[dtype]
        for scale in scales:
            fitted = fit(x * [scale, 1], labels, dtype, l2=l2)
            assert fitted.converged
            assert fitted.identified
            slope = gradient(x * [scale, 1], labels, fitted.kernel, fitted.bias, l2)
            assert (np.abs(slope[1:]) < tolerance * len(x)).all()
            if l2 == 0:
                expected = fit(x, labels).kernel / [[scale], [1]]
            elif scale < 1:
                expected = fit(x[:, 1:], labels, l2=l2)
                p = np.exp(log_probs(x[:, 1:], expected.kernel, expected.bias))
                small = scale * x[:, :1].T @ (np.eye(3)[labels] - p) / l2
                expected = np.concatenate([small, expected.kernel])
            else:
                near = fit(x * [1e8, 1], labels, l2=l2)
                expected = near.kernel * [[1e8 / scale], [1]]
            np.testing.assert_allclose(fitted.kernel, expected, tolerance, tolerance * scale)

    def test_dependent_features_have_a_fit_without_standard_errors(self):
        x, labels = random_problem(0)
        with pytest.warns(UserWarning, match="x: the features, .* are linearly dependent"):
            alone = fit(np.stack([x[:, 0], np.full(30, 0.1)], 1), labels)
        with pytest.warns(UserWarning, match="x: the features, .* are linearly dependent"):
            twice = fit(np.stack([x[:, 0], 2 * x[:, 0] + 1], 1), labels)
        for fitted in (alone, twice):
            assert fitted.converged
            assert not fitted.identified
            assert np.isnan(fitted.covariance).all()
        penalised = fit(np.stack([x[:, 0], 2 * x[:, 0] + 1], 1), labels, l2=0.1)
        assert penalised.identified
        assert np.isfinite(penalised.covariance).all()
        np.testing.assert_allclose(alone.log_likelihood, twice.log_likelihood, 1e-9)
        assert (alone.kernel[1] == 0).all()

    def test_no_features_leave_the_pmf_of_the_labels(self):
        labels = np.array([0, 1, 1, 2, 2, 2])
        fitted = fit(np.zeros((6, 0)), labels, "float32")
        die = fit_categorical(np.bincount(labels))
        np.testing.assert_allclose(np.exp(fitted.bias) / np.exp(fitted.bias).sum(), die.pmf, 1e-6)
        np.testing.assert_allclose(fitted.log_likelihood, die.log_likelihood, 1e-6)
        # var log(p_k / p_0) = 1 / c_k + 1 / c_0
        np.testing.assert_allclose(fitted.covariance, [[1.5, 1], [1, 4 / 3]], 1e-5)
        assert fitted.converged

    def test_one_class(self):
        fitted = fit(np.ones((3, 2)), np.zeros(3, int), "float32")
        assert fitted.converged
        assert fitted.covariance.shape == (0, 0)
        for value in (fitted.kernel, fitted.bias, fitted.log_likelihood):
            np.testing.assert_array_equal(value, np.zeros_like(value))

    def test_many_coefficients(self):
        """L-BFGS fits more than 1000."""
        rng = np.random.default_rng(0)
        x = rng.normal(size=(400, 120))
        labels = (x[:, :10] + rng.gumbel(size=(400, 10))).argmax(1)
        fitted = fit(x, labels, "float32", l2=3.0)
        assert fitted.converged
        assert fitted.covariance is None
        assert fitted.identified is None
        with threadpool_limits(1):
            model = LogisticRegression(C=1 / 3, tol=1e-8, max_iter=1000).fit(x, labels)
        ours = objective(x, labels, fitted.kernel, fitted.bias, 3.0)
        assert ours <= objective(x, labels, model.coef_.T, model.intercept_, 3.0) * (1 + 1e-6)
        np.testing.assert_allclose(fitted.kernel, model.coef_.T, atol=1e-4)


class TestDerivatives:
    """Derivatives against central differences of scipy's optimum, in NumPy float64."""

    N, D, K = 40, 2, 3

    def problem(self):
        rng = np.random.default_rng(0)
        shapes = [(self.D, self.K), (self.K,), (6, 6)]
        weights = [rng.standard_normal(shape) for shape in shapes]
        x, labels = rng.standard_normal((self.N, self.D)), rng.integers(0, self.K, self.N)
        return x, labels, weights, rng.standard_normal((self.N, self.D))

    def by_scipy(self, x, labels, l2, weights):
        """A function of the optimum and of its covariance, in all of which it is linear."""

        def split(parameters):
            kernel_and_bias = parameters.reshape(self.D + 1, self.K)
            return kernel_and_bias[:-1], kernel_and_bias[-1]

        found = root(
            lambda parameters: (
                gradient(x, labels, *split(parameters), l2).ravel()
                # One of the optima that differ by a constant for all classes.
                + parameters.reshape(self.D + 1, self.K).sum(1).repeat(self.K)
            ),
            np.zeros((self.D + 1) * self.K),
            tol=1e-13,
        )
        kernel, bias = split(found.x)
        covariance = np.linalg.inv(information(x, kernel, bias, l2))
        return sum((w * a).sum() for w, a in zip(weights, (kernel, bias, covariance), strict=True))

    @pytest.mark.parametrize("l2", [0.0, 0.7])
    @pytest.mark.parametrize("newton", [True, False], ids=["Newton", "L-BFGS"])
    def test_derivatives_are_those_of_the_optimum(self, l2, newton, monkeypatch):
        x, labels, weights, direction = self.problem()
        if not newton:
            jax.clear_caches()  # of programs with the other limit
            monkeypatch.setattr(descent, "_MAX_COEFFICIENTS", 1)
            weights = [*weights[:2], 0 * weights[2]]

        def value(x, l2):
            found = fit_softmax_regression(x, jnp.asarray(labels), self.K, l2=l2, tol=1e-14)
            total = (found.kernel * weights[0]).sum() + (found.bias * weights[1]).sum()
            return total + (found.covariance * weights[2]).sum() if newton else total

        with jax.enable_x64(True):
            gradients, forward = jax.jit(
                lambda x, traced, direction: (
                    jax.grad(value, (0, 1))(x, traced),
                    jax.jvp(lambda x: value(x, l2), (x,), (direction,)),
                )
            )(x, l2, direction)
            of_x, of_l2 = map(np.asarray, gradients)
        step = 1e-5
        lower = 0 if l2 == 0 else step

        def difference(up, down, by):
            found = [self.by_scipy(x, labels, l2, weights) for x, l2 in (up, down)]
            return (found[0] - found[1]) / by

        expected = difference((x + step * direction, l2), (x - step * direction, l2), 2 * step)
        tolerance = 1e-6 if newton else 1e-4  # what conjugate gradients leave
        np.testing.assert_allclose((of_x * direction).sum(), expected, rtol=tolerance)
        np.testing.assert_allclose(forward[1], expected, rtol=tolerance)
        expected = difference((x, l2 + step), (x, l2 - lower), step + lower)
        np.testing.assert_allclose(of_l2, expected, rtol=1e-3 if lower == 0 else tolerance)
        if not newton:
            jax.clear_caches()


def many_rows(n):
    """Features and labels of six classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 3))
    return x, (x @ rng.normal(size=(3, 6)) + rng.gumbel(size=(n, 6))).argmax(1)


class TestManyRows:
    """The start from a part of the rows, of a part of which it starts."""

    @pytest.fixture(autouse=True)
    def few_are_many(self, monkeypatch):
        monkeypatch.setattr(large, "MANY_ROWS", 1000)
        monkeypatch.setattr(descent, "MANY_ROWS", 1000)

    @pytest.mark.parametrize("keywords", [{}, {"l2": 30.0}, {"weighted": True}], ids=str)
    def test_the_fit_is_that_of_all_rows(self, keywords, monkeypatch):
        x, labels = many_rows(40_000)
        weights = np.arange(40_000) % 3 if keywords.pop("weighted", False) else None
        fitted = fit(x, labels, sample_weight=weights, **keywords)
        assert fitted.converged
        assert fitted.steps <= 2
        monkeypatch.setattr(large, "MANY_ROWS", 10**9)
        expected = fit(x, labels, sample_weight=weights, tol=1e-12, **keywords)
        assert expected.steps > 3
        for a, b in zip(fitted[:3], expected[:3], strict=True):
            np.testing.assert_allclose(a, b, 1e-9)
        np.testing.assert_allclose(fitted.covariance, expected.covariance, 1e-6, 1e-12)

    def test_a_part_without_an_optimum(self):
        x, labels = many_rows(10_000)
        labels = np.where(np.arange(10_000) < 9_990, labels % 5, 5)
        fitted = fit(x, labels)
        assert fitted.converged
        np.testing.assert_allclose(gradient(x, labels, fitted.kernel, fitted.bias, 0), 0, atol=1e-6)


class TestCalls:
    @pytest.mark.parametrize("name", ["wine, three features", "iris, two species", "six classes"])
    def test_host_and_compiled_programs_agree(self, name):
        x, labels = many_rows(200) if name == "six classes" else real_data(name)
        host, compiled = fit(x, labels, tol=1e-12), fit(x, labels, host=False, tol=1e-12)
        assert (host.steps, host.converged) == (compiled.steps, compiled.converged)
        for a, b in zip(host[:5], compiled[:5], strict=True):
            np.testing.assert_allclose(a, b, 1e-8, 1e-9)
        np.testing.assert_allclose(host.likelihood_ratio, compiled.likelihood_ratio, 1e-12)

    def test_jit_and_half_precision_agree_with_float32(self):
        x, labels = random_problem(1)  # small integers, exact in every dtype
        x, labels = jnp.asarray(x, jnp.float32), jnp.asarray(labels, jnp.int32)
        plain = fit_softmax_regression(x, labels, 3, l2=0.1)
        half = fit_softmax_regression(x.astype(jnp.bfloat16), labels, 3, l2=0.1)
        fitted = jax.jit(lambda x, y: fit_softmax_regression(x, y, 3, l2=0.1))
        for other in (half, fitted(x, labels)):
            assert other.kernel.dtype == jnp.float32
            np.testing.assert_allclose(other.kernel, plain.kernel, rtol=1e-4)
        bad = fitted(x, labels.at[3].set(3))
        assert np.isnan(bad.kernel).all()
        assert np.isnan(bad.bias).all()
        assert np.isnan(bad.log_likelihood)
        assert not bad.converged
        outside = fitted(x, jnp.full_like(labels, 7))
        for value in (outside.kernel, outside.bias, outside.covariance, outside.log_likelihood):
            assert np.isnan(value).all()

    def test_inputs_as_people_have_them(self, unchecked_annotations):
        x, labels = random_problem(0)
        expected = fit(x, labels, "float32", host=True)
        table = pd.DataFrame(x, columns=["length", "width"])
        people: list[Any] = [(x.tolist(), labels.tolist()), (table, pd.Series(labels))]
        for features, classes in people:
            fitted = fit_softmax_regression(features, classes, 3)
            np.testing.assert_array_equal(fitted.kernel, expected.kernel)
        with pytest.raises(ValueError, match=r"labels: expected integers 0\.\.1, got 2"):
            fit_softmax_regression(people[1][0], people[1][1], 2)
        named: Any = table.assign(name="a")
        with pytest.raises(TypeError, match="x: expected an array of numbers"):
            fit_softmax_regression(named, labels, 3)

    def test_few_steps(self):
        x, labels = random_problem(0)
        with pytest.warns(UserWarning, match="max_steps: 1 steps did not reach the optimum"):
            fitted = fit(x, labels, max_steps=1)
        assert fitted.steps == 1
        assert not fitted.converged

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"x": np.ones((4, 2), int)}, TypeError, "x: expected a floating dtype, got int32"),
            ({"x": np.ones(4)}, ValueError, r"x: expected shape \[N, D\] with N >= 1"),
            ({"x": np.ones((0, 2))}, ValueError, r"x: expected shape \[N, D\] with N >= 1"),
            ({"x": np.full((4, 2), np.nan)}, ValueError, "x: expected finite numbers, got nan"),
            ({"labels": np.ones(4)}, TypeError, "labels: expected an integer dtype"),
            ({"labels": np.ones(3, int)}, ValueError, r"labels: expected shape \(4,\)"),
            ({"labels": np.array([0, 1, 2, 0])}, ValueError, r"labels: expected integers 0..1, g"),
            ({"labels": np.array([0, -1, 1, 0])}, ValueError, r"integers 0..1, got -1"),
            ({"labels": np.array([0, 2**40, 1, 0])}, ValueError, "0..1, got 1099511627776"),
            ({"num_classes": 0}, ValueError, "num_classes: expected an integer >= 1, got 0"),
            ({"l2": -1.0}, ValueError, "l2: expected a finite number >= 0, got -1.0"),
            ({"l2": np.inf}, ValueError, "l2: expected a finite number >= 0, got inf"),
            ({"l2": 1e39}, ValueError, "l2: expected a finite number >= 0, got 1e\\+39"),
            ({"tol": -1.0}, ValueError, "tol: expected a number >= 0, got -1.0"),
            ({"max_steps": 0}, ValueError, "max_steps: expected an integer 1..2147483647, got 0"),
            ({"max_steps": 2**40}, ValueError, "max_steps: expected an integer 1..2147483647, g"),
        ],
        ids=str,
    )
    def test_bad_arguments(self, change, error, message):
        arguments = {"x": np.ones((4, 2)), "labels": np.array([0, 1, 1, 0]), "num_classes": 2}
        with pytest.raises(error, match=message):
            fit_softmax_regression(**(arguments | change))
