"""A run of two seconds that has every part of a long one, and the comparison of two states."""

from collections.abc import Callable

import jax
import numpy as np

from experiments.cifar10.config import Config
from experiments.cifar10.data.load import Dataset
from experiments.cifar10.state import TrainState

CLASSES = ("red", "green", "blue")
HELD_OUT, BATCH, STEPS_PER_EPOCH, STEPS = 30, 8, 6, 11
CONFIG = Config(
    epochs=1.75,
    batch_size=BATCH,
    held_out=HELD_OUT,
    widths=(4, 4, 4),
    image_sides=(9, 12),
    learning_rate=60.0,
    label_smoothing=0.0,
    whiten_bias_epochs=1,
    lookahead=True,
)


def colours(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noise in which the channel of the label is brighter; a tenth of the labels is wrong."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count).astype(np.int32)
    images = rng.integers(0, 156, (count, 32, 32, 3))
    images[np.arange(count), :, :, labels] += 100
    wrong = rng.random(count) < 0.1
    return images.astype(np.uint8), np.where(wrong, (labels + 1) % 3, labels).astype(np.int32)


DATASET = Dataset(
    "colours",
    *colours(50 + HELD_OUT, 0),
    *colours(21, 1),
    CLASSES,
    source="a test",
    sha256={"all": "none"},
)


def stop_after(steps: int) -> Callable[[], bool]:
    """True once this many steps have been taken."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= steps


def differences(actual: TrainState, expected: TrainState) -> list[str]:
    """The parts of the state that differ in any bit."""
    actual_leaves = jax.tree_util.tree_leaves_with_path(actual._asdict())
    expected_leaves = jax.tree_util.tree_leaves_with_path(expected._asdict())
    assert [path for path, _ in actual_leaves] == [path for path, _ in expected_leaves]
    return [
        jax.tree_util.keystr(path)
        for (path, a), (_, b) in zip(actual_leaves, expected_leaves, strict=True)
        if np.asarray(a).tobytes() != np.asarray(b).tobytes() or a.dtype != b.dtype
    ]
