"""The network's parts against NumPy, and what its precision and frozen whitening promise."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.backend import DATA
from experiments.cifar10.config import PRESETS, Config
from experiments.cifar10.network.airbench import (
    LOGIT_SCALE,
    WHITENING_EPSILON,
    Airbench,
    identity_kernel,
    max_pool,
    patches,
    whitening_filters,
)
from experiments.cifar10.network.build import build_network
from experiments.cifar10.network.norm import NORM_EPSILON
from experiments.cifar10.state import FIXED

WIDTHS, NUM_CLASSES, SIDE = (4, 5, 6), 3, 9
CONFIG = Config(widths=WIDTHS, norm_momentum=0.7)


def numpy_patches(images: np.ndarray) -> np.ndarray:
    """All 2x2 patches [N, H - 1, W - 1, 2, 2, C]."""
    windows = np.lib.stride_tricks.sliding_window_view(images, (2, 2), axis=(1, 2))
    return np.moveaxis(windows, 3, -1)


def numpy_convolution(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """A 3x3 cross-correlation with a border of zeros, in float64."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    taps = [
        padded[:, i : i + height, j : j + width] @ kernel[i, j].astype(np.float64)
        for i, j in np.ndindex(3, 3)
    ]
    return np.sum(taps, axis=0)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Smooth noise, whose neighbouring pixels and channels are correlated as in photographs."""
    noise = np.random.default_rng(0).normal(size=(6, SIDE + 2, SIDE + 2, 3))
    smooth = noise[:, 1:-1, 1:-1] + 0.5 * noise[:, :-2, 1:-1] + 0.5 * noise[:, 1:-1, :-2]
    return (smooth + 0.7 * smooth.mean(-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def whitening(images: np.ndarray) -> jax.Array:
    return whitening_filters(jnp.asarray(images), 12)


@pytest.fixture(scope="module")
def variables(images: np.ndarray, whitening: jax.Array) -> Any:
    network = build_network(CONFIG, NUM_CLASSES, jnp.float32)
    init = jax.jit(lambda key: network.init(key, jnp.asarray(images), train=False))
    return init(jax.random.key(0)) | {FIXED: {"whitening": whitening}}


def test_patches_are_all_windows_row_by_row(images):
    actual = patches(jnp.asarray(images))
    np.testing.assert_array_equal(actual, numpy_patches(images).reshape(6, SIDE - 1, SIDE - 1, 12))


def test_whitened_patches_are_uncorrelated_with_variance_one_up_to_epsilon(images, whitening):
    rows = numpy_patches(images).reshape(-1, 12).astype(np.float64)
    eigenvalues = np.linalg.eigvalsh(rows.T @ rows / len(rows))[::-1]  # largest first
    whitened = rows @ np.asarray(whitening[:, :12], np.float64)
    variances = eigenvalues / (eigenvalues + WHITENING_EPSILON)
    assert variances.min() > 0.9
    np.testing.assert_allclose(whitened.T @ whitened / len(rows), np.diag(variances), atol=1e-4)


def test_the_second_half_of_the_filters_is_the_negative_of_the_first(whitening):
    assert whitening.shape == (12, 24)
    np.testing.assert_array_equal(whitening[:, 12:], -whitening[:, :12])


def test_fewer_filters_are_those_of_the_largest_eigenvalues(images, whitening):
    fewer = whitening_filters(jnp.asarray(images), 5)
    np.testing.assert_array_equal(fewer, jnp.hstack([whitening[:, :5], whitening[:, 12:17]]))
    config = dataclasses.replace(CONFIG, whiten_components=5)
    network = build_network(config, NUM_CLASSES, jnp.float32)
    shapes = jax.eval_shape(
        lambda key: network.init(key, jnp.asarray(images), train=False), jax.random.key(0)
    )
    assert shapes[FIXED]["whitening"].shape == (12, 10)
    assert shapes["params"]["group0_conv0"].shape[2] == 10


def test_whitening_of_grey_images_is_bounded_by_epsilon():
    # three equal channels leave 8 of 12 eigenvalues 0
    grey = np.random.default_rng(1).normal(size=(4, 6, 6, 1)).astype(np.float32).repeat(3, -1)
    filters = np.asarray(whitening_filters(jnp.asarray(grey), 12))
    norms = np.linalg.norm(filters[:, :12], axis=0)
    np.testing.assert_allclose(norms[4:], WHITENING_EPSILON**-0.5, rtol=0.01)


@pytest.mark.parametrize(("inputs", "outputs"), [(5, 5), (3, 7), (7, 3)])
def test_identity_kernel_copies_as_many_channels_as_there_are(inputs, outputs):
    x = np.random.default_rng(2).normal(size=(2, 4, 5, inputs)).astype(np.float32)
    kernel = np.asarray(identity_kernel(jax.random.key(0), (3, 3, inputs, outputs)))
    result = numpy_convolution(x, kernel)
    copied = min(inputs, outputs)
    np.testing.assert_array_equal(result[..., :copied], x[..., :copied])
    others = kernel[..., copied:]
    assert np.abs(others).max(initial=0) <= (9 * inputs) ** -0.5
    if outputs > inputs:
        assert others.std() > 0.5 * (9 * inputs) ** -0.5  # uniform: 0.577 of the bound


def test_max_pool_is_the_maximum_of_squares():
    x = np.random.default_rng(3).normal(size=(2, 4, 6, 3)).astype(np.float32)
    expected = x.reshape(2, 2, 2, 3, 2, 3).max((2, 4))
    np.testing.assert_array_equal(max_pool(jnp.asarray(x)), expected)


def test_gradient_of_max_pool_is_the_difference_quotient_without_ties():
    rng = np.random.default_rng(4)
    x = rng.permutation(2 * 2 * 4 * 3).reshape(2, 2, 4, 3).astype(np.float32)  # 1 apart
    weights = rng.normal(size=(2, 1, 2, 3)).astype(np.float32)

    def value(x: np.ndarray) -> float:
        return float((x.reshape(2, 1, 2, 2, 2, 3).max((2, 4)).astype(np.float64) * weights).sum())

    expected = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[index] += 0.25
        down[index] -= 0.25
        expected[index] = (value(up) - value(down)) / 0.5
    actual = jax.grad(lambda x: (max_pool(x) * weights).sum())(jnp.asarray(x))
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("ties", [1, 2, 3, 4])
def test_gradient_of_max_pool_sums_to_one_in_every_square(dtype: Any, ties):
    square = np.where(np.arange(4) < ties, 1.5, -2.0)
    x = jnp.asarray(np.random.default_rng(5).permuted(np.tile(square, (6, 1)), axis=1), dtype)
    x = x.reshape(6, 2, 2, 1)
    gradient = jax.grad(lambda x: max_pool(x).astype(jnp.float32).sum())(x)
    assert gradient.dtype == dtype
    gradient = np.asarray(gradient, np.float64)
    tolerance = 1e-6 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(gradient.sum((1, 2)), 1.0, rtol=tolerance)
    assert (gradient >= 0).all()
    assert (gradient[np.asarray(x, np.float64) < 0] == 0).all()


def test_logits_are_float32_whatever_the_computation(images, variables):
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
    logits = [
        jax.jit(build_network(CONFIG, NUM_CLASSES, dtype).apply, static_argnames="train")(
            variables, images, train=False
        )
        for dtype in (jnp.float32, jnp.bfloat16)
    ]
    assert [(x.shape, x.dtype) for x in logits] == [((6, NUM_CLASSES), jnp.float32)] * 2
    difference = np.abs(np.asarray(logits[0] - logits[1]))
    assert 0 < difference.max() < 0.05 * np.abs(logits[0]).max()


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
def test_gradients_reach_the_whitening_only_while_its_bias_is_trained(images, variables, trained):
    network = build_network(CONFIG, NUM_CLASSES, jnp.float32, train_whitening=trained)

    @jax.jit
    @jax.grad
    def gradient(params: Any) -> Any:
        logits: Any = network.apply(variables | {"params": params}, images, train=False)
        return (logits * jnp.arange(1, NUM_CLASSES + 1, dtype=jnp.float32)[None]).sum()

    gradients = gradient(variables["params"])
    largest = {
        name: max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(tree))
        for name, tree in gradients.items()
    }
    assert (largest.pop("whitening_bias") > 0) == trained
    assert min(largest.values()) > 0


def test_the_head_is_linear_and_scaled_by_a_ninth(images, variables):
    assert pytest.approx(1 / 9) == LOGIT_SCALE
    network = build_network(CONFIG, NUM_CLASSES, jnp.float32)

    @jax.jit
    def logits(head: jax.Array) -> Any:
        params = variables["params"] | {"head": head}
        return network.apply(variables | {"params": params}, images, train=False)

    # unit vectors as head show the features themselves
    units = jnp.eye(WIDTHS[-1])
    features = np.concatenate([logits(units[:, :3]), logits(units[:, 3:])], axis=1) * 9.0
    head = np.asarray(variables["params"]["head"], np.float64)
    actual = logits(jnp.asarray(head, jnp.float32))
    np.testing.assert_allclose(actual, features @ head / 9, rtol=1e-4)


def test_statistics_of_a_split_batch_are_those_of_the_whole(images, variables):
    """The sums over devices, here over parts of a batch on one."""
    network = build_network(CONFIG, NUM_CLASSES, jnp.float32)

    def updated(parts: int) -> tuple[np.ndarray, Any]:
        def one(part: jax.Array) -> Any:
            return network.apply(variables, part, train=True, mutable=["batch_stats"])

        split = jnp.asarray(images).reshape(parts, -1, *images.shape[1:])
        logits, state = jax.jit(jax.vmap(one, axis_name=DATA))(split)
        statistics = jax.tree.map(np.asarray, state["batch_stats"])
        for leaf in jax.tree.leaves(statistics):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[:1], leaf.shape))
        return np.asarray(logits).reshape(-1, NUM_CLASSES), statistics

    (whole_logits, whole), (split_logits, split) = updated(1), updated(2)
    np.testing.assert_allclose(split_logits, whole_logits, rtol=1e-4, atol=1e-5)
    for actual, expected in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-4, atol=1e-5)


def test_running_statistics_keep_the_momentum_of_the_old_ones(images, variables):
    network = build_network(CONFIG, NUM_CLASSES, jnp.float32)

    @jax.jit
    def mean(old: jax.Array) -> Any:
        statistics = jax.tree.map(lambda leaf: jnp.full_like(leaf, old), variables["batch_stats"])
        variables_then = variables | {"batch_stats": statistics}

        def one(part: jax.Array) -> Any:
            return network.apply(variables_then, part, train=True, mutable=["batch_stats"])

        _, state = jax.vmap(one, axis_name=DATA)(jnp.asarray(images)[None])
        return state["batch_stats"]["group0_norm0"]["mean"]

    # new = m old + (1 - m) of the batch
    np.testing.assert_allclose(mean(jnp.float32(1)) - mean(jnp.float32(0)), 0.7, rtol=1e-5)


def numpy_network(
    config: Config, variables: Any, whitening: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """Logits in float64, normalised by the running statistics."""
    params: Any = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    statistics: Any = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64), variables["batch_stats"]
    )

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def normalized(name: str, x: np.ndarray) -> np.ndarray:
        mean, variance = statistics[name]["mean"], statistics[name]["var"]
        return (x - mean) / np.sqrt(variance + NORM_EPSILON) + params[name]["bias"]

    windows = numpy_patches(images)
    filters = whitening if config.whiten else params["first"]
    bias = params["whitening_bias" if config.whiten else "first_bias"]
    x = silu(windows.reshape(*windows.shape[:3], 12) @ filters + bias)
    for group in range(3):
        x = numpy_convolution(x, params[f"group{group}_conv0"])
        n, height, width, channels = x.shape
        x = x[:, : height // 2 * 2, : width // 2 * 2]
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))
        x = pooled = silu(normalized(f"group{group}_norm0", x))
        x = numpy_convolution(x, params[f"group{group}_conv1"])
        x = silu(normalized(f"group{group}_norm1", x))
        if config.convs == 3:
            x = numpy_convolution(x, params[f"group{group}_conv2"])
            x = silu(normalized(f"group{group}_norm2", x) + pooled)
    return x.max((1, 2)) @ params["head"] / 9


@pytest.mark.parametrize(
    "options",
    [{}, {"convs": 3}, {"whiten": False, "identity_init": False}],
    ids=["two convolutions", "three", "nothing prepared"],
)
def test_the_network_is_the_one_written_out_in_numpy(options):
    config = dataclasses.replace(CONFIG, **options)
    network = build_network(config, NUM_CLASSES, jnp.float32)
    rng = np.random.default_rng(6)
    # with an odd number of rows to pool at first, and later an even one
    images = rng.normal(size=(2, 12, 10, 3)).astype(np.float32)
    whitening = rng.normal(size=(12, 24)).astype(np.float32)

    @jax.jit
    def initial(key: jax.Array) -> Any:
        return network.init(key, jnp.asarray(images), train=False)

    # biases and statistics are 0 and 1 at first, which would hide where they act
    variables = jax.tree.map(
        lambda leaf: jnp.asarray(leaf + rng.uniform(0.1, 0.5, leaf.shape).astype(np.float32)),
        initial(jax.random.key(0)),
    ) | {FIXED: {"whitening": jnp.asarray(whitening)}}
    actual = jax.jit(network.apply, static_argnames="train")(variables, images, train=False)
    expected = numpy_network(config, variables, whitening, images)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def shapes_of(config: Config) -> Any:
    network = build_network(config, 10, jnp.float32)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(lambda x: network.init(jax.random.key(0), x, train=False), images)[
        "params"
    ]


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("airbench93", 0.569), ("airbench94", 1.972), ("airbench95", 4.605), ("airbench96", 9.916)],
)
def test_presets_have_as_many_parameters_as_airbench(preset, millions):
    sizes = [math.prod(p.shape) for p in jax.tree.leaves(shapes_of(PRESETS[preset]))]
    assert sum(sizes, 12 * 24) == pytest.approx(1e6 * millions, abs=500)  # the whitening is fixed


def test_without_whitening_the_first_filters_are_parameters():
    config = PRESETS["airbench94"]
    plain = shapes_of(dataclasses.replace(config, whiten=False))
    assert set(plain) - set(shapes_of(config)) == {"first", "first_bias"}
    assert "whitening_bias" not in plain
    assert plain["first"].shape == (12, 24)


def test_the_network_has_the_settings_that_it_reads():
    config = PRESETS["airbench96"]
    assert build_network(config, 10, jnp.bfloat16) == Airbench(
        widths=(128, 384, 512), num_classes=10, norm_momentum=0.9, dtype=jnp.bfloat16, convs=3
    )


def test_only_a_whitening_that_is_fixed_makes_two_networks():
    def networks(config: Config) -> list[Any]:
        return [
            build_network(config, 10, jnp.float32, train_whitening=trained)
            for trained in (False, True)
        ]

    frozen, trained = networks(CONFIG)
    assert frozen != trained
    for config in (dataclasses.replace(CONFIG, whiten=False), PRESETS["resnet18"]):
        frozen, trained = networks(config)
        assert frozen == trained
