"""The losses that a network can be trained with, and their names in plots."""

from collections.abc import Mapping

import jax
from jax import Array

from experiments.cifar10.config import LossName
from xentjax import (
    brier_score,
    poly_loss_cross_entropy,
    smooth_labels,
    softmax_cross_entropy_with_integer_labels,
    softmax_focal_loss,
)

AXIS_LABELS: Mapping[LossName, str] = {
    "cross_entropy": "cross-entropy (nats)",
    "focal": "focal loss (nats)",
    "poly": "poly loss (nats)",
    "brier": "Brier score",
}


def summed_loss(name: LossName, logits: Array, labels: Array, *, label_smoothing: float) -> Array:
    """Sum a loss over the batch.

    Args:
        name: which loss.
        logits: float32 [N, K].
        labels: int32 [N].
        label_smoothing: of cross-entropy and poly.
    """
    match name:
        case "cross_entropy":
            return softmax_cross_entropy_with_integer_labels(
                logits, labels, label_smoothing=label_smoothing, reduction="sum"
            )
        case "focal":
            return softmax_focal_loss(logits, labels, gamma=2.0, reduction="sum")
        case "poly":
            one_hot = jax.nn.one_hot(labels, logits.shape[-1])
            targets = smooth_labels(one_hot, label_smoothing)
            return poly_loss_cross_entropy(logits, targets, epsilon=1.0, reduction="sum")
        case "brier":
            return brier_score(logits, labels, reduction="sum")
