"""The losses that settings name, against their definitions in NumPy float64."""

from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.config import LossName
from experiments.cifar10.loss import AXIS_LABELS, summed_loss
from tests.support.tolerances import VALUE

SMOOTHING, K = 0.2, 4
RNG = np.random.default_rng(0)
LOGITS = (3 * RNG.normal(size=(7, K))).astype(np.float32)
LABELS = RNG.integers(0, K, 7).astype(np.int32)


def expected(loss: LossName) -> float:
    wide = LOGITS.astype(np.float64)
    probs = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    one_hot = np.eye(K)[LABELS]
    smooth = (1 - SMOOTHING) * one_hot + SMOOTHING / K
    of_label = probs[np.arange(len(LABELS)), LABELS]
    match loss:
        case "cross_entropy":
            return -(smooth * np.log(probs)).sum()
        case "focal":
            return -((1 - of_label) ** 2 * np.log(of_label)).sum()
        case "poly":
            return (smooth * (1 - probs - np.log(probs))).sum()
        case "brier":
            return ((probs - one_hot) ** 2).sum()


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "poly", "brier"])
def test_the_loss_is_summed_over_the_batch(loss: LossName):
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    actual = summed_loss(loss, logits, labels, label_smoothing=SMOOTHING)
    assert actual.shape == ()
    np.testing.assert_allclose(actual, expected(loss), rtol=5 * VALUE["float32"])


def test_every_loss_has_an_axis_label():
    assert set(AXIS_LABELS) == set(get_args(LossName))
