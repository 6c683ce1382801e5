"""The 3x3 convolution and its gradients against sums in float64, in both of its forms."""

import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.network import conv
from experiments.cifar10.network.conv import FILTERINGS, conv3x3

FEW, MANY = 3, 32  # channels of the plain form, and of the filtered one
TOLERANCE = 1e-5  # of the largest element
OF_ROUNDED_FACTORS = 0.025


def reference(
    x: np.ndarray, kernel: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Result and gradients in float64; the size of the result is the gradient's."""
    x, kernel, gradient = (each.astype(np.float64) for each in (x, kernel, gradient))
    height, width = gradient.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    result, dx, dkernel = np.zeros_like(gradient), np.zeros_like(padded), np.zeros_like(kernel)
    for i, j in np.ndindex(3, 3):
        window = (slice(None), slice(i, i + height), slice(j, j + width))
        result += padded[window] @ kernel[i, j]
        dx[window] += gradient @ kernel[i, j].T
        dkernel[i, j] = np.einsum("nhwc,nhwd->cd", padded[window], gradient)
    return result, dx[:, 1:-1, 1:-1], dkernel


def assert_near(actual: Any, expected: np.ndarray, tolerance: float = TOLERANCE) -> None:
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * largest)


@pytest.mark.parametrize("filtering", FILTERINGS, ids=lambda each: f"F({each.side}, 3)")
def test_filtering_is_the_sum_of_three_products(filtering):
    rng = np.random.default_rng(0)
    signal, taps = rng.normal(size=filtering.side + 2), rng.normal(size=3)
    products = (filtering.kernel @ taps) * (filtering.signal @ signal)
    expected = np.correlate(signal, taps, mode="valid")
    np.testing.assert_allclose(filtering.output @ products, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("size", "side"), [(3, 3), (6, 3), (7, 4), (12, 4), (15, 4)])
def test_tiles_are_those_of_the_fewest_products(size, side):
    assert conv._fewest_products(size, size).side == side


@pytest.mark.parametrize("channels", [(FEW, 5), (MANY, MANY + 1)], ids=["plain", "filtered"])
@pytest.mark.parametrize(
    ("height", "width", "even"),
    [(5, 3, False), (4, 8, False), (3, 7, True), (7, 9, True), (6, 12, True), (1, 2, False)],
)
@pytest.mark.parametrize("tiles_of_a_block", [conv.BLOCK_TILES, 12], ids=["one block", "blocks"])
def test_convolution_and_gradients_are_the_sums(
    monkeypatch, height, width, even, channels, tiles_of_a_block
):
    monkeypatch.setattr(conv, "BLOCK_TILES", tiles_of_a_block)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5, height, width, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(3, 3, *channels)).astype(np.float32)
    sizes = [size - size % 2 if even else size for size in (height, width)]
    gradient = rng.normal(size=(5, *sizes, channels[1])).astype(np.float32)

    @jax.jit
    def all_three(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> Any:
        result, transpose = jax.vjp(lambda *args: conv3x3(*args, even=even), x, kernel)
        return result, *transpose(gradient)

    expected = reference(x, kernel, gradient)
    for actual, wanted in zip(all_three(x, kernel, gradient), expected, strict=True):
        assert actual.shape == wanted.shape
        assert_near(actual, wanted)


@pytest.mark.parametrize("ynnpack", ["", "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"])
@pytest.mark.parametrize(("images", "side", "channels"), [(2, 24, (24, 64)), (4, 6, (64, 64))])
def test_factors_are_rounded_and_sums_are_not(images, side, channels, ynnpack):
    rng = np.random.default_rng(2)
    x = rng.normal(size=(images, side, side, channels[0])).astype(np.float32)
    kernel = rng.normal(size=(3, 3, *channels)).astype(np.float32)
    gradient = rng.normal(size=(images, side, side, channels[1])).astype(np.float32)

    def all_three(x: jax.Array, kernel: jax.Array) -> Any:
        result, transpose = jax.vjp(partial(conv3x3, factor_dtype=jnp.bfloat16), x, kernel)
        return result, *transpose(jnp.asarray(gradient))

    arguments = jnp.asarray(x), jnp.asarray(kernel)
    options = {"xla_cpu_experimental_ynn_fusion_type": ynnpack}
    results = jax.jit(all_three).lower(*arguments).compile(options)(*arguments)
    for actual, wanted in zip(results, reference(x, kernel, gradient), strict=True):
        assert actual.dtype == jnp.float32
        assert_near(actual, wanted, OF_ROUNDED_FACTORS)
        assert np.abs(actual - wanted).max() > 1e-3 * np.abs(wanted).max()  # rounded indeed
    text = str(jax.make_jaxpr(all_three)(x, kernel))
    assert set(re.findall(r":(\w+)\[[\d,]*\] = dot_general", text)) == {"f32"}


@pytest.mark.parametrize(
    ("dtype", "channels", "backend", "filtered"),
    [
        (jnp.float32, MANY, "cpu", True),
        (jnp.float32, 24, "cpu", True),  # the first convolution of `cpu89`
        (jnp.float32, FEW, "cpu", False),
        (jnp.bfloat16, MANY, "cpu", False),
        (jnp.float32, MANY, "gpu", False),
    ],
)
def test_only_wide_float32_convolutions_on_cpu_are_filtered(
    monkeypatch, dtype: Any, channels, backend, filtered
):
    monkeypatch.setattr(conv.jax, "default_backend", lambda: backend)
    x, kernel = jnp.zeros((1, 6, 6, channels), dtype), jnp.zeros((3, 3, channels, MANY), dtype)
    text = str(jax.make_jaxpr(lambda *args: conv3x3(*args))(x, kernel))
    assert ("conv_general_dilated[" in text) != filtered


@pytest.mark.parametrize(
    ("images", "size", "blocks", "of_block"),
    [(64, 14, 8, 8), (64, 6, 2, 32), (10, 12, 1, 10), (17, 14, 3, 8), (1, 30, 1, 1), (0, 6, 0, 32)],
)
def test_blocks_hold_all_images_in_order(images, size, blocks, of_block):
    filtering = conv._fewest_products(size, size)
    x = jnp.arange(images * size * size * 2.0).reshape(images, size, size, 2)
    result = conv._blocks(filtering, x, size, size)
    assert result.shape == (blocks, of_block, size, size, 2)
    flat = result.reshape(-1, size, size, 2)
    np.testing.assert_array_equal(flat[:images], x)
    assert not flat[images:].any()


def test_mixed_dtypes_are_refused():
    x, kernel = jnp.zeros((1, 6, 6, MANY)), jnp.zeros((3, 3, MANY, MANY), jnp.bfloat16)
    with pytest.raises(TypeError, match="dtype"):
        conv3x3(x, kernel)


def test_no_images_are_convolved_to_none():
    x, kernel = jnp.zeros((0, 6, 7, MANY)), jnp.ones((3, 3, MANY, MANY + 1))
    result, transpose = jax.vjp(lambda *args: conv3x3(*args, even=True), x, kernel)
    assert result.shape == (0, 6, 6, MANY + 1)
    dx, dkernel = transpose(result)
    assert dx.shape == x.shape
    assert not dkernel.any()


def test_vmap_convolves_each():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 1, 3, 3, MANY)).astype(np.float32)
    kernels = rng.normal(size=(2, 3, 3, MANY, MANY)).astype(np.float32)
    results = jax.jit(jax.vmap(conv3x3))(x, kernels)
    for result, each, kernel in zip(results, x, kernels, strict=True):
        assert_near(result, reference(each, kernel, np.zeros_like(result))[0])
