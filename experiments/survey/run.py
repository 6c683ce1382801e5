"""The statistics of a report: shares, a two-way table, a regression."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import xentjax
from experiments.common.command import UserError, pmf_option
from experiments.survey import association
from experiments.survey.association import Strength
from experiments.survey.config import Config
from experiments.survey.data import Survey, Variable, read
from experiments.survey.regression import Regression, prepare, regress

FEW = 5
"""The expected count below which the chi-squared law is a rough approximation."""


class Shares(NamedTuple):
    """Shares of the K answers.

    Attributes:
        counts: int64 [K].
        missing: number of respondents without an answer.
        intervals: [K, 2], of the probabilities, simultaneous.
        expected: [K], the pmf that is tested.
        test: the G-test of it.
        exact: the same test by enumerated or simulated tables, if an expected count is small.
    """

    counts: NDArray[np.int64]
    missing: int
    intervals: NDArray[np.floating]
    expected: NDArray[np.floating]
    test: xentjax.TestResult
    exact: xentjax.MultinomialTest | None


class TwoWay(NamedTuple):
    """Answers [R] of groups [C].

    Attributes:
        table: int64 [R, C], the number of respondents.
        missing: number of respondents without an answer or a group.
        test: of independence, by G; None with fewer than two rows or columns that are not empty.
        cramers_v: strength of the association; None without a test.
        mutual_information: another measure of it, in nats.
    """

    table: NDArray[np.int64]
    missing: int
    test: xentjax.IndependenceTest | None
    cramers_v: Strength | None
    mutual_information: Strength | None


class Result(NamedTuple):
    """All results of a report.

    Attributes:
        config: the configuration.
        survey: the respondents.
        shares: of the answers.
        two_way: answers by group, if groups were named.
        regression: on the features, if some were named.
    """

    config: Config
    survey: Survey
    shares: Shares
    two_way: TwoWay | None
    regression: Regression | None


def run(config: Config, doing: Callable[[str], None] = lambda activity: None) -> Result:
    """Read the survey, and compute all results of the report.

    Args:
        config: the configuration.
        doing: called with each activity.

    Raises:
        UserError: the data cannot be read, or are not what the options say.
    """
    doing("reading")
    survey = read(config)
    # Before anything is computed, so that errors are reported at once.
    design = prepare(survey, config) if survey.features else None
    doing("counting")
    shares = count(survey.answers, config)
    two_way = regression = None
    if survey.groups is not None:
        doing("comparing groups")
        two_way = compare(survey.answers, survey.groups, config.alpha)
    if design is not None:
        doing("fitting the regression")
        regression = regress(design, config, doing)
    return Result(config, survey, shares, two_way, regression)


def count(answers: Variable, config: Config) -> Shares:
    """Count the answers, and test their pmf.

    Raises:
        UserError: the expected probabilities are not one for each answer.
    """
    number = len(answers.categories)
    if config.expected is None:
        expected = jnp.full(number, 1 / number, jnp.float32)
    elif len(config.expected) == number:
        expected = pmf_option("--expected", config.expected)
    else:
        raise UserError(
            f"--expected: expected {number} probabilities, one for each answer, "
            f"got {len(config.expected)}"
        )
    given = answers.codes[answers.codes >= 0]
    counts = xentjax.counts(given, number)
    possible = expected[expected > 0]
    exact = None
    if len(possible) > 1 and len(given) * possible.min() < FEW:
        exact = xentjax.multinomial_test(counts, expected, order="g", key=jax.random.key(0))
    with jax.enable_x64(True):  # p-values below 1e-38 are 0 in float32
        test = jax.device_get(xentjax.g_test(counts, expected))
    ends = xentjax.confidence_intervals(counts, method=config.intervals, alpha=config.alpha)
    return Shares(
        counts=np.asarray(counts, np.int64),
        missing=len(answers.codes) - len(given),
        intervals=np.asarray(ends),
        expected=np.asarray(expected),
        test=test,
        exact=exact,
    )


def compare(answers: Variable, groups: Variable, alpha: float) -> TwoWay:
    """Tabulate answers against groups, and test whether they are independent."""
    both = (answers.codes >= 0) & (groups.codes >= 0)
    sizes = len(answers.categories), len(groups.categories)
    table = xentjax.crosstab(answers.codes[both], groups.codes[both], num_classes=sizes)
    counts = np.asarray(table, np.int64)
    n, missing = int(both.sum()), int((~both).sum())
    occurring = association.occurring(counts)
    if min(occurring) < 2:
        return TwoWay(counts, missing, None, None, None)
    with jax.enable_x64(True):
        test = xentjax.independence_test(table)
        information = association.mutual_information(test, alpha)
    v = association.cramers_v(test, n, alpha, occurring)
    return TwoWay(counts, missing, jax.device_get(test), v, information)
