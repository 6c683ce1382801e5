"""The figures of several runs."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.common.estimates import Estimate
from experiments.common.plots import GREY, PALETTE, add_legend, subplots


def draw_seeds(seeds: Sequence[int], accuracies: Sequence[float], mean: Estimate) -> Figure:
    """Plot the accuracy of every seed, and the mean with its interval."""
    spread = f", standard deviation {mean.sd:.2%}" if mean.n > 1 else ""
    title = f"Test accuracy of {mean.n} run{'s' * (mean.n > 1)}{spread}"
    figure, ((ax,),) = subplots(height=3.8, title=title)
    if mean.n > 1:
        ax.axhspan(
            mean.lower,
            mean.upper,
            color=PALETTE[0],
            alpha=0.15,
            label="95 % interval of the mean",
        )
    ax.axhline(mean.mean, color=GREY, linestyle="--", label=f"mean {mean.mean:.2%}")
    ax.plot(seeds, accuracies, "o", color=PALETTE[0], label="one run")
    ax.set_xlabel("seed")
    ax.set_ylabel("test accuracy")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    add_legend(figure)
    return figure


def draw_differences(differences: Mapping[str, Estimate], first: str) -> Figure:
    """Plot the difference of each settings' accuracy from the first ones', with its interval."""
    title = f"Test accuracy beside '{first}'"
    figure, ((ax,),) = subplots(height=1.6 + 0.45 * len(differences), title=title)
    others = list(differences.items())[::-1]
    for place, (_, difference) in enumerate(others):
        mean, half_width = difference.mean, difference.upper - difference.mean
        ax.errorbar(100 * mean, place, xerr=100 * half_width, fmt="o", color=PALETTE[0], capsize=4)
    ax.axvline(0, color=GREY, linestyle="--")
    ax.set_yticks(range(len(others)), [name for name, _ in others])
    ax.set_ylim(-0.6, len(others) - 0.4)
    ax.set_xlabel("difference, points, with its 95 % interval")
    return figure
