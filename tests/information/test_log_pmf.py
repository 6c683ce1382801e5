"""Measures of pmfs given as log pmfs or logits: SciPy in float64, tails, limits, derivatives."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from hypothesis import given, settings, strategies as st

from tests.support.oracles import information as oracle
from tests.support.tolerances import GRADIENT, VALUE
from xentjax._core.choices import Form
from xentjax.information import (
    conditional_entropy,
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    perplexity,
)

INF = math.inf
WEIGHT = 0.3
FORMS = ["log_pmf", "logits"]


def kl(p, q):
    return scipy.special.rel_entr(p, q).sum(-1)


def js(p, q, weight):
    m = weight * p + (1 - weight) * q
    return weight * kl(p, m) + (1 - weight) * kl(q, m)


def deviance(p, q):
    """sum_k (p_k log(p_k / q_k) - p_k + q_k), each term to 1e-10 of itself."""
    d = -np.log1p((q - p) / p)
    return (p * (np.expm1(-d) + d)).sum(-1)


# name: measure, its number of arguments, oracle over the last axis or axes
MEASURES = {
    "entropy": (entropy, 1, lambda p: scipy.special.entr(p).sum(-1)),
    "perplexity": (perplexity, 1, lambda p: np.exp(scipy.special.entr(p).sum(-1))),
    "cross-entropy": (cross_entropy, 2, lambda p, q: scipy.special.entr(p).sum(-1) + kl(p, q)),
    "kl": (kl_divergence, 2, kl),
    "js": (partial(js_divergence, weight=WEIGHT), 2, partial(js, weight=WEIGHT)),
    "mutual-information": (mutual_information, 1, oracle.mutual_information),
    "conditional-entropy": (conditional_entropy, 1, oracle.conditional_entropy),
}
of_each_measure = pytest.mark.parametrize(
    ("measure", "count", "expected"), MEASURES.values(), ids=MEASURES
)


def f32(*values):
    return jnp.array(values, jnp.float32)


def random_logits(seed, shape, zeros=0.2):
    """Standard normal, some of them -inf but the first."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    x[..., 1:] = np.where(rng.random(x[..., 1:].shape) < zeros, -INF, x[..., 1:])
    return x


def given_as(form, x, axis: int | tuple[int, int] = -1):
    return x if form == "logits" else scipy.special.log_softmax(x, axis)


@of_each_measure
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_values(measure, count, expected, dtype):
    axes = (-2, -1)
    shape = (10, 3, 4)
    with jax.enable_x64(dtype == "float64"):
        for form in FORMS:
            arguments = [
                given_as(form, random_logits(seed, shape), axes).astype(dtype)
                for seed in range(count)
            ]
            pmfs = [scipy.special.softmax(a.astype(np.float64), axes) for a in arguments]
            if measure in (mutual_information, conditional_entropy):
                result, right = measure(*map(jnp.array, arguments), form=form), expected(*pmfs)
            else:
                result = measure(*map(jnp.array, arguments), form=form, axis=axes)
                right = expected(*(p.reshape(10, 12) for p in pmfs))
            assert result.dtype == dtype
            tolerance = 3 * VALUE[dtype]
            np.testing.assert_allclose(result, right, tolerance, tolerance)


class TestDigitsThatProbabilitiesLose:
    """float32, whose smallest probability is e^-87 and whose closest to 1 is 1 - e^-16."""

    certain = f32(-math.exp(-30.0), -30.0)  # of the outcome that has all but e^-30
    given_certain = (pytest.param(certain, "log_pmf"), pytest.param(f32(30, 0), "logits"))

    @pytest.mark.parametrize(("x", "form"), given_certain)
    def test_nearly_certain(self, x, form):
        expected = math.exp(-30) * 31
        np.testing.assert_allclose(entropy(x, form=form), expected, VALUE["float32"])
        joint = jnp.stack([x, x]) - (math.log(2) if form == "log_pmf" else 0)
        np.testing.assert_allclose(conditional_entropy(joint, form=form), expected, 3e-6)

    def test_tail(self):
        p, q = f32(math.log(0.5), math.log(0.5)), f32(-200, 0)
        np.testing.assert_allclose(cross_entropy(p, q, form="log_pmf"), 100, VALUE["float32"])
        expected = 100 - math.log(2)
        np.testing.assert_allclose(kl_divergence(p, q, form="log_pmf"), expected, VALUE["float32"])
        np.testing.assert_allclose(
            kl_divergence(f32(0, 0), f32(0, 200), form="logits"), expected, VALUE["float32"]
        )
        slopes = jax.grad(partial(kl_divergence, form="log_pmf"), (0, 1))(p, q)
        np.testing.assert_allclose(slopes[0], 0.5 * (np.array([200, 0]) - math.log(2) + 1), 1e-6)
        np.testing.assert_allclose(slopes[1], [-0.5, -0.5], 1e-6)
        # Neither side of log p = -200 adds anything, nor turns into an infinity.
        assert kl_divergence(q, f32(-300, 0), form="log_pmf") == 0
        assert js_divergence(q, f32(-300, 0), form="log_pmf") == 0
        assert entropy(q, form="log_pmf") == 0

    def test_p_above_q_0_is_infinite_however_small_p(self):
        for log_p in (-1.0, -200.0):
            p, q = f32(log_p, math.log1p(-math.exp(log_p))), f32(-INF, 0)
            assert cross_entropy(p, q, form="log_pmf") == INF
            assert kl_divergence(p, q, form="log_pmf") == INF
            assert kl_divergence(p, q, form="logits") == INF
            assert kl_divergence(q, p, form="log_pmf") < INF
            gradient = jax.grad(kl_divergence, 1)(p, q, form="log_pmf")
            np.testing.assert_allclose(gradient, -np.exp(p), 1e-6)

    @pytest.mark.parametrize("step", [1e-5, 1e-3, 0.1])
    def test_nearly_equal(self, step):
        """KL about step^2 / 2, between log pmfs that are taken as float32 has rounded them."""
        rng = np.random.default_rng(0)
        x = rng.standard_normal((5, 8))
        log_p, log_q = (
            scipy.special.log_softmax(a, -1).astype(np.float32)
            for a in (x, x + step * rng.standard_normal(x.shape))
        )
        p, q = (np.exp(np.float64(a)) for a in (log_p, log_q))
        result = kl_divergence(log_p, log_q, form="log_pmf")
        np.testing.assert_allclose(result, deviance(p, q), VALUE["float32"])
        m = WEIGHT * p + (1 - WEIGHT) * q
        result = js_divergence(log_p, log_q, form="log_pmf", weight=WEIGHT)
        expected = WEIGHT * deviance(p, m) + (1 - WEIGHT) * deviance(q, m)
        np.testing.assert_allclose(result, expected, 2 * VALUE["float32"])

    def test_common_offset_of_logits_costs_no_digits(self):
        """Steps of 1 / 128 are what float32 resolves at 1e5."""
        x, y = (np.round(128 * random_logits(s, (4, 6), 0)) / 128 for s in (0, 1))
        p, q = (scipy.special.softmax(a, -1) for a in (x, y))
        a, b = jnp.array(x + 1e5, jnp.float32), jnp.array(y - 1e5, jnp.float32)
        np.testing.assert_allclose(kl_divergence(a, b, form="logits"), kl(p, q), 2e-6)
        np.testing.assert_allclose(
            mutual_information(a, form="logits"),
            oracle.mutual_information(scipy.special.softmax(x)),
            2e-6,
        )


@jax.jit
def laws(x, y, weight):
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    forms: list[tuple[Form, Any, Any]] = [("log_pmf", log_p, log_q), ("logits", x, y)]
    return [
        (
            entropy(a, form=form),
            cross_entropy(a, b, form=form),
            kl_divergence(a, b, form=form),
            kl_divergence(a, a, form=form),
            js_divergence(a, b, form=form, weight=weight),
            js_divergence(a, a, form=form, weight=weight),
        )
        for form, a, b in forms
    ]


entries = st.sampled_from([-INF, -1e4, -200.0, -30.0, -1.0, -1e-7, 0.0, 1e-6, 0.5, 80.0])
rows = st.lists(entries, min_size=4, max_size=4).filter(lambda row: max(row) > -INF)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(rows, rows, st.sampled_from([0.0, 1e-3, 0.3, 0.5, 1.0]))
def test_laws_of_any_pair(x, y, weight):
    for values in laws(f32(*x), f32(*y), weight):
        h, cross, divergence, itself, mixed, mixed_itself = map(float, values)
        assert 0 <= h <= math.log(4) + 1e-6
        assert divergence >= 0
        assert cross == pytest.approx(h + divergence, rel=1e-6, abs=1e-6)
        assert (divergence == INF) == any(a > -INF == b for a, b in zip(x, y, strict=True))
        assert itself == mixed_itself == 0
        assert 0 <= mixed <= scipy.special.entr([weight, 1 - weight]).sum() + 1e-6
        if weight in (0, 1):
            assert mixed == 0


@pytest.mark.parametrize("step", [1e-7, 1e-3])
def test_kl_is_never_negative(step):
    x = jax.random.normal(jax.random.key(0), (200, 1000))
    y = x + step * jax.random.normal(jax.random.key(1), x.shape)
    assert (kl_divergence(x, y, form="logits") >= 0).all()
    log_p, log_q = jax.nn.log_softmax(x), jax.nn.log_softmax(y)
    assert (kl_divergence(log_p, log_q, form="log_pmf") >= 0).all()
    half = log_p.astype(jnp.bfloat16), log_q.astype(jnp.bfloat16)
    assert (kl_divergence(*half, form="log_pmf") >= 0).all()


P, Q = np.array([0.0, 0.0, 0.3, 0.7]), np.array([0.2, 0.0, 0.5, 0.3])
JOINT = np.array([[0.2, 0.3, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])
M = WEIGHT * P + (1 - WEIGHT) * Q


def times(weight, x):
    with np.errstate(invalid="ignore"):
        return np.where(weight == 0, 0, weight * x)


def slopes(name, *pmfs):
    """Derivatives in each log pmf, worked out by hand: p times the derivative in p."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if name in ("mutual-information", "conditional-entropy"):
            (joint,) = pmfs
            x, y = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
            if name == "conditional-entropy":
                return [times(joint, -np.log(joint / x))]
            return [times(joint, np.log(joint / (x * y)) - 1)]
        p = pmfs[0]
        if name in ("entropy", "perplexity"):
            scale = np.exp(scipy.special.entr(p).sum()) if name == "perplexity" else 1
            return [scale * times(p, -np.log(p) - 1)]
        q = pmfs[1]
        m = WEIGHT * p + (1 - WEIGHT) * q
        return {
            "cross-entropy": lambda: [times(p, -np.log(q)), -p],
            "kl": lambda: [times(p, np.log(p / q) + 1), -p],
            "js": lambda: [
                WEIGHT * times(p, np.log(p / m)),
                (1 - WEIGHT) * times(q, np.log(q / m)),
            ],
        }[name]()


def logs(*pmfs):
    with np.errstate(divide="ignore"):
        return [np.log(p) for p in pmfs]


def point(name):
    count = MEASURES[name][1]
    return [JOINT] if name.startswith(("mutual", "cond")) else [P, Q][:count]


@pytest.mark.parametrize("name", MEASURES)
class TestDerivatives:
    """Derivatives at a point with p = 0 < q, p = q = 0 and marginals of 0."""

    def test_first(self, name):
        measure, pmfs = MEASURES[name][0], point(name)
        arguments = [jnp.array(x, jnp.float32) for x in logs(*pmfs)]
        which, steps = tuple(range(len(pmfs))), [jnp.cos(jnp.float32(p)) for p in pmfs]

        @jax.jit
        def both_modes(*a):
            functions = [partial(measure, form=form) for form in FORMS]
            along = jax.jvp(functions[0], a, tuple(steps))[1]
            return *(jax.grad(f, which)(*a) for f in functions), along

        in_log_p, in_logits, along = both_modes(*arguments)
        expected = slopes(name, *pmfs)
        for got, logit_got, right, p in zip(in_log_p, in_logits, expected, pmfs, strict=True):
            np.testing.assert_allclose(got, right, GRADIENT["float32"], 1e-6)
            projected = right - p * right.sum()
            np.testing.assert_allclose(logit_got, projected, GRADIENT["float32"], 1e-6)
        expected_along = sum((s * np.cos(p)).sum() for s, p in zip(expected, pmfs, strict=True))
        np.testing.assert_allclose(along, expected_along, GRADIENT["float32"])

    def test_second(self, name):
        """Central differences agree; their step leaves impossible outcomes impossible."""
        measure, pmfs, step = MEASURES[name][0], point(name), 1e-6
        size, which = pmfs[0].size, tuple(range(len(pmfs)))
        with jax.enable_x64(True):
            hessian = jax.jit(jax.hessian(partial(measure, form="log_pmf"), which))(*logs(*pmfs))
        for i, blocks in enumerate(zip(*hessian, strict=True)):  # blocks: d^2 / d . d a_i
            for k in range(size):
                moved = []
                for sign in (1, -1):
                    factor = np.ones(size)
                    factor[k] = math.exp(sign * step)
                    at = [p * factor.reshape(p.shape) if i == j else p for j, p in enumerate(pmfs)]
                    moved.append(slopes(name, *at))
                for j, block in enumerate(blocks):
                    right = (moved[0][j] - moved[1][j]) / (2 * step)
                    got = np.reshape(block, (size, size))[:, k]
                    np.testing.assert_allclose(got, right.ravel(), 1e-7, 1e-8)


@pytest.mark.parametrize("name", MEASURES)
def test_a_softmax_that_underflows(name):
    """Reverse mode takes the logits, forward mode probabilities of which one is 0.

    (In reverse mode the entropy's slope +inf at that 0 meets the softmax's own slope of 0.)
    """
    measure, count, _ = MEASURES[name]
    joint = name.startswith(("mutual", "cond"))
    x = np.array([[110.0, 0.0], [109.0, 108.0]]) if joint else np.array([110.0, 0.0, 109.0])
    others = [np.array([0.5, 0.2, 0.3])][: count - 1]
    p = scipy.special.softmax(x)  # e^-110 is none in float32
    right = slopes(name, p, *others)[0]
    right = right - p * right.sum()

    def of_logits(x):
        log_others = [jnp.log(jnp.float32(q)) for q in others]
        return measure(x, *log_others, form="logits")

    def of_probabilities(x):
        p = jax.nn.softmax(x, axis=None if joint else -1)
        return measure(p, *[jnp.float32(q) for q in others])

    x = jnp.float32(x)
    both = jax.jit(lambda x: (jax.grad(of_logits)(x), jax.jacfwd(of_probabilities)(x)))
    for gradient in both(x):
        np.testing.assert_allclose(gradient, right, GRADIENT["float32"], 1e-6)


def test_weight_slope_and_curvature():
    with jax.enable_x64(True):
        log_p, log_q = logs(P, Q)

        def function(w):
            return js_divergence(log_p, log_q, form="log_pmf", weight=w)

        first, second = jax.jit(lambda w: (jax.grad(function)(w), jax.hessian(function)(w)))(WEIGHT)
        np.testing.assert_allclose(first, kl(P, M) - kl(Q, M), 1e-13)
        ratio = np.divide((P - Q) ** 2, M, where=M > 0, out=np.zeros(4))
        np.testing.assert_allclose(second, -ratio.sum(), 1e-12)


class TestAxesAndMasks:
    @pytest.mark.parametrize("form", FORMS)
    def test_axis_vmap_and_jit_agree(self, form):
        x, y = (jnp.array(given_as(form, random_logits(s, (3, 5))), jnp.float32) for s in (0, 1))
        measure = partial(js_divergence, form=form, base="bits", weight=WEIGHT)
        result = measure(x, y)
        expected = js(*(scipy.special.softmax(np.float64(a), -1) for a in (x, y)), weight=WEIGHT)
        np.testing.assert_allclose(result, expected / math.log(2), 3e-6)
        np.testing.assert_allclose(jax.jit(jax.vmap(measure))(x, y), result, 1e-6)
        np.testing.assert_allclose(measure(x.T, y.T, axis=0), result, 1e-6)

    @of_each_measure
    def test_masked_outcomes_leave_the_pmf(self, measure, count, expected):
        """Logits of masked outcomes leave the softmax, may hold anything and have derivative 0."""
        shape, keep = (2, 3), np.array([[True, False, True], [True, True, False]])
        x = [random_logits(seed, shape, 0) for seed in range(count)]
        pmfs = [scipy.special.softmax(np.where(keep, a, -INF)) for a in x]
        axes = {} if measure in (mutual_information, conditional_entropy) else {"axis": (0, 1)}
        garbage = [jnp.array(np.where(keep, a, math.nan), jnp.float32) for a in x]
        masked = partial(measure, form="logits", where=jnp.array(keep), **axes)
        value, gradients = jax.jit(jax.value_and_grad(masked, tuple(range(count))))(*garbage)
        right = expected(*(p.ravel() if axes else p for p in pmfs))
        np.testing.assert_allclose(value, right, 3e-6, 1e-6)
        for gradient in gradients:
            assert np.isfinite(gradient).all()
            np.testing.assert_array_equal(gradient[~keep], 0)

    @pytest.mark.parametrize("form", FORMS)
    def test_nothing_kept_is_0(self, form):
        none = jnp.zeros(3, bool)
        for measure, count in ((entropy, 1), (kl_divergence, 2), (js_divergence, 2)):
            arguments = [f32(0.5, math.nan, 1)] * count
            masked = partial(measure, form=form, where=none)
            value, slope = jax.jit(jax.value_and_grad(masked))(*arguments)
            assert value == 0
            np.testing.assert_array_equal(slope, 0)

    def test_half_precision_is_computed_in_float32(self):
        x = jnp.array(random_logits(0, (4, 6)), jnp.bfloat16)
        value, gradient = jax.value_and_grad(lambda x: entropy(x, form="logits").sum())(x)
        p = scipy.special.softmax(np.asarray(x, np.float64), -1)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, scipy.special.entr(p).sum(), VALUE["bfloat16"])
        assert gradient.dtype == jnp.bfloat16

    def test_nan_and_positive_infinity_are_not_hidden(self):
        for bad in (f32(0, math.nan), f32(0, INF)):
            assert np.isnan(entropy(bad, form="logits"))
            assert np.isnan(kl_divergence(bad, f32(0, 0), form="logits"))
