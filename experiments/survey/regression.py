"""Softmax regression of the answers on features, with a test of each feature."""

import warnings
from collections.abc import Callable
from itertools import chain
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

import xentjax
from experiments.common.command import UserError
from experiments.survey.config import Config
from experiments.survey.data import Number, Survey, Variable

MOST_COEFFICIENTS = 1000  # beyond, a fit has no standard errors
INTERCEPT = "intercept"


class Term(NamedTuple):
    """The factor of a coefficient.

    Attributes:
        feature: the column; "intercept" for the constant.
        category: of the column, which is compared with its first one; None for a number.
        reference: the first category of the column; None for a number.
        deviation: standard deviation of a number; 1 for a category.
    """

    feature: str
    category: str | None = None
    reference: str | None = None
    deviation: float = 1.0


class Regression(NamedTuple):
    """The regression of the answers that occur, on T terms, the intercept last.

    The coefficients, float64 [T, K - 1], are for log(P(answer) / P(baseline)).

    Attributes:
        answers: the K answers that occur, in their order.
        baseline: index of the answer that the others are compared with.
        terms: T names.
        coefficients: [T, K - 1].
        standard_errors: [T, K - 1], NaN where the fit has none.
        z: coefficients over standard errors.
        p_values: of coefficients that are 0, by the normal law.
        intervals: [T, K - 1, 2].
        log_likelihood: of the fit, in nats.
        null_log_likelihood: with the intercept alone.
        test: the likelihood-ratio test of all features together.
        effects: a test of all coefficients of each feature together; None if penalised.
        n: number of respondents.
        missing: number of respondents without an answer or a feature.
        converged: whether the optimum was reached.
        separated: whether there is no optimum.
        identified: whether the optimum is unique.
    """

    answers: tuple[str, ...]
    baseline: int
    terms: tuple[Term, ...]
    coefficients: NDArray[np.float64]
    standard_errors: NDArray[np.float64]
    z: NDArray[np.float64]
    p_values: NDArray[np.float64]
    intervals: NDArray[np.float64]
    log_likelihood: float
    null_log_likelihood: float
    mcfadden_r2: float
    aic: float
    bic: float
    test: xentjax.TestResult | None
    effects: dict[str, xentjax.TestResult] | None
    n: int
    missing: int
    converged: bool
    separated: bool
    identified: bool

    @property
    def others(self) -> tuple[str, ...]:
        """The answers other than the baseline, which the columns of coefficients belong to."""
        return self.answers[: self.baseline] + self.answers[self.baseline + 1 :]


class Design(NamedTuple):
    """Labels and columns to fit.

    Attributes:
        answers: the K answers that occur, in their order.
        baseline: which of them the others are compared with.
        labels: int32 [N], of the respondents without missing values.
        terms: the names of each feature's columns.
        columns: float64 [N, T] of each feature.
        missing: number of respondents who are left out.
    """

    answers: tuple[str, ...]
    baseline: int
    labels: NDArray[np.int32]
    terms: dict[str, list[Term]]
    columns: dict[str, NDArray[np.float64]]
    missing: int


def prepare(survey: Survey, config: Config) -> Design:
    """Choose respondents, answers and columns.

    Raises:
        UserError: there are too few answers, too many coefficients, or a feature does not vary.
    """
    complete = survey.answers.codes >= 0
    for feature in survey.features:
        complete = complete & _present(feature)
    codes = survey.answers.codes[complete]
    occurring = np.flatnonzero(np.bincount(codes, minlength=len(survey.answers.categories)))
    if len(occurring) < 2:
        raise UserError(
            "--features: expected two or more different answers of the "
            f"{len(codes):,} respondents of whom all is known, got {len(occurring)}"
        )
    answers = tuple(survey.answers.categories[index] for index in occurring)
    baseline = _baseline(config.baseline, answers)
    terms = {feature.name: _terms(feature, complete) for feature in survey.features}
    size = 1 + sum(map(len, terms.values()))
    if (coefficients := (len(answers) - 1) * size) > MOST_COEFFICIENTS:
        raise UserError(
            f"--features: expected at most {MOST_COEFFICIENTS} coefficients, got {coefficients:,}: "
            f"{len(answers) - 1} answers, each with {size}"
        )
    return Design(
        answers=answers,
        baseline=baseline,
        labels=np.searchsorted(occurring, codes).astype(np.int32),
        terms=terms,
        columns={
            feature.name: _columns(feature, complete, terms[feature.name])
            for feature in survey.features
        },
        missing=int((~complete).sum()),
    )


def regress(
    design: Design, config: Config, doing: Callable[[str], None] = lambda activity: None
) -> Regression:
    """Fit the answers, with all features and without each of them.

    Args:
        design: the data to fit.
        config: the configuration.
        doing: called with each activity.
    """
    labels, columns = design.labels, design.columns

    def fit(names: list[str]) -> xentjax.SoftmaxRegressionFit:
        chosen = [np.zeros((len(labels), 0)), *(columns[name] for name in names)]
        return xentjax.fit_softmax_regression(
            np.concatenate(chosen, axis=1),
            labels,
            len(design.answers),
            l2=config.l2,
            baseline=design.baseline,
        )

    # In float64, so that the report does not depend on the scale of a feature.
    with jax.enable_x64(True), warnings.catch_warnings(action="ignore"):
        full = fit(list(columns))
        effects = test = None
        if config.l2 == 0:
            test = jax.device_get(full.likelihood_ratio_test())
            effects = {}
            for name in columns:
                doing(f"testing {name}")
                smaller = fit([other for other in columns if other != name])
                effects[name] = jax.device_get(full.likelihood_ratio_test(smaller))
        return Regression(
            answers=design.answers,
            baseline=design.baseline,
            terms=(*chain.from_iterable(design.terms.values()), Term(INTERCEPT)),
            coefficients=np.asarray(full.coefficients),
            standard_errors=np.asarray(full.standard_errors),
            z=np.asarray(full.z),
            p_values=np.asarray(full.p_values),
            intervals=np.asarray(full.confidence_intervals(config.alpha)),
            log_likelihood=float(full.log_likelihood),
            null_log_likelihood=float(full.null_log_likelihood),
            mcfadden_r2=float(full.mcfadden_r2),
            aic=float(full.aic),
            bic=float(full.bic),
            test=test,
            effects=effects,
            n=len(labels),
            missing=design.missing,
            converged=bool(full.converged),
            separated=bool(full.separated),
            identified=bool(full.identified),
        )


def _present(feature: Variable | Number) -> NDArray[np.bool_]:
    return feature.codes >= 0 if isinstance(feature, Variable) else ~np.isnan(feature.values)


def _baseline(label: str | None, answers: tuple[str, ...]) -> int:
    if label is None:
        return 0
    if label not in answers:
        raise UserError(f"--baseline: expected one of {', '.join(answers)}, got '{label}'")
    return answers.index(label)


def _terms(feature: Variable | Number, complete: NDArray[np.bool_]) -> list[Term]:
    """Name the columns of a feature: a number, or its categories that occur but for the first one.

    Raises:
        UserError: all respondents have the same.
    """
    if isinstance(feature, Number):
        values = feature.values[complete]
        constant = (values == values[:1]).all()
        terms = [Term(feature.name, deviation=float(values.std()))]
    else:
        codes = feature.codes[complete]
        found = np.flatnonzero(np.bincount(codes, minlength=len(feature.categories)))
        names = [feature.categories[index] for index in found]
        constant = len(names) < 2
        terms = [Term(feature.name, label, names[0]) for label in names[1:]]
    if constant:
        raise UserError(
            f"--features: expected {feature.name} to differ between respondents, got one value "
            f"for all {int(complete.sum()):,} of whom all is known"
        )
    return terms


def _columns(
    feature: Variable | Number, complete: NDArray[np.bool_], terms: list[Term]
) -> NDArray[np.float64]:
    """Return the columns [N, T] of a feature: numbers, or 1 for the term's category and else 0."""
    if isinstance(feature, Number):
        return feature.values[complete, None]
    categories = [feature.categories.index(term.category or "") for term in terms]
    return (feature.codes[complete, None] == categories).astype(np.float64)
