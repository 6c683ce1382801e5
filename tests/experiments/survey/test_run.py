"""The statistics of a survey against NumPy, SciPy and statsmodels in float64."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest
import scipy.stats
from statsmodels.discrete.discrete_model import MNLogit
from statsmodels.stats.proportion import multinomial_proportions_confint

import xentjax
from experiments.common.command import UserError
from experiments.survey import association
from experiments.survey.config import Config
from experiments.survey.run import run
from tests.support.survey_files import ANSWERS, write_survey


def found(config: Config) -> Any:
    """Run without the types of parts that a report may lack."""
    return run(config)


@pytest.fixture(scope="module")
def rows():
    """Answer, region, code and age of 240 respondents, some of them unknown."""
    rng = np.random.default_rng(5)
    age = rng.integers(18, 90, 240).astype(float)
    answer = np.clip(rng.integers(0, 3, 240) + (age > 55), 0, 2)
    region, code = rng.integers(0, 3, 240), rng.integers(0, 2, 240)
    age[:7] = np.nan
    return np.where(np.arange(240) % 40 == 3, -1, answer), region, code, age


@pytest.fixture(scope="module")
def result(rows, tmp_path_factory):
    path = write_survey(tmp_path_factory.mktemp("survey") / "survey.csv", *rows)
    return found(
        Config(
            data=path,
            column="the answer",
            by="region",
            features=("age", "region", "code"),
            categorical=("code",),
            order=ANSWERS,
            expected=(0.2, 0.3, 0.5),
            baseline="yes",
            alpha=0.1,
        )
    )


def test_counts_intervals_and_fit(result, rows):
    counts = np.bincount(rows[0][rows[0] >= 0], minlength=3)
    shares = result.shares
    np.testing.assert_array_equal(shares.counts, counts)
    assert shares.missing == 6
    ends = multinomial_proportions_confint(counts, 0.1, "goodman")
    np.testing.assert_allclose(shares.intervals, ends, rtol=1e-5)
    expected = counts.sum() * np.array([0.2, 0.3, 0.5])
    test = scipy.stats.power_divergence(counts, expected, lambda_="log-likelihood")
    np.testing.assert_allclose(shares.test.statistic, test.statistic, rtol=1e-5)
    np.testing.assert_allclose(shares.test.p_value, test.pvalue, rtol=1e-4)
    assert shares.exact is None


def test_two_way_table(result, rows):
    answer, region = (column[rows[0] >= 0] for column in rows[:2])
    table = np.zeros((3, 3), int)
    np.add.at(table, (answer, region), 1)
    two_way, n = result.two_way, table.sum()
    np.testing.assert_array_equal(two_way.table, table)
    assert two_way.missing == 6
    expected = table.sum(1, keepdims=True) * table.sum(0) / n
    np.testing.assert_allclose(two_way.test.expected, expected, rtol=1e-12)
    spread = (1 - table.sum(1, keepdims=True) / n) * (1 - table.sum(0) / n)
    residuals = (table - expected) / np.sqrt(expected * spread)
    np.testing.assert_allclose(two_way.test.residuals, residuals, rtol=1e-10, atol=1e-12)
    pair = table.ravel(), expected.ravel()
    g = scipy.stats.power_divergence(*pair, ddof=4, lambda_="log-likelihood")
    x2 = scipy.stats.power_divergence(*pair, ddof=4)
    np.testing.assert_allclose(two_way.test.statistic, g.statistic, rtol=1e-10)
    np.testing.assert_allclose(two_way.test.p_value, g.pvalue, rtol=1e-8)
    information = max(g.statistic - 4, 0) / (2 * n)
    np.testing.assert_allclose(two_way.mutual_information.value, information, rtol=1e-8)
    with jax.enable_x64(True):
        ends = xentjax.independence_test(table).mutual_information_interval(result.config.alpha)
    np.testing.assert_allclose(two_way.mutual_information[1:], ends, rtol=1e-12)
    v = np.sqrt(max(x2.statistic - 4, 0) / (2 * n))
    np.testing.assert_allclose(two_way.cramers_v.value, v, rtol=1e-8)
    assert two_way.cramers_v.lower <= v <= two_way.cramers_v.upper


@pytest.mark.parametrize(("statistic", "dof"), [(30.0, 6), (400.0, 36), (3e5, 8)])
def test_ends_of_the_noncentrality_have_the_tails(statistic, dof):
    lower, upper = association.noncentrality(statistic, dof, 0.1)
    np.testing.assert_allclose(scipy.stats.ncx2.sf(statistic, dof, lower), 0.05, rtol=1e-5)
    np.testing.assert_allclose(scipy.stats.ncx2.cdf(statistic, dof, upper), 0.05, rtol=1e-5)
    assert lower < statistic - dof < upper


def test_noncentrality_that_may_be_0_has_an_end_there():
    lower, upper = association.noncentrality(5.0, 4, 0.05)
    assert lower == 0 < upper
    assert association.noncentrality(0.01, 4, 0.05) == (0, 0)


def test_regression(result, rows):
    answer, region, code, age = rows
    known = (answer >= 0) & ~np.isnan(age)
    answer, region, code, age = (column[known] for column in (answer, region, code, age))
    columns = {
        "age": age[:, None],
        "region": region[:, None] == [1, 2],
        "code": code[:, None] == [1],
    }
    # statsmodels compares with the first class: "yes", which is the last answer
    relabelled = (answer + 1) % 3

    def fit(names):
        x = np.concatenate([*(columns[name] for name in names), np.ones((len(age), 1))], 1)
        model = MNLogit(relabelled, x.astype(float))
        return model.fit(method="newton", disp=0, tol=1e-12)

    expected, fitted = fit(columns), result.regression
    assert fitted.answers == ANSWERS
    assert fitted.others == ("no, never", "maybe")
    assert (fitted.n, fitted.missing) == (known.sum(), 240 - known.sum())
    names = [(term.feature, term.category, term.reference) for term in fitted.terms]
    assert names == [
        ("age", None, None),
        ("region", "r1", "r0"),
        ("region", "r2", "r0"),
        ("code", "1", "0"),
        ("intercept", None, None),
    ]
    np.testing.assert_allclose(fitted.terms[0].deviation, age.std(), rtol=1e-12)
    np.testing.assert_allclose(fitted.coefficients, expected.params, rtol=1e-6)
    np.testing.assert_allclose(fitted.standard_errors, expected.bse, rtol=1e-6)
    np.testing.assert_allclose(fitted.z, expected.tvalues, rtol=1e-6)
    np.testing.assert_allclose(fitted.p_values, expected.pvalues, rtol=1e-5)
    ends = expected.conf_int(0.1).swapaxes(0, 1)
    np.testing.assert_allclose(fitted.intervals, ends, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(fitted.log_likelihood, expected.llf, rtol=1e-10)
    np.testing.assert_allclose(fitted.null_log_likelihood, expected.llnull, rtol=1e-8)
    np.testing.assert_allclose([fitted.aic, fitted.bic], [expected.aic, expected.bic], rtol=1e-8)
    for name, dof in {"age": 2, "region": 4, "code": 2}.items():
        without = fit([other for other in columns if other != name])
        statistic = 2 * (expected.llf - without.llf)
        np.testing.assert_allclose(fitted.effects[name].statistic, statistic, rtol=1e-5)
        p = scipy.stats.chi2.sf(statistic, dof)
        np.testing.assert_allclose(fitted.effects[name].p_value, p, rtol=1e-4)
        assert fitted.effects[name].dof == dof
    assert fitted.converged
    assert fitted.identified
    assert not fitted.separated


def test_few_answers_have_an_exact_test_too(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("x\n" + "a\n" * 6 + "b\n" * 1)
    shares = found(Config(data=path, column="x")).shares
    np.testing.assert_allclose(shares.exact.p_value, 2 * 8 / 128, rtol=1e-6)  # 0, 1, 6 or 7 times
    assert shares.exact.standard_error == 0


def test_one_answer_and_nobody_in_both(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("x,y\nyes,\nyes,\n,a\n")
    result = found(Config(data=path, column="x", by="y"))
    assert result.shares.counts.tolist() == [2]
    assert result.two_way.table.tolist() == [[0]]
    assert result.two_way.test is None
    path.write_text("x,y\nyes,\nno,\nyes,2\n")
    with pytest.raises(UserError, match="two or more different answers of the 1 respondents"):
        found(Config(data=path, column="x", features=("y",)))


def test_groups_that_never_answer_so_leave_no_standard_errors_until_penalised(tmp_path):
    path = tmp_path / "separated.csv"
    path.write_text("x,y\n" + "yes,a\n" * 9 + "yes,b\nno,b\n" * 5)
    config = Config(data=path, column="x", features=("y",))
    fitted = found(config).regression
    assert fitted.separated
    assert np.isnan(fitted.standard_errors).all()
    # log-likelihoods: 10 log 2 of the second group, and that of 14 of 19
    null = -(14 * np.log(14 / 19) + 5 * np.log(5 / 19))
    np.testing.assert_allclose(fitted.test.statistic, 2 * (null - 10 * np.log(2)), rtol=1e-4)
    penalised = found(dataclasses.replace(config, l2=1.0)).regression
    assert penalised.effects is None
    assert not penalised.separated
    assert np.isfinite(penalised.standard_errors).all()


def test_answers_that_nobody_gave_are_counted_and_not_fitted(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text("x,y\n" + "yes,1\nno,2\nyes,3\nno,4\nyes,4\nno,1\n" * 3)
    order = ("never", "no", "maybe", "yes")
    result = found(Config(data=path, column="x", by="y", features=("y",), order=order))
    assert result.shares.counts.tolist() == [0, 9, 0, 9]
    assert result.two_way.table.sum(1).tolist() == [0, 9, 0, 9]
    assert result.two_way.test.dof == 3
    assert result.regression.answers == ("no", "yes")
