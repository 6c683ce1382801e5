"""The files of a trained classifier: numbers and figures."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from experiments.cifar10.config import Config
from experiments.cifar10.data.load import Dataset
from experiments.cifar10.results.evaluate import Result
from experiments.common.hosts import is_writer
from experiments.common.run_folder import RunFolder
from experiments.common.stopwatch import Stopwatch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"epoch", "loss", "accuracy"}  # entries of a line of metrics.jsonl
_DRAWING = threading.Lock()  # seeds may be trained in parallel, and matplotlib is not thread-safe


def save(
    folder: RunFolder,
    config: Config,
    dataset: Dataset,
    result: Result,
    doing: Callable[[str], None],
    watch: Stopwatch,
) -> None:
    """Write summary.json and the figures.

    Args:
        folder: the folder of the run.
        config: its settings.
        dataset: its images.
        result: its result.
        doing: called with the current activity.
        watch: counts the seconds of each activity; the summary has those until then.
    """
    if is_writer():
        with watch.during("drawing"), _DRAWING:
            _draw(folder, config, dataset, result, doing)
    folder.summary(summary(config, dataset, result) | {"seconds": watch.seconds()})


def _draw(
    folder: RunFolder,
    config: Config,
    dataset: Dataset,
    result: Result,
    doing: Callable[[str], None],
) -> None:
    # imported here, so that training does not wait for matplotlib
    from experiments.cifar10.results.figures import (
        draw_confusion,
        draw_curves,
        draw_mistakes,
        draw_reliability,
        draw_risk_coverage,
    )

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
        figures["curves"] = lambda: draw_curves(
            list(epochs.values()), config, result.test, len(dataset.class_names)
        )
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
