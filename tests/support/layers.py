"""Linear layers: their cross-entropy in float64, and gradients in all three arrays."""

from typing import Any, NamedTuple

import numpy as np

from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from xentjax.ops.blocks import Blocks


class Layer(NamedTuple):
    """Arrays of a layer, or the gradients in them."""

    x: Any
    kernel: Any
    bias: Any


def layer_of(n: int, d: int, k: int, scale: float = 1.0) -> Layer:
    rng = np.random.default_rng((n, d, k))
    x, kernel, bias = (rng.standard_normal(shape) for shape in ((n, d), (d, k), (k,)))
    layer = Layer(x / np.sqrt(d), scale * kernel, scale * bias)
    return Layer(*(a.astype(np.float32) for a in layer))


def labels_of(n: int, k: int) -> np.ndarray:
    labels = np.random.default_rng(k).integers(0, k, n).astype(np.int32)
    labels[-1] = k - 1
    return labels


def exact(layer: Layer) -> Layer:
    return Layer(*(np.asarray(a, np.float64) for a in layer))


def oracle(layer: Layer, labels: Any, **keywords: Any) -> oracles.CrossEntropy:
    x, kernel, bias = exact(layer)
    return oracles.cross_entropy(x @ kernel + bias, labels, **keywords)


def chained(d_logits: Any, layer: Layer) -> Layer:
    """The gradients in a layer from that in its logits."""
    x, kernel, _ = exact(layer)
    flat = d_logits.reshape(-1, d_logits.shape[-1])
    return Layer(d_logits @ kernel.T, x.reshape(-1, x.shape[-1]).T @ flat, flat.sum(0))


def assert_layer_close(got: Any, expected: Any, tolerance: float) -> None:
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, tolerance)


def directions(layer: Layer, seed: int) -> Layer:
    rng = np.random.default_rng(seed)
    return Layer(*(rng.standard_normal(a.shape).astype(np.float32) for a in layer))


def moved(layer: Layer, step: float, along: Layer) -> Layer:
    return Layer(*(a + step * b for a, b in zip(exact(layer), exact(along), strict=True)))


def overlap(blocks: Blocks) -> bool:
    return blocks.count > 1 and blocks.count * blocks.size > blocks.total
