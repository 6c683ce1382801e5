"""Inference from a fit against statsmodels and scikit-learn, and against repeated rows."""

from functools import cache, partial
from itertools import chain
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from xentjax import SoftmaxRegressionFit, fit_softmax_regression

ANES = ["logpopul", "selfLR", "age", "educ", "income"]


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


@cache
def election():
    """The survey of 1996, features and party."""
    data: Any = sm.datasets.anes96.load_pandas()
    return data.exog[ANES], data.endog.astype(int)


@cache
def problem(seed=0, n=300, d=3, k=4):
    """Features of several scales, labels, weights that are whole and some 0."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 10.0 ** np.arange(d) + np.arange(d)
    logits = (x - x.mean(0)) / x.std(0) @ rng.normal(size=(d, k))
    labels = (logits + rng.gumbel(size=(n, k))).argmax(1)
    return x, labels, rng.integers(0, 4, n)


@cache
def by_statsmodels(seed=0, columns=None, **keywords):
    x, labels, _ = problem(seed)
    x = x if columns is None else x[:, :columns]
    model = sm.MNLogit(labels, sm.add_constant(x, prepend=False))
    return model.fit(method="newton", disp=0, tol=1e-13, **keywords)


@cache
def ours(seed=0, columns=None, **keywords):
    with jax.enable_x64(True):
        x, labels, _ = problem(seed)
        return fit_softmax_regression(x[:, :columns], labels, 4, tol=1e-12, **keywords)


def close(got, expected, rtol=1e-6, atol=0.0):
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol, atol)


def numbers(text):
    """The words of each line that has a number or a name in it."""
    lines = [line.replace("[0.025", "").split() for line in text.splitlines()]
    return [line for line in lines if line and set(line[0]) - set("=-")]


class TestSummary:
    def test_every_printed_figure_is_that_of_statsmodels(self, unchecked_annotations):
        x, labels = election()
        theirs = sm.MNLogit(labels, sm.add_constant(x, prepend=False)).fit(disp=0).summary()
        text = fit_softmax_regression(x, labels).summary()
        got, expected = numbers(text), numbers(str(theirs))
        start = [next(i for i, row in enumerate(t) if "PID=1" in row[0]) for t in (got, expected)]
        assert len(got) - start[0] == 6 * 7
        assert got[start[0] :] == expected[start[1] :]
        words, others = (" ".join(chain.from_iterable(table)) for table in (got, expected))
        for name in (
            "No. Observations:",
            "Df Residuals:",
            "Df Model:",
            "Pseudo R-squ.:",
            "Log-Likelihood:",
            "LL-Null:",
            "LLR p-value:",
        ):
            figure = others.partition(name)[2].split()[0]
            assert words.partition(name)[2].split()[0] == figure, name
        assert "1.822e-102" in text

    def test_figures_where_float64_is_off(self, unchecked_annotations):
        """The fit is computed in float64 and rounded: four decimals are those of statsmodels."""
        x, labels = election()
        wide = fit_softmax_regression(x, labels)
        with jax.enable_x64(False):
            narrow = fit_softmax_regression(x, labels)
            assert narrow.kernel.dtype == jnp.float32
            assert narrow.summary() == wide.summary()

    def test_markdown_has_the_same_cells(self, unchecked_annotations):
        x, labels = election()
        fit = fit_softmax_regression(x, labels)
        text, markdown = numbers(fit.summary()), fit.summary(markdown=True).splitlines()
        rows = [line.strip("| ").split(" | ") for line in markdown if line.startswith("| logpopul")]
        assert rows == [row for row in text if row[0] == "logpopul"]
        assert "| LLR p-value | 1.822e-102 |" in markdown
        assert "| PID=6 | coef | std err | z | P>\\|z\\| | [0.025 | 0.975] |" in markdown

    def test_names_that_are_given(self):
        x, labels, _ = problem()
        fit = fit_softmax_regression(
            x, np.array(["no", "yes", "perhaps", "?"])[labels], feature_names=["a", "b|c", "d"]
        )
        assert fit.names.classes == ("?", "no", "perhaps", "yes")
        assert "y=perhaps" in fit.summary(0.1)
        assert "[0.05 0.95]" in " ".join(fit.summary(0.1).split())
        assert "| b\\|c |" in fit.summary(markdown=True)
        named = fit_softmax_regression(x, labels, 4, class_names=fit.names.classes, baseline=3)
        assert "Baseline:                        y=yes" in named.summary()

    def test_notes_say_what_standard_errors_do_not_mean(self):
        x, labels, _ = problem()
        assert "Note" not in ours().summary()
        penalised = ours(l2=1.0)
        assert "deviations of a posterior, not of the estimates" in penalised.summary()
        assert "LLR p-value: nan" in " ".join(penalised.summary().split())
        with pytest.warns(UserWarning, match="z: the fit has a penalty, l2 = 1.0, so that"):
            assert np.isfinite(penalised.z).all()
        with pytest.warns(UserWarning, match="separated by a hyperplane"):
            separated = fit_softmax_regression(x, (x[:, 0] > 0).astype(int), 2)
        assert "separated by a hyperplane" in separated.summary()
        assert np.isnan(separated.standard_errors).all()
        assert np.isnan(separated.p_values).all()
        with pytest.warns(UserWarning, match="linearly dependent"):
            twice = fit_softmax_regression(np.stack([x[:, 0], x[:, 0]], 1), labels, 4)
        assert "linearly dependent" in twice.summary()
        assert np.isnan(twice.likelihood_ratio_test().p_value)
        with pytest.warns(UserWarning, match="did not reach"):
            stopped = fit_softmax_regression(x, labels, 4, max_steps=1)
        assert "not reached in 1 steps" in stopped.summary()
        with pytest.warns(UserWarning, match="never occurs"):
            absent = fit_softmax_regression(x, labels, 5)
        assert "Never occurs: 4." in absent.summary()
        assert absent.dof == 12


class TestStatsmodels:
    def test_coefficients_and_wald_statistics(self):
        theirs, fit = by_statsmodels(), ours()
        close(fit.coefficients, theirs.params)
        close(fit.standard_errors, theirs.bse)
        close(fit.z, theirs.tvalues)
        close(fit.confidence_intervals(0.1), theirs.conf_int(0.1).transpose(1, 0, 2))
        close(np.log(fit.p_values), np.log(theirs.pvalues))
        odds = fit.odds_ratios()
        close(odds.ratios, np.exp(theirs.params))
        close(odds.intervals, np.exp(theirs.conf_int()).transpose(1, 0, 2))

    def test_small_p_values(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2000, 1))
        labels = (rng.random(2000) < 1 / (1 + np.exp(-x[:, 0]))).astype(int)
        p_value = fit_softmax_regression(x, labels, 2, tol=1e-12).p_values[0, 0]
        theirs = sm.MNLogit(labels, sm.add_constant(x)).fit(disp=0, tol=1e-13).tvalues[1, 0]
        assert p_value < 1e-30
        close(np.log(p_value), scipy.stats.norm.logsf(abs(theirs)) + np.log(2))

    def test_likelihoods(self):
        theirs, fit = by_statsmodels(), ours()
        close(fit.null_log_likelihood, theirs.llnull, 1e-9)
        close(fit.likelihood_ratio, theirs.llr, 1e-9)
        close(fit.aic, theirs.aic)
        close(fit.bic, theirs.bic)
        close(fit.mcfadden_r2, theirs.prsquared)
        test = fit.likelihood_ratio_test()
        assert int(test.dof) == theirs.df_model
        close(np.log(test.p_value), np.log(theirs.llr_pvalue))

    def test_nested_fits(self):
        small = ours(columns=2)
        test = ours().likelihood_ratio_test(small)
        statistic = 2 * (by_statsmodels().llf - by_statsmodels(columns=2).llf)
        close(test.statistic, statistic)
        close(test.p_value, scipy.stats.chi2.sf(statistic, 3))
        assert test.dof == 3

    def test_sandwich(self):
        theirs = by_statsmodels(cov_type="HC0").cov_params()
        close(ours().robust_covariance, theirs, 1e-6, 1e-12)

    def test_marginal_effects(self):
        theirs = by_statsmodels().get_margeff(at="overall")
        effects = ours().average_marginal_effects()
        close(effects.effects, theirs.margeff)
        close(effects.standard_errors, theirs.margeff_se)
        close(effects.z, theirs.tvalues)
        close(np.log(effects.p_values), np.log(theirs.pvalues))
        half = scipy.stats.norm.isf(0.05) * theirs.margeff_se
        ends = [theirs.margeff - half, theirs.margeff + half]
        close(effects.confidence_intervals(0.1), np.stack(ends, -1), 1e-5)

    @pytest.mark.parametrize("baseline", [1, 3])
    def test_any_baseline(self, baseline):
        """The fit is that of classes in another order."""
        x, labels, _ = problem()
        order = [baseline, *(k for k in range(4) if k != baseline)]
        fit = ours(baseline=baseline)
        renamed = fit_softmax_regression(x, np.argsort(order)[labels], 4, tol=1e-12)
        for name in ("coefficients", "covariance", "robust_covariance", "p_values"):
            close(getattr(fit, name), getattr(renamed, name), 1e-7, 1e-12)
        close(fit.kernel, ours().kernel, 1e-7)
        for a, b in zip(
            fit.average_marginal_effects(), ours().average_marginal_effects(), strict=True
        ):
            close(a, b, 1e-7)


class TestWeights:
    @pytest.mark.parametrize("l2", [0.0, 2.0])
    def test_weights_are_repetitions(self, l2):
        x, labels, weights = problem()
        fit = fit_softmax_regression(
            x, labels, 4, sample_weight=weights, l2=l2, tol=1e-12, baseline=2
        )
        rows = np.repeat(np.arange(len(x)), weights)
        expected = fit_softmax_regression(x[rows], labels[rows], 4, l2=l2, tol=1e-12, baseline=2)
        assert fit.num_samples == len(rows)
        for field in ("kernel", "bias", "log_likelihood", "covariance", "null_log_likelihood"):
            close(getattr(fit, field), getattr(expected, field), 1e-8, 1e-12)
        for name in ("likelihood_ratio", "aic", "bic", "mcfadden_r2", "robust_covariance"):
            close(getattr(fit, name), getattr(expected, name), 1e-8, 1e-12)
        for a, b in zip(
            fit.average_marginal_effects(), expected.average_marginal_effects(), strict=True
        ):
            close(a, b, 1e-8)
        if l2 == 0:
            assert fit.summary() == expected.summary()

    def test_null_log_likelihood_of_weights(self):
        x, labels, weights = problem()
        fit = ours(sample_weight=None)
        weighted = fit_softmax_regression(x, labels, 4, sample_weight=weights / 7)
        n = np.bincount(labels, weights / 7)
        close(weighted.null_log_likelihood, (n * np.log(n / n.sum())).sum(), 1e-12)
        assert fit.num_samples == len(x)


class TestPredictions:
    @pytest.mark.parametrize("l2", [0.5, 20.0])
    def test_scikit_learn(self, l2):
        x, labels, _ = problem()
        fit = fit_softmax_regression(x, labels, 4, l2=l2, tol=1e-12)
        model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-10).fit(x, labels)
        close(fit.predict_proba(x), model.predict_proba(x))
        np.testing.assert_array_equal(fit.predict(x), model.predict(x))
        close(fit.predict_proba(x[0]), model.predict_proba(x)[0])

    def test_tables_have_the_columns_that_were_fitted(self, unchecked_annotations):
        x, labels, _ = problem()
        table = pd.DataFrame(x, columns=["a", "b", "c"])
        fit = fit_softmax_regression(table, labels, 4)
        assert fit.names.features == ("a", "b", "c")
        close(fit.predict_proba(table), fit.predict_proba(x))
        with pytest.raises(ValueError, match=r"x: expected columns \['a', 'b', 'c'\], got \['c'"):
            fit.predict(table[["c", "b", "a"]])
        with pytest.raises(ValueError, match=r"x: expected shape \[..., 3\], got shape \(2,\)"):
            fit.predict(np.ones(2))
        with pytest.raises(TypeError, match="x: expected a floating dtype, got int64"):
            fit.predict(np.ones(3, int))


class TestTransformations:
    def everything(self, fit: SoftmaxRegressionFit):
        return [
            *(fit.coefficients, fit.standard_errors, fit.z, fit.p_values, fit.aic, fit.bic),
            *(fit.confidence_intervals(), *fit.odds_ratios(), fit.mcfadden_r2),
            *(*fit.likelihood_ratio_test(), fit.robust_covariance),
            *(*fit.average_marginal_effects(), fit.predict_proba(problem()[0])),
        ]

    def test_jit_and_vmap(self):
        x, labels, weights = problem()

        def all_of(weights):
            return self.everything(
                fit_softmax_regression(x, labels, 4, sample_weight=weights, tol=1e-12)
            )

        two = jnp.stack([jnp.asarray(weights, float), jnp.ones(len(x))])
        got = jax.jit(jax.vmap(all_of))(two)
        for i in range(2):
            for a, b in zip(got, all_of(two[i]), strict=True):
                close(a[i], b, 1e-6, 1e-12)

    def test_fits_are_trees(self):
        fit = ours()
        moved = jax.tree.map(lambda x: x, fit)
        assert moved.names == fit.names
        with pytest.raises(TypeError, match="summary: expected a fit whose values are known"):
            jax.jit(lambda fit: fit.summary())(fit)


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"sample_weight": np.array([1, -1, 1, 1])}, ValueError, "finite numbers >= 0, got -1"),
            ({"sample_weight": np.zeros(4)}, ValueError, "sample_weight: expected some weight > 0"),
            ({"sample_weight": np.ones(3)}, ValueError, r"sample_weight: expected shape \(4,\)"),
            (
                {"sample_weight": np.ones(4, bool)},
                TypeError,
                "sample_weight: expected numbers",
            ),
            ({"baseline": 2}, ValueError, r"baseline: expected an integer 0\.\.1, got 2"),
            ({"baseline": 0.5}, TypeError, "baseline: expected an integer, got 0.5"),
            ({"feature_names": ["a"]}, ValueError, "feature_names: expected 2 names, .* got 1"),
            ({"class_names": ["a"]}, ValueError, "class_names: expected 2 names, .* got 1"),
            (
                {"num_classes": None, "labels": ["a", None]},
                ValueError,
                "no missing label",
            ),
        ],
        ids=str,
    )
    def test_bad_arguments(self, change, error, message, unchecked_annotations):
        arguments = {"x": np.ones((4, 2)), "labels": np.array([0, 1, 1, 0]), "num_classes": 2}
        with pytest.raises(error, match=message):
            fit_softmax_regression(**(arguments | change))

    def test_unknown_labels_need_a_number_of_classes(self):
        fit = partial(fit_softmax_regression, np.ones((4, 1)))
        with pytest.raises(ValueError, match="num_classes: expected an integer where labels are"):
            jax.jit(lambda labels: fit(labels).bias)(jnp.array([0, 1, 1, 0]))

    def test_other_fits_that_are_not_nested(self, unchecked_annotations):
        x, labels, weights = problem()
        fit, small = ours(), partial(fit_softmax_regression, x[:, :1])
        for other, message in [
            (small(labels[::-1].copy(), 4), "a fit of the same labels, got other labels"),
            (small(labels, 4, sample_weight=weights), "a fit of the same weights, got other"),
            (small(np.minimum(labels, 2), 3), "a fit of the same 4 classes, got 3"),
            (fit_softmax_regression(x[:9, :1], labels[:9] * 0, 1), "the same 300 rows, got 9"),
            (fit, "a fit with fewer features than 3, got 3"),
            (fit_softmax_regression(x[:, :1] ** 2, labels, 4), "got feature 0, which is not"),
        ]:
            with pytest.raises(ValueError, match=f"other: expected .*{message}"):
                fit.likelihood_ratio_test(other)
        three: Any = 3
        combined = fit_softmax_regression(x[:, :1] + x[:, 1:2], labels, 4)
        assert fit.likelihood_ratio_test(combined).dof == 6
        with pytest.raises(TypeError, match="other: expected a fit or"):
            fit.likelihood_ratio_test(three)

    def test_alpha_and_markdown(self, unchecked_annotations):
        with pytest.raises(ValueError, match=r"alpha: expected a number in \(0, 1\), got 1"):
            ours().confidence_intervals(1.0)
        one: Any = 1
        with pytest.raises(TypeError, match="markdown: expected True or False, got 1"):
            ours().summary(markdown=one)
