"""Confidence intervals against scipy and statsmodels, published tables, and their coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings, strategies as st
from statsmodels.stats.proportion import multinomial_proportions_confint, proportion_confint

from tests.support.tolerances import GRADIENT
from xentjax import confidence_intervals

METHODS = [
    "wald",
    "wilson",
    "agresti_coull",
    "jeffreys",
    "goodman",
    "quesenberry_hurst",
    "sison_glaz",
]
RTOL = {"float32": GRADIENT["float32"], "float64": 1e-6}
# Ends near 0 are differences of numbers below 1, but for the methods that take none.
ATOL = {"float32": 1e-6, "float64": 1e-9}


def oracle(c, method, alpha):
    """statsmodels where it has the method; Quesenberry and Hurst's from the quadratic itself."""
    n, k = c.sum(), len(c)
    if method in ("wald", "wilson", "agresti_coull", "jeffreys"):
        name = {"wald": "normal"}.get(method, method)
        ends = np.stack(proportion_confint(c, n, alpha, name), -1)
        if method == "jeffreys":
            ends[c == 0, 0], ends[c == n, 1] = 0, 1
        return ends
    if method == "quesenberry_hurst":
        square = scipy.stats.chi2.isf(alpha, k - 1)
        # (c - n p)^2 = square n p (1 - p)
        return np.sort(
            [np.roots([n + square, -(2 * x + square), x**2 / n]) for x in c.astype(float)]
        )
    return multinomial_proportions_confint(c, alpha, method.replace("_", "-"))


@st.composite
def problems(draw):
    """Counts of one size, so that nothing is compiled twice, some of them 0, and an alpha."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    concentration = draw(st.sampled_from([0.3, 1.0, 10.0]))
    n = draw(st.integers(1, 300))
    return rng.multinomial(n, rng.dirichlet(np.full(7, concentration))), draw(
        st.sampled_from([1e-4, 0.01, 0.05, 0.3, 0.8])
    )


class TestAgainstOracle:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("method", METHODS)
    @settings(max_examples=20, deadline=None, derandomize=True)
    @given(problem=problems())
    def test_random_counts(self, method, dtype, problem):
        c, alpha = problem
        with jax.enable_x64(dtype == "float64"):
            ends = np.asarray(confidence_intervals(c, method=method, alpha=alpha))
            assert ends.dtype == dtype
        atol = ATOL[dtype]
        if method == "sison_glaz" and dtype == "float32":
            # What a coverage near 1 resolves of g; another h would differ by 1 / 300 or more.
            atol = 4e-4
        expected = oracle(c, method, alpha)
        if method == "sison_glaz" and (ends[:, 1] < expected[:, 1] - atol).any():
            # Where the expansion, which is all that statsmodels has, falls: Bonferroni's bound.
            n, least = c.sum(), c.argmin()
            h = np.floor(n * ends[least, 1] - c[least] + 1e-3) + 1
            law = scipy.stats.binom(n, c / n)
            assert (law.cdf(c - h - 1) + law.sf(c + h)).sum() < alpha
            return
        np.testing.assert_allclose(ends, expected, RTOL[dtype], atol)

    @pytest.mark.parametrize("method", ["wald", "wilson", "agresti_coull", "jeffreys", "goodman"])
    @pytest.mark.parametrize("n", [10**4, 10**6, 10**9], ids="{:.0e}".format)
    def test_large_counts_in_float32(self, method, n):
        # Powers of two and their sum are exact in float32, so the dtype rounds no input.
        c = np.array([1, 2**10, n // 2**12 * 2**11, n // 2**12 * 2**10])
        ends = confidence_intervals(c, method=method)
        np.testing.assert_allclose(ends, oracle(c, method, 0.05), 1e-5, 1e-9)

    @pytest.mark.parametrize("k", [2, 3, 10, 1000, 50000])
    @pytest.mark.parametrize("alpha", [1e-20, 1e-3, 0.5, 0.999])
    def test_chi_squared_quantile_at_any_number_of_classes(self, k, alpha):
        ends = confidence_intervals(jnp.ones(k), method="quesenberry_hurst", alpha=alpha)
        expected = oracle(np.ones(k), "quesenberry_hurst", alpha)[0] if k < 20 else None
        square = scipy.stats.chi2.isf(alpha, k - 1)
        upper = (square + 2 + np.sqrt(square**2 + 4 * square * (1 - 1 / k))) / (2 * (k + square))
        np.testing.assert_allclose(ends[0, 1], upper, 1e-5)
        if expected is not None:
            np.testing.assert_allclose(ends[0], expected, 1e-5)


class TestPublishedValues:
    """Published examples, to as many digits as their sources give."""

    @pytest.mark.parametrize(
        ("c", "method", "expected", "atol"),
        [
            # Sison and Glaz (1995), example 1, by R's MultinomialCI, which loses digits in the
            # moments; statsmodels compares to 4 decimals for that reason
            (
                [56, 72, 73, 59, 62, 87, 58],
                "sison_glaz",
                [
                    [0.07922912, 0.1643361],
                    [0.11349036, 0.1985973],
                    [0.11563169, 0.2007386],
                    [0.0856531, 0.1707601],
                    [0.09207709, 0.177184],
                    [0.14561028, 0.2307172],
                    [0.08351178, 0.1686187],
                ],
                1e-4,
            ),
            (
                [56, 72, 73, 59, 62, 87, 58],
                "goodman",
                [
                    [0.085, 0.166],
                    [0.115, 0.204],
                    [0.116, 0.207],
                    [0.091, 0.173],
                    [0.096, 0.181],
                    [0.143, 0.239],
                    [0.089, 0.171],
                ],
                5.1e-4,
            ),
            ([5] * 50, "sison_glaz", [[0, 0.05304026]] * 50, 1e-4),
            # R's MultinomialCI
            ([1, 1, 0, 0, 0, 0, 0], "sison_glaz", [[0.5, 1]] * 2 + [[0, 0.9655815875]] * 5, 1e-6),
            # the example of MultinomialCI and DescTools, by statsmodels
            (
                [23, 12, 44],
                "sison_glaz",
                [[0.18987342, 0.4106703], [0.05063291, 0.27142979], [0.4556962, 0.67649308]],
                1e-6,
            ),
            (
                [23, 12, 44],
                "goodman",
                [[0.18627587, 0.42425693], [0.07917343, 0.27171457], [0.42386073, 0.68235759]],
                1e-7,
            ),
            # R's DescTools, MultinomCI
            (
                [35, 74, 22, 69],
                "goodman",
                [
                    [0.11801881, 0.25164311],
                    [0.28986972, 0.45799505],
                    [0.06611447, 0.17747984],
                    [0.26687843, 0.4324988],
                ],
                1e-7,
            ),
            (
                [35, 74, 22, 69],
                "sison_glaz",
                [
                    [0.105, 0.25134372],
                    [0.3, 0.44634372],
                    [0.04, 0.18634372],
                    [0.275, 0.42134372],
                ],
                1e-6,
            ),
            (
                [35, 74, 22, 69],
                "quesenberry_hurst",
                [
                    [0.11253215, 0.26191065],
                    [0.28113643, 0.46864068],
                    [0.06224338, 0.18708798],
                    [0.25846198, 0.44319536],
                ],
                1e-7,
            ),
        ],
        ids=[
            "sison-glaz-1995",
            "goodman-1995",
            "fifty-fives",
            "sparse",
            "three-sison-glaz",
            "three-goodman",
            "four-goodman",
            "four-sison-glaz",
            "four-quesenberry-hurst",
        ],
    )
    def test_value(self, c, method, expected, atol):
        ends = confidence_intervals(jnp.array(c), method=method)
        np.testing.assert_allclose(ends, expected, rtol=0, atol=atol)


class TestSisonGlaz:
    def test_a_cancelled_moment_of_statsmodels(self):
        """Central moments from those about 0, as in statsmodels, keep few digits at 1995."""
        c, alpha = np.array([5, 1995]), 0.5
        j = np.arange(c.sum() + 1)

        def coverage(halfwidth):
            mass, moments = 1.0, np.zeros(4)
            for x in c.astype(float):
                inside = abs(j - x) <= halfwidth
                pmf = scipy.stats.poisson.pmf(j[inside], x)
                mass *= pmf.sum()
                pmf /= pmf.sum()
                shift = pmf @ (j[inside] - x)
                central = [pmf @ (j[inside] - x - shift) ** r for r in (2, 3, 4)]
                moments += [shift, central[0], central[1], central[2] - 3 * central[0] ** 2]
            shift, variance, third, fourth = moments
            x, g1, g2 = -shift / np.sqrt(variance), third / variance**1.5, fourth / variance**2
            he = np.polynomial.hermite_e.hermeval(x, [1, 0, 0, g1 / 6, g2 / 24, 0, g1**2 / 72])
            density = scipy.stats.norm.pdf(x) * he / np.sqrt(variance)
            return mass * density / scipy.stats.poisson.pmf(c.sum(), c.sum())

        ends = confidence_intervals(c, method="sison_glaz", alpha=alpha)
        h = round(5 - float(ends[0, 0]) * 2000)
        below, above = coverage(h), coverage(h + 1)
        assert below <= 1 - alpha < above
        upper = (5 + h + 2 * (1 - alpha - below) / (above - below)) / 2000
        np.testing.assert_allclose(ends[0, 1], upper, rtol=1e-5)
        theirs = multinomial_proportions_confint(c, alpha, "sison-glaz")
        assert abs(theirs[0, 1] / upper - 1) > 1e-3

    @pytest.mark.parametrize("c", [[1000, 1], [10_000, 1], [17_000_000, 1], [10**15, 1]], ids=str)
    def test_one_class_with_nearly_all(self, c):
        """The expansion falls from .93 to .45 as the box grows; the multinomial is a binomial.

        (statsmodels' answer for [10000, 1], h = 5, is rounding: its fourth moments cancel.)
        """
        n, rare = sum(c), 1
        ends = np.asarray(confidence_intervals(np.array(c), method="sison_glaz"), float)
        h = round(c[0] - ends[0, 0] * n) if n < 2**24 else 2
        binomial = scipy.stats.binom(n, rare / n)
        cover = [binomial.cdf(rare + j) for j in (h, h + 1)]  # below, all are within
        assert cover[1] >= 0.95  # as promised
        assert ends[1, 0] == 0
        assert (1 + h) / n <= ends[1, 1] * (1 + 1e-6) <= (3 + h) / n * (1 + 1e-5)
        assert h == 2

    @settings(max_examples=40, deadline=None, derandomize=True)
    @given(
        st.lists(st.one_of(st.integers(0, 20), st.integers(0, 10**15)), min_size=3, max_size=3),
        st.sampled_from([1e-30, 1e-3, 0.05, 0.5, 0.999]),
    )
    def test_the_search_ends_for_every_input(self, c, alpha):
        c[0] += 1
        ends = np.asarray(confidence_intervals(np.array(c), method="sison_glaz", alpha=alpha))
        share = np.array(c) / sum(c)
        assert (ends[:, 0] <= share * (1 + 1e-6)).all()
        assert (share <= ends[:, 1] * (1 + 1e-6)).all()

    @pytest.mark.parametrize("k", [2, 5])
    def test_bisection_among_large_counts(self, k):
        """Halfwidths in standard deviations agree with those at 10^8, which are tried in turn."""
        with jax.enable_x64(True):
            halfwidths = []
            for c in (10**8, 10**12, 10**14):
                ends = confidence_intervals(np.full(k, c), method="sison_glaz")
                halfwidths.append(float(ends[0, 1] - ends[0, 0]) / 2 * k * c / c**0.5)
        np.testing.assert_allclose(halfwidths[1:], halfwidths[0], 2e-4)

    def test_has_no_derivative(self):
        with pytest.raises(TypeError, match="method: expected a method other than sison_glaz"):
            jax.grad(lambda c: confidence_intervals(c, method="sison_glaz").sum())(jnp.ones(3))

    def test_five_hundred_classes(self):
        c = np.random.default_rng(0).multinomial(5000, np.full(500, 1 / 500))
        ends = np.asarray(confidence_intervals(c, method="sison_glaz"))
        with jax.enable_x64(True):
            exact = confidence_intervals(c, method="sison_glaz")
        np.testing.assert_allclose(ends, exact, rtol=0, atol=1e-5)  # another h: 2e-4

    @pytest.mark.parametrize("alpha", [1e-9, 1 - 1e-7])
    def test_an_alpha_that_float32_cannot_tell_from_its_end(self, alpha):
        ends = confidence_intervals(jnp.array([3, 5]), method="sison_glaz", alpha=alpha)
        assert ((ends[:, 0] <= jnp.array([0.375, 0.625])) & (ends[:, 1] <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_within_0_and_1_around_the_share(self, method):
        c = jnp.array([[0, 0, 9, 0], [1, 0, 0, 0], [3, 3, 3, 0], [1, 500, 2, 0]])
        ends = confidence_intervals(c, method=method)
        share = c / c.sum(-1, keepdims=True)
        assert ((ends >= 0) & (ends <= 1)).all()
        assert ((ends[..., 0] <= share) & (share <= ends[..., 1])).all()

    def test_batches_are_loops_also_under_jit_and_vmap(self, method):
        c = jnp.array([[[4, 0, 9, 2], [1, 0, 0, 0]], [[3, 3, 3, 0], [1, 500, 2, 0]]])

        def intervals(c):
            return confidence_intervals(c, method=method, alpha=0.1)

        rows = jnp.stack([jnp.stack([intervals(row) for row in block]) for block in c])
        for batched in (intervals, jax.jit(intervals), jax.vmap(jax.vmap(intervals))):
            np.testing.assert_allclose(batched(c), rows, rtol=1e-6, atol=1e-7)

    def test_narrower_with_alpha_which_may_be_traced(self, method):
        c = jnp.array([4, 0, 9, 2])
        intervals = jax.jit(lambda alpha: confidence_intervals(c, method=method, alpha=alpha))
        wide, narrow = intervals(0.01), intervals(jnp.float32(0.4))
        assert (wide[:, 1] - wide[:, 0] >= narrow[:, 1] - narrow[:, 0]).all()

    def test_unknown_counts_of_0_give_nan(self, method):
        intervals = jax.jit(lambda c: confidence_intervals(c, method=method))
        assert jnp.isnan(intervals(jnp.zeros((2, 3)))).all()
        assert (
            jnp.isnan(intervals(jnp.array([[jnp.inf, 1.0, 0], [jnp.nan, 1, 1]])))
            .any((-1, -2))
            .all()
        )

    def test_one_class(self, method):
        ends = confidence_intervals(jnp.array([5]), method=method)
        assert ends.shape == (1, 2)
        np.testing.assert_array_equal(ends[0, 1], 1)


@pytest.mark.parametrize("method", METHODS[:-1])
def test_derivatives(method):
    """Forward and reverse mode alike, against differences, no NaN where a count is 0 or N."""

    def intervals(c, alpha=0.05):
        return confidence_intervals(c, method=method, alpha=alpha)

    both = jax.jit(lambda c: (jax.jacfwd(intervals)(c), jax.jacrev(intervals)(c)))
    with jax.enable_x64(True):
        c = jnp.array([4.0, 1.0, 9.0, 2.0])
        forward, reverse = both(c)
        np.testing.assert_allclose(reverse, forward, 1e-9, 1e-12)
        for j in range(4):
            step = 1e-4 * np.eye(4)[j]
            counts = [np.asarray(c) + step, np.asarray(c) - step]
            ends = [_raw(method, x) for x in counts]
            np.testing.assert_allclose(forward[..., j], (ends[0] - ends[1]) / 2e-4, 1e-5, 1e-7)
        by_alpha = jax.jit(jax.jacrev(lambda alpha: intervals(c, alpha)))(0.05)
        difference = (intervals(c, 0.05 + 1e-6) - intervals(c, 0.05 - 1e-6)) / 2e-6
        np.testing.assert_allclose(by_alpha, difference, 1e-6, 1e-9)
    for c in ([4.0, 0, 9, 2], [7.0, 0, 0, 0]):
        forward, reverse = both(jnp.array(c))
        assert not np.isnan(forward).any()
        np.testing.assert_allclose(reverse, forward, 1e-4, 1e-6)
        if method == "wald":
            assert reverse[1, 1, 1] == np.inf


def _raw(method, c):
    """The ends by their formulas, for counts that need not be whole."""
    n, k = c.sum(), len(c)
    z = scipy.stats.norm.isf(0.025)
    if method == "jeffreys":
        law = scipy.stats.beta(c + 0.5, n - c + 0.5)
        return np.stack([law.ppf(0.025), law.isf(0.025)], -1)
    if method in ("wald", "agresti_coull"):
        added = z**2 / 2 if method == "agresti_coull" else 0
        p, n = (c + added) / (n + 2 * added), n + 2 * added
        half = z * np.sqrt(p * (1 - p) / n)
        return np.clip(np.stack([p - half, p + half], -1), 0, 1)
    square = {
        "wilson": z**2,
        "goodman": scipy.stats.chi2.isf(0.05 / k, 1),
        "quesenberry_hurst": scipy.stats.chi2.isf(0.05, k - 1),
    }[method]
    root = np.sqrt(square**2 + 4 * square * c * (1 - c / n))
    both = [square + 2 * c - root, square + 2 * c + root]
    return np.stack(both, -1) / (2 * (n + square))


def test_jeffreys_reaches_0_and_1():
    ends = confidence_intervals(jnp.array([0, 7]), method="jeffreys")
    assert ends[0, 0] == 0
    assert ends[1, 1] == 1
    assert ends[0, 1] > 0
    assert ends[1, 0] < 1


@pytest.mark.parametrize(
    ("method", "shortfall"),
    # The first is conservative; the others claim 1 - alpha in a limit, and their coverage of the
    # discrete counts falls short of it by up to 0.015 here, in statsmodels too.
    [("quesenberry_hurst", 0.0), ("goodman", 0.02), ("sison_glaz", 0.02)],
)
@pytest.mark.parametrize("n", [20, 100, 1000])
def test_all_probabilities_are_covered_at_once(method, shortfall, n):
    """The coverage is at least nominal, less two standard errors, if expected counts are >= 5."""
    dice, alpha = 4000, 0.05
    p = np.full(4, 0.25) if n == 20 else np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.05])
    c = np.random.default_rng(n).multinomial(n, p, dice)
    with jax.enable_x64(True):  # where an end that is p itself is p rounded as NumPy does
        ends = np.asarray(confidence_intervals(c, method=method, alpha=alpha))
    covered = ((ends[..., 0] <= p) & (p <= ends[..., 1])).all(-1).mean()
    assert covered >= 1 - alpha - shortfall - 2 * np.sqrt(alpha * (1 - alpha) / dice)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("c", "keywords", "message"),
    [
        (jnp.array([1, -2]), {}, r"counts: expected finite numbers >= 0, got -2"),
        (jnp.array([1.0, 2.5]), {}, r"counts: expected whole numbers, got 2\.5"),
        (jnp.zeros(3), {}, "counts: expected at least one count > 0, got all 0"),
        (jnp.array([[1, 1], [0, 0]]), {}, "counts: .* one count > 0, got all 0 in row 1"),
        (jnp.array(3), {}, r"counts: expected at least one class, got shape \(\)"),
        (jnp.ones(2), {"alpha": 0.0}, r"alpha: expected a number in \(0, 1\), got 0\.0"),
        (jnp.ones(2), {"alpha": 1}, r"alpha: expected a number in \(0, 1\), got 1"),
        (jnp.ones(2), {"alpha": float("nan")}, r"alpha: expected a number in \(0, 1\), got nan"),
        (jnp.ones(2), {"method": "exact"}, "method: expected one of 'wald', .*, got 'exact'"),
    ],
)
def test_bad_input(c, keywords, message):
    with pytest.raises(ValueError, match=message):
        confidence_intervals(c, **keywords)
