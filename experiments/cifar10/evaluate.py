"""What a classifier's logits are worth: accuracy, likelihood and calibration."""

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import Array

from xentjax import softmax, softmax_cross_entropy_with_integer_labels

BATCH_SIZE = 250  # on CPU a fifth faster than 500 or 1000
NUM_BINS = 15


def predict_all(predict: Callable[[Array], Array], images: np.ndarray) -> np.ndarray:
    """Logits [N, K] of any number of images, in batches of one size so that one program serves.

    Args:
        predict: logits [B, K] of images [B, H, W, C].
        images: uint8 [N, H, W, C].
    """
    size = min(BATCH_SIZE, len(images))
    padding = -len(images) % size
    padded = np.concatenate([images, images[:padding]])
    batches = padded.reshape(-1, size, *images.shape[1:])
    logits = [np.asarray(predict(jnp.asarray(batch))) for batch in batches]
    return np.concatenate(logits)[: len(images)]


@dataclass(frozen=True)
class Bin:
    """Images whose confidence, the largest probability, lies in one interval.

    Attributes:
        lower, upper: the interval (lower, upper].
        count: number of images.
        confidence: their mean confidence, 0 if there are none.
        accuracy: the fraction classified correctly, 0 if there are none.
    """

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a test set.

    Attributes:
        logits: float32 [N, K].
        labels: int32 [N].
        accuracy: the fraction classified correctly.
        nll: mean of -log softmax(logits)[label] in nats, without label smoothing.
        calibration_error: sum over bins of count / N |accuracy - confidence|.
        bins: the bins of confidence, 15 of equal width.
    """

    logits: np.ndarray
    labels: np.ndarray
    accuracy: float
    nll: float
    calibration_error: float
    bins: tuple[Bin, ...]

    @property
    def predicted(self) -> np.ndarray:
        """The classes of largest probability, int [N]."""
        return self.logits.argmax(axis=-1)

    @property
    def probabilities(self) -> np.ndarray:
        """softmax(logits), float32 [N, K]."""
        return np.asarray(softmax(self.logits))


def evaluate(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    """Judge logits [N, K] by labels [N]."""
    nll = softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")
    correct = logits.argmax(axis=-1) == labels
    confidence = np.asarray(softmax(logits)).max(axis=-1)
    bins = confidence_bins(confidence, correct)
    gaps = [b.count / len(labels) * abs(b.accuracy - b.confidence) for b in bins]
    return Evaluation(logits, labels, float(correct.mean()), float(nll), float(sum(gaps)), bins)


def confidence_bins(confidence: np.ndarray, correct: np.ndarray) -> tuple[Bin, ...]:
    """Sort predictions into bins of equal width.

    Source: C. Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    edges = np.linspace(0.0, 1.0, NUM_BINS + 1)
    # a rounded confidence just above 1 still belongs to the last bin, and 0 to the first
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, NUM_BINS - 1)

    def mean(values: np.ndarray) -> float:
        return float(values.mean()) if values.size else 0.0

    return tuple(
        Bin(
            lower=float(edges[k]),
            upper=float(edges[k + 1]),
            count=int((places == k).sum()),
            confidence=mean(confidence[places == k]),
            accuracy=mean(correct[places == k]),
        )
        for k in range(NUM_BINS)
    )
