"""Evaluation of a classifier's logits: accuracy, likelihood and calibration."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.cifar10.backend import current_backend
from experiments.cifar10.config import ViewsName
from experiments.cifar10.data.augment import views
from experiments.cifar10.state import TrainState
from experiments.common.compiled import CompiledFunction
from xentjax import (
    ReliabilityCurve,
    RiskCoverage,
    brier_score,
    classwise_calibration_error,
    confidence_intervals,
    expected_calibration_error,
    reliability_curve,
    risk_coverage,
    softmax,
    softmax_cross_entropy_with_integer_labels,
)

UNSURE = 1.5  # nats between the two largest logits of a network trained with smoothed labels


def predict_all(
    predict: Callable[[np.ndarray], Array],
    images: np.ndarray,
    which: ViewsName,
    original: np.ndarray | None = None,
) -> np.ndarray:
    """Predict logits [N, K] of images, averaged over their test-time views.

    All batches have the same size, so that one compiled program is enough.

    Args:
        predict: computes logits [B, K] of images [B, H, W, C].
        images: uint8 [N, H, W, C], at least one.
        which: the views, see `augment.views`. With "shifted_if_unsure" the views are those of
            "mirrored", and those of "mirrored_and_shifted" where the two largest logits then are
            less than `UNSURE` apart.
        original: logits of the first view, the images as they are, if they are known.
    """
    size = min(current_backend().test_batch, len(images))
    predict_view = partial(_predict_view, predict, size)
    (first, _), *others = views(images, which)
    if original is None:
        original = predict_view(images)
    weighted = [np.float32(first) * original]
    weighted += [np.float32(weight) * predict_view(view) for weight, view in others]
    logits = np.sum(weighted, axis=0)
    if which == "shifted_if_unsure":
        second, largest = np.partition(logits, -2)[:, -2:].T
        unsure = np.flatnonzero(largest - second < UNSURE)
        shifted = views(images[unsure], "mirrored_and_shifted")[2:]
        logits[unsure] /= 2
        for weight, view in shifted if len(unsure) else ():
            logits[unsure] += np.float32(weight) * predict_view(view)
    return logits


def _predict_view(
    predict: Callable[[np.ndarray], Array], size: int, images: np.ndarray
) -> np.ndarray:
    """Predict images in batches of `size`; the last one is filled up."""
    filled = np.resize(images, (-(-len(images) // size) * size, *images.shape[1:]))
    batches = filled.reshape(-1, size, *images.shape[1:])
    logits = [np.asarray(predict(batch)) for batch in batches]
    return np.concatenate(logits)[: len(images)]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of predictions on a test set. The likelihood is of the unsmoothed labels.

    Attributes:
        logits: float32 [N, K].
        labels: int32 [N].
        accuracy: fraction classified correctly.
        accuracy_interval: Wilson's 95 % interval of the accuracy on such images.
        nll: mean of -log softmax(logits)[label] in nats.
        brier: mean squared distance of the probabilities from the one-hot label, in [0, 2].
        calibration_error: mean distance between confidence and accuracy, in 15 bins of equal width.
        max_calibration_error: the largest of these distances.
        classwise_calibration_error: the same for the probability of each class, averaged.
        reliability: the bins.
        reliability_intervals: Wilson's 95 % intervals of their accuracies, [B, 2].
        selection: risk and coverage if the least confident predictions are withheld.
    """

    logits: np.ndarray
    labels: np.ndarray
    accuracy: float
    accuracy_interval: tuple[float, float]
    nll: float
    brier: float
    calibration_error: float
    max_calibration_error: float
    classwise_calibration_error: float
    reliability: ReliabilityCurve
    reliability_intervals: np.ndarray
    selection: RiskCoverage

    @property
    def predicted(self) -> np.ndarray:
        """The most probable classes, int [N]."""
        return self.logits.argmax(axis=-1)

    @property
    def probabilities(self) -> np.ndarray:
        """softmax(logits), float32 [N, K]."""
        return np.asarray(softmax(self.logits))

    def figures(self) -> dict[str, float]:
        """Return the numbers by name."""
        return {
            "accuracy": self.accuracy,
            "nll": self.nll,
            "brier": self.brier,
            "calibration_error": self.calibration_error,
            "max_calibration_error": self.max_calibration_error,
            "classwise_calibration_error": self.classwise_calibration_error,
            "area_under_risk_coverage": float(self.selection.aurc),
        }


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Compute the fraction of logits [N, K] that are largest at the label."""
    return float((logits.argmax(axis=-1) == labels).mean())


def evaluate(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Evaluate logits [N, K] against labels [N]."""
    scores = _SCORES(logits, labels)
    lower, upper = np.asarray(scores.pop("accuracy_interval")).tolist()
    reliability, selection = scores.pop("reliability"), scores.pop("selection")
    intervals = np.asarray(scores.pop("reliability_intervals"))
    return Evaluation(
        logits=logits,
        labels=labels,
        accuracy=accuracy(logits, labels),
        accuracy_interval=(lower, upper),
        reliability=reliability,
        reliability_intervals=intervals,
        selection=selection,
        **{name: float(score) for name, score in scores.items()},
    )


def compile_evaluation(number: int, num_classes: int) -> None:
    """Compile the program of `evaluate` for this number of images."""
    logits = jax.ShapeDtypeStruct((number, num_classes), np.float32)
    _SCORES.compile(logits, jax.ShapeDtypeStruct((number,), np.int32))


def _scores(logits: Array, labels: Array) -> dict[str, Any]:
    """Compute the results of `evaluate`, in one program rather than in ten small ones."""
    probs = softmax(logits)
    curve = reliability_curve(probs, labels)
    correct = jnp.sum(logits.argmax(axis=-1) == labels)
    share = jnp.where(curve.counts > 0, curve.accuracy, 0.0)
    right = jnp.round(share * curve.counts.astype(share.dtype))
    # all images first, then the bins
    successes = jnp.concatenate([correct[None], right.astype(jnp.int32)])
    totals = jnp.concatenate([jnp.full(1, len(labels), jnp.int32), curve.counts.clip(1)])
    both = jnp.stack([successes, totals - successes], axis=-1)
    intervals = confidence_intervals(both, method="wilson")[:, 0]
    return {
        "accuracy_interval": intervals[0],
        "nll": softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean"),
        "brier": brier_score(logits, labels, reduction="mean"),
        "calibration_error": expected_calibration_error(probs, labels),
        "max_calibration_error": expected_calibration_error(probs, labels, norm="max"),
        "classwise_calibration_error": classwise_calibration_error(probs, labels),
        "reliability": curve,
        "reliability_intervals": intervals[1:],
        "selection": risk_coverage(probs, labels),
    }


_SCORES = CompiledFunction(jax.jit(_scores))


@dataclass(frozen=True)
class Result:
    """The result of a run.

    Attributes:
        state: the trained state.
        test: predictions of the test images, averaged over the settings' views.
        test_plain: predictions of the original test images.
        temperature: fitted to the held-out images, with the same views; None if there are none, or
            all of them are classified correctly.
        calibrated: `test` with its logits divided by the temperature; None without one.
        train_seconds: time in training steps; None after a resume, when it is not all known.
        compile_seconds: time to compile training and prediction.
        test_seconds: time to predict images, after each epoch and at the end.
        images_per_second: in training steps; after a resume, in those since then.
    """

    state: TrainState
    test: Evaluation
    test_plain: Evaluation
    temperature: float | None
    calibrated: Evaluation | None
    train_seconds: float | None
    compile_seconds: float
    test_seconds: float
    images_per_second: float

    @property
    def accuracy(self) -> float:
        """Fraction of the test images classified correctly."""
        return self.test.accuracy

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the test labels in nats."""
        return self.test.nll
