"""A mosaic plot: areas are the counts of a two-way table, colours its standardised residuals.

Source: M. Friendly, "Mosaic displays for multi-way contingency tables" (1994).
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from experiments.common import plots
from experiments.survey.labels import spread, wrapped
from experiments.survey.run import Result, TwoWay
from experiments.survey.tables import shown

MOST = 20  # answers, and groups
STEPS = (-4.0, -2.0, 2.0, 4.0)  # residuals between two colours
COLORS = ("#C25500", "#F7C59F", "#EFEFEF", "#A9D3EC", "#0072B2")
LABELS = ("below −4", "−4 to −2", "−2 to 2", "2 to 4", "above 4")
CHARACTER, LINE = 6.6, 11.0  # points that a character and a line of a tile's text need
ALL = (-0.11, -0.035)  # the ends of the row of all groups; the rows of single groups fill 0 to 1


def draw(result: Result, two_way: TwoWay) -> Figure:
    """Plot a row for each group, its height the group's size, with a tile for each answer.

    A row above them has the shares of all groups together.
    """
    answers, groups = result.survey.answers, result.survey.groups
    assert groups is not None
    rows = shown(two_way.table.sum(1), MOST)
    columns = shown(two_way.table.sum(0), MOST)
    rows = rows[two_way.table[rows].any(1)]
    columns = columns[two_way.table[:, columns].any(0)]
    sizes = two_way.table.sum(0)[columns]
    names = [wrapped(answers.categories[row], 26, 1) for row in rows]
    labels = [wrapped(groups.categories[column], 22) for column in columns]

    figure, axes = plots.subplots(height=min(3.8 + 0.42 * len(columns), 10.5), grid=False)
    ax = axes[0, 0]
    ax.spines[["left", "top", "bottom"]].set_visible(False)
    ax.set_xlim(0, 1)
    ax.set_ylim(1, ALL[0])
    overall = two_way.table.sum(1)
    _name_answers(ax, names, overall[rows] / overall.sum())
    ax.set_yticks([sum(ALL) / 2], ["\n".join(["all", *labels])], parse_math=False)
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=None, symbol=" %"))
    ax.set_xlabel("share of the group's answers")
    handles = [Patch(facecolor=color, edgecolor="0.6") for color in COLORS]
    plots.add_legend(
        figure,
        columns=len(handles),
        entries=(handles, LABELS),
        title="standardised residual: the answer is rarer (orange) or more frequent (blue) here",
    )
    plots.add_title(figure, _title(result, two_way, len(rows), len(columns)))
    # The size of the axes in points decides the distances of names and the length of texts.
    figure.draw_without_rendering()
    width, height = ax.get_window_extent().size * 72 / figure.dpi
    room = width, height / (1 - ALL[0])
    tops = np.concatenate([[0], np.cumsum(sizes / sizes.sum())])
    _name_groups(ax, labels, (tops[:-1] + tops[1:]) / 2, room[1])
    _tiles(ax, names, overall[rows] / overall.sum(), np.zeros(len(rows)), ALL, room)
    for place, column in enumerate(columns):
        counts = two_way.table[:, column]
        residuals = np.zeros(len(rows))
        if two_way.test is not None:
            residuals = np.asarray(two_way.test.residuals)[rows, column]
        _tiles(ax, names, counts[rows] / counts.sum(), residuals, tops[place : place + 2], room)
    return figure


def _title(result: Result, two_way: TwoWay, num_rows: int, num_columns: int) -> str:
    answers, groups = result.survey.answers, result.survey.groups
    assert groups is not None
    title = f"{wrapped(answers.name, 50, 1)} by {wrapped(groups.name, 50, 1)}"
    num_answers, num_groups = (int(two_way.table.any(axis).sum()) for axis in (1, 0))
    parts = [
        f"the {drawn} most frequent of {number} {kind}"
        for drawn, number, kind in (
            (num_columns, num_groups, "groups"),
            (num_rows, num_answers, "answers"),
        )
        if drawn < number
    ]
    return "\n".join([title, *parts])


def _tiles(
    ax: Axes,
    names: Sequence[str],
    widths: NDArray[np.float64],
    residuals: NDArray[np.float64],
    ends: Sequence[float] | NDArray[np.float64],
    room: tuple[float, float],
) -> None:
    """Draw the answers of a group from left to right; a dot is an answer that nobody gave.

    Args:
        ax: the axes.
        names: of the answers.
        widths: their shares in the group.
        residuals: their standardised residuals.
        ends: top and bottom of the group's row.
        room: a width and a height of 1, in points.
    """
    starts = np.cumsum(widths) - widths
    top, bottom = ends
    for name, start, width, residual in zip(names, starts, widths, residuals, strict=True):
        if width == 0:
            ax.plot(start, (top + bottom) / 2, "o", color="0.3", markersize=3, clip_on=False)
            continue
        shade = int(np.searchsorted(STEPS, residual))
        ax.add_patch(
            Rectangle(
                (start, top),
                width,
                bottom - top,
                facecolor=COLORS[shade],
                edgecolor="white",
                linewidth=1.5,
            )
        )
        text = f"{name} {100 * width:.0f} %"
        if len(text) > width * room[0] / CHARACTER:
            text = f"{100 * width:.0f} %"
        if len(text) < width * room[0] / CHARACTER and (bottom - top) * room[1] > LINE:
            ax.text(
                start + width / 2,
                (top + bottom) / 2,
                text,
                ha="center",
                va="center",
                fontsize=9,
                color="white" if shade in (0, 4) else "black",
                parse_math=False,
            )


def _name_groups(ax: Axes, labels: list[str], centres: NDArray[np.floating], room: float) -> None:
    """Write the groups beside their rows, moved apart if rows are low."""
    lines = 1 + max(label.count("\n") for label in labels)
    places = spread(list(centres), 14 * lines / room, 0.02, 0.99)
    ax.set_yticks([sum(ALL) / 2, *places], ["all", *labels], parse_math=False)
    ax.tick_params("y", length=0, pad=14)
    for centre, place in zip(centres, places, strict=True):
        ax.plot([0, -0.018], [centre, place], color="0.5", linewidth=0.8, clip_on=False)


def _name_answers(ax: Axes, names: list[str], widths: NDArray[np.float64]) -> None:
    """Write the answers above the row of all groups, moved apart if tiles are narrow."""
    centres = np.cumsum(widths) - widths / 2
    places = spread(list(centres), 0.048, 0.0, 0.98)
    top = ax.secondary_xaxis("top")
    top.set_xticks(places, names, rotation=40, ha="left", va="bottom", rotation_mode="anchor")
    for label in top.get_xticklabels():
        label.set_parse_math(False)
    top.tick_params("x", length=0, pad=9)
    top.spines["top"].set_visible(False)
    ends = ALL[0], ALL[0] - 0.025
    for centre, place in zip(centres, places, strict=True):
        ax.plot([centre, place], ends, color="0.5", linewidth=0.8, clip_on=False)
