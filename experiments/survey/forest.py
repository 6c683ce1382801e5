"""Coefficients and odds ratios of a regression, with their intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from experiments.common import plots
from experiments.survey.labels import wrapped
from experiments.survey.regression import INTERCEPT, Regression
from experiments.survey.run import Result
from experiments.survey.tables import level, term_name

MOST = 60  # intervals in a figure
ROW = 0.23  # inches


class Row(NamedTuple):
    """An interval to draw, or a heading, which has none.

    Attributes:
        label: at its left.
        feature: whose panel it belongs to.
        value: coefficient for one unit.
        lower, upper: the interval's ends, NaN where there is none.
        deviation: of the feature, 1 for a category.
    """

    label: str
    feature: str
    value: float = np.nan
    lower: float = np.nan
    upper: float = np.nan
    deviation: float = 1.0


def draw_coefficients(result: Result, regression: Regression) -> Figure:
    """Plot all coefficients on one axis; those of numbers are for one standard deviation."""
    rows, title = _rows(result, regression)
    figure, axes, panels = _panels(rows, sharex=True)
    for ax, panel in zip(axes, panels, strict=True):
        scales = np.array([row.deviation for row in panel])
        _intervals(ax, panel, *(scales * values for values in _numbers(panel)))
        ax.axvline(0, color=plots.GREY, linewidth=1)
    axes[-1].set_xlabel(f"coefficient; of a number, for a standard deviation{_level(result, rows)}")
    plots.add_title(figure, f"{title}: coefficients")
    return figure


def draw_odds_ratios(result: Result, regression: Regression) -> Figure:
    """Plot odds ratios on a logarithmic axis for each feature: for numbers, those of one unit."""
    rows, title = _rows(result, regression)
    figure, axes, panels = _panels(rows, sharex=False)
    for ax, panel in zip(axes, panels, strict=True):
        values, lower, upper = (np.exp(np.clip(v, -300, 300)) for v in _numbers(panel))
        ax.set_xscale("log")
        _intervals(ax, panel, values, lower, upper)
        ax.axvline(1, color=plots.GREY, linewidth=1)
        low, high = ax.get_xlim()
        ax.xaxis.set_major_locator(FixedLocator(ticks(low, high)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.6g}"))
    axes[-1].set_xlabel(f"odds ratio; of a number, for one unit{_level(result, rows)}")
    plots.add_title(figure, f"{title}: odds ratios")
    return figure


def _level(result: Result, rows: Sequence[Row]) -> str:
    some = any(not np.isnan(row.lower) for row in rows)
    return f"; {level(result.config.alpha)} intervals" if some else "; without standard errors"


def ticks(low: float, high: float) -> list[float]:
    """Choose round numbers, at most eight, on a logarithmic axis."""
    if high / low < 4:
        steps = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(low - 1, high - 1)
        return [1 + float(step) for step in steps if low <= 1 + step <= high]
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    found: list[float] = []
    for mantissas in ((1, 2, 5), (1, 3), (1,)):
        powers = range(first, last + 1)
        found = [m * 10.0**power for power in powers for m in mantissas]
        found = [value for value in found if low <= value <= high]
        if len(found) <= 8:
            return found
    # Powers that are a multiple of `step`, so that 1 is kept.
    step = -(-len(found) // 8)
    return [value for value in found if round(np.log10(value)) % step == 0]


def _rows(result: Result, regression: Regression) -> tuple[list[Row], str]:
    """List the intervals, with headings where a term has several answers; return a title too."""
    answers = regression.answers
    title = (
        f"{wrapped(result.survey.answers.name, 40, 1)}, against "
        f"{wrapped(answers[regression.baseline], 30, 1)}"
    )
    terms = [term for term in regression.terms if term.feature != INTERCEPT]
    p = regression.p_values[: len(terms)]
    kept = np.ones(p.shape, bool)
    if p.size > MOST:
        order = np.argsort(np.nan_to_num(p, nan=2.0).ravel(), kind="stable")
        kept = np.isin(np.arange(p.size), order[:MOST]).reshape(p.shape)
        title = f"{title}; of {p.size:,} the {MOST} with the smallest p"
    rows: list[Row] = []
    for index, term in enumerate(terms):
        if not kept[index].any():
            continue
        label = term_name(term)
        several = len(regression.others) > 1
        if several:
            rows.append(Row(wrapped(label, 44, 1), term.feature))
        for place, answer in enumerate(regression.others):
            if kept[index, place]:
                rows.append(
                    Row(
                        wrapped(answer if several else label, 34, 1),
                        term.feature,
                        float(regression.coefficients[index, place]),
                        *map(float, regression.intervals[index, place]),
                        deviation=term.deviation,
                    )
                )
    return rows, title


def _panels(rows: Sequence[Row], *, sharex: bool) -> tuple[Figure, list[Axes], list[list[Row]]]:
    """Make a panel for each feature, with a height proportional to its number of rows."""
    features = list(dict.fromkeys(row.feature for row in rows))
    panels = [[row for row in rows if row.feature == feature] for feature in features]
    ratios = [len(panel) + 0.6 for panel in panels]
    between = 0.12 if sharex else 0.32
    figure, axes = plots.subplots(
        len(panels),
        1,
        height=1.3 + ROW * sum(ratios) + between * len(panels),
        sharex=sharex,
        height_ratios=ratios,
    )
    return figure, list(axes[:, 0]), panels


def _numbers(panel: Sequence[Row]) -> tuple[NDArray[np.float64], ...]:
    return tuple(
        np.array([getattr(row, field) for row in panel]) for field in ("value", "lower", "upper")
    )


def _intervals(
    ax: Axes,
    panel: Sequence[Row],
    values: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
) -> None:
    """Draw the rows of a panel from top to bottom."""
    places = np.arange(len(panel))
    known = ~np.isnan(lower)
    ax.hlines(places[known], lower[known], upper[known], color=plots.PALETTE[0], linewidth=1.8)
    ax.plot(values[known], places[known], "o", color=plots.PALETTE[0], markersize=5)
    ax.plot(values[~known], places[~known], "o", color=plots.PALETTE[0], fillstyle="none")
    ax.set_yticks(places, [row.label for row in panel], parse_math=False)
    for label, row in zip(ax.get_yticklabels(), panel, strict=True):
        if np.isnan(row.value):
            label.set_fontweight("bold")
    ax.tick_params("y", length=0)
    ax.set_ylim(len(panel) - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
