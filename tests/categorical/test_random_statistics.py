"""The statistics against SciPy, statsmodels, scikit-learn and NumPy, in float64 over random input.

Intervals, tests of fit and entropy estimates meet theirs in the files of their own. Where a library
is silent or wrong, a test has its answer beside ours.
"""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
import statsmodels.api as sm
from hypothesis import assume, given, settings, strategies as st
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from statsmodels.stats.proportion import proportion_confint

import xentjax

K = 6
regress = xentjax.fit_softmax_regression
jitted_entropy, jitted_kl = jax.jit(xentjax.entropy), jax.jit(xentjax.kl_divergence)
few = settings(max_examples=40, deadline=None, derandomize=True)
weights = st.lists(st.just(0.0) | st.floats(1e-9, 1), min_size=K, max_size=K).filter(any)
numbers = st.lists(st.just(0) | st.integers(1, 10**6), min_size=K, max_size=K).filter(any)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normalised(x):
    return np.array(x) / np.sum(x)


pmfs = weights.map(normalised)


def close(ours, theirs, atol=1e-12):
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=atol)


class TestInformation:
    @few
    @given(pmfs, pmfs)
    def test_scipy(self, p, q):
        close(xentjax.entropy(p, base=2), scipy.stats.entropy(p, base=2))
        close(xentjax.perplexity(p), np.exp(scipy.stats.entropy(p)))
        close(xentjax.kl_divergence(p, q), scipy.stats.entropy(p, q))
        close(xentjax.cross_entropy(p, q), scipy.stats.entropy(p) + scipy.stats.entropy(p, q))
        with np.errstate(invalid="ignore"):
            root = jensenshannon(p, q, 10)
        # Of close pmfs the sum under the root is rounding, and may be negative.
        close(xentjax.js_divergence(p, q, base=10), np.nan_to_num(root) ** 2)

    @few
    @given(numbers)
    def test_scikit_learn(self, numbers):
        table = np.reshape(numbers, (2, 3))
        theirs = mutual_info_score(None, None, contingency=table)
        close(xentjax.mutual_information(table / table.sum()), theirs)
        theirs = sum(row.sum() * scipy.stats.entropy(row) for row in table if row.any())
        close(xentjax.conditional_entropy(table / table.sum()), theirs / table.sum())


class TestDie:
    @few
    @given(st.lists(st.integers(0, K - 1), min_size=20, max_size=20))
    def test_counts_of_numpy(self, rolls):
        rolls = np.array(rolls)
        theirs = np.bincount(rolls, minlength=K)
        for samples in (rolls, jnp.array(rolls), jnp.array(rolls, jnp.uint8)):
            np.testing.assert_array_equal(xentjax.counts(samples, K), theirs)
        np.testing.assert_array_equal(xentjax.stream_counts([rolls[:7], rolls[7:]], K), theirs)
        close(xentjax.empirical_pmf(theirs), theirs / 20)
        heavy = np.sqrt(np.arange(20.0))
        ours = xentjax.counts(rolls, K, weights=heavy, where=rolls > 1)
        close(ours, np.bincount(rolls, heavy * (rolls > 1), K))

    @few
    @given(pmfs, numbers)
    def test_likelihoods_of_scipy(self, q, c):
        c = np.array(c)
        theirs = scipy.stats.multinomial.logpmf(c, c.sum(), q)
        # Its gammaln, of order N log N, cancel; and p may miss the sum 1 by rounding, times N.
        rounding = 1e-14 * c.sum() * np.log(2 + c.sum())
        close(xentjax.multinomial_log_likelihood(q, c), theirs, rounding)
        close(xentjax.log_likelihood(q, c), scipy.special.xlogy(c, q).sum())
        close(xentjax.score(q, c), c - scipy.stats.multinomial.mean(c.sum(), q), 1e-9)
        close(xentjax.fisher_information(q, c.sum()), scipy.stats.multinomial.cov(c.sum(), q))

    @few
    @given(numbers)
    def test_the_fit_and_its_certificate(self, c):
        c = np.array(c)
        fit = xentjax.fit_categorical(c)
        close(fit.pmf, c / c.sum())
        close(fit.log_likelihood, -c.sum() * scipy.stats.entropy(c), 1e-15 * c.sum())
        close(xentjax.fit_categorical(c, prior=1.5).pmf, normalised(c + 0.5))
        uniform = np.full(K, 1 / K)
        gap = c.sum() * scipy.stats.entropy(c, uniform)
        close(xentjax.kkt_certificate(uniform, c).duality_gap, gap, 1e-9 * c.sum())

    @few
    @given(pmfs, st.sampled_from([1, 9, 30]))
    def test_expected_divergence_by_the_binomial_of_scipy(self, p, n):
        c, possible = np.arange(n + 1)[:, None], p[p > 0]
        theirs = scipy.stats.binom.pmf(c, n, possible) * scipy.special.rel_entr(c / n, possible)
        close(xentjax.expected_kl(p, n), theirs.sum())


class TestSoftmaxRegression:
    @settings(max_examples=8, deadline=None, derandomize=True)
    @given(st.integers(0, 2**32 - 1), st.sampled_from([0.1, 3.0]))
    def test_statsmodels_and_scikit_learn(self, seed, l2):
        rng = np.random.default_rng(seed)
        x, labels = rng.standard_normal((60, 2)), rng.integers(3, size=60)
        ours = regress(x, labels, 3, tol=1e-12)
        theirs = sm.MNLogit(labels, sm.add_constant(x)).fit(disp=0, tol=1e-12)
        close(ours.log_likelihood, theirs.llf)
        relative = np.vstack(
            [ours.bias[1:] - ours.bias[0], ours.kernel[:, 1:] - ours.kernel[:, :1]]
        )
        close(relative, theirs.params, 1e-8)
        errors = np.sqrt(np.diag(np.asarray(ours.covariance))).reshape(2, 3)  # the bias last
        close(np.roll(errors, 1, axis=1).T, theirs.bse)
        ours = regress(x, labels, 3, l2=l2, tol=1e-12)
        model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10).fit(x, labels)
        close(ours.kernel, model.coef_.T, 1e-8)
        close(ours.bias, model.intercept_ - model.intercept_.mean(), 1e-8)


class TestWhereOthersAreSilent:
    @few
    @given(weights, st.floats(1.5, 10))
    def test_nothing_is_normalised(self, w, scale):
        """SciPy divides by the sum whatever it is, so that wrong pmfs never show."""
        w, p, uniform = scale * np.array(w), normalised(w), np.full(K, 1 / K)
        assume(abs(w.sum() - 1) > 1e-3)
        close(scipy.stats.entropy(w), scipy.stats.entropy(p))
        close(jensenshannon(w, uniform), jensenshannon(p, uniform), 1e-7)
        close(jitted_entropy(w), scipy.special.entr(w).sum())
        close(jitted_kl(w, uniform), scipy.special.rel_entr(w, uniform).sum())
        for check in (
            xentjax.check_pmf,
            xentjax.entropy,
            lambda p: xentjax.kl_divergence(uniform, p),
            lambda p: xentjax.sample(jax.random.key(0), p),
        ):
            with pytest.raises(ValueError, match="expected probabilities with sum 1"):
                check(jnp.array(w))

    def test_what_is_no_pmf_is_not_made_one(self):
        """SciPy before 1.18 puts what is too much on the last class, and later gives NaN."""
        q, c = np.array([0.5, 0.6]), np.array([1, 2])
        with warnings.catch_warnings(action="ignore"):
            theirs = scipy.stats.multinomial.logpmf(c, 3, q)
        assert np.isnan(theirs) or abs(theirs - np.log(3 * 0.5 * 0.5**2)) < 1e-12
        value = jax.jit(xentjax.multinomial_log_likelihood)(q, c)
        close(value, np.log(3 * 0.5 * 0.6**2))
        with pytest.raises(ValueError, match=r"q: expected .* got sum 1\.1"):
            xentjax.multinomial_log_likelihood(q, c)
        assert scipy.stats.entropy([-1, 2]) == -np.inf
        assert np.isnan(jitted_entropy(jnp.array([-1.0, 2.0])))
        with pytest.raises(ValueError, match="p: expected probabilities >= 0, got -1"):
            xentjax.entropy(jnp.array([-1.0, 2.0]))

    def test_close_pmfs(self):
        p, q = np.array([0.5, 0.5]), np.array([0.5 + 1e-9, 0.5 - 1e-9])
        assert scipy.stats.entropy(p, q) > 2e-17
        close(xentjax.kl_divergence(p, q), 2e-18, 0)
        with np.errstate(invalid="ignore"):
            assert not jensenshannon(p, q) ** 2 < 1e-18
        close(xentjax.js_divergence(p, q), 5e-19, 0)

    def test_many_samples(self):
        n = 10**12
        c, q = np.array([n // 2, n // 2]), np.array([0.5, 0.5])
        truth = -np.log(np.pi * n / 2) / 2  # and smaller by 1 / (4 n)
        assert abs(scipy.stats.multinomial.logpmf(c, n, q) - truth) > 1e-3
        close(xentjax.multinomial_log_likelihood(q, c), truth)
        with jax.enable_x64(False):  # NumPy's 64-bit integers do not wrap around in 32
            information = xentjax.fisher_information(jnp.float32(q), np.int64(2**40))
        np.testing.assert_array_equal(information[0], [2**38, -(2**38)])

    def test_slopes_at_probability_0(self):
        p, half = jnp.array([0.0, 1.0]), jnp.array([0.5, 0.5])
        for naive in (
            lambda p: -jax.scipy.special.xlogy(p, p).sum(),
            lambda p: optax.kl_divergence(jnp.log(half), p),
        ):
            assert np.isnan(jax.grad(naive)(p)[0])
        # rel_entr: 0 where the limit is -inf
        assert jax.grad(lambda p: jax.scipy.special.rel_entr(p, half).sum())(p)[0] == 0
        close(jax.grad(xentjax.entropy)(p), [np.inf, -1])
        close(jax.grad(xentjax.kl_divergence)(p, half), [-np.inf, 1 + np.log(2)])
        assert np.isnan(optax.kl_divergence(jnp.log(p), p))
        assert xentjax.kl_divergence(p, p) == 0

    def test_torch_clamps_probabilities(self):
        torch = pytest.importorskip("torch")
        die = torch.distributions.Categorical(torch.tensor([0.0, 1.0]))
        assert -17 < die.log_prob(torch.tensor(0)) < -15
        assert xentjax.log_likelihood(jnp.array([0.0, 1.0]), jnp.array([1, 0])) == -np.inf

    def test_samples_outside_the_classes(self):
        assert len(np.bincount([0, 5], minlength=3)) == 6
        np.testing.assert_array_equal(jnp.bincount(jnp.array([0, 5, -1]), length=3), [2, 0, 0])
        with pytest.raises(ValueError, match=r"samples: expected integers 0\.\.2, got 5"):
            xentjax.counts(jnp.array([0, 5, -1]), 3)

    @pytest.mark.parametrize("c", [[-1, 5], [1.5, 2.5], [0, 0]], ids=str)
    def test_counts_that_are_none(self, c):
        """SciPy tests them: NaN where N is 0, else a p-value."""
        with np.errstate(invalid="ignore"):
            assert np.isnan(scipy.stats.chisquare(c).pvalue) == (not any(c))
        for call in (
            lambda c: xentjax.chi_squared_test(c, np.array([0.5, 0.5])),
            lambda c: xentjax.g_test(c, np.array([0.5, 0.5])),
            xentjax.confidence_intervals,
            xentjax.entropy_estimate,
            xentjax.nsb_entropy,
        ):
            with pytest.raises(ValueError, match=r"^counts: expected .*, got (-1|1\.5|all 0)"):
                call(np.array(c, float))

    def test_an_impossible_class(self):
        with np.errstate(invalid="ignore"):
            assert np.isnan(scipy.stats.chisquare([4, 6, 0], [5, 5, 0]).statistic)
        ours = xentjax.chi_squared_test(np.array([4, 6, 0]), np.array([0.5, 0.5, 0]))
        close(ours[:2], scipy.stats.chisquare([4, 6]))

    def test_alpha_beyond_1(self):
        """statsmodels has intervals for it, whose lower ends are the higher ones."""
        low, high = np.asarray(proportion_confint(3, 7, 1.5, "wilson"))
        assert low > high
        for alpha in (1.5, 0.0, 1e-320):  # the last would be 0 once it is halved
            with pytest.raises(ValueError, match=f"alpha: expected a number .*, got {alpha}"):
                xentjax.confidence_intervals(np.array([3, 4]), method="wilson", alpha=alpha)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda q: xentjax.fisher_information(q, True), TypeError, "n: expected numbers, got bool"),
        (lambda q: xentjax.sample(jax.random.key(0), q, (-1,)), ValueError, "shape: .*, got .-1"),
        (lambda q: xentjax.sample(jax.random.key(0), -q), ValueError, "q: .* >= 0, got -0.5"),
        (lambda q: xentjax.check_pmf(q, atol=np.nan), ValueError, "atol: .* >= 0, got nan"),
        (lambda q: regress(q[:, None], np.array([0, 0]), True), TypeError, "num_classes: .* True"),
    ],
)
def test_one_line_names_argument_expectation_and_value(call, error, message):
    with pytest.raises(error, match=message):
        call(jnp.array([0.5, 0.5]))
