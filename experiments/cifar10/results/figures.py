"""The figures of a trained classifier."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.cifar10.config import Config
from experiments.cifar10.loss import AXIS_LABELS
from experiments.cifar10.results.evaluate import Evaluation
from experiments.common.plots import GREY, PALETTE, add_legend, name_panel, subplots

MOST_TICKS = 12  # with more epochs, some have no tick
MISTAKES = (4, 6)  # rows and columns of misclassified images
SHARES = (0, 1, 5, 10, 20, 40, 60, 80, 100)  # per cent, ticks of the colours of confusion
FEW_ERRORS = 10  # with fewer, the curve is shown from the first error on


def draw_curves(
    epochs: Sequence[Mapping[str, Any]], config: Config, test: Evaluation, num_classes: int
) -> Figure:
    """Plot loss and accuracy by epoch, with the least loss that smoothed labels allow."""
    figure, ((left, right),) = subplots(1, 2, height=4.2, title="Loss and accuracy by epoch")
    numbers = [entry["epoch"] for entry in epochs]

    def plot(ax: Any, name: str, label: str, color: str) -> None:
        ax.plot(numbers, [float(entry[name]) for entry in epochs], "o-", color=color, label=label)

    plot(left, "loss", "training, augmented images", PALETTE[0])
    if config.loss == "cross_entropy" and config.smooths_labels:
        floor = least_loss(config.label_smoothing, num_classes)
        left.axhline(floor, color=GREY, linestyle="--", label=f"least with smoothing: {floor:.3f}")
    name_panel(left, "loss")
    left.set_ylabel(AXIS_LABELS[config.loss])
    plot(right, "accuracy", "training, augmented images", PALETTE[0])
    if all("held_out_accuracy" in entry for entry in epochs):
        plot(right, "held_out_accuracy", "held out, at the epoch's image size", PALETTE[1])
    right.axhline(
        test.accuracy,
        color=PALETTE[2],
        linestyle="--",
        label=f"test, final: {100 * test.accuracy:.2f} %",
    )
    right.yaxis.set_major_formatter(_percent)
    right.set_ylabel("accuracy")
    name_panel(right, "accuracy")
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.set_xlim(0.5, max(numbers) + 0.5)
        if max(numbers) <= MOST_TICKS:
            ax.set_xticks(range(1, max(numbers) + 1))
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend(figure, columns=2)
    return figure


def least_loss(smoothing: float, num_classes: int) -> float:
    """Return the entropy of smoothed labels in nats, the least cross-entropy to them."""
    rest = smoothing / num_classes
    target = [1 - smoothing + rest] + [rest] * (num_classes - 1)
    return -sum(p * math.log(p) for p in target if p > 0)


def draw_confusion(test: Evaluation, class_names: tuple[str, ...]) -> Figure:
    """Plot how many images of each class (rows) are classified as which (columns)."""
    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes), int)
    np.add.at(counts, (test.labels, test.predicted), 1)
    totals = counts.sum(axis=1)
    shares = 100 * counts / totals[:, None].clip(1)
    title = f"Images by true and predicted class, accuracy {100 * test.accuracy:.2f} %"
    figure, ((ax,),) = subplots(height=6.6, grid=False, title=title)
    # colours distinguish small shares as well as large ones
    image = ax.imshow(shares, cmap="Blues", norm=PowerNorm(0.4, vmin=0, vmax=100))
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if image.norm(shares[row, column]) > 0.6 else "black"
        text = f"{counts[row, column]:,}"
        ax.text(column, row, text, ha="center", va="center", color=color, size=8.5)
    ax.set_xticks(range(num_classes), class_names, rotation=45, ha="right")
    names = [f"{name} ({total:,})" for name, total in zip(class_names, totals, strict=True)]
    ax.set_yticks(range(num_classes), names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class (number of images)")
    bar = figure.colorbar(image, ax=ax, shrink=0.8, ticks=SHARES)
    bar.ax.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    bar.set_label("share of the true class")
    return figure


def draw_reliability(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Plot accuracy against confidence, with a histogram of the confidence, side by side."""
    figure, axes = subplots(
        2,
        len(evaluations),
        title="Reliability of the probabilities",
        height=5.6,
        sharex=True,
        sharey="row",
        gridspec_kw={"height_ratios": (3, 1)},
    )
    for (name, test), upper, lower in zip(evaluations.items(), axes[0], axes[1], strict=True):
        edges, counts = np.asarray(test.reliability.edges), np.asarray(test.reliability.counts)
        filled, centres, width = counts > 0, (edges[1:] + edges[:-1]) / 2, np.diff(edges)
        accuracy = np.asarray(test.reliability.accuracy)[filled]
        upper.bar(
            centres[filled],
            accuracy,
            width=width[filled],
            color=PALETTE[0],
            alpha=0.35,
            edgecolor=PALETTE[0],
            label="accuracy",
        )
        confidence = np.asarray(test.reliability.confidence)[filled]
        low, high = test.reliability_intervals[filled].T
        upper.vlines(
            confidence,
            low,
            high,
            color=PALETTE[1],
            linewidth=1.5,
            label="95 % interval of the accuracy",
        )
        upper.plot(
            confidence,
            accuracy,
            "o",
            color=PALETTE[1],
            markersize=5,
            label="at the bin's mean confidence",
            clip_on=False,  # also at 0 and 1
        )
        upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
        upper.set_ylim(0, 1.03)  # room for the points at 1
        mean_confidence = float(test.reliability.mean_confidence)
        name_panel(
            upper,
            f"{name}: calibration error {test.calibration_error:.2%}\n"
            f"mean confidence {mean_confidence:.1%}, accuracy {test.accuracy:.1%}",
        )
        lower.bar(centres, counts / counts.sum(), width=width, color=GREY)
        lower.axvline(mean_confidence, color=PALETTE[1], label="mean confidence")
        lower.axvline(test.accuracy, color=PALETTE[0], linestyle="--", label="overall accuracy")
        lower.set_xlim(0, 1)
        lower.set_xlabel("confidence: the largest probability")
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_ylabel("accuracy")
    add_legend(figure)
    axes[1, 0].set_ylabel("share of images")
    return figure


def draw_risk_coverage(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Plot the error among the most confident predictions against the share that is kept.

    It also shows the error for a random order, and for the ideal one, which has the errors last.
    """
    test = next(iter(evaluations.values()))
    number = len(test.labels)
    errors = round(number * (1 - test.accuracy))
    title = f"Selective classification, {errors:,} error{'s' * (errors != 1)} in {number:,} images"
    figure, ((ax,),) = subplots(height=4.6, title=title)
    starts = [1.0]
    for (name, test), color in zip(evaluations.items(), PALETTE, strict=False):
        coverage, risk = np.asarray(test.selection.coverage), np.asarray(test.selection.risk)
        label = f"{name}: area {100 * float(test.selection.aurc):.3g} %"
        ax.plot(coverage, risk, color=color, label=label, linewidth=1.5)
        starts.append(float(coverage[np.flatnonzero(risk)[0]]) if errors else 1.0)
    share = errors / number
    ax.axhline(share, color=GREY, linestyle="--", label="random order")
    accepted = np.arange(1, number + 1)
    ideal = np.maximum(0, errors - number + accepted) / accepted
    ax.plot(accepted / number, ideal, ":", color=PALETTE[-1], label="ideal order, errors last")
    risks = [float(np.max(test.selection.risk)) for test in evaluations.values()]
    if errors:
        # if there are few errors, all are at the end of the curve
        ax.set_xlim(max(0.0, 1.1 * min(starts) - 0.1) if errors < FEW_ERRORS else 0.0, 1)
        ax.set_ylim(0, 1.15 * max(share, *risks))
    else:
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.text(0.5, 0.5, "no image is misclassified", transform=ax.transAxes, ha="center")
    ax.set_xlabel("coverage: share of images that are classified, most confident first")
    ax.set_ylabel("risk: share of these that are wrong")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(_percent)
    add_legend(figure, columns=2)
    return figure


def draw_mistakes(test: Evaluation, images: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Show the misclassified images with the highest confidence."""
    confidence = test.probabilities.max(axis=-1)
    wrong = np.flatnonzero(test.predicted != test.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    most_rows, most_columns = MISTAKES
    columns = min(most_columns, max(most_columns // 2, len(wrong)))
    rows = min(most_rows, max(1, -(-len(wrong) // columns)))
    height = 0.4 + 1.75 * rows
    title = f"{len(wrong):,} of {len(test.labels):,} misclassified, most confident first"
    figure, axes = subplots(rows, columns, height=height, grid=False, title=title)
    # room for a title above and two lines below each image
    figure.set_layout_engine(None)
    figure.subplots_adjust(0.01, 0.45 / height, 0.99, 1 - 0.4 / height, wspace=0.1, hspace=0.4)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, index in zip(axes.flat, wrong, strict=False):
        ax.imshow(images[index], interpolation="nearest")
        said = class_names[test.predicted[index]]
        truth = class_names[test.labels[index]]
        text = f"said {said}, {100 * confidence[index]:.0f} %\nis {truth}"
        ax.text(0.5, -0.04, text, transform=ax.transAxes, ha="center", va="top", size=7.5)
    return figure


def _percent(share: float, position: int | None = None) -> str:
    """Format a tick's share without needless zeros."""
    return f"{100 * share:.6g} %"
