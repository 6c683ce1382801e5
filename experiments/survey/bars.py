"""The shares of the answers as bars with intervals."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.common import plots
from experiments.survey.labels import wrapped
from experiments.survey.run import Result
from experiments.survey.tables import level, shown

MOST = 40  # bars in a figure


def draw(result: Result) -> Figure:
    """Plot a bar for each answer, at most 40, beside its expected share."""
    shares, answers = result.shares, result.survey.answers
    rows = shown(shares.counts, MOST)
    places = np.arange(len(rows))
    total = int(shares.counts.sum())
    bars = shares.counts[rows] / total
    lower, upper = shares.intervals[rows].T
    labels = [wrapped(answers.categories[index]) for index in rows]
    lines = 1 + max(label.count("\n") for label in labels)
    part = f", the {MOST} most frequent" if len(rows) < len(answers.categories) else ""
    figure, axes = plots.subplots(
        height=1.9 + (0.15 + 0.17 * lines) * len(rows),
        title=f"{wrapped(answers.name, 60)}: {total:,} answers{part}",
    )
    ax = axes[0, 0]
    ax.barh(places, bars, height=0.7, color=plots.PALETTE[2], label="share of the answers")
    # Rounding may leave a share outside its interval by an ulp, but lengths are not negative.
    lengths = np.maximum(np.stack([bars - lower, upper - bars]), 0)
    interval = f"{level(result.config.alpha)} intervals, simultaneous"
    ax.errorbar(bars, places, xerr=lengths, fmt="none", color="black", capsize=4, label=interval)
    expected = shares.expected[rows]
    ax.plot(expected, places, "d", color=plots.PALETTE[1], markersize=6, label="expected")
    ax.set_yticks(places, labels, parse_math=False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(0, min(1.02, 1.04 * max(upper.max(), expected.max())))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("share of the answers")
    plots.add_legend(figure)
    return figure
