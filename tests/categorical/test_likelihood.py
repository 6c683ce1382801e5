"""Likelihoods against R, scipy and derivatives taken by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from tests.support.tolerances import GRADIENT, VALUE
from xentjax import (
    fisher_information,
    kkt_certificate,
    log_likelihood,
    multinomial_log_likelihood,
    sample,
    score,
)

Q = np.array([1, 2, 5]) / 8


class TestLogLikelihood:
    @pytest.mark.parametrize("base", [None, "bits", "hartleys"])
    def test_is_minus_n_times_the_cross_entropy(self, base):
        unit = {None: 1, "bits": math.log(2), "hartleys": math.log(10)}[base]
        counts = np.array([3, 0, 4])
        expected = (3 * math.log(1 / 8) + 4 * math.log(5 / 8)) / unit
        result = log_likelihood(jnp.array(Q, jnp.float32), jnp.array(counts), base=base)
        np.testing.assert_allclose(result, expected, VALUE["float32"])

    def test_ordered_log_likelihood_at_the_mle(self):
        """R's entropy examples: -N times the ML entropy 1.9683824087283812."""
        counts = jnp.array([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1])
        result = log_likelihood(counts / counts.sum(), counts)
        np.testing.assert_allclose(result, -37.399265765839246, VALUE["float32"])

    def test_on_the_boundary(self):
        q = jnp.array([0.0, 1.0])
        np.testing.assert_array_equal(log_likelihood(q, jnp.array([0, 2])), 0)
        np.testing.assert_array_equal(log_likelihood(q, jnp.array([1, 2])), -np.inf)
        # d l / d q = c / q, and no NaN where the class never occurred
        gradient = jax.grad(log_likelihood)(q, jnp.array([0, 2]))
        np.testing.assert_array_equal(gradient, [0, 2])

    def test_batches_broadcast_and_vmap(self):
        q, counts = jnp.array(Q, jnp.float32), jnp.array([[1, 2, 3], [4, 0, 0]])
        expected = np.asarray(counts) @ np.log(Q)
        np.testing.assert_allclose(log_likelihood(q, counts), expected, VALUE["float32"])
        mapped = jax.jit(jax.vmap(log_likelihood, in_axes=(None, 0)))(q, counts)
        np.testing.assert_allclose(mapped, expected, VALUE["float32"])

    def test_int64_counts_of_the_host_do_not_wrap_around(self):
        result = log_likelihood(jnp.array([0.5, 0.5]), np.array([2**40, 0]))
        np.testing.assert_allclose(result, 2**40 * math.log(0.5), VALUE["float32"])


class TestMultinomialLogLikelihood:
    @pytest.mark.parametrize(
        ("counts", "pmf"),
        [
            ((0, 0, 3), 0.244140625),
            ((1, 0, 2), 0.146484375),
            ((2, 0, 1), 0.029296875),
            ((3, 0, 0), 0.001953125),
            ((0, 1, 2), 0.29296875),
            ((1, 1, 1), 0.1171875),
            ((2, 1, 0), 0.01171875),
            ((0, 2, 1), 0.1171875),
            ((1, 2, 0), 0.0234375),
            ((0, 3, 0), 0.015625),
        ],
    )
    def test_r_dmultinom(self, counts, pmf):
        """R dmultinom, the values of scipy's TestMultinomial."""
        result = multinomial_log_likelihood(jnp.array(Q, jnp.float32), jnp.array(counts))
        np.testing.assert_allclose(jnp.exp(result), pmf, rtol=2e-6)

    def test_other_published_values(self):
        """scipy's TestMultinomial, and R's entropy examples at the MLE."""
        result = multinomial_log_likelihood(jnp.array([0.3, 0.7]), jnp.array([3, 4]))
        np.testing.assert_allclose(result, -1.483270127243324, rtol=2e-6)
        q, counts = jnp.array([2 / 3, 1 / 3, 0]), jnp.array([3, 3, 0])
        result = multinomial_log_likelihood(q, counts)
        np.testing.assert_allclose(jnp.exp(result), 0.219478737997, rtol=2e-6)
        counts = jnp.array([4, 2, 3, 0, 2, 4, 0, 0, 2, 1, 1])
        result = multinomial_log_likelihood(counts / counts.sum(), counts)
        np.testing.assert_allclose(result, -8.286690250243531, rtol=1e-6)

    @pytest.mark.parametrize("n", [1, 10, 1000, 10**6])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_as_precise_for_many_samples_as_for_few(self, n, dtype):
        counts = np.random.default_rng(n).multinomial(n, Q)
        with jax.enable_x64(dtype == "float64"):
            result = multinomial_log_likelihood(jnp.array(Q, dtype), jnp.array(counts))
            assert result.dtype == dtype
            # scipy's own sum of gammaln has errors of about 1e-16 N log N
            tolerance = {"float32": 2e-6, "float64": 1e-8}[dtype]
            np.testing.assert_allclose(
                result, scipy.stats.multinomial.logpmf(counts, n, Q), tolerance
            )

    def test_counts_need_not_be_whole(self):
        counts = np.array([0.5, 0.0, 2.25])
        expected = scipy.special.gammaln(counts.sum() + 1) - scipy.special.gammaln(counts + 1).sum()
        expected += counts @ np.log(Q)
        with jax.enable_x64(True):
            result = multinomial_log_likelihood(jnp.array(Q), jnp.array(counts))
            np.testing.assert_allclose(result, expected, 1e-13)

    def test_impossible_counts(self):
        q = jnp.array([0.0, 1.0])
        np.testing.assert_array_equal(multinomial_log_likelihood(q, jnp.array([1, 1])), -np.inf)
        np.testing.assert_allclose(multinomial_log_likelihood(q, jnp.array([0, 5])), 0, atol=1e-6)

    def test_derivatives(self):
        q, counts = jnp.array(Q, jnp.float32), jnp.array([0.0, 2.0, 3.0])
        by_q, by_counts = jax.jit(jax.grad(multinomial_log_likelihood, (0, 1)))(q, counts)
        np.testing.assert_allclose(by_q, counts / Q, GRADIENT["float32"])
        digamma = scipy.special.digamma
        expected = digamma(6) - digamma(np.asarray(counts) + 1) + np.log(Q)
        np.testing.assert_allclose(by_counts, expected, GRADIENT["float32"])

    def test_vmap(self):
        q, counts = jnp.array(Q, jnp.float32), jnp.array([[1, 2, 3], [0, 0, 4]])
        np.testing.assert_allclose(
            jax.vmap(multinomial_log_likelihood, (None, 0))(q, counts),
            multinomial_log_likelihood(q, counts),
            VALUE["float32"],
        )


class TestScoreAndFisherInformation:
    logits = jnp.array([0.3, -1.0, 2.0, 0.0])
    counts = jnp.array([3.0, 0.0, 4.0, 1.0])

    def of_logits(self, logits):
        return log_likelihood(jax.nn.softmax(logits), self.counts)

    def test_score_is_the_derivative_in_the_logits(self):
        result = score(jax.nn.softmax(self.logits), self.counts)
        np.testing.assert_allclose(result, jax.grad(self.of_logits)(self.logits), 1e-5, 1e-6)
        np.testing.assert_allclose(result.sum(), 0, atol=1e-6)

    def test_fisher_information_is_minus_the_second_derivative(self):
        result = fisher_information(jax.nn.softmax(self.logits), self.counts.sum())
        hessian = jax.jit(jax.hessian(self.of_logits))(self.logits)
        np.testing.assert_allclose(result, -hessian, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(result @ jnp.ones(4), 0, atol=1e-6)  # constants are invisible

    def test_batches(self):
        q = jnp.stack([jax.nn.softmax(self.logits), jnp.full(4, 0.25)])
        both = fisher_information(q, jnp.array([2, 3]))
        assert both.shape == (2, 4, 4)
        np.testing.assert_allclose(both[1], fisher_information(q[1], 3), 1e-6)
        np.testing.assert_allclose(score(q, self.counts)[1], score(q[1], self.counts), 1e-6)
        np.testing.assert_array_equal(fisher_information(q, 3)[1], fisher_information(q[1], 3))
        np.testing.assert_array_equal(fisher_information(q[1], jnp.array([2, 3]))[1], both[1])
        with pytest.raises(ValueError, match=r"n: expected a shape that broadcasts with \(2,\)"):
            fisher_information(q, jnp.array([1, 2, 3]))

    def test_fisher_information_of_half_precision_is_float32(self):
        q = jnp.array([0.5, 0.5], jnp.float16)
        result = fisher_information(q, 100_000)  # more than float16 holds
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, [[25_000, -25_000], [-25_000, 25_000]])

    @pytest.mark.parametrize("n", [-1, np.inf, np.nan])
    def test_number_of_samples(self, n):
        with pytest.raises(ValueError, match=f"n: expected finite numbers >= 0, got {n}"):
            fisher_information(jnp.array([0.5, 0.5]), n)


class TestExactCounts:
    """Whole counts beyond 2^24 are subtracted before float32 rounds them."""

    N = 10**12

    def test_score(self):
        c = np.array([self.N // 4 + 1, 3 * (self.N // 4) - 1])
        np.testing.assert_array_equal(score(jnp.array([0.25, 0.75]), c), [1, -1])
        device = jnp.array([2**28 + 1, 3 * 2**28 - 1], jnp.int32)
        for function in (score, jax.jit(score)):
            np.testing.assert_array_equal(function(jnp.array([0.25, 0.75]), device), [1, -1])

    def test_duality_gap(self):
        root = 10**6
        c = np.array([self.N // 4 + root, 3 * (self.N // 4) - root])
        gap = kkt_certificate(jnp.array([0.25, 0.75]), c).duality_gap
        # n sum_k d_k^2 / (2 q_k) and the third order, with d = +-root / n
        expected = root**2 / self.N * (4 + 4 / 3) / 2 - root**3 / self.N**2 * (16 - 16 / 9) / 6
        np.testing.assert_allclose(gap, expected, 1e-6)

    def test_multinomial(self):
        c = np.array([self.N // 4 + 1234567, 3 * (self.N // 4) - 1234567])
        result = multinomial_log_likelihood(jnp.array([0.25, 0.75]), c)
        # The normal limit, whose next terms are 1e-6 here.
        variance = self.N * 3 / 16
        expected = -(1234567**2) / variance / 2 - math.log(2 * math.pi * variance) / 2
        np.testing.assert_allclose(result, expected, 2e-6)

    def test_gradients_beside_exact_counts(self):
        c = np.array([self.N, 3 * self.N])
        q = jnp.array([0.25, 0.75])

        def of_pmf(q):
            return log_likelihood(q, c)  # an argument of jit would wrap around into 32 bits

        for slope in (jax.grad(of_pmf), jax.jit(jax.grad(of_pmf)), jax.jacfwd(of_pmf)):
            np.testing.assert_allclose(slope(q), c / np.asarray(q), 1e-6)
        hessian = np.diag(-c / np.asarray(q) ** 2)
        np.testing.assert_allclose(jax.hessian(of_pmf)(q), hessian, 1e-6)


class TestSample:
    key = jax.random.key(0)

    def test_probabilities_below_the_steps_of_float32(self):
        """Each of 50,304 classes is 167 steps of 2^-23 wide: X^2 / dof was 1.24."""
        k, n = 50_304, 20_000_000
        q = np.random.default_rng(0).dirichlet(np.full(k, 3.0)).astype(np.float32)
        rolls = np.asarray(sample(self.key, jnp.array(q), (n,)))
        expected = q.astype(float) / q.sum(dtype=float) * n
        observed = np.bincount(rolls, minlength=k)
        keep = expected > 5
        ratio = ((observed - expected) ** 2 / expected)[keep].sum() / keep.sum()
        assert abs(ratio - 1) < 5 * math.sqrt(2 / k)

    @pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
    def test_rare_classes(self, x64):
        """2^-26, which a float32 uniform number never falls below."""
        with jax.enable_x64(x64):
            q = jnp.array([2.0**-26] * 1024 + [1 - 2.0**-16])
            rolls = sample(self.key, q, (2**22,))
        assert abs((np.asarray(rolls) < 1024).sum() - 64) < 40

    def test_frequencies(self):
        rolls = sample(self.key, jnp.array(Q, jnp.float32), (400, 100))
        assert rolls.shape == (400, 100)
        assert rolls.dtype == jnp.int32
        observed = np.bincount(np.asarray(rolls).ravel(), minlength=3)
        assert scipy.stats.chisquare(observed, 40000 * Q).pvalue > 1e-3

    def test_a_class_of_probability_0_is_never_drawn(self):
        """Rounding makes a parallel cumulative sum rise and fall over such classes."""
        q = np.zeros(100_000, np.float32)
        q[1::2] = np.random.default_rng(0).dirichlet(np.ones(50_000))
        rolls = np.asarray(sample(self.key, jnp.array(q), (300_000,)))
        assert (rolls % 2 == 1).all()
        assert rolls.max() < 100_000

    def test_frequencies_between_classes_of_probability_0(self):
        q = np.array([0, 1, 0, 2, 0, 0, 5, 0]) / 8
        rolls = sample(self.key, jnp.array(q, jnp.float32), (40_000,))
        observed = np.bincount(np.asarray(rolls), minlength=8)
        assert scipy.stats.chisquare(observed[q > 0], 40_000 * q[q > 0]).pvalue > 1e-3

    def test_one_die_a_row(self):
        q = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
        rolls = jax.jit(sample, static_argnums=2)(self.key, q, (4, 5))
        assert rolls.shape == (4, 5, 2)
        np.testing.assert_array_equal(rolls, np.broadcast_to([0, 2], (4, 5, 2)))
        np.testing.assert_array_equal(sample(self.key, q), [0, 2])

    def test_half_precision(self):
        rolls = sample(self.key, jnp.array([0.5, 0.5], jnp.bfloat16), (1000,))
        assert 400 < rolls.sum() < 600


@pytest.mark.parametrize("function", [log_likelihood, multinomial_log_likelihood, score])
class TestBadArguments:
    q = jnp.array([0.5, 0.5])

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            (jnp.array([1, -1]), r"counts: expected finite numbers >= 0, got -1"),
            (jnp.array([1, np.inf]), r"counts: expected finite numbers >= 0, got inf"),
            (jnp.array([1, 2, 3]), r"counts: expected 2 classes as in q, got 3"),
            (jnp.zeros(0), r"counts: expected at least one class, got shape \(0,\)"),
        ],
        ids=["negative", "infinite", "classes", "empty"],
    )
    def test_counts(self, function, counts, message):
        with pytest.raises(ValueError, match=message):
            function(self.q, counts)

    def test_shapes_that_do_not_broadcast(self, function):
        with pytest.raises(ValueError, match=r"counts: expected .*\(3, 2\), got \(4, 2\)"):
            function(jnp.ones((3, 2)), jnp.ones((4, 2)))

    def test_pmf(self, function):
        with pytest.raises(ValueError, match="q: expected at least one class"):
            function(jnp.float32(1), jnp.ones(2))
        with pytest.raises(TypeError, match="q: expected a floating dtype, got int32"):
            function(jnp.array([0, 1]), jnp.ones(2))


class TestPmfs:
    """q is a pmf by the one tolerance, and arguments in the wrong order are told so."""

    counts = jnp.array([3.0, 1.0, 2.0])
    pmf = jnp.array([0.5, 0.2, 0.3])

    @pytest.mark.parametrize(
        "function", [log_likelihood, multinomial_log_likelihood, score], ids=lambda f: f.__name__
    )
    def test_swapped_or_not_normalised(self, function):
        swapped = rf"are the arguments of {function.__name__}\(q, counts\) swapped\?$"
        message = r"^q: expected probabilities with sum 1 within .*, got sum 6; .*"
        with pytest.raises(ValueError, match=message + swapped):
            function(self.counts, self.pmf)
        with pytest.raises(
            TypeError, match=r"^q: expected a floating dtype, got int32.*" + swapped
        ):
            function(self.counts.astype(jnp.int32), self.pmf)
        with pytest.raises(ValueError, match=message + r"entropy_estimate$"):
            function(self.counts, self.counts)
        with pytest.raises(ValueError, match=r"^q: expected probabilities >= 0, got nan$"):
            function(self.pmf.at[0].set(jnp.nan), self.counts)
        jax.jit(function)(self.counts, self.pmf)  # whose values are unknown

    def test_fisher_information(self):
        with pytest.raises(ValueError, match=r"^q: expected probabilities with sum 1 within"):
            fisher_information(self.counts, 4)

    def test_a_float64_array_of_the_host_is_as_good_as_float32_where_x64_is_off(self):
        q = np.array([0.3, 0.7], np.float32).astype(np.float64)
        assert np.isfinite(log_likelihood(q, self.counts[:2]))


class TestCertificateDerivatives:
    @pytest.mark.parametrize("seed", range(3))
    def test_stationarity_is_that_of_one_class(self, seed):
        """|n - c_k / q_k| of the class where it is largest: a maximum that rounding cannot miss."""
        rng = np.random.default_rng(seed)
        q = np.array([0.0744247, 0.48168764, 0.11764735, 0.20362538, 0.12261494])
        q = rng.dirichlet(np.ones(5)) if seed else q
        c = np.array([6.0, 5.0, 7.0, 5.0, 1.0])
        residual = c.sum() - c / q
        k = np.abs(residual).argmax()
        sign, at_k = np.sign(residual[k]), np.eye(5)[k]
        expected = sign * c[k] / q[k] ** 2 * at_k, sign * (1 - at_k / q[k])
        gradient = jax.jit(jax.grad(lambda q, c: kkt_certificate(q, c).stationarity, (0, 1)))
        found = gradient(jnp.asarray(q, jnp.float32), jnp.asarray(c, jnp.float32))
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, GRADIENT["float32"], 1e-6)
