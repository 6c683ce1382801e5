"""The figures and numbers of a trained classifier."""

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.cifar10.config import Config
from experiments.cifar10.data.load import Dataset
from experiments.cifar10.loss import AXIS_LABELS
from experiments.cifar10.results.evaluate import Evaluation, Result
from experiments.common.hosts import is_writer
from experiments.common.plots import GREY, PALETTE, subplots
from experiments.common.run_folder import RunFolder

CURVES = {"epoch", "loss", "accuracy", "test_accuracy"}  # entries of a line of metrics.jsonl
MISTAKES = (4, 6)  # rows and columns of misclassified images
_DRAWING = threading.Lock()  # seeds may be trained in parallel, and matplotlib is not thread-safe


def save(
    folder: RunFolder,
    config: Config,
    dataset: Dataset,
    result: Result,
    doing: Callable[[str], None] = lambda activity: None,
) -> None:
    """Write summary.json and the figures; `doing` is called with the current activity."""
    if is_writer():
        with _DRAWING:
            _draw(folder, config, dataset, result, doing)
    folder.summary(summary(config, dataset, result))


def _draw(
    folder: RunFolder,
    config: Config,
    dataset: Dataset,
    result: Result,
    doing: Callable[[str], None],
) -> None:
    evaluations = {"test": result.test}
    if result.calibrated is not None:
        evaluations[f"at temperature {result.temperature:.2f}"] = result.calibrated
    # an epoch is logged twice if a run was killed before saving it
    epochs = {entry["epoch"]: entry for entry in folder.metrics() if entry.keys() >= CURVES}
    figures: dict[str, Callable[[], Figure]] = {
        "confusion": lambda: draw_confusion(result.test, dataset.class_names),
        "reliability": lambda: draw_reliability(evaluations),
        "risk_coverage": lambda: draw_risk_coverage(evaluations),
        "misclassified": lambda: draw_mistakes(
            result.test, dataset.test_images, dataset.class_names
        ),
    }
    if epochs:  # unless metrics.jsonl was lost
        figures["curves"] = lambda: draw_curves(list(epochs.values()), config, result)
    for number, (name, draw) in enumerate(figures.items(), start=1):
        doing(f"drawing {number} of {len(figures)}")
        folder.figure(name, draw())


def summary(config: Config, dataset: Dataset, result: Result) -> dict[str, Any]:
    """Collect the final numbers of a run."""
    evaluations = {"test": result.test, "test_plain": result.test_plain}
    if result.calibrated is not None:
        evaluations["test_calibrated"] = result.calibrated
    return {
        "dataset": dataset.name,
        "data_source": dataset.source,
        "data_sha256": dataset.sha256,
        "class_names": dataset.class_names,
        "seed": config.seed,
        "steps": int(result.state.step),
        "temperature": result.temperature,
        "test_accuracy_interval": result.test.accuracy_interval,
        **{
            f"{name}_{figure}": value
            for name, evaluation in evaluations.items()
            for figure, value in evaluation.figures().items()
        },
        "train_seconds": result.train_seconds,
        "compile_seconds": result.compile_seconds,
        "test_seconds": result.test_seconds,
        "images_per_second": result.images_per_second,
    }


def draw_curves(epochs: list[dict[str, Any]], config: Config, result: Result) -> Figure:
    """Plot loss and accuracy by epoch."""
    figure, ((left, right),) = subplots(1, 2, height=3.6)
    numbers = [entry["epoch"] for entry in epochs]

    def plot(ax: Any, name: str, label: str, color: str) -> None:
        ax.plot(numbers, [float(entry[name]) for entry in epochs], "o-", color=color, label=label)

    plot(left, "loss", "", PALETTE[0])
    left.set_title(f"Training loss, augmented{' and smoothed' if config.smooths_labels else ''}")
    left.set_ylabel(AXIS_LABELS[config.loss])
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
    right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    right.set_ylabel("accuracy")
    right.set_title("Accuracy")
    right.legend(frameon=False)
    for ax in (left, right):
        ax.set_xlabel("epoch")
        ax.set_xlim(0.5, max(numbers) + 0.5)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def draw_confusion(test: Evaluation, class_names: tuple[str, ...]) -> Figure:
    """Plot how images of each class (rows) are classified (columns), in percent of the class."""
    num_classes = len(class_names)
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (test.labels, test.predicted), 1)
    shares = 100 * counts / counts.sum(axis=1, keepdims=True).clip(1)
    figure, ((ax,),) = subplots(height=6.6, grid=False)
    # colours end at 20 %, so that mistakes differ from each other and not only from the diagonal
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


def draw_reliability(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Plot accuracy against confidence, with a histogram of the confidence, side by side."""
    figure, axes = subplots(
        2,
        len(evaluations),
        height=5.2,
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
        upper.plot(
            np.asarray(test.reliability.confidence)[filled],
            accuracy,
            "o",
            color=PALETTE[1],
            label="at the bin's mean confidence",
            clip_on=False,  # also at 0 and 1
        )
        upper.plot([0, 1], [0, 1], "--", color=GREY, label="perfect calibration")
        upper.set_ylim(0, 1.03)  # room for the points at 1
        mean_confidence = float(test.reliability.mean_confidence)
        upper.set_title(
            f"{name}: calibration error {test.calibration_error:.2%}\n"
            f"mean confidence {mean_confidence:.1%}, accuracy {test.accuracy:.1%}",
            size=10,
        )
        lower.bar(centres, counts / counts.sum(), width=width, color=GREY)
        lower.axvline(mean_confidence, color=PALETTE[1], label="mean confidence")
        lower.axvline(test.accuracy, color=PALETTE[0], linestyle="--", label="overall accuracy")
        lower.set_xlim(0, 1)
        lower.set_xlabel("confidence: the largest probability")
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes[0, 0].set_ylabel("accuracy")
    entries = [axes[row, 0].get_legend_handles_labels() for row in (0, 1)]
    handles, labels = (upper + lower for upper, lower in zip(*entries, strict=True))
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=3)
    axes[1, 0].set_ylabel("share of images")
    return figure


def draw_risk_coverage(evaluations: Mapping[str, Evaluation]) -> Figure:
    """Plot the error among the most confident predictions, for every share that is kept."""
    figure, ((ax,),) = subplots(height=4.0)
    for (name, test), color in zip(evaluations.items(), PALETTE, strict=False):
        coverage, risk = np.asarray(test.selection.coverage), np.asarray(test.selection.risk)
        label = f"{name}: area {100 * float(test.selection.aurc):.3g}%"
        ax.plot(coverage, risk, color=color, label=label, linewidth=1.5)
    ax.set_xlim(0, 1)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("coverage: share of images that are classified, most confident first")
    ax.set_ylabel("risk: share of these that are wrong")
    ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    ax.set_title("Selective classification")
    ax.legend(frameon=False)
    return figure


def draw_mistakes(test: Evaluation, images: np.ndarray, class_names: tuple[str, ...]) -> Figure:
    """Show the misclassified images with the highest confidence."""
    confidence = test.probabilities.max(axis=-1)
    wrong = np.flatnonzero(test.predicted != test.labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")]
    most_rows, columns = MISTAKES
    rows = min(most_rows, max(1, -(-len(wrong) // columns)))
    figure, axes = subplots(rows, columns, height=1.75 * rows, grid=False)
    for ax in axes.flat:
        ax.set_axis_off()
    for ax, index in zip(axes.flat, wrong, strict=False):
        ax.imshow(images[index], interpolation="nearest")
        predicted = class_names[test.predicted[index]]
        truth = class_names[test.labels[index]]
        ax.set_title(f"{predicted} {confidence[index]:.0%}\nis {truth}", size=8.5)
    figure.suptitle(f"{len(wrong)} of {len(test.labels)} misclassified, most confident first")
    return figure
