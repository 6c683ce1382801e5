"""The GPU kernel of a linear layer without a GPU: interpreted against float64, and lowered."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P

import xentjax
from tests.support import kernels
from tests.support.closeness import assert_close
from tests.support.layers import (
    Layer,
    assert_layer_close,
    chained,
    directions,
    exact,
    labels_of,
    layer_of,
    oracle,
)
from tests.support.problems import SCALARS
from tests.support.tolerances import GRADIENT, VALUE
from xentjax.ops.backends import contexts
from xentjax.ops.backends.mosaic_gpu import hardware, linear as linear_kernel

pytestmark = pytest.mark.kernels

INF, NAN = np.inf, np.nan
NAME = "mosaic_gpu"
loss: Any = partial(xentjax.linear_softmax_cross_entropy, implementation=NAME)
STATISTICS = ("log_normalizer", "label_log_prob", "entropy")


@pytest.fixture
def interpreted(monkeypatch):
    """Two stages and two clusters side by side, so that small arrays need more of either."""
    monkeypatch.setattr(linear_kernel, "_STAGES", 2)
    monkeypatch.setattr(linear_kernel, "_SNAKE_WIDTH", 2)
    if jax.__version_info__ < (0, 11):  # the interpreter knows no clusters of blocks
        monkeypatch.setattr(linear_kernel, "_CLUSTER", 1)
    with contexts.interpret_for_gpu(kernels.gpu_interpreter()):
        yield


def half(n: int, d: int, k: int, scale: float = 1.0, dtype: Any = jnp.bfloat16) -> Layer:
    x, kernel, bias = layer_of(n, d, k, scale)
    return Layer(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), bias)


def some_ignored(n: int, k: int) -> np.ndarray:
    """Every third row, and all after the first 128: whole blocks without a row that counts."""
    labels = labels_of(n, k)
    labels[::3] = labels[128:] = -100
    return labels


CASES: dict[str, tuple[Layer, np.ndarray, dict[str, Any]]] = {
    "one feature": (half(1, 1, 2), np.array([1]), {}),
    "small logits": (half(260, 200, 300, 0.02), labels_of(260, 300), {}),
    "float16": (half(8, 64, 256, dtype=jnp.float16), labels_of(8, 256), {}),
    "everything": (half(130, 65, 300), labels_of(130, 300), SCALARS),
    "ignored": (half(300, 8, 260), some_ignored(300, 260), {"ignore_index": -100}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("interpreted")
def test_statistics(name):
    layer, labels, keywords = CASES[name]
    expected = oracle(layer, labels, **keywords)
    losses, stats = jax.jit(
        lambda at: loss(at.x, at.kernel, labels, bias=at.bias, return_stats=True, **keywords)
    )(layer)
    assert losses.dtype == jnp.float32
    assert_close(losses, expected.losses, VALUE["float32"])
    counts = labels != -100
    for field in STATISTICS:
        values = np.asarray(getattr(stats, field))[counts]
        assert_close(values, getattr(expected, field)[counts], VALUE["float32"])
    predicted = np.asarray(stats.predicted)
    np.testing.assert_array_equal(predicted[counts], expected.predicted[counts])


def test_stages_fit_shared_memory():
    rows, classes = linear_kernel._WARPGROUPS * linear_kernel._ROWS, linear_kernel._CLASSES
    stages = linear_kernel._STAGES * (rows + classes) * linear_kernel._FEATURES * 2
    small = linear_kernel._WARPGROUPS * (classes + 7 * linear_kernel._ROWS) * 4
    assert stages + small + 2**13 <= 227 * 2**10  # 8 KiB for barriers and what alignment takes


@pytest.mark.usefixtures("interpreted")
def test_gradients_in_forward():
    """The kernel of row statistics reads the blocks of logits."""
    layer, labels, keywords = CASES["everything"]
    expected = oracle(layer, labels, **keywords)

    def total(at):
        return loss(
            at.x, at.kernel, labels, at.bias, reduction="sum", gradients_in_forward=True, **keywords
        )

    value, gradient = jax.jit(jax.value_and_grad(total))(layer)
    assert_close(value, expected.losses.sum(), VALUE["bfloat16"])
    assert_layer_close(gradient, chained(expected.gradient, layer), GRADIENT["bfloat16"])


@pytest.mark.usefixtures("interpreted")
def test_all_derivatives():
    """A forward derivative and the gradient of per-row cotangents, by tiles of XLA."""
    layer, labels, keywords = CASES["everything"]
    along = directions(layer, 4)
    cotangent = np.random.default_rng(2).uniform(0.5, 2, 130).astype(np.float32)
    expected = oracle(layer, labels, **keywords)

    @jax.jit
    def evaluate(layer, along):
        def losses(at):
            return loss(at.x, at.kernel, labels, bias=at.bias, **keywords)

        _, derivative = jax.jvp(losses, (layer,), (along,))
        return derivative, jax.grad(lambda at: jnp.vdot(losses(at), cotangent))(layer)

    along = Layer(*(jnp.asarray(v, a.dtype) for v, a in zip(along, layer, strict=True)))
    derivative, gradient = evaluate(layer, along)
    (x, kernel, _), (dx, d_kernel, d_bias) = exact(layer), exact(along)
    moves = dx @ kernel + x @ d_kernel + d_bias
    assert_close(derivative, (expected.gradient * moves).sum(-1), GRADIENT["bfloat16"])
    assert {g.dtype for g in gradient[:2]} == {jnp.dtype(jnp.bfloat16)}
    d_logits = cotangent[:, None] * expected.gradient
    assert_layer_close(gradient, chained(d_logits, layer), GRADIENT["bfloat16"])


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
@pytest.mark.usefixtures("interpreted")
def test_bad_values():
    """Each row keeps what is wrong to itself; some labels are of a column that is no class."""
    x, kernel, bias = half(9, 3, 300)
    x = x.at[2].set(NAN).at[6].set(INF)
    bias[:260] = -INF  # nothing finite in the first tile
    labels = np.array([270, 299, -100, -1, 300, 511, 280, 2**31 - 1, 5], np.int32)
    clean = Layer(jnp.where(jnp.isfinite(x), x, 0), kernel, bias)
    expected = oracle(clean, labels, ignore_index=-100).losses
    value = np.array(jax.jit(lambda x: loss(x, kernel, labels, bias, ignore_index=-100))(x))
    assert np.isnan(value[6])
    value[6] = expected[6]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert value[8] == INF


@pytest.mark.parametrize("batched", ["x", "kernel"])
@pytest.mark.usefixtures("interpreted")
def test_vmap(batched):
    x, kernel, _ = half(10, 3, 140)
    labels = labels_of(5, 140)
    if batched == "x":
        arguments, axes = (x.reshape(2, 5, 3), kernel), (0, None)
    else:
        arguments, axes = (x[:5], jnp.stack([kernel, 2 * kernel])), (None, 0)
    losses = jax.jit(jax.vmap(lambda x, kernel: loss(x, kernel, labels), axes))(*arguments)
    for i in range(2):
        x, kernel = (a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True))
        expected = oracle(Layer(x, kernel, np.zeros(140)), labels)
        assert_close(losses[i], expected.losses, VALUE["float32"])


@pytest.mark.usefixtures("interpreted")
def test_no_rows():
    x, kernel, _ = half(0, 3, 5)
    losses, stats = loss(x, kernel, jnp.zeros(0, jnp.int32), return_stats=True)
    assert {a.shape for a in (losses, *stats)} == {(0,)}


LOWERED: dict[str, tuple[tuple[int, int, int], dict[str, Any]]] = {
    "one block": ((9, 64, 64), {}),
    "large": ((8192, 4096, 131072), {}),
    "ragged": ((1000, 1000, 1001), {"ignore_index": -1}),
    "everything": ((300, 70, 50257), {"return_stats": True, **SCALARS}),
}


def lowered(function: Any, *shapes: Any) -> str:
    try:
        return jax.jit(function).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    except ImportError as error:
        pytest.skip(f"this jaxlib does not lower for GPU: {error}")


def traced(n: int, d: int, k: int, dtype: Any = jnp.bfloat16) -> list[Any]:
    shapes = ((n, d), dtype), ((d, k), dtype), ((k,), dtype), ((n,), jnp.arange(0).dtype)
    return [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]


@pytest.mark.parametrize("name", LOWERED)
def test_lowers_for_gpu(name):
    sizes, keywords = LOWERED[name]
    text = lowered(lambda x, w, b, y: loss(x, w, y, b, **keywords), *traced(*sizes))
    assert "mosaic_gpu" in text
    assert "stablehlo.dot_general" not in text


def test_gradient_lowers_for_gpu_with_64_bit_integers():
    with jax.enable_x64(True):
        arguments = traced(300, 70, 1000)

        def mean(x, kernel, bias, labels):
            return loss(x, kernel, labels, bias, reduction="mean")

        assert "mosaic_gpu" in lowered(jax.value_and_grad(mean), *arguments)


def test_gradients_in_forward_lower_with_the_kernel():
    def total(x, kernel, labels):
        return loss(x, kernel, labels, reduction="sum", gradients_in_forward=True)

    x, kernel, _, labels = traced(300, 70, 1000)
    assert "mosaic_gpu" in lowered(jax.value_and_grad(total), x, kernel, labels)


def test_other_generations_read_the_logits_of_xla(monkeypatch):
    monkeypatch.setattr(hardware, "_compute_capability", lambda: "10.0")
    x, kernel, _, labels = traced(300, 64, 1024)
    text = lowered(loss, x, kernel, labels)
    assert "stablehlo.dot_general" in text
    assert "mosaic_gpu" in text


def test_lowers_under_vmap():
    batch = [jax.ShapeDtypeStruct((2, *a.shape), a.dtype) for a in traced(300, 70, 1000)]
    assert "mosaic_gpu" in lowered(jax.vmap(lambda x, w, b, y: loss(x, w, y, b)), *batch)


def test_lowers_with_split_classes():
    mesh = jax.make_mesh((1,), ("classes",), axis_types=(AxisType.Auto,))

    def losses(x, kernel, labels):
        return xentjax.linear_softmax_cross_entropy(
            x, kernel, labels, axis_name="classes", implementation=NAME
        )

    specs = P(), P(None, "classes"), P()
    sharded = jax.shard_map(losses, mesh=mesh, in_specs=specs, out_specs=P())
    x, kernel, _, labels = traced(300, 70, 1000)
    assert "mosaic_gpu" in lowered(sharded, x, kernel, labels)


def test_lowers_inside_shard_map():
    """Rows on each device, the kernel on all."""
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(AxisType.Auto,))
    specs = P("devices"), P(), P("devices")
    sharded = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=P("devices"))
    x, kernel, _, labels = traced(300, 70, 1000)
    assert "mosaic_gpu" in lowered(sharded, x, kernel, labels)


@pytest.mark.parametrize(
    ("features", "keywords", "match"),
    [
        (3, {"where": np.ones((2, 4), bool)}, "where: expected no mask of classes"),
        (0, {}, "x: expected at least one feature for 'mosaic_gpu', got none"),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_refuses_what_it_cannot(features, keywords, match):
    x, kernel, _ = half(2, features, 4)
    with pytest.raises(NotImplementedError, match=match):
        loss(x, kernel, jnp.zeros(2, jnp.int32), **keywords)


def test_needs_a_hopper_gpu():
    with pytest.raises(NotImplementedError, match="expected a GPU of compute capability"):
        loss(*half(2, 3, 4)[:2], jnp.zeros(2, jnp.int32))


@pytest.mark.usefixtures("interpreted")
def test_float32_is_left_to_xla():
    """Tensor cores would round it to 10 bits."""
    layer, labels = layer_of(9, 64, 300), labels_of(9, 300)
    expected = oracle(layer, labels).losses
    value = jax.jit(lambda at: loss(at.x, at.kernel, labels, at.bias))(layer)
    assert_close(value, expected, VALUE["float32"])
