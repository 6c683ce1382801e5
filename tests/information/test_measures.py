"""Information measures: published values, a float64 oracle, and limits at the boundary."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from flax import nnx
from hypothesis import given, settings, strategies as st
from numpy.typing import DTypeLike

from tests.support.oracles import information as oracle
from tests.support.tolerances import GRADIENT, VALUE
from xentjax.information import (
    check_pmf,
    conditional_entropy,
    cross_entropy,
    entropy,
    js_divergence,
    kl_divergence,
    mutual_information,
    perplexity,
)

INF = math.inf
OF_ONE = [entropy, perplexity]
OF_TWO = [cross_entropy, kl_divergence, js_divergence]
OF_JOINT = [mutual_information, conditional_entropy]


def name(measure):
    return measure.__name__


def f32(*values):
    return jnp.array(values, jnp.float32)


def random_pmfs(seed, shape, zeros=0.2, dtype: DTypeLike = np.float32):
    """Pmfs along the last axis, some probabilities 0, normalised in float64 and then rounded."""
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=shape) * (rng.random(shape) >= zeros)
    weights[..., 0] += 0.1
    return jnp.array((weights / weights.sum(-1, keepdims=True)).astype(dtype))


class TestPublishedValues:
    """Examples of scipy.stats.entropy and of R's entropy, to the digits of the source."""

    skewed, reordered = f32(0.5, 0.25, 0.25), f32(0.25, 0.25, 0.5)

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (lambda: entropy(f32(0.5, 0.5), base=2), 1),
            (lambda: entropy(f32(0.9, 0.1), base=2), 0.46899559358928117),
            (lambda: kl_divergence(f32(0.5, 0.5), f32(0.9, 0.1), base=2), 0.7369655941662062),
            (lambda: cross_entropy(f32(0.5, 0.5), f32(0.9, 0.1), base=2), 1.736965594166206),
            (lambda: entropy(f32(0, 1 / 3, 2 / 3)), 0.63651416829481278),
            (
                lambda: kl_divergence(
                    f32(0.2, 0.1, 0.15, 0.05, 0.3, 0.2), f32(0.1, 0.15, 0.35, 0.05, 0.2, 0.15)
                ),
                0.1501641931658976,
            ),
            (
                lambda: mutual_information(f32(4, 5, 1, 2, 4, 4).reshape(2, 3) / 20),
                0.06795961471815898,
            ),
        ],
        ids=["fair-coin", "biased-coin", "kl", "cross-entropy", "with-zero", "R-KL", "R-MI"],
    )
    def test_value(self, value, expected):
        np.testing.assert_allclose(value(), expected, rtol=VALUE["float32"])

    @pytest.mark.parametrize(
        ("base", "of_p", "of_pair", "of_uniform_ten"),
        [
            ("nats", 1.0397207708399179, 0.17328679513998632, 2.302585092994046),
            ("bits", 1.5, 0.25, 3.321928094887362),
            ("hartleys", 0.4515449934959717, 0.07525749891599529, 1),
        ],
    )
    def test_units(self, base, of_p, of_pair, of_uniform_ten):
        values = [
            entropy(self.skewed, base=base),
            kl_divergence(self.skewed, self.reordered, base=base),
            entropy(jnp.full(10, 0.1), base=base),
        ]
        np.testing.assert_allclose(values, [of_p, of_pair, of_uniform_ten], VALUE["float32"])

    @pytest.mark.parametrize(
        ("p00", "q00", "expected"),
        [(0.1, 0.2, 0.1933259), (0.1, 0.0, INF), (0.0, 0.0, 0.17403988)],
        ids=["interior", "impossible", "both-zero"],
    )
    def test_columns_of_scipy_tests(self, p00, q00, expected):
        """scipy/stats/tests/test_entropy.py, whose columns scipy normalises first."""
        p = np.array([[p00, 0.2], [0.6, 0.3], [0.3, 0.5]])
        q = np.array([[q00, 0.1], [0.3, 0.6], [0.5, 0.3]])
        p, q = (jnp.array(x / x.sum(0), jnp.float32) for x in (p, q))
        np.testing.assert_allclose(
            kl_divergence(p, q, axis=0), [expected, 0.18609809], rtol=1e-6, atol=1e-8
        )


class TestAgainstOracle:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("zeros", [0.0, 0.3], ids=["interior", "with-zeros"])
    def test_values(self, dtype, zeros):
        with jax.enable_x64(dtype == "float64"):
            p, q = random_pmfs(0, (50, 7), zeros, dtype), random_pmfs(1, (50, 7), zeros, dtype)
            joint = random_pmfs(2, (20, 12), zeros, dtype).reshape(20, 3, 4)
            for measure, arguments in [
                (entropy, [p]),
                (cross_entropy, [p, q]),
                (kl_divergence, [p, q]),
                (js_divergence, [p, q]),
                (mutual_information, [joint]),
                (conditional_entropy, [joint]),
            ]:
                result = measure(*arguments)
                expected = getattr(oracle, name(measure))(*map(np.asarray, arguments))
                assert result.dtype == dtype
                # A sum that cancels to a small number is as good as its terms, hence atol.
                tolerance = 3 * VALUE[dtype]
                np.testing.assert_allclose(
                    result, expected, rtol=tolerance, atol=tolerance, err_msg=name(measure)
                )

    def test_scipy_agrees(self):
        p, q = random_pmfs(3, (4, 9), 0), random_pmfs(4, (4, 9), 0)
        np.testing.assert_allclose(entropy(p), scipy.stats.entropy(p, axis=-1), rtol=1e-6)
        np.testing.assert_allclose(
            kl_divergence(p, q, base=3), scipy.stats.entropy(p, q, base=3, axis=-1), rtol=1e-6
        )

    def test_perplexity_is_the_exponential_of_entropy_in_any_base(self):
        p = random_pmfs(5, (6,))
        expected = np.exp(oracle.entropy(p))
        for base in (None, "bits", 7):
            np.testing.assert_allclose(perplexity(p, base=base), expected, VALUE["float32"])

    def test_conditional_entropy_knows_the_first_axis(self):
        joint = random_pmfs(6, (12,)).reshape(3, 4)
        np.testing.assert_allclose(
            conditional_entropy(joint, axes=(1, 0)), oracle.conditional_entropy(joint.T), rtol=1e-5
        )

    def test_mutual_information_survives_an_underflow_of_the_marginals_product(self):
        rare = 1e-25  # rare**2 is 0 in float32
        joint = f32(1, 0, 0, rare).reshape(2, 2)
        np.testing.assert_allclose(
            jax.grad(mutual_information)(joint)[1, 1], -math.log(rare) - 1, rtol=1e-6
        )
        assert mutual_information(joint) < 1e-20


@jax.jit
def laws(p, q):
    return entropy(p), cross_entropy(p, q), kl_divergence(p, q), js_divergence(p, q)


weights = st.lists(st.sampled_from([0.0, 1e-30, 1e-7, 0.1, 0.3, 1.0, 5.0]), min_size=4, max_size=4)


@settings(deadline=None, derandomize=True, max_examples=100)
@given(weights.filter(any), weights.filter(any))
def test_laws_of_any_pair_of_pmfs(p_weights, q_weights):
    p, q = (jnp.array(w, jnp.float32) / sum(w) for w in (p_weights, q_weights))
    h, cross, kl, js = (float(v) for v in laws(p, q))
    _, _, _, js_swapped = laws(q, p)
    assert 0 <= h <= math.log(4) + 1e-6
    assert kl >= 0
    assert cross == pytest.approx(h + kl, rel=1e-6, abs=1e-6)
    assert 0 <= js <= math.log(2) + 1e-6
    assert js == pytest.approx(float(js_swapped), rel=1e-6)
    assert (kl == INF) == bool(((p > 0) & (q == 0)).any())


class TestNearlyEqual:
    """The divergence of close pmfs, where p log p - p log q is all rounding."""

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    def test_kl_of_a_pmf_with_itself_is_exactly_0(self, dtype):
        with jax.enable_x64(dtype == "float64"):
            p = random_pmfs(0, (20, 1000), dtype=np.float64).astype(dtype)
            np.testing.assert_array_equal(kl_divergence(p, p), np.zeros(20))
            np.testing.assert_array_equal(jax.jit(kl_divergence)(p, p), np.zeros(20))
            np.testing.assert_array_equal(js_divergence(p, p), np.zeros(20))

    @pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
    @pytest.mark.parametrize("step", [1e-7, 1e-4, 1e-2])
    def test_is_never_negative(self, dtype, step):
        logits = jax.random.normal(jax.random.key(0), (200, 50))
        other = logits + step * jax.random.normal(jax.random.key(1), logits.shape)
        p, q = (jax.nn.softmax(a).astype(dtype) for a in (logits, other))
        assert (kl_divergence(p, q) >= 0).all()
        assert (mutual_information(p[:, :, None] * q[:, None, :]) >= 0).all()

    def test_keeps_relative_precision(self):
        p, q = f32(0.5, 0.25, 0.25), f32(0.5, 0.25 + 1e-4, 0.25 - 1e-4)
        terms = scipy.special.kl_div(np.asarray(p, np.float64), np.asarray(q, np.float64))
        assert terms.sum() < 1e-7
        np.testing.assert_allclose(kl_divergence(p, q), terms.sum(), rtol=1e-6)


class TestSums:
    """Sums of pmfs differ by rounding, more of it the more outcomes there are."""

    @pytest.mark.parametrize("k", [1000, 30_000, 1_000_000])
    @pytest.mark.parametrize("weights", ["equal", "random"])
    def test_kl_of_pmfs_normalised_in_float32_is_never_negative(self, k, weights):
        w = np.full(k, 0.1, np.float32)
        if weights == "random":
            w = np.random.default_rng(k).exponential(size=k).astype(np.float32)

        def by_column(w):
            """NumPy adds up columns one number at a time: of a million equal ones 1 % is lost."""
            return jnp.array(w / np.broadcast_to(w[:, None], (len(w), 2)).copy().sum(0)[0])

        pmfs = [jnp.array(w / w.sum()), by_column(w), jax.nn.softmax(jnp.log(w))]
        for p in pmfs:
            for q in pmfs:
                assert kl_divergence(p, q) >= 0
                assert kl_divergence(jnp.log(p), jnp.log(q), form="log_pmf") >= 0
        side = math.isqrt(k)
        assert mutual_information(by_column(w[: side**2]).reshape(side, side)) >= 0

    @pytest.mark.parametrize("scale", [0.9, 0.999, 1.001, 1.1])
    @pytest.mark.parametrize("form", ["pmf", "log_pmf"])
    def test_a_q_that_is_not_normalised_is_taken_at_its_word_under_jit(self, scale, form):
        p = random_pmfs(0, (1000,), 0)
        q = (np.asarray(p) * np.float32(scale)).astype(np.float32)
        given = (p, jnp.array(q)) if form == "pmf" else (jnp.log(p), jnp.log(jnp.array(q)))
        value = jax.jit(partial(kl_divergence, form=form))(*given)
        np.testing.assert_allclose(value, -math.log(scale), rtol=1e-5, atol=2e-6)
        with pytest.raises(ValueError, match=r"q\)?: expected probabilities with sum 1 within"):
            kl_divergence(*given, form=form)


class TestWeight:
    """JS_w = w KL(p || m) + (1 - w) KL(q || m)."""

    p, q = random_pmfs(10, (30, 6)), random_pmfs(11, (30, 6))

    @pytest.mark.parametrize("weight", [1e-3, 0.3, 0.5, 0.9])
    def test_value_and_slope_in_the_weight(self, weight):
        value, slope = jax.jit(
            lambda w: jax.jvp(
                lambda w: js_divergence(self.p, self.q, weight=w), (w,), (jnp.ones_like(w),)
            )
        )(jnp.float32(weight))
        p, q = np.asarray(self.p, np.float64), np.asarray(self.q, np.float64)
        middle = weight * p + (1 - weight) * q
        parts = oracle.kl_divergence(p, middle), oracle.kl_divergence(q, middle)
        expected = weight * parts[0] + (1 - weight) * parts[1]
        np.testing.assert_allclose(value, expected, 3 * VALUE["float32"], 1e-7)
        np.testing.assert_allclose(slope, parts[0] - parts[1], GRADIENT["float32"], 1e-6)
        assert (value <= entropy(f32(weight, 1 - weight)) + 1e-6).all()

    def test_0_exactly_without_weight_or_without_distance(self):
        for weight in (0, 1, np.float64(0.0), jnp.float32(1)):
            np.testing.assert_array_equal(js_divergence(self.p, self.q, weight=weight), 0)
        for weight in (0.1, 0.3, 0.7):
            np.testing.assert_array_equal(js_divergence(self.p, self.p, weight=weight), 0)
        gradients = jax.grad(js_divergence, (0, 1))(P, Q, weight=0.0)
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)

    def test_slopes_where_both_are_0(self):
        gradients = jax.grad(lambda p, q: js_divergence(p, q, weight=0.2), (0, 1))(P, Q)
        middle = 0.2 * np.asarray(P) + 0.8 * np.asarray(Q)
        expected = [
            [-INF, 0.2 * LOG(5), *(0.2 * LOG(np.asarray(P)[2:] / middle[2:]))],
            [0.8 * LOG(1.25), 0.8 * LOG(1.25), *(0.8 * LOG(np.asarray(Q)[2:] / middle[2:]))],
        ]
        for gradient, right in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, right, GRADIENT["float32"], 1e-6)

    def test_second_derivatives(self):
        """w (1 - w) / m times (q / p, -1; -1, p / q), and in w the slopes' own."""
        with jax.enable_x64(True):
            p, q = np.array([0.1, 0.3, 0.6]), np.array([0.4, 0.5, 0.1])
            w = 0.3

            def measure(p, q, w):
                return js_divergence(p, q, weight=w)

            hessian = jax.jit(jax.hessian(measure, (0, 1, 2)))(p, q, w)
        m = w * p + (1 - w) * q
        c = w * (1 - w) / m
        expected = [
            [np.diag(c * q / p), np.diag(-c), LOG(p / m) - w * (p - q) / m],
            [np.diag(-c), np.diag(c * p / q), -LOG(q / m) - (1 - w) * (p - q) / m],
            [
                LOG(p / m) - w * (p - q) / m,
                -LOG(q / m) - (1 - w) * (p - q) / m,
                -((p - q) ** 2 / m).sum(),
            ],
        ]
        for row, right in zip(hessian, expected, strict=True):
            for block, correct in zip(row, right, strict=True):
                np.testing.assert_allclose(block, correct, 1e-12, 1e-14)

    def test_a_mixture_that_underflows_is_not_infinitely_far(self):
        assert js_divergence(f32(1, 1.2e-38), f32(1, 0)) < 1e-37
        assert js_divergence(f32(1, 0), f32(1, 1.2e-38), weight=0.9) < 1e-37

    @pytest.mark.parametrize(
        ("weight", "error", "message"),
        [
            (1.5, ValueError, r"weight: expected a number in \[0, 1\], got 1.5"),
            (-0.1, ValueError, r"weight: expected a number in \[0, 1\], got -0.1"),
            (math.nan, ValueError, r"weight: expected a number in \[0, 1\], got nan"),
            (jnp.ones(2), ValueError, r"weight: expected .*, got shape \(2,\)"),
            (True, TypeError, r"weight: expected a number in \[0, 1\], got True"),
        ],
    )
    def test_bad_weight(self, weight, error, message):
        with pytest.raises(error, match=message):
            js_divergence(self.p, self.q, weight=weight)


P = f32(0.0, 0.0, 0.3, 0.7)
Q = f32(0.2, 0.0, 0.5, 0.3)
JOINT = f32(0.2, 0.3, 0, 0, 0.5, 0, 0, 0, 0).reshape(3, 3)  # marginals (.5, .5, 0), (.2, .8, 0)
LOG = np.log


# measure, arguments, slope in each argument: derived by hand, also as limits on the boundary
SLOPES = {
    "entropy": (entropy, [P], [[INF, INF, -1 - LOG(0.3), -1 - LOG(0.7)]]),
    "cross-entropy": (
        cross_entropy,
        [P, Q],
        [[-LOG(0.2), INF, -LOG(0.5), -LOG(0.3)], [0, 0, -0.6, -7 / 3]],
    ),
    "kl": (
        kl_divergence,
        [P, Q],
        [[-INF, INF, 1 + LOG(0.6), 1 + LOG(7 / 3)], [0, 0, -0.6, -7 / 3]],
    ),
    "kl-infinite": (
        kl_divergence,
        [f32(0.5, 0.5), f32(0, 1)],
        [[INF, 1 + LOG(0.5)], [-INF, -0.5]],
    ),
    "js": (
        js_divergence,
        [P, Q],
        [
            [-INF, LOG(2) / 2, LOG(0.3 / 0.4) / 2, LOG(0.7 / 0.5) / 2],
            [LOG(2) / 2, LOG(2) / 2, LOG(0.5 / 0.4) / 2, LOG(0.3 / 0.5) / 2],
        ],
    ),
    "mutual-information": (
        mutual_information,
        [JOINT],
        [
            [
                [LOG(0.2 / 0.1) - 1, LOG(0.3 / 0.4) - 1, -LOG(0.5) - 1],
                [-INF, LOG(0.5 / 0.4) - 1, -LOG(0.5) - 1],
                [-LOG(0.2) - 1, -LOG(0.8) - 1, INF],
            ]
        ],
    ),
    "conditional-entropy": (
        conditional_entropy,
        [JOINT],
        [[[-LOG(0.4), -LOG(0.6), INF], [INF, 0, INF], [0, 0, 0]]],
    ),
}
of_each_measure = pytest.mark.parametrize(
    ("measure", "arguments", "expected"), SLOPES.values(), ids=SLOPES
)


class TestSlopes:
    @of_each_measure
    @pytest.mark.parametrize("mode", [jax.grad, jax.jacfwd], ids=["reverse", "forward"])
    def test_limits(self, measure, arguments, expected, mode):
        slopes = jax.jit(mode(measure, tuple(range(len(arguments)))))(*arguments)
        for slope, right in zip(slopes, expected, strict=True):
            # Slopes that are differences of logarithms of order 1 are as good as those, hence atol.
            np.testing.assert_allclose(slope, right, GRADIENT["float32"], 1e-6)

    @of_each_measure
    def test_hand_derivation_agrees_with_one_sided_differences(self, measure, arguments, expected):
        function, step = getattr(oracle, name(measure)), 1e-7
        arguments = [np.asarray(a, np.float64) for a in arguments]
        for which, right in enumerate(expected):
            for index in zip(*np.nonzero(np.isfinite(right)), strict=True):
                if np.isinf(function(*arguments)):
                    continue
                moved = [a.copy() for a in arguments]
                moved[which][index] += step
                difference = (function(*moved) - function(*arguments)) / step
                assert difference == pytest.approx(np.array(right)[index], abs=1e-5)

    def test_perplexity(self):
        p = f32(0.0, 0.3, 0.7)
        expected = np.exp(oracle.entropy(p)) * np.array([INF, -1 - LOG(0.3), -1 - LOG(0.7)])
        np.testing.assert_allclose(jax.grad(perplexity)(p), expected, GRADIENT["float32"])

    @of_each_measure
    def test_a_zero_tangent_or_cotangent_gives_0_against_an_infinite_slope(
        self, measure, arguments, expected
    ):
        step = [jnp.isfinite(jnp.array(slope)).astype(jnp.float32) for slope in expected]

        @jax.jit
        def both(arguments, step):
            pullback = jax.vjp(measure, *arguments)[1]
            return jax.jvp(measure, arguments, step)[1], pullback(jnp.float32(0))

        along, cotangents = both(tuple(arguments), tuple(step))
        finite = sum(np.sum(np.where(np.isinf(slope), 0, slope)) for slope in expected)
        assert along == pytest.approx(finite, rel=1e-5)
        for cotangent in cotangents:
            np.testing.assert_array_equal(cotangent, np.zeros_like(cotangent))

    def test_second_derivatives(self):
        hessian = jax.jit(jax.hessian(kl_divergence, (0, 1)))(P, Q)
        (pp, pq), (qp, qq) = np.array(hessian)
        p_slopes, q_slopes = [INF, 0, 1 / 0.3, 1 / 0.7], [0, 0, 0.3 / 0.25, 0.7 / 0.09]
        mixed = [-1 / 0.2, 0, -1 / 0.5, -1 / 0.3]
        np.testing.assert_allclose(pp, np.diag(p_slopes), 1e-6)
        np.testing.assert_allclose(qq, np.diag(q_slopes), 1e-6)
        # At p = q = 0 the mixed derivative has no limit, so that entry is free but not NaN.
        for block in (pq, qp):
            assert not np.isnan(block).any()
            np.testing.assert_allclose(
                np.delete(block, 1, 0), np.delete(np.diag(mixed), 1, 0), 1e-6
            )
        np.testing.assert_allclose(
            jax.jit(jax.jacrev(jax.jacfwd(entropy)))(P),
            -np.diag([INF, INF, 1 / 0.3, 1 / 0.7]),
            1e-6,
        )

    def test_third_derivative_and_no_nan_at_any_zero(self):
        third = jax.jit(jax.jacfwd(jax.jacfwd(jax.grad(entropy))))(P)
        np.testing.assert_allclose(
            third[np.diag_indices(4, 3)], [INF, INF, 0.3**-2, 0.7**-2], rtol=1e-6
        )
        assert not np.isnan(third).any()
        for measure in OF_JOINT:
            assert not np.isnan(jax.jit(jax.hessian(measure))(JOINT)).any(), name(measure)

    def test_half_precision_gets_a_half_precision_gradient(self):
        p = jnp.array([0.25, 0.75], jnp.bfloat16)
        gradient = jax.grad(entropy)(p)
        assert gradient.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            gradient.astype(jnp.float32), -1 - LOG([0.25, 0.75]), GRADIENT["bfloat16"]
        )


class TestAxesAndMasks:
    @pytest.mark.parametrize("measure", OF_ONE + OF_TWO, ids=name)
    def test_vmap_axis_and_broadcast_agree(self, measure):
        count = 1 if measure in OF_ONE else 2
        arguments = [random_pmfs(seed, (3, 5)) for seed in range(count)]
        rows = measure(*arguments)
        np.testing.assert_array_equal(jax.vmap(measure)(*arguments), rows)
        columns = [a.T for a in arguments]
        np.testing.assert_allclose(measure(*columns, axis=0), rows, 1e-6)
        np.testing.assert_allclose(
            measure(*[a.reshape(3, 5, 1) for a in arguments], axis=(1, -1)), rows, 1e-6
        )
        last_fixed = measure(*arguments[:-1], arguments[-1][:1])  # [1, 5] against [3, 5]
        np.testing.assert_allclose(last_fixed[0], rows[0], 1e-6)

    def test_ranks_may_differ(self):
        p, q = random_pmfs(0, (3, 5)), random_pmfs(1, (5,))
        np.testing.assert_allclose(
            cross_entropy(p, q), oracle.cross_entropy(np.asarray(p), np.asarray(q)), 1e-6
        )

    @pytest.mark.parametrize("measure", OF_ONE + OF_TWO + OF_JOINT, ids=name)
    def test_a_masked_outcome_has_no_effect_and_gradient_0_even_if_nan(self, measure):
        count = 2 if measure in OF_TWO else 1
        keep = jnp.array([True, True, False, True, True])
        rows = 2 if measure in OF_JOINT else 1  # of one pmf
        part = [random_pmfs(seed, (2, 4), 0) / rows for seed in range(count)]
        whole = [jnp.insert(a, 2, jnp.nan, axis=1) for a in part]
        np.testing.assert_allclose(measure(*whole, where=keep), measure(*part), 1e-6)
        gradient, expected = jax.jit(
            lambda whole, part: (
                jax.grad(lambda *a: measure(*a, where=keep).sum())(*whole),
                jax.grad(lambda *a: measure(*a).sum())(*part),
            )
        )(whole, part)
        np.testing.assert_array_equal(gradient[:, 2], 0)
        np.testing.assert_allclose(np.delete(gradient, 2, 1), expected, 1e-5)

    def test_nothing_is_normalised_under_jit(self):
        p, q = f32(0.1, 0.1), f32(0.5, 0.5)
        np.testing.assert_allclose(jax.jit(entropy)(p), -0.2 * LOG(0.1), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(kl_divergence)(p, q), 0.2 * LOG(0.2), rtol=1e-6)
        np.testing.assert_allclose(
            jax.jvp(kl_divergence, (p, q), (q, p))[1], 1 + LOG(0.2) - 0.02 / 0.5, rtol=1e-6
        )

    def test_a_second_call_does_not_trace_again(self):
        p, q, joint = random_pmfs(0, (5,)), random_pmfs(1, (5,)), random_pmfs(2, (6,)).reshape(2, 3)
        log_p, log_q = jnp.log(p), jnp.log(q)

        def measure_all():
            return (
                [measure(p) for measure in OF_ONE],
                [measure(p, q) for measure in OF_TWO],
                [measure(joint) for measure in OF_JOINT],
                [measure(log_p, log_q, form="log_pmf") for measure in OF_TWO],
                [measure(joint, form="logits") for measure in OF_JOINT],
            )

        measure_all()
        with jax.no_tracing():
            measure_all()


class TestDtypes:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_half_precision_is_computed_in_float32(self, dtype):
        p, q = (random_pmfs(seed, (4, 6), 0).astype(dtype) for seed in (0, 1))
        result = cross_entropy(p, q)
        assert result.dtype == jnp.float32
        expected = oracle.cross_entropy(*(np.asarray(x, np.float64) for x in (p, q)))
        np.testing.assert_allclose(result, expected, VALUE[dtype])

    def test_the_wider_dtype_of_two_decides(self):
        with jax.enable_x64(True):
            p, q = random_pmfs(0, (4,), 0, np.float64), random_pmfs(1, (4,), 0, np.float32)
            assert cross_entropy(p, q).dtype == jnp.float64

    @pytest.mark.parametrize(
        "bad", [jnp.array([0, 1]), np.array([True, False]), [1, 0], "p", None], ids=str
    )
    def test_not_a_floating_array(self, bad):
        good = f32(0.5, 0.5)
        for call in (
            lambda: entropy(bad),
            lambda: kl_divergence(good, bad),
            lambda: mutual_information(bad),
            lambda: check_pmf(bad),
        ):
            with pytest.raises(TypeError):
                call()


class TestBadArguments:
    p = jnp.full((2, 3), 1 / 3)

    @pytest.mark.usefixtures("unchecked_annotations")
    @pytest.mark.parametrize(
        ("call", "message"),
        [
            (lambda p: entropy(p, axis=2), r"axis: expected .* shape \(2, 3\), got 2"),
            (lambda p: entropy(p, axis=(0, 0)), r"axis: expected .*, got \(0, 0\)"),
            (lambda p: entropy(p, axis=()), r"axis: expected .*, got \(\)"),
            (lambda p: entropy(p[0, 0]), r"axis: expected .* shape \(\), got -1"),
            (lambda p: entropy(p[:, :0]), r"axis: expected at least one outcome.*\(2, 0\)"),
            (lambda p: kl_divergence(p, p[:, :2]), r"q: expected .*\(2, 3\), got \(2, 2\)"),
            (lambda p: entropy(p, where=jnp.ones(2, bool)), r"where: expected .*, got \(2,\)"),
            (lambda p: entropy(p, base="nits"), r"base: expected .* got 'nits'"),  # pyright: ignore[reportArgumentType]
            (lambda p: perplexity(p, base=1), r"base: expected .* got 1"),
            (lambda p: entropy(p, form="log"), r"form: expected one of 'pmf', .* got 'log'"),  # pyright: ignore[reportArgumentType]
            (lambda p: mutual_information(p, form=""), r"form: expected one of .* got ''"),  # pyright: ignore[reportArgumentType]
            (lambda p: mutual_information(p[0]), r"axes: expected .*, got \(-2, -1\)"),
            (lambda p: conditional_entropy(p, axes=(0, 0)), r"axes: expected .*, got \(0, 0\)"),
        ],
    )
    def test_one_line_names_argument_expectation_and_value(self, call, message):
        with pytest.raises(ValueError, match=message) as error:
            call(self.p)
        assert "\n" not in str(error.value)

    def test_where_must_be_boolean(self):
        with pytest.raises(TypeError, match="where: expected a bool array, got int32"):
            entropy(self.p, where=jnp.ones(3, jnp.int32))


class TestCheckPmf:
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
    def test_accepts_a_softmax_in_its_own_dtype(self, dtype):
        check_pmf(jax.nn.softmax(jax.random.normal(jax.random.key(0), (9, 1000)).astype(dtype)))

    def test_axis_and_tolerance(self):
        check_pmf(f32(0.5, 0.5)[:, None], axis=0)
        check_pmf(jnp.full((2, 2), 0.25), axis=(0, 1))
        check_pmf(f32(0.5, 0.4), atol=0.2)

    @pytest.mark.parametrize(
        ("p", "message"),
        [
            (f32(0.5, 0.4), r"p: expected .* sum 1 within 7\.7e-06, got sum 0\.9"),
            (f32(1.5, -0.5), r"p: expected probabilities >= 0, got -0\.5"),
            (f32(np.nan, 1), r"p: expected probabilities >= 0, got nan"),
            (f32(np.inf, 0), r"got sum inf"),
            (f32(), r"axis: expected at least one outcome"),
        ],
        ids=["sum", "negative", "nan", "inf", "empty"],
    )
    def test_rejects(self, p, message):
        with pytest.raises(ValueError, match=message):
            check_pmf(p)

    def test_values_are_unknown_under_jit(self):
        assert jax.jit(lambda p: (check_pmf(p), p)[1])(f32(2, 2)).shape == (2,)


MEASURES = [(m, 1) for m in OF_ONE] + [(m, 2) for m in OF_TWO] + [(m, 1) for m in OF_JOINT]


def in_rows(measure, p):
    """Reshape p to a joint pmf if the measure is of one."""
    return p.reshape(2, -1) if measure in OF_JOINT else p


class TestTolerance:
    """One for all: what the dtype, the number of outcomes and the way to compute them explain."""

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("k", [2, 50, 3000, 131_072])
    def test_honest_pmfs_pass(self, k, dtype):
        rng = np.random.default_rng(k)
        with jax.enable_x64(dtype == "float64"):
            logits = np.stack([s * rng.standard_normal(k) for s in (0, 1, 3)])
            logits[0, 0] = 1  # the others are equal, and so is their rounding
            x = jnp.array(logits, dtype)
            wide = x if dtype == "float64" else x.astype(jnp.float32)
            check_pmf(jax.nn.softmax(wide).astype(dtype))
            if k < 65_504:  # what float16 can add up
                check_pmf(jax.nn.softmax(x))
                entropy(jax.nn.log_softmax(x), form="log_pmf")
            if dtype in ("float32", "float64"):
                for offset in (0, 10, 100):
                    moved = x + jnp.asarray(offset, dtype)
                    log_p = moved - jax.nn.logsumexp(moved, axis=-1, keepdims=True)
                    check_pmf(jnp.exp(log_p))
                    entropy(log_p, form="log_pmf")
                weights = np.exp(np.asarray(x)).T.copy()
                check_pmf(weights / weights.sum(0), axis=0)  # added up one at a time

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
    @pytest.mark.parametrize("weights", ["equal", "random"])
    def test_a_missing_hundredth_does_not(self, dtype, weights):
        k = 131_072
        w = np.ones(k) if weights == "equal" else np.random.default_rng(0).exponential(size=k)
        p = w / w.sum()
        q = np.where(np.cumsum(p) > 0.01, p, 0)
        assert 0.0099 < 1 - q.sum() < 0.0101
        with jax.enable_x64(dtype == "float64"):
            p, q = jnp.array(p, dtype), jnp.array(q, dtype)
            check_pmf(p)
            for call in (
                lambda: check_pmf(q),
                lambda: entropy(q),
                lambda: cross_entropy(q, p),
                lambda: kl_divergence(p, q),
                lambda: js_divergence(q, p),
                lambda: mutual_information(q.reshape(256, -1)),
                lambda: conditional_entropy(q.reshape(256, -1)),
            ):
                with pytest.raises(ValueError, match=r"expected probabilities with sum 1 within"):
                    call()

    def test_a_missing_hundredth_counts_under_jit(self):
        p = jnp.full(131_072, 2.0**-17)
        for form in ("pmf", "log_pmf"):
            given = (p, 0.99 * p) if form == "pmf" else (jnp.log(p), jnp.log(0.99 * p))
            value = jax.jit(partial(kl_divergence, form=form))(*given)
            np.testing.assert_allclose(value, -LOG(0.99), rtol=1e-4)


class TestNothingUnnormalisedPasses:
    counts = r"got sum 6; counts go through empirical_pmf, or entropy_estimate"

    @pytest.mark.parametrize(
        ("measure", "count"), MEASURES, ids=lambda x: getattr(x, "__name__", "")
    )
    def test_counts(self, measure, count):
        c = in_rows(measure, f32(1, 2, 2, 1))
        for arguments in ([c] * count, [jax.nn.softmax(c), c][-count:]):
            with pytest.raises(ValueError, match=self.counts) as error:
                measure(*arguments)
            assert "\n" not in str(error.value)
            with pytest.raises(
                TypeError, match=r"got int.*; counts go through empirical_pmf, or ent"
            ):
                measure(*(a.astype(int) for a in arguments))
            with pytest.raises(ValueError, match=r"exp\((p|q|joint)\): .* within .*, got sum "):
                measure(*arguments, form="log_pmf")
            assert np.isfinite(measure(*arguments, form="logits"))

    @pytest.mark.parametrize(
        ("measure", "count"), MEASURES, ids=lambda x: getattr(x, "__name__", "")
    )
    def test_negative_and_nan(self, measure, count):
        for bad in (-0.5, math.nan):
            p = in_rows(measure, f32(1.0, 0.5, bad, 0.0))
            with pytest.raises(ValueError, match=f"expected probabilities >= 0, got {bad}"):
                measure(*[p] * count)
            with pytest.raises(ValueError, match=r"^exp\((p|q|joint)\): expected probabilities"):
                measure(*[in_rows(measure, f32(0, 1, bad, 0))] * count, form="log_pmf")

    def test_all_batches_and_both_arguments(self):
        p, q = random_pmfs(0, (3, 4, 5)), random_pmfs(1, (5,))
        kl_divergence(p, q)
        with pytest.raises(ValueError, match="p: expected"):
            kl_divergence(p.at[2, 3, 0].add(0.1), q)
        with pytest.raises(ValueError, match="q: expected"):
            kl_divergence(p, q.at[0].add(0.1))
        with pytest.raises(ValueError, match=r"q: expected .* got sum 1\.25"):
            kl_divergence(p, f32(0.25))  # for each of the 5 outcomes

    def test_an_argument_that_broadcasts_along_the_outcomes(self):
        p = random_pmfs(0, (3, 4))
        expected = math.log(4) - entropy(p)
        np.testing.assert_allclose(kl_divergence(p, jnp.full((3, 1), 0.25)), expected, 1e-5)
        np.testing.assert_allclose(kl_divergence(p.T, f32(0.25), axis=0), expected, 1e-5)

    def test_the_kept_mass(self):
        keep = jnp.array([[True, True, False], [True, False, False]])
        p = f32(0.5, 0.5, 7.0)
        with pytest.raises(ValueError, match=r"p: expected .* got sum 0\.5"):
            entropy(jnp.stack([p, p]), where=keep)
        np.testing.assert_allclose(entropy(p, where=keep[0]), LOG(2), 1e-6)
        rows = jnp.stack([p, f32(1.0, 2.0, 3.0)])
        np.testing.assert_allclose(entropy(rows, where=keep), [LOG(2), 0], 1e-6)
        np.testing.assert_allclose(entropy(rows.T, where=keep.T, axis=0), [LOG(2), 0], 1e-6)
        logs = jnp.log(rows)
        np.testing.assert_allclose(entropy(logs, where=keep, form="log_pmf"), [LOG(2), 0], 1e-6)
        assert entropy(p, where=jnp.zeros(3, bool)) == 0  # nothing kept

    @pytest.mark.parametrize("axis", [-1, 0, (0, 2)])
    @pytest.mark.parametrize("bad", [-0.25, math.nan, 0.25, 1e3])
    def test_of_many_as_of_few(self, axis, bad):
        axes = [axis] if isinstance(axis, int) else list(axis)
        p = jnp.moveaxis(jnp.full((16, 32, 64), 1 / 64), -1, 0 if axis == 0 else -1)
        p = p / 16 if len(axes) == 2 else p
        entropy(p, axis=axis)
        entropy(jnp.log(p), axis=axis, form="log_pmf")
        one_wrong = p.at[3, 5, 7].set(bad)
        with pytest.raises(ValueError, match=r"^p: expected probabilities"):
            entropy(one_wrong, axis=axis)
        with pytest.raises(ValueError, match=r"^exp\(p\): expected probabilities"):
            entropy(jnp.log(one_wrong), axis=axis, form="log_pmf")
        where = jnp.ones(p.shape, bool).at[3].set(False)
        if axis == -1:  # the wrong row is left out
            entropy(one_wrong, where=where)

    def test_values_that_a_trace_knows_are_checked_and_others_are_not(self):
        c = f32(1, 2, 3)
        with pytest.raises(ValueError, match=self.counts):
            jax.jit(lambda p: kl_divergence(p, c))(f32(0.5, 0.25, 0.25))
        for transform in (jax.jit, jax.vmap, jax.grad):
            transform(lambda p: entropy(p).sum())(c if transform is not jax.vmap else c[None])


class TestInputsAsPeopleHaveThem:
    def test_anything_that_holds_an_array(self, unchecked_annotations):
        values, pmf = [0.5, 0.25, 0.25], f32(0.5, 0.25, 0.25)
        forms: list[Any] = [
            values,
            tuple(values),
            pd.Series(values),
            np.array(values),
            nnx.Param(pmf),
        ]
        for p in forms:
            assert entropy(p, base=2) == 1.5
            assert kl_divergence(p, pmf) == 0
            check_pmf(p)
        joints: list[Any] = [[[0.25, 0.25], [0.25, 0.25]], pd.DataFrame(np.full((2, 2), 0.25))]
        for joint in joints:
            assert mutual_information(joint) == 0
            np.testing.assert_allclose(conditional_entropy(joint, base=2), 1)

    def test_strict_promotion_with_x64(self):
        """The whole suite has strict promotion, but not with x64."""
        with jax.enable_x64(True):
            p, q = (random_pmfs(seed, (4, 6), 0, np.float64) for seed in (0, 1))
            for measure, count in MEASURES:
                shape = (4, 2, 3) if measure in OF_JOINT else (4, 6)
                pmfs = [a.reshape(shape) for a in (p, q)][:count]
                logs = [jnp.log(a) for a in pmfs]

                def all_forms(pmfs, logs, measure=measure, shape=shape):
                    masked = partial(measure, base=2, where=jnp.ones(shape, bool))
                    values = [masked(*pmfs)]
                    values += [masked(*logs, form=form) for form in ("log_pmf", "logits")]
                    return jnp.stack(values)

                values = all_forms(pmfs, logs)
                np.testing.assert_allclose(values, jnp.broadcast_to(values[:1], (3, 4)), 1e-13)
                gradients = jax.jit(jax.grad(lambda *a: all_forms(*a).sum(), (0, 1)))(pmfs, logs)
                for array in (values, *jax.tree.leaves(gradients)):
                    assert array.dtype == jnp.float64
            assert js_divergence(p, q, weight=0.25).dtype == jnp.float64
            check_pmf(p)
