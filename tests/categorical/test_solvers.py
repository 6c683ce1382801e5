"""Solvers: the iterates and rates that theory gives, certificates, extremes."""

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.support.oracles import information as oracle
from tests.support.tolerances import GRADIENT, VALUE
from xentjax import fit_categorical
from xentjax.categorical.solvers import (
    Solver,
    exponentiated_gradient,
    gradient_descent,
    natural_gradient,
    newton,
    solve,
)

TEN = np.array([30, 20, 15, 10, 8, 6, 5, 3, 2, 1], np.float64)
P = TEN / 100
WITH_ZERO = np.array([5, 3, 2, 0], np.float64)
SOLVERS = {
    "gradient descent": gradient_descent(optax.sgd(1.0)),
    "adam": gradient_descent(optax.adam(0.1)),
    "natural gradient": natural_gradient(),
    "damped natural gradient": natural_gradient(0.3),
    "exponentiated gradient": exponentiated_gradient(0.3),
    "newton": newton(),
}


def path64(counts, solver, num_steps):
    """The path of a solver as NumPy arrays, computed in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, solve(jnp.array(counts), solver, num_steps))


def textbook(step, num_steps):
    """Iterates of `step` from the uniform pmf."""
    q, iterates = np.full(len(P), 1 / len(P)), []
    for _ in range(num_steps):
        q = step(q)
        iterates.append(q)
    return np.array(iterates)


def by_pseudoinverse(q):
    """Newton's step on the logits, which is the natural gradient's there too: H is F."""
    logits = np.log(q) + np.linalg.pinv(np.diag(q) - np.outer(q, q)) @ (P - q)
    return np.exp(logits) / np.exp(logits).sum()


def by_exponentials(eta, q):
    weights = q * np.exp(eta * P / q)
    return weights / weights.sum()


class TestRates:
    @pytest.mark.parametrize(
        ("solver", "step"),
        [
            (newton(), by_pseudoinverse),
            (exponentiated_gradient(), partial(by_exponentials, 1)),
            (exponentiated_gradient(0.5), partial(by_exponentials, 0.5)),
            (natural_gradient(0.5), lambda q: q + 0.5 * (P - q)),
        ],
        ids=["newton", "exponentiated", "half-exponentiated", "natural"],
    )
    def test_iterates_of_the_textbook(self, solver, step):
        np.testing.assert_allclose(path64(TEN, solver, 5).pmf, textbook(step, 5), rtol=1e-10)

    def test_newton_is_quadratic(self):
        """The iterates' divergence in 50 digits, which needs a KL that does not cancel."""
        expected = [7.32214e-2, 1.07598e-3, 3.91237e-6, 5.81235e-10, 1.63770e-17]
        np.testing.assert_allclose(path64(TEN, newton(), 5).kl, expected, rtol=1e-5)

    @pytest.mark.parametrize(("eta", "after", "kl"), [(0.1, 100, 6.34e-10), (0.5, 20, 2.174e-12)])
    def test_exponentiated_gradient_is_linear_below_1(self, eta, after, kl):
        path = path64(TEN, exponentiated_gradient(eta), after)
        assert path.kl[-1] == pytest.approx(kl, rel=1e-3)
        assert path.kl[-1] / path.kl[-2] == pytest.approx((1 - eta) ** 2, rel=1e-3)

    @pytest.mark.parametrize(
        ("eta", "after", "kl"), [(1.0, 1000, 9.717e-13), (4.0, 300, None)], ids=["1", "4"]
    )
    def test_gradient_descent_is_linear_in_the_smallest_curvature(self, eta, after, kl):
        path = path64(TEN, gradient_descent(optax.sgd(eta)), after)
        smallest = np.linalg.eigvalsh(np.diag(P) - np.outer(P, P))[1]
        assert smallest == pytest.approx(0.01085, rel=1e-3)
        assert path.kl[-1] / path.kl[-2] == pytest.approx((1 - eta * smallest) ** 2, rel=1e-5)
        if kl:
            assert path.kl[99] == pytest.approx(5.599e-4, rel=1e-3)
            assert path.kl[-1] == pytest.approx(kl, rel=1e-3)
        else:
            assert path.kl[99] == pytest.approx(3.834e-7, rel=1e-3)

    @pytest.mark.parametrize("counts", [TEN, WITH_ZERO, np.array([7.0])], ids=["ten", "0", "one"])
    def test_natural_gradient_is_exact_after_one_step(self, counts):
        path = path64(counts, natural_gradient(), 2)
        np.testing.assert_allclose(path.pmf, [counts / counts.sum()] * 2, rtol=1e-15)
        np.testing.assert_allclose(path.kl, 0, atol=1e-30)
        np.testing.assert_allclose(path.residual, 0, atol=1e-15)


class TestAClassThatNeverOccurred:
    def test_gradient_descent_is_sublinear(self):
        """t KL -> 1 / (eta (1 + 1/m)), m classes that occurred."""
        kl = path64(WITH_ZERO, gradient_descent(optax.sgd(2.0)), 10_000).kl
        for t, distance in ((100, 2e-2), (1000, 3e-3), (10_000, 3e-4)):
            assert t * kl[t - 1] == pytest.approx(0.375, rel=distance)

    @pytest.mark.parametrize(
        ("solver", "factor"),
        [
            (newton(), np.exp(-1)),
            (exponentiated_gradient(0.3), np.exp(-0.3)),
            (natural_gradient(0.3), 0.7),
        ],
        ids=["newton", "exponentiated", "natural"],
    )
    def test_the_others_are_linear(self, solver, factor):
        path = path64(WITH_ZERO, solver, 60)
        assert path.kl[-1] / path.kl[-2] == pytest.approx(factor, rel=1e-5)
        assert 0 < path.pmf[-1, 3] < 1e-7

    def test_its_probability_underflows_to_0_and_stays(self):
        path = solve(jnp.array(WITH_ZERO, jnp.float32), newton(), 200)
        np.testing.assert_allclose(path.pmf[-1], [0.5, 0.3, 0.2, 0], VALUE["float32"])
        assert path.pmf[-1, 3] == 0
        assert path.kl[-1] < 1e-13
        assert path.residual[-1] < 1e-6


def many_counts():
    """[30, 5]: from even to skewed, with zeros, some of one sample and of one class alone."""
    rng = np.random.default_rng(0)
    rows = [
        rng.multinomial(n, rng.dirichlet(np.full(5, concentration)))
        for concentration in (0.1, 0.5, 3.0)
        for n in (1, 4, 30, 1000)
        for _ in range(2)
    ]
    extreme = [[1, 0, 0, 0, 0], [1e6, 1, 0, 0, 1], [1, 1, 1, 1, 1e9], [1e-6, 1, 1e6, 0, 3]]
    return np.array([*rows, *extreme, *np.eye(5)[:2]], np.float32)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())
def test_certificates_bound_what_is_missing_to_the_maximum(solver):
    counts = many_counts()
    path = jax.tree.map(np.asarray, solve(jnp.array(counts), solver, 30))
    c = counts[:, None].astype(np.float64)
    p = c / c.sum(-1, keepdims=True)
    q = path.pmf.astype(np.float64)
    assert np.isfinite(q).all()
    assert (q >= 0).all()
    np.testing.assert_allclose(q.sum(-1), 1, rtol=VALUE["float32"])
    q /= q.sum(-1, keepdims=True)  # float32 pmfs miss 1 by more than small divergences
    missing = oracle.kl_divergence(p, q)  # (L* - L(q)) / N
    rounding = VALUE["float32"] * (1 + oracle.entropy(p))
    assert (missing <= path.gap * (1 + 1e-5) + rounding).all()  # L* - L(q) <= N gap
    assert (path.kl >= 0).all()
    assert (path.kl <= path.gap).all()
    np.testing.assert_allclose(path.kl, missing, rtol=1e-5, atol=1e-6)
    ratio = oracle.times(p, 1 / np.where(p == 0, 1, q))
    # Of a quotient's largest: relative to it, not to what is left after subtracting 1.
    np.testing.assert_allclose(path.gap + 1, ratio.max(-1), rtol=GRADIENT["float32"])
    violations = np.where(c > 0, np.abs(ratio - 1), q).max(-1)
    np.testing.assert_allclose(path.residual, violations, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["gradient descent", "newton"])
def test_batches_vmap_jit_and_steps_by_hand_agree(name):
    solver = SOLVERS[name]
    counts = np.array([[50, 30, 15, 4, 1], [1, 2, 3, 5, 9], [1, 1, 1, 1, 99], [3, 7, 1, 5, 2]])
    counts = jnp.array(counts.reshape(2, 2, 5), jnp.float32)
    batch = solve(counts, solver, 3)
    assert batch.pmf.shape == (2, 2, 3, 5)
    assert batch.kl.shape == batch.gap.shape == batch.residual.shape == (2, 2, 3)
    mapped = jax.jit(jax.vmap(jax.vmap(lambda c: solve(c, solver, 3))))(counts)
    chex.assert_trees_all_close(mapped, batch, rtol=1e-5, atol=1e-6)
    p, step = counts[1, 0] / counts[1, 0].sum(), jax.jit(solver.step)
    state = solver.init(p)
    np.testing.assert_allclose(solver.pmf(state), np.full(5, 0.2), rtol=1e-6)
    for q in batch.pmf[1, 0]:
        state = step(p, state)
        np.testing.assert_allclose(solver.pmf(state), q, rtol=1e-5, atol=1e-7)


class TestOvershoot:
    COUNTS = np.append(0.99, np.full(999, 0.01 / 999))

    def test_whole_steps_alone_end_in_nan(self):
        """The example needs shortened steps; otherwise there would be nothing to guard against."""
        q = np.full(1000, 1e-3)
        for _ in range(2):
            with np.errstate(all="ignore"):
                weights = q * np.exp(self.COUNTS / q)
                q = weights / weights.sum()
        assert np.isnan(q).any()

    @pytest.mark.parametrize("eta", [1.0, 0.5])
    def test_shortened_ones_descend(self, eta):
        path = solve(jnp.array(self.COUNTS, jnp.float32), exponentiated_gradient(eta), 30)
        assert np.isfinite(path.pmf).all()
        assert (np.diff(path.kl) <= 1e-13).all()
        assert path.kl[-1] < 1e-7

    def test_newton_takes_few_steps_whatever_the_counts(self):
        rng = np.random.default_rng(1)
        counts = [10 ** rng.uniform(-6, 6, 300) for _ in range(5)]
        counts += [np.arange(1, 301) ** -float(power) for power in (1, 3, 9)]
        counts += [rng.poisson(0.1, 300) + np.eye(300)[0] * 10.0**k for k in (0, 3, 6)]
        fit = fit_categorical(
            jnp.array(counts, jnp.float32), solver="newton", max_steps=20, tol=1e-6
        )
        assert fit.converged.all()
        assert (np.diff(fit.history) <= 0).all()


class TestFit:
    @pytest.mark.parametrize(
        "solver",
        ["newton", "exponentiated_gradient", "natural_gradient", optax.sgd(3.0), SOLVERS["adam"]],
        ids=["newton", "exponentiated", "natural", "optax", "own"],
    )
    def test_mode_of_the_posterior_is_the_closed_form(self, solver):
        counts = jnp.array([[5, 3, 2, 0], [0, 0, 1, 0], [0, 0, 0, 0]])
        prior = jnp.array([1.5, 1.5, 2.0, 3.0])
        fit = fit_categorical(counts, prior=prior, solver=solver, max_steps=300)
        assert fit.converged.all()
        assert ((fit.steps > 0) & (fit.steps < 300)).all()
        effective = np.asarray(counts) + np.array([0.5, 0.5, 1, 2])
        n = effective.sum(-1)
        np.testing.assert_allclose(fit.pmf, effective / n[:, None], atol=1e-3)
        assert (fit.certificate.duality_gap <= 1.01e-6 * n).all()
        closed = fit_categorical(counts, prior=prior)
        np.testing.assert_allclose(fit.log_likelihood, closed.log_likelihood, rtol=2e-3)

    @pytest.mark.parametrize("solver", ["newton", optax.sgd(3.0)], ids=["newton", "optax"])
    @pytest.mark.parametrize("counts", [[7], [0, 1, 0]], ids=["one class", "one sample"])
    def test_least_counts(self, solver, counts):
        fit = fit_categorical(jnp.array(counts), solver=solver, max_steps=300, tol=0.02)
        assert fit.converged
        assert fit.history[-1] <= 0.02
        np.testing.assert_allclose(fit.pmf, np.array(counts) / sum(counts), atol=0.02)
        assert np.isfinite(fit.log_likelihood)

    @pytest.mark.parametrize("solver", ["newton", optax.sgd(3.0)], ids=["newton", "optax"])
    def test_under_jit_counts_without_a_fit_give_nan(self, solver):
        fit = jax.jit(lambda c: fit_categorical(c, solver=solver, max_steps=3))(jnp.zeros(2))
        assert np.isnan(fit.pmf).all()
        assert not fit.converged


def test_a_solver_of_ones_own():
    newton_like = Solver(
        lambda p: jnp.ones_like(p), lambda p, q: (p + q) / 2, lambda q: q / q.sum()
    )
    fit = fit_categorical(jnp.array([3, 1]), solver=newton_like)
    assert fit.converged
    np.testing.assert_allclose(fit.pmf, [0.75, 0.25], atol=1e-3)


@pytest.mark.parametrize(("dtype", "computed"), [("int32", "float64"), ("bfloat16", "float32")])
def test_dtypes(dtype, computed):
    with jax.enable_x64(True):
        path = solve(jnp.array([2, 1, 1], dtype), newton(), 6)
        assert {leaf.dtype for leaf in path} == {jnp.dtype(computed)}
        np.testing.assert_allclose(path.pmf[-1], [0.5, 0.25, 0.25], VALUE[computed])


def test_one_trace_a_solver_and_shape():
    newtons = newton()
    traced_once: Any = chex.assert_max_traces(newtons.step, n=1)
    solver = newtons._replace(step=traced_once)
    for first in (1, 2, 3):
        solve(jnp.array([first, 5, 9]), solver, 2)


class TestBadInput:
    @pytest.mark.parametrize("step_size", [0, -0.5, 1.5, math.nan, math.inf])
    @pytest.mark.parametrize("make", [natural_gradient, exponentiated_gradient])
    def test_step_size(self, make, step_size):
        with pytest.raises(ValueError, match=r"step_size: expected a number in \(0, 1\], got "):
            make(step_size)

    @pytest.mark.parametrize("num_steps", [0, -1, True])
    def test_num_steps(self, num_steps):
        message = f"num_steps: expected an integer >= 1, got {num_steps}"
        with pytest.raises(ValueError, match=message):
            solve(jnp.array([1, 2]), newton(), num_steps)

    @pytest.mark.parametrize(
        "call",
        [
            lambda: solve(jnp.array([1, 2]), newton(), 1.5),  # pyright: ignore[reportArgumentType]
            lambda: solve(jnp.array([1, 2]), "newton", 1),  # pyright: ignore[reportArgumentType]
            lambda: gradient_descent(0.1),  # pyright: ignore[reportArgumentType]
            lambda: exponentiated_gradient("1"),  # pyright: ignore[reportArgumentType]
        ],
        ids=["num_steps", "solver", "optimizer", "step_size"],
    )
    def test_kinds(self, call):
        with pytest.raises(TypeError):
            call()

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([1, -2], r"counts: expected finite numbers >= 0, got -2"),
            ([0, 0], "counts: expected at least one count > 0, got all 0"),
        ],
    )
    def test_counts(self, counts, message):
        with pytest.raises(ValueError, match=message):
            solve(jnp.array(counts), newton(), 1)
