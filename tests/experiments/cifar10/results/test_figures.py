"""Figures of few epochs, few errors and few images."""

import math

import numpy as np
import pytest

from experiments.cifar10.config import PRESETS, Config
from experiments.cifar10.results.evaluate import Evaluation, evaluate
from experiments.cifar10.results.figures import (
    draw_confusion,
    draw_curves,
    draw_mistakes,
    draw_reliability,
    draw_risk_coverage,
    least_loss,
)

CLASSES = ("cat", "dog", "frog")
LABELS = np.arange(60, dtype=np.int32) % 3


def evaluation(errors: int) -> Evaluation:
    """60 images, of which the first ones are taken for the next class, with any confidence."""
    logits = np.random.default_rng(0).random((60, 3), np.float32)
    said = np.where(np.arange(60) < errors, (LABELS + 1) % 3, LABELS)
    logits[np.arange(60), said] += 1 + np.linspace(0, 2, 60, dtype=np.float32)
    return evaluate(logits, LABELS)


def epochs(number: int) -> list[dict[str, float]]:
    return [
        {"epoch": k, "loss": 2 / k, "accuracy": 1 - 0.5 / k, "held_out_accuracy": 1 - 0.4 / k}
        for k in range(1, number + 1)
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_epochs_have_whole_ticks_and_nothing_over_the_data(number):
    figure = draw_curves(epochs(number), PRESETS["cpu89"], evaluation(3), 10)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    for ax in figure.axes:
        assert ax.get_xticks().tolist() == list(range(1, number + 1))
        assert ax.get_legend() is None
        assert legend.get_window_extent().y1 < ax.get_window_extent().y0


def test_the_least_loss_is_the_entropy_of_smoothed_labels():
    assert least_loss(0.2, 10) == pytest.approx(-(0.82 * math.log(0.82) + 0.18 * math.log(0.02)))
    assert least_loss(0.0, 10) == 0
    smoothed = draw_curves(epochs(2), PRESETS["cpu89"], evaluation(3), 10).axes[0]
    assert np.asarray(smoothed.get_lines()[-1].get_ydata())[0] == least_loss(0.2, 10)
    for config in (Config(label_smoothing=0.0), Config(loss="focal")):
        assert len(draw_curves(epochs(2), config, evaluation(3), 10).axes[0].get_lines()) == 1


def test_the_confusion_has_counts_and_colours_up_to_the_whole_class():
    ax, bar = draw_confusion(evaluation(4), CLASSES).axes
    cells = {text.get_position(): text.get_text() for text in ax.texts}
    assert cells[(0, 0)] == "18"  # labels 0, 1, 2, 0 are wrong
    assert cells[(1, 0)] == "2"
    assert (2, 0) not in cells
    assert ax.get_yticklabels()[0].get_text() == "cat (20)"
    assert bar.get_ylim() == (0, 100)


def test_the_bins_of_the_reliability_diagram_have_their_intervals():
    test = evaluation(20)
    filled = np.asarray(test.reliability.counts) > 0
    counts = np.asarray(test.reliability.counts)[filled]
    p = np.asarray(test.reliability.accuracy)[filled].astype(np.float64)
    z = 1.959964
    centre = (p + z**2 / (2 * counts)) / (1 + z**2 / counts)
    reach = z / (1 + z**2 / counts) * np.sqrt(p * (1 - p) / counts + z**2 / (4 * counts**2))
    expected = np.stack([centre - reach, centre + reach], axis=-1)
    np.testing.assert_allclose(test.reliability_intervals[filled], expected, atol=2e-6)
    (lines,) = draw_reliability({"test": test}).axes[0].collections
    ends = np.array([np.asarray(path.vertices)[:, 1] for path in lines.get_paths()])
    np.testing.assert_allclose(ends, expected, atol=2e-6)


@pytest.mark.parametrize("errors", [0, 1, 5, 20])
def test_risk_lies_between_the_ideal_and_is_zoomed_to_few_errors(errors):
    test = evaluation(errors)
    figure = draw_risk_coverage({"test": test})
    ax = figure.axes[0]
    curve, chance, ideal = (np.asarray(line.get_ydata(), np.float64) for line in ax.get_lines())
    np.testing.assert_allclose(chance, errors / 60)
    assert (ideal <= curve + 1e-6).all()
    np.testing.assert_allclose([ideal[-1], curve[-1]], errors / 60, rtol=1e-6)
    left, right = ax.get_xlim()
    assert right == 1
    assert (left > 0) == (errors in (1, 5))
    coverage = np.asarray(test.selection.coverage)
    assert (curve[coverage < left] == 0).all()
    assert len(ax.texts) == (errors == 0)
    assert figure.get_suptitle().startswith(f"Selective classification, {errors} error")


@pytest.mark.parametrize("errors", [0, 1, 5, 20])
def test_every_wrong_image_says_below_it_what_it_was_taken_for(errors):
    test = evaluation(errors)
    images = np.zeros((60, 8, 8, 3), np.uint8)
    figure = draw_mistakes(test, images, CLASSES)
    shown = [ax for ax in figure.axes if ax.images]
    assert len(shown) == errors
    confidence = test.probabilities.max(axis=-1)
    wrong = sorted(range(errors), key=lambda index: -confidence[index])
    for ax, index in zip(shown, wrong, strict=True):
        said, truth = CLASSES[test.predicted[index]], CLASSES[LABELS[index]]
        (text,) = ax.texts
        assert text.get_text() == f"said {said}, {100 * confidence[index]:.0f} %\nis {truth}"
        assert text.get_position()[1] < 0
