"""Bits per byte of text that was held out: comparable between vocabularies of any size."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax import Array

from experiments.common.estimates import Estimate
from experiments.language_model.model import AnyArray, LanguageModel, features, head
from xentjax import linear_softmax_cross_entropy


@dataclass(frozen=True)
class Score:
    """The bits that a model needs for windows of the text.

    Attributes:
        bits: -log2 of the probability of each window's tokens, [W].
        bytes: number of bytes that they stand for, [W].
    """

    bits: np.ndarray
    bytes: np.ndarray

    @property
    def bits_per_byte(self) -> float:
        """The bits of all windows per byte: -log2 of the text's probability over its bytes."""
        return float(self.bits.sum() / self.bytes.sum())

    def difference(self, other: "Score") -> Estimate:
        """Estimate how many bits per byte more this model needs than another on the same windows.

        The interval is for the mean over windows; it does not account for the seeds.
        """
        return Estimate.of(((self.bits - other.bits) / self.bytes.mean()).tolist())


def make_window_nats(model: LanguageModel) -> Callable[[Any, AnyArray], Array]:
    """Make the jitted function (params, windows int32 [B, T + 1]) -> nats [B]."""

    def window_nats(params: Any, windows: AnyArray) -> Array:
        hidden = features(model, params, windows[:, :-1])
        return linear_softmax_cross_entropy(hidden, head(params), windows[:, 1:]).sum(axis=1)

    return jax.jit(window_nats)


def evaluate(
    window_nats: Callable[[Any, AnyArray], Array],
    params: Any,
    windows: np.ndarray,
    lengths: np.ndarray,
    batch_size: int,
    after_batch: Callable[[int], None] = lambda number: None,
) -> Score:
    """Score a model.

    Args:
        window_nats: see `make_window_nats`.
        params: of the model.
        windows: int32 [W, T + 1]; the first token of each is given.
        lengths: bytes of each token, int32 [K].
        batch_size: windows at a time.
        after_batch: called with the number of windows of each batch.
    """
    nats = []
    for batch in batches(windows, batch_size):
        nats.append(np.asarray(window_nats(params, batch)))
        after_batch(len(batch))
    sizes = lengths[windows[:, 1:]].sum(axis=1)
    return Score(np.concatenate(nats).astype(np.float64)[: len(windows)] / math.log(2), sizes)


def batches(windows: np.ndarray, batch_size: int) -> Iterable[np.ndarray]:
    """Split windows into batches of one size; the last one repeats its last window."""
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        yield np.pad(batch, ((0, batch_size - len(batch)), (0, 0)), mode="edge")
