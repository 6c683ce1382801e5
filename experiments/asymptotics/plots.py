"""The figures of `experiments.asymptotics`: dots are measured, crosses are exact."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from experiments.asymptotics.dice import Measurement, expansion
from experiments.asymptotics.sizes import Sizes
from experiments.common.methods import NAMES
from experiments.common.plots import GREY, MARKERS, PALETTE, add_legend, name_panel, subplots

STYLES = ("-", "--", "-.", ":")

Found = Sequence[Measurement]
"""One measurement for each N, ascending."""


def draw_kl(found: Found, pmf: NDArray[np.float64]) -> Figure:
    """Plot the mean divergence, and its ratio to the leading term."""
    first = np.array([m.theory.first_order for m in found])
    # The expansion is smooth in N, so it is drawn between the sizes too.
    curve = np.geomspace(found[0].num_rolls, found[-1].num_rolls, 200)
    leading, second = expansion(pmf, curve)
    title = "Divergence of the fit from the true pmf, mean over the dice"
    figure, axes = subplots(1, 2, height=3.8, title=title)
    for ax, unit, unit_of_curve in zip(axes[0], (1, first), (1, leading), strict=True):
        ax.plot(curve, leading / unit_of_curve, linewidth=1.8, label="first order, $(K-1)/(2N)$")
        ax.plot(
            curve, (leading + second) / unit_of_curve, "--", linewidth=1.8, label="second order"
        )
        _plot_exact(ax, found, np.array([m.theory.kl for m in found]) / unit, label="exact")
        ax.errorbar(
            _sizes(found),
            np.array([m.kl.value for m in found]) / unit,
            2 * np.array([m.kl.error for m in found]) / unit,
            fmt="o",
            markersize=4,
            capsize=3,
            label="measured ± 2 standard errors",
        )
        _sizes_axis(ax)
    axes[0, 0].set_yscale("log")
    axes[0, 0].set_ylabel("mean of KL(c / N || p), nats")
    axes[0, 1].set_ylabel("mean of KL / first order")
    add_legend(figure, columns=4)
    return figure


def draw_entropy(found: Found) -> Figure:
    """Plot bias and error of the entropy estimators, both relative to the plug-in's."""
    sizes = _sizes(found)
    title = "Estimators of the entropy: bias and error beside the plug-in's"
    figure, axes = subplots(1, 2, height=4.6, title=title)
    bias, rmse = axes[0]
    for index, method in enumerate(found[0].bias):
        scaled = [m.bias[method].value / m.theory.first_order for m in found]
        errors = [2 * m.bias[method].error / m.theory.first_order for m in found]
        bias.errorbar(
            sizes, scaled, errors, capsize=2, label=NAMES.get(method, method), **_style(index)
        )
        ratio = [m.rmse[method] / m.rmse["plug_in"] for m in found]
        rmse.plot(sizes, ratio, **_style(index))
    for method in found[0].theory.bias:
        exact = [m.theory.bias[method] / m.theory.first_order for m in found]
        label = "exact, first two only" if method == "plug_in" else None
        _plot_exact(bias, found, exact, label)
    bias.set_ylabel("mean error ± 2 s.e. / [$(K-1)/(2N)$ nats]")
    rmse.set_ylabel("RMS error / RMS error of the plug-in")
    for ax in axes[0]:
        _sizes_axis(ax)
    handles, labels = bias.get_legend_handles_labels()
    # The crosses, which would come first, go to the end.
    add_legend(figure, columns=4, entries=(handles[1:] + handles[:1], labels[1:] + labels[:1]))
    return figure


def draw_wilks(found: Found, dof: int, alpha: float) -> Figure:
    """Plot the quantiles of G against those of the chi-squared distribution."""
    law = scipy.stats.chi2(dof)
    num_dice = len(found[0].statistics)
    # Few of the thousands of quantiles in the middle, since tests depend on the tail.
    ranks = np.unique(num_dice - np.geomspace(num_dice, 1, 400).astype(np.int64))
    expected = law.ppf((ranks + 0.5) / num_dice)
    title = f"Tails of the likelihood-ratio statistic G, {num_dice:,} dice for each N"
    figure, axes = subplots(height=5.2, title=title)
    ax = axes[0, 0]
    ax.plot(
        expected, expected, color="black", linewidth=1, zorder=3, label="chi-squared distribution"
    )
    for index, measurement in enumerate(found):
        ax.plot(
            expected,
            measurement.statistics[ranks],
            linestyle="none",
            marker=MARKERS[index % len(MARKERS)],
            markersize=3,
            label=f"$N$ = {measurement.num_rolls:,}",
        )
    critical = law.ppf(1 - alpha)
    ax.axvline(critical, color=GREY, linewidth=1)
    ax.annotate(
        f"{1 - alpha:.0%} quantile",
        (critical, 1),
        (4, -4),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color="0.3",
        va="top",
    )
    ax.set_xlabel(f"quantile of chi-squared, {dof} degrees of freedom")
    ax.set_ylabel("quantile of $G = 2N\\,$KL(c / N || p)")
    add_legend(figure, columns=5)
    return figure


def draw_coverage(found: Found, alpha: float) -> Figure:
    """Plot the coverage of the intervals beside the nominal one."""
    sizes = _sizes(found)
    title = f"How often {1 - alpha:.0%} intervals contain the true probability"
    figure, axes = subplots(1, 2, height=4.6, sharey=True, title=title)
    classwise = list(found[0].theory.coverage)
    panels = {
        "single face, mean over the faces": classwise,
        "all faces simultaneously": [name for name in found[0].coverage if name not in classwise],
    }
    index = 0
    for ax, (panel, methods) in zip(axes[0], panels.items(), strict=True):
        for method in methods:
            values = [100 * m.coverage[method].value for m in found]
            errors = [200 * m.coverage[method].error for m in found]
            ax.errorbar(
                sizes, values, errors, capsize=2, label=NAMES.get(method, method), **_style(index)
            )
            index += 1
            if methods is classwise:
                exact = [100 * m.theory.coverage[method] for m in found]
                label = "exact" if method == methods[-1] else None
                _plot_exact(ax, found, exact, label)
        nominal = 100 * (1 - alpha)
        ax.axhline(nominal, color="black", linewidth=1, linestyle="--", label="nominal")
        _sizes_axis(ax)
        name_panel(ax, panel)
    axes[0, 0].set_ylabel("coverage ± 2 s.e., %")
    add_legend(figure, columns=5)
    return figure


def draw_sizes(num_rolls: Sequence[int], found: Sequence[Sizes], alpha: float) -> Figure:
    """Plot how often tests reject a true hypothesis, and intervals miss the information."""
    title = f"How often tests and intervals at level {alpha:g} are wrong"
    figure, axes = subplots(1, 2, height=4.2, title=title)
    panels = (
        ("tests of what is true", "rejected", [sizes.rejected for sizes in found], 0),
        ("intervals of mutual information", "missed", [sizes.held for sizes in found], 100),
    )
    for ax, (panel, what, by_name, start) in zip(axes[0], panels, strict=True):
        for index, name in enumerate(by_name[0]):
            rates = [abs(start - 100 * each[name].value) for each in by_name]
            errors = [200 * each[name].error for each in by_name]
            ax.errorbar(num_rolls, rates, errors, capsize=2, label=name, **_style(index))
        ax.axhline(100 * alpha, color="black", linewidth=1, linestyle="--", label="nominal")
        _sizes_axis(ax)
        ax.set_ylim(bottom=0)
        ax.set_ylabel(f"{what} ± 2 s.e., %")
        name_panel(ax, panel)
        ax.legend(frameon=False, loc="lower right")
    return figure


def _sizes(found: Found) -> list[int]:
    return [measurement.num_rolls for measurement in found]


def _plot_exact(ax: Axes, found: Found, values: ArrayLike, label: str | None) -> None:
    ax.plot(_sizes(found), values, "x", color="black", markersize=8, label=label, zorder=3)


def _sizes_axis(ax: Axes) -> None:
    ax.set_xscale("log")
    ax.set_xlabel("rolls $N$ of each die")


def _style(index: int) -> dict[str, Any]:
    """Choose colour and line style of a method; there are more methods than colours."""
    colors = len(PALETTE)
    return {
        "color": PALETTE[index % colors],
        "linestyle": STYLES[index // colors],
        "linewidth": 1.8,
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
    }
