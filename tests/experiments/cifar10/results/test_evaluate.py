"""Accuracy, likelihood and calibration against numbers worked out by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.backend import current_backend
from experiments.cifar10.config import ViewsName
from experiments.cifar10.results import evaluate as evaluate_module
from experiments.cifar10.results.evaluate import UNSURE, evaluate, predict_all
from tests.support.tolerances import VALUE

# rows: predicted class and its probability 0 at 0.7, 1 at 0.5, 2 at 0.7, 1 at 0.9
PROBS = np.array([[0.7, 0.2, 0.1], [0.3, 0.5, 0.2], [0.1, 0.2, 0.7], [0.05, 0.9, 0.05]])
LABELS = np.array([0, 1, 0, 1], np.int32)


def test_hand_worked_example():
    # logits are log-probabilities up to a constant of each row
    logits = (np.log(PROBS) + np.array([[0.0], [3.0], [-5.0], [40.0]])).astype(np.float32)
    judged = evaluate(logits, LABELS)
    assert judged.accuracy == 0.75
    nll = -(np.log(0.7) + np.log(0.5) + np.log(0.1) + np.log(0.9)) / 4
    assert judged.nll == pytest.approx(nll, rel=1e-5)  # logits of 40 carry errors of 2e-6
    # the two at 0.7 share a bin of accuracy 1/2; those at 0.5 and 0.9 are right
    error = 2 / 4 * abs(0.5 - 0.7) + 1 / 4 * abs(1 - 0.5) + 1 / 4 * abs(1 - 0.9)
    assert judged.calibration_error == pytest.approx(error, rel=1e-5)
    np.testing.assert_array_equal(judged.predicted, [0, 1, 2, 1])
    np.testing.assert_allclose(judged.probabilities, PROBS, rtol=1e-5)
    counts = np.asarray(judged.reliability.counts)
    np.testing.assert_array_equal(counts[counts > 0], [1, 2, 1])
    assert judged.max_calibration_error == pytest.approx(1 - 0.5, rel=1e-5)
    squared = (0.09 + 0.04 + 0.01) + (0.09 + 0.25 + 0.04) + (0.81 + 0.04 + 0.49) + 0.015
    assert judged.brier == pytest.approx(squared / 4, rel=1e-5)
    # most confident first: right; right and wrong, tied; right
    assert judged.figures()["area_under_risk_coverage"] == judged.selection.aurc
    assert judged.selection.risk[-1] == pytest.approx(1 / 4)
    low, high = judged.accuracy_interval
    # Wilson: (p + z^2 / 2n +- z sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)
    z2 = 1.959964**2
    centre, reach = 0.75 + z2 / 8, np.sqrt(z2 * (0.75 * 0.25 / 4 + z2 / 64))
    np.testing.assert_allclose(
        [low, high], (centre + reach * np.array([-1, 1])) / (1 + z2 / 4), rtol=1e-5
    )


def test_confident_and_right_costs_nothing():
    logits = np.array([[200.0, 0.0], [-300.0, 0.0]], np.float32)
    judged = evaluate(logits, np.array([0, 1], np.int32))
    assert (judged.accuracy, judged.nll, judged.calibration_error) == (1.0, 0.0, 0.0)
    assert judged.reliability.counts[-1] == 2


def test_confident_and_wrong_costs_the_margin():
    logits = np.array([[200.0, 0.0], [-300.0, 0.0]], np.float32)
    judged = evaluate(logits, np.array([1, 0], np.int32))
    assert (judged.accuracy, judged.nll, judged.calibration_error) == (0.0, 250.0, 1.0)


def test_a_tie_counts_as_the_first_class():
    logits = np.zeros((3, 4), np.float32)
    judged = evaluate(logits, np.array([0, 1, 0], np.int32))
    assert judged.accuracy == pytest.approx(2 / 3)
    assert judged.nll == pytest.approx(np.log(4), rel=VALUE["float32"])
    # all have confidence 1/4
    assert np.asarray(judged.reliability.counts).nonzero() == (np.array([3]),)
    assert judged.calibration_error == pytest.approx(2 / 3 - 1 / 4, rel=1e-6)


def test_random_predictions_agree_with_a_loop_over_images():
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(200, 10))).astype(np.float32)
    labels = rng.integers(0, 10, 200).astype(np.int32)
    wide = logits.astype(np.float64)
    probs = np.exp(wide) / np.exp(wide).sum(1, keepdims=True)
    gaps = np.zeros(15)  # sums of correct - confidence
    for p, label in zip(probs, labels, strict=True):
        gaps[int(np.ceil(p.max() * 15)) - 1] += float(p.argmax() == label) - p.max()
    judged = evaluate(logits, labels)
    assert judged.accuracy == (probs.argmax(1) == labels).mean()
    assert judged.nll == pytest.approx(-np.log(probs[np.arange(200), labels]).mean(), rel=1e-6)
    assert judged.calibration_error == pytest.approx(np.abs(gaps).sum() / 200, rel=1e-5)


@pytest.mark.parametrize(
    ("number", "batches"),
    [(1, [1]), (3, [3]), (4, [4]), (5, [4, 4]), (8, [4, 4]), (10, [4, 4, 4])],
)
def test_predict_all_takes_any_number_of_images_in_batches_of_one_size(
    monkeypatch, number, batches
):
    small = dataclasses.replace(current_backend(), test_batch=4)
    monkeypatch.setattr(evaluate_module, "current_backend", lambda: small)
    images = np.random.default_rng(1).integers(0, 256, (number, 2, 2, 3), np.uint8)
    sizes = []

    def predict(batch: np.ndarray) -> jax.Array:
        assert batch.dtype == np.uint8
        sizes.append(len(batch))
        return jnp.asarray(batch.reshape(len(batch), -1), jnp.float32)

    logits = predict_all(predict, images, "plain")
    np.testing.assert_array_equal(logits, images.reshape(number, -1))
    assert sizes == batches


def test_predict_all_averages_over_the_views():
    images = np.random.default_rng(2).integers(0, 256, (5, 3, 4, 3), np.uint8)

    calls = []

    def predict(batch: np.ndarray) -> jax.Array:
        calls.append((batch.shape, batch.dtype))
        return jnp.asarray(batch[:, 0, 0], jnp.float32)  # the first pixel's colours

    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    corners: dict[ViewsName, np.ndarray] = {
        "plain": images[:, 0, 0],
        "mirrored": images[:, 0, 0] / 2 + images[:, 0, -1] / 2,
        # rows and columns of the padded image begin one pixel before the image's
        "mirrored_and_shifted": images[:, 0, 0] / 4
        + images[:, 0, -1] / 4
        + (padded[:, 0, 0] + padded[:, 0, 3] + padded[:, 2, 2] + padded[:, 2, 5]) / 8,
    }
    for which, expected in corners.items():
        np.testing.assert_array_equal(predict_all(predict, images, which), expected)
    assert calls == [((5, 3, 4, 3), np.uint8)] * (1 + 2 + 6)  # one program serves all views
    calls.clear()
    original = images[:, 0, 0].astype(np.float32)
    for which, expected in corners.items():
        np.testing.assert_array_equal(predict_all(predict, images, which, original), expected)
    assert len(calls) == 0 + 1 + 5  # what is known is not predicted again


def test_only_images_with_two_close_classes_are_shifted():
    images = np.random.default_rng(5).integers(0, 256, (9, 3, 4, 3), np.uint8)
    batches = []

    def predict(batch: np.ndarray) -> jax.Array:
        batches.append(batch)
        return jnp.asarray(batch[:, 0, 0], jnp.float32) / 64

    mirrored = predict_all(predict, images, "mirrored")
    shifted = predict_all(predict, images, "mirrored_and_shifted")
    batches.clear()
    actual = predict_all(predict, images, "shifted_if_unsure")
    gaps = np.diff(np.sort(mirrored, axis=1)[:, -2:], axis=1)
    assert 0 < (gaps < UNSURE).sum() < len(images)
    np.testing.assert_allclose(actual, np.where(gaps < UNSURE, shifted, mirrored), rtol=1e-6)
    assert [batch.shape for batch in batches] == [images.shape] * (2 + 4)  # one program
    sure = images.copy()
    sure[..., 0], sure[..., 1:] = 255, 0
    batches.clear()
    predict_all(predict, sure, "shifted_if_unsure")
    assert len(batches) == 2
