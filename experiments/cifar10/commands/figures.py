"""The figures of several runs."""

from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from experiments.cifar10.commands.speed import Speed
from experiments.common.estimates import Estimate
from experiments.common.plots import GREY, PALETTE, add_legend, legible, subplots


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
    """Plot the difference in accuracy of each of the settings from the first, with intervals."""
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


def draw_pareto(speeds: Mapping[str, Speed], machine: str) -> Figure:
    """Plot accuracy against the seconds of the whole command, with the intervals of both means."""
    title = f"Test accuracy by the time one waits\n{machine}"
    figure, ((ax,),) = subplots(height=4.8, title=title)
    for (name, speed), color in zip(speeds.items(), cycle(PALETTE), strict=False):
        ax.plot(speed.seconds, speed.accuracies, "o", color=color, alpha=0.3, markersize=4)
        x, y = speed.means["whole_seconds"], speed.means["accuracy"]
        bars = x.n > 1
        ax.errorbar(
            x.mean,
            y.mean,
            xerr=[[x.mean - x.lower], [x.upper - x.mean]] if bars else None,
            yerr=[[y.mean - y.lower], [y.upper - y.mean]] if bars else None,
            fmt="o",
            color=color,
            capsize=3,
        )
        ax.annotate(
            legible(name),
            (min(x.lower if bars else x.mean, *speed.seconds), y.mean),
            xytext=(-8, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=color,
        )
        if speed.torch_seconds is not None:
            ax.plot([x.mean, speed.torch_seconds], [y.mean] * 2, ":", color=color, linewidth=1)
            ax.plot(speed.torch_seconds, y.mean, "o", color=color, markerfacecolor="white")
    ax.set_xscale("log")
    # round numbers of seconds, whatever the range
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:,.0f}"))
    ax.margins(x=0.15, y=0.12)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=1))
    ax.set_xlabel("seconds of the whole command, log scale")
    ax.set_ylabel("test accuracy")
    handles = [
        Line2D([], [], color=GREY, marker="o", linestyle="-", label="mean, 95 % intervals"),
        Line2D(
            [], [], color=GREY, marker="o", linestyle="", alpha=0.4, markersize=4, label="a run"
        ),
    ]
    if any(speed.torch_seconds is not None for speed in speeds.values()):
        hollow = "the same with PyTorch's (eager) training steps"
        handles.append(
            Line2D(
                [], [], color=GREY, marker="o", linestyle=":", markerfacecolor="white", label=hollow
            )
        )
    add_legend(figure, entries=(handles, [str(line.get_label()) for line in handles]))
    return figure
