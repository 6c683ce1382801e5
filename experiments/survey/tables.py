"""The tables of a report, for the terminal and for the page."""

import math
from collections.abc import Sequence
from typing import NamedTuple, SupportsFloat

import numpy as np
from numpy.typing import NDArray

import xentjax
from experiments.common.command import printable
from experiments.survey.association import Strength
from experiments.survey.regression import INTERCEPT, Regression, Term
from experiments.survey.run import FEW, Result, Shares, TwoWay

LEAST_P = 1e-99  # smaller p-values are not told apart
STRONG = 2.0  # standard deviations, beyond which a residual is noteworthy


class Table(NamedTuple):
    """A table of texts, the first column of names.

    Attributes:
        title: of the table.
        headings: of the columns.
        rows: cells; a row with a name alone is a heading of those below it.
        notes: sentences to print below it.
        divisible: whether its columns may be printed in several parts.
    """

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()
    divisible: bool = False


def tables(result: Result, most: int | None = None) -> list[Table]:
    """Make the tables of a report, the most specific last.

    Args:
        result: the statistics.
        most: show no more categories of a column, nor ten times as many coefficients.
    """
    made = [shares_table(result, most)]
    if result.two_way is not None:
        made += two_way_tables(result, result.two_way, most)
    if result.regression is not None:
        made += regression_tables(result, result.regression, most)
    return made


def shown(counts: NDArray[np.int64], most: int | None) -> NDArray[np.intp]:
    """Return the categories to show: all of them in their order, or the most frequent by rank."""
    if most is None or len(counts) <= most:
        return np.arange(len(counts))
    return np.argsort(-counts, kind="stable")[:most]


def shares_table(result: Result, most: int | None = None) -> Table:
    """Make the table of the answers: counts, shares, intervals, and the pmf that is tested."""
    shares, answers = result.shares, result.survey.answers
    total, places = int(shares.counts.sum()), shown(shares.counts, most)
    rows = [
        (
            name(answers.categories[index]),
            f"{shares.counts[index]:,}",
            percent(shares.counts[index] / total),
            percent(shares.intervals[index, 0]),
            percent(shares.intervals[index, 1]),
            percent(shares.expected[index]),
        )
        for index in places
    ]
    notes = [
        f"{total:,} answers; missing: {shares.missing:,}. Lower and upper: "
        f"{level(result.config.alpha)} intervals for all answers at once "
        f"({result.config.intervals}).",
        *_fit_notes(result, shares),
    ]
    return Table(
        f"{name(answers.name)}: shares of the answers{_part({'answers': (places, shares.counts)})}",
        ("answer", "count", "share", "lower", "upper", "expected"),
        rows,
        tuple(notes),
    )


def _fit_notes(result: Result, shares: Shares) -> list[str]:
    if len(shares.counts) < 2:
        return []
    tested = "the expected shares" if result.config.expected else "equal shares of all answers"
    notes = [f"Test of {tested}: {_in_words(shares.test)}."]
    if shares.exact is not None:
        error = float(shares.exact.standard_error)
        method = "exact" if error == 0 else f"simulated, standard error {error:.1g}"
        notes.append(
            f"Some expected counts are below {FEW}; p without the chi-squared approximation "
            f"({method}): {_p_in_words(shares.exact.p_value)}."
        )
    return notes


def two_way_tables(result: Result, two_way: TwoWay, most: int | None = None) -> list[Table]:
    """Make the tables of counts, of residuals, and of shares in each group."""
    answers, groups = result.survey.answers, result.survey.groups
    assert groups is not None
    counts = two_way.table
    rows, columns = shown(counts.sum(1), most), shown(counts.sum(0), most)
    title = f"{name(answers.name)} by {name(groups.name)}"
    headings = (
        name(answers.name),
        *(name(groups.categories[column]) for column in columns),
    )
    part = _part({"answers": (rows, counts), "groups": (columns, counts.T)})
    sizes = counts.sum(0)
    total = int(sizes.sum())

    def made(what: str, cells: list[list[str]], last: Sequence[str], notes: Sequence[str]) -> Table:
        labels = [name(answers.categories[row]) for row in rows]
        lines = [(label, *line) for label, line in zip(labels, cells, strict=True)]
        end = [("all", *last)] if last else []
        shown_title = f"{title}: {what}{part}"
        overall = ["all"] * (len(cells[0]) - len(columns))
        return Table(shown_title, (*headings, *overall), [*lines, *end], tuple(notes), True)

    expected = None if two_way.test is None else np.asarray(two_way.test.expected)
    cells = [
        [
            f"{counts[row, column]:,}"
            + ("" if expected is None else f"\n({_plain(expected[row, column])})")
            for column in columns
        ]
        + [f"{counts[row].sum():,}"]
        for row in rows
    ]
    last = [*(f"{sizes[column]:,}" for column in columns), f"{total:,}"]
    note = f"{total:,} respondents; missing answer or group: {two_way.missing:,}."
    if expected is not None:
        note += " In brackets: the count expected if answer and group were independent."
    found = [made("counts", cells, last, [note])]
    if two_way.test is not None:
        residuals = np.asarray(two_way.test.residuals)
        cells = [
            [f"{residuals[row, column]:+.1f}".replace("-0.0", "+0.0") for column in columns]
            for row in rows
        ]
        note = (
            f"About standard normal if answer and group are independent: beyond {STRONG:g} the "
            "group gives the answer more (+) or less often (-) than the others, but one cell in "
            "twenty is so by chance."
        )
        found.append(made("standardised residuals", cells, [], [note]))
    with np.errstate(invalid="ignore"):
        shares = counts / sizes
        overall = counts.sum(1) / total if total else np.zeros(len(counts))
    cells = [
        [percent(shares[row, column]) for column in columns] + [percent(overall[row])]
        for row in rows
    ]
    found.append(made("shares in each group", cells, [], _association_notes(result, two_way)))
    return found


def _association_notes(result: Result, two_way: TwoWay) -> list[str]:
    test, v, information = two_way.test, two_way.cramers_v, two_way.mutual_information
    if test is None or v is None or information is None:
        return ["Fewer than two answers or groups occur, so there is nothing to test."]
    expected = np.asarray(test.expected)[two_way.table.any(1)][:, two_way.table.any(0)]
    interval = level(result.config.alpha)
    notes = [
        f"Test of independence: {_in_words(test)}.",
        f"Cramér's V {float(test.cramers_v):.4f}, corrected for its bias {_strength(v)}; mutual "
        f"information {_strength(information)} nats, corrected for its bias; {interval} intervals.",
    ]
    if few := int((expected < FEW).sum()):
        notes.append(
            f"{few:,} of {expected.size:,} expected counts are below {FEW}, where the test and the "
            "intervals are approximate."
        )
    return notes


def regression_tables(
    result: Result, regression: Regression, most: int | None = None
) -> list[Table]:
    """Make the tables of the features' tests and of the coefficients."""
    found = []
    if regression.effects is not None:
        rows = [
            (name(feature), number(test.statistic), str(int(test.dof)), p_value(test.p_value))
            for feature, test in regression.effects.items()
        ]
        if regression.test is not None:
            test = regression.test
            total = number(test.statistic), str(int(test.dof)), p_value(test.p_value)
            rows.append(("all together", *total))
        found.append(
            Table(
                "Likelihood-ratio test of each feature",
                ("feature", "G", "dof", "p"),
                rows,
                ("G: twice the fall of the log-likelihood without the feature.",),
            )
        )
    return [*found, coefficients_table(result, regression, most)]


def coefficients_table(result: Result, regression: Regression, most: int | None = None) -> Table:
    """Make the table of coefficients, answer by answer."""
    answers = regression.answers
    size = regression.coefficients.size
    kept = np.ones(regression.coefficients.shape, bool)
    title = (
        f"Regression of {name(result.survey.answers.name)}, against "
        f"'{name(answers[regression.baseline])}'"
    )
    if most is not None and size > 10 * most:
        order = np.argsort(np.nan_to_num(regression.p_values, nan=2.0).ravel(), kind="stable")
        kept = np.isin(np.arange(size), order[: 10 * most]).reshape(kept.shape)
        title += f": the {10 * most} of {size:,} coefficients with the smallest p"
    rows: list[tuple[str, ...]] = []
    for place, answer in enumerate(regression.others):
        if not kept[:, place].any():
            continue
        rows.append((name(answer), *[""] * 5))
        rows += [
            (term_name(term), *_coefficient(regression, row, place))
            for row, term in enumerate(regression.terms)
            if kept[row, place]
        ]
    interval = level(result.config.alpha)
    headings = ("", "estimate", "SE", "z", "p", f"odds ratio ({interval})")
    return Table(title, headings, rows, tuple(_regression_notes(result, regression)))


def _coefficient(regression: Regression, row: int, place: int) -> tuple[str, ...]:
    value = regression.coefficients[row, place]
    odds = ""
    if regression.terms[row].feature != INTERCEPT:
        lower, upper = np.exp(np.clip(regression.intervals[row, place], -700, 700))
        odds = ratio(np.exp(np.clip(value, -700, 700)))
        if not np.isnan(lower):
            odds += f" ({ratio(lower)}, {ratio(upper)})"
    return (
        number(value),
        _standard_error(regression.standard_errors[row, place]),
        _or_dash(regression.z[row, place], ".2f"),
        p_value(regression.p_values[row, place]),
        odds,
    )


def _regression_notes(result: Result, regression: Regression) -> list[str]:
    notes = [
        f"{regression.n:,} respondents; missing answer or feature: {regression.missing:,}. "
        f"Log-likelihood {regression.log_likelihood:,.2f} nats, without features "
        f"{regression.null_log_likelihood:,.2f}; McFadden's R2 {regression.mcfadden_r2:.4f}; "
        f"AIC {regression.aic:,.1f}, BIC {regression.bic:,.1f}.",
        "A coefficient is the change of log(P(answer) / P("
        f"'{name(regression.answers[regression.baseline])}')) for one unit of a number, or between "
        "two categories of a feature; the odds ratio is its exponential.",
    ]
    references = {
        term.feature: term.reference for term in regression.terms if term.reference is not None
    }
    if references:
        against = (f"{name(feature)} '{name(first)}'" for feature, first in references.items())
        notes.append(f"The category that the others are compared with: {', '.join(against)}.")
    if regression.separated:
        notes.append(
            "Some groups never give some answer, so that the likelihood has no maximum and "
            "coefficients no standard errors: leave out a feature, join categories, or set --l2."
        )
    elif not regression.identified:
        notes.append(
            "The features are linearly dependent, so that coefficients are not determined: leave "
            "one out, or set --l2."
        )
    elif not regression.converged:
        notes.append("The optimum was not reached: the numbers are those of the last step.")
    if result.config.l2 > 0:
        notes.append(
            f"Penalised (--l2 {result.config.l2:g}): intervals are those of the normal "
            "approximation to the posterior, and p-values are no tests of a hypothesis."
        )
    return notes


def term_name(term: Term) -> str:
    """Name a term: its column, and the category that is compared with the first one."""
    if term.category is None:
        return term.feature if term.feature == INTERCEPT else name(term.feature)
    return f"{name(term.feature)}: {name(term.category)}"


def name(text: str) -> str:
    """Write a name from the user's file on one line; an empty one as ''."""
    return printable(" ".join(text.split())) or "''"


def _part(kinds: dict[str, tuple[NDArray[np.intp], NDArray[np.int64]]]) -> str:
    """Say how many categories of each kind are shown, unless all are."""
    parts = [
        f"{len(places)} of {len(every)} {kind}"
        for kind, (places, every) in kinds.items()
        if len(places) < len(every)
    ]
    return f" (the most frequent {' and '.join(parts)})" if parts else ""


def level(alpha: float) -> str:
    """Format the level of intervals."""
    return f"{100 * (1 - alpha):.10g} %"


def percent(share: SupportsFloat) -> str:
    """Format a share; a dash if it is not defined."""
    return _or_dash(100 * float(share), ".1f", " %")


def number(value: SupportsFloat) -> str:
    """Format a number by three digits after the point, or by three digits."""
    size = abs(float(value))
    if 1000 <= size < 1e7:
        return _or_dash(value, ",.1f")
    return _or_dash(value, ".3f" if 0.001 <= size < 1000 or size == 0 else ".2e")


def _standard_error(value: float) -> str:
    return _or_dash(value, ".3f" if 0.001 <= value < 1000 else ".1e")


def ratio(value: float) -> str:
    """Format an odds ratio."""
    return _or_dash(value, ".3f" if 0.01 <= value < 10 else ".1f" if 10 <= value < 1000 else ".2g")


def p_value(p: SupportsFloat) -> str:
    """Format a p-value."""
    value = float(p)
    if value < LEAST_P:
        return f"< {LEAST_P:.0e}"
    return f"{value:.1e}" if value < 1e-4 else _or_dash(value, ".4f")


def _p_in_words(p: SupportsFloat) -> str:
    text = p_value(p)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def _in_words(test: xentjax.TestResult | xentjax.IndependenceTest) -> str:
    dof = int(test.dof)
    degrees = "1 degree" if dof == 1 else f"{dof:,} degrees"
    return f"G = {number(test.statistic)}, {degrees} of freedom, {_p_in_words(test.p_value)}"


def _plain(value: SupportsFloat) -> str:
    return f"{float(value):,.1f}"


def _strength(strength: Strength) -> str:
    value, lower, upper = (
        f"{number:.4f}" if number >= 0.001 or number == 0 else f"{number:.1e}"
        for number in strength
    )
    return f"{value} ({lower} to {upper})"


def _or_dash(value: SupportsFloat, form: str, unit: str = "") -> str:
    number = float(value)
    return "-" if math.isnan(number) else f"{number:{form}}{unit}"
