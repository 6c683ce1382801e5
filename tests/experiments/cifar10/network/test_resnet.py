"""ResNet-18's size and shapes, as the paper and torchvision have them, without computing it."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.config import PRESETS
from experiments.cifar10.network.norm import NORM_EPSILON
from experiments.cifar10.network.resnet import ResNet

WIDTHS, TINY, MOMENTUM = (64, 128, 256, 512), (4, 4, 4, 4), 0.9


def images(count: int = 2, side: int = 32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((count, side, side, 3), jnp.float32)


def shapes(network: ResNet) -> Any:
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(lambda key, x: network.init(key, x, train=False), key, images())


def test_the_standard_widths_have_11_17_million_parameters():
    config = PRESETS["resnet18"]
    assert config.widths == WIDTHS
    variables = shapes(ResNet(WIDTHS, 10, MOMENTUM, jnp.float32))
    # torchvision's resnet18 with ten classes and a first kernel of 3x3
    assert sum(math.prod(p.shape) for p in jax.tree.leaves(variables["params"])) == 11_173_962
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def test_each_group_after_the_first_halves_the_sides():
    network = ResNet(WIDTHS, 10, MOMENTUM, jnp.float32)
    _, state = jax.eval_shape(
        lambda v, x: network.apply(v, x, train=False, capture_intermediates=True),
        shapes(network),
        images(),
    )
    results = state["intermediates"]
    del results["__call__"]  # the network's own
    seen = {name: result["__call__"][0].shape for name, result in results.items()}
    assert seen["first"] == (2, 32, 32, 64)
    for group, (side, width) in enumerate([(32, 64), (16, 128), (8, 256), (4, 512)]):
        for block in range(2):
            for layer in range(2):
                name = f"group{group}_block{block}_conv{layer}"
                assert seen[name] == (2, side, side, width)
    shortcuts = {name for name in seen if name.endswith("shortcut")}
    assert shortcuts == {f"group{g}_block0_shortcut" for g in (1, 2, 3)}


@pytest.mark.parametrize("side", [9, 32])
def test_logits_are_float32_whatever_the_computation(side):
    network = ResNet(TINY, 3, MOMENTUM, jnp.bfloat16)
    variables = shapes(network)
    logits = jax.eval_shape(
        lambda v, x: network.apply(v, x, train=False),
        variables,
        images(side=side),
    )
    assert {p.dtype for p in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    assert (logits.shape, logits.dtype) == ((2, 3), jnp.float32)


def test_blocks_whose_convolutions_are_zero_pass_every_second_pixel_on():
    network = ResNet(TINY, 3, MOMENTUM, jnp.float32)
    kernels = {"first": np.zeros((3, 3, 3, 4))}
    kernels["first"][1, 1] = np.eye(3, 4)
    kernels |= {f"group{g}_block0_shortcut": np.eye(4)[None, None] for g in (1, 2, 3)}

    def value(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        _, layer, name = (entry.key for entry in path)
        if layer == "head":
            return np.eye(4, 3) if name == "kernel" else np.array([1.0, 2.0, 3.0])
        ones = name in ("scale", "var")  # of batch normalisation
        return (
            kernels.get(layer, np.zeros(leaf.shape))
            if name == "kernel"
            else (np.full(leaf.shape, float(ones)))
        )

    variables = jax.tree_util.tree_map_with_path(value, shapes(network))
    x = np.random.default_rng(0).normal(size=(2, 16, 16, 3))
    apply = jax.jit(network.apply, static_argnames="train")
    as_float32 = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, jnp.float32))
    logits = apply(*as_float32((variables, x)), train=False)
    # four normalisations on the way: the first layer's and the shortcuts'
    kept = np.maximum(x, 0)[:, ::8, ::8] / (1 + NORM_EPSILON) ** (4 / 2)
    np.testing.assert_allclose(logits, kept.mean((1, 2)) + np.arange(1, 4), rtol=1e-6)
