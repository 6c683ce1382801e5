"""The figures and numbers of a trained classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments._plots import GREY, PALETTE, subplots
from experiments._records import RunFolder
from experiments.cifar10.config import Config
from experiments.cifar10.data import Dataset
from experiments.cifar10.evaluate import Evaluation

if TYPE_CHECKING:  # train imports this module
    from experiments.cifar10.train import Result

MISTAKES = (4, 6)  # rows and columns of misclassified images


def save(folder: RunFolder, config: Config, dataset: Dataset, result: Result) -> None:
    """Write summary.json and the figures."""
    folder.summary(summary(config, dataset, result))
    folder.figure("curves", draw_curves(folder.metrics(), result))
    folder.figure("confusion", draw_confusion(result.test, dataset.class_names))
    folder.figure("reliability", draw_reliability(result.test))
    folder.figure(
        "misclassified", draw_mistakes(result.test, dataset.test_images, dataset.class_names)
    )


def summary(config: Config, dataset: Dataset, result: Result) -> dict[str, Any]:
    """The numbers a run ends with."""
    return {
        "dataset": dataset.name,
        "data_source": dataset.source,
        "data_sha256": dataset.sha256,
        "seed": config.seed,
        "steps": int(result.state.step),
        "test_accuracy": result.test.accuracy,
        "test_nll": result.test.nll,
        "test_calibration_error": result.test.calibration_error,
        "test_accuracy_plain": result.test_plain.accuracy,
        "test_nll_plain": result.test_plain.nll,
        "train_seconds": result.train_seconds,
        "compile_seconds": result.compile_seconds,
        "test_seconds": result.test_seconds,
        "images_per_second": result.images_per_second,
    }


def draw_curves(epochs: list[dict[str, Any]], result: Result) -> Figure:
    """Loss and accuracy by epoch."""
    figure, ((left, right),) = subplots(1, 2, height=3.6)
    numbers = [entry["epoch"] for entry in epochs]

    def plot(ax: Any, name: str, label: str, color: str) -> None:
        ax.plot(numbers, [float(entry[name]) for entry in epochs], "o-", color=color, label=label)

    plot(left, "loss", "", PALETTE[0])
    left.set_title("Training loss, augmented and smoothed")
    left.set_ylabel("cross-entropy (nats)")
    plot(right, "accuracy", "training, augmented", PALETTE[0])
    plot(right, "test_accuracy", "test, at the epoch's image size", PALETTE[1])
    right.plot(
        numbers[-1:],
        [result.test.accuracy],
        "*",
        markersize=13,
        color=PALETTE[2],
        label=f"test, final: {result.test.accuracy:.2%}",
    )
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    right.set_ylabel("accuracy")
    right.set_title("Accuracy")
    right.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_confusion(test: Evaluation, class_names: tuple[str, ...]) -> Figure:
    """How the images of each class (rows) were classified (columns), in percent of the class."""
    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (test.labels, test.predicted), 1)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    figure, ((ax,),) = subplots(height=6.6, grid=False)
    # colours end at 20 % so that the mistakes differ from each other, not only from the diagonal
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=20)
    for row, column in np.ndindex(shares.shape):
        share = shares[row, column]
        if share >= 0.05:
            color = "white" if share > 12 else "black"
            ax.text(column, row, f"{share:.1f}", ha="center", va="center", color=color, size=8.5)
    ax.set_xticks(range(num_classes), class_names, rotation=45, ha="right")
    ax.set_yticks(range(num_classes), class_names)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.set_title(f"Confusion in % of the true class, accuracy {test.accuracy:.2%}")
    return figure


def draw_reliability(test: Evaluation) -> Figure:
    """Accuracy against confidence, and how often each confidence occurs."""
    figure, (above, below) = subplots(
        2, 1, height=6.0, sharex=True, gridspec_kw={"height_ratios": (3, 1)}
    )
    bins = [b for b in test.bins if b.count]
    upper, lower = above[0], below[0]
    centres = [(b.lower + b.upper) / 2 for b in bins]
    width = test.bins[0].upper - test.bins[0].lower
    upper.bar(
        centres,
        [b.accuracy for b in bins],
        width=width,
        color=PALETTE[0],
        alpha=0.35,
        edgecolor=PALETTE[0],
        label="accuracy",
    )
    upper.plot(
        [b.confidence for b in bins],
        [b.accuracy for b in bins],
        "o",
        color=PALETTE[1],
        label="at the bin's mean confidence",
    )
    upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
    upper.set_ylabel("accuracy")
    upper.set_ylim(0, 1.03)  # room for the points at 1
    upper.legend(frameon=False, loc="upper left")
    upper.set_title(
        f"Reliability: expected calibration error {test.calibration_error:.2%} "
        f"({len(test.bins)} bins)"
    )
    total = len(test.labels)
    lower.bar(centres, [b.count / total for b in bins], width=width, color=GREY)
    mean_confidence = sum(b.count * b.confidence for b in bins) / total
    lower.axvline(mean_confidence, color=PALETTE[1], label=f"mean confidence {mean_confidence:.1%}")
    lower.axvline(
        test.accuracy, color=PALETTE[0], linestyle="--", label=f"accuracy {test.accuracy:.1%}"
    )
    lower.set_xlim(0, 1)
    lower.set_xlabel("confidence: the largest probability")
    lower.set_ylabel("share of images")
    lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    lower.legend(frameon=False, loc="upper left")
    return figure


def draw_mistakes(test: Evaluation, images: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """The mistakes the network was most confident of."""
    confidence = test.probabilities.max(axis=-1)
    wrong = np.flatnonzero(test.predicted != test.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    rows, columns = MISTAKES
    figure, axes = subplots(rows, columns, height=1.75 * rows, grid=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, index in zip(axes.flat, wrong, strict=False):
        ax.imshow(images[index], interpolation="nearest")
        predicted = class_names[test.predicted[index]]
        truth = class_names[test.labels[index]]
        ax.set_title(f"{predicted} {confidence[index]:.0%}\nis {truth}", size=8.5)
    figure.suptitle(f"{len(wrong)} of {len(test.labels)} misclassified; the most confident first")
    return figure
