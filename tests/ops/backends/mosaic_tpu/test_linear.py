"""The TPU kernels of a linear layer without a TPU: interpreted against float64, and lowered."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import xentjax
from tests.support.closeness import assert_close
from tests.support.kernels import lowered_for_tpu
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
from tests.support.problems import EVERYTHING, WEIGHTS_7
from tests.support.tolerances import GRADIENT, VALUE
from xentjax.ops import Rows
from xentjax.ops.backends import contexts
from xentjax.ops.backends.mosaic_tpu import linear_blocks
from xentjax.ops.rows import Layer as LinearLayer

pytestmark = pytest.mark.kernels

INF, NAN = np.inf, np.nan
loss: Any = partial(xentjax.linear_softmax_cross_entropy, implementation="mosaic_tpu")
IN_FORWARD: dict[str, Any] = {"gradients_in_forward": True, "reduction": "sum"}


@pytest.fixture
def interpreted(monkeypatch):
    """Interpret kernels with tiles of 128, of which small arrays have several, the last ragged."""
    for name in ("_MOST_ROWS", "_MOST_CLASSES", "_MOST_FEATURES"):
        monkeypatch.setattr(linear_blocks, name, 128)
    with contexts.interpret_for_tpu(True):
        yield


def everything(n: int, k: int) -> dict[str, Any]:
    return {**EVERYTHING, "class_weights": np.resize(WEIGHTS_7, k)}


def shared_mask(n: int, k: int) -> dict[str, Any]:
    labels = labels_of(n, k)
    labels -= labels % 3
    labels[::4] = -100
    where = np.arange(k)[None] % 3 != 2
    return {"labels": labels, "where": where, "ignore_index": -100, **everything(n, k)}


def soft(n: int, k: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    labels = rng.dirichlet(np.ones(k), n).astype(np.float32)
    where = rng.random((n, k)) < 0.6
    where[0] = False
    return {"labels": labels, "where": where, **everything(n, k)}


CASES: dict[str, tuple[Layer, dict[str, Any]]] = {
    "small logits": (layer_of(129, 130, 300, 0.02), {"labels": labels_of(129, 300)}),
    "one feature": (layer_of(1, 1, 2), {"labels": np.array([1])}),
    "everything": (layer_of(140, 5, 200), shared_mask(140, 200)),
    "soft, everything": (layer_of(9, 130, 140), soft(9, 140)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("interpreted")
def test_value_and_gradients_by_kernels(name):
    layer, keywords = CASES[name]
    expected = oracle(layer, **keywords)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda at: loss(at.x, at.kernel, bias=at.bias, **IN_FORWARD, **keywords))
    )(layer)
    assert_close(value, expected.losses.sum(), VALUE["float32"])
    assert_layer_close(gradient, chained(expected.gradient, layer), GRADIENT["float32"])


@pytest.mark.parametrize("name", ["everything", "soft, everything"])
@pytest.mark.usefixtures("interpreted")
def test_statistics_by_the_kernel_and_all_derivatives(name):
    """The losses and statistics, a forward derivative and a gradient of per-row cotangents."""
    layer, keywords = CASES[name]
    along = directions(layer, 4)
    cotangent = np.random.default_rng(2).uniform(0.5, 2, layer.x.shape[0]).astype(np.float32)
    expected = oracle(layer, **keywords)

    @jax.jit
    def evaluate(layer, along):
        def losses(at):
            return loss(at.x, at.kernel, bias=at.bias, return_stats=True, **keywords)

        (value, stats), (derivative, _) = jax.jvp(losses, (layer,), (along,))
        gradient = jax.grad(lambda at: jnp.vdot(losses(at)[0], cotangent))(layer)
        return value, stats, derivative, gradient

    value, stats, derivative, gradient = evaluate(layer, along)
    assert_close(value, expected.losses, VALUE["float32"])
    for field in ("log_normalizer", "label_log_prob", "entropy"):
        assert_close(getattr(stats, field), getattr(expected, field), VALUE["float32"])
    np.testing.assert_array_equal(stats.predicted, expected.predicted)
    (x, kernel, _), (dx, d_kernel, d_bias) = exact(layer), exact(along)
    moves = dx @ kernel + x @ d_kernel + d_bias
    assert_close(derivative, (expected.gradient * moves).sum(-1), GRADIENT["float32"])
    d_logits = cotangent[:, None] * expected.gradient
    assert_layer_close(gradient, chained(d_logits, layer), GRADIENT["float32"])


@pytest.mark.usefixtures("interpreted")
def test_bad_values():
    """Each row keeps what is wrong to itself, in its loss and in the gradient of x."""
    ignore = -100
    layer = layer_of(9, 3, 200)
    layer.x[2], layer.x[6] = NAN, INF
    layer.bias[:130] = -INF  # nothing finite in the first tile
    labels = np.array([150, 199, ignore, -1, 200, 255, 180, 2**31 - 1, 5], np.int32)
    clean = layer._replace(x=np.where(np.isfinite(layer.x), layer.x, 0))
    expected = oracle(clean, labels, ignore_index=ignore)

    @jax.jit
    def evaluate(x):
        def losses(x, **how):
            return loss(x, layer.kernel, labels, layer.bias, ignore_index=ignore, **how)

        return losses(x), jax.grad(lambda x: losses(x, **IN_FORWARD))(x)

    value, gradient = evaluate(layer.x)
    value, gradient = np.array(value), np.asarray(gradient)
    assert np.isnan(value[6])
    assert np.isnan(gradient[6]).all()
    value[6] = expected.losses[6]
    np.testing.assert_allclose(value, expected.losses, rtol=1e-5)
    known = [0, 1, 2]
    d_x = (expected.gradient @ exact(layer).kernel.T)[known]
    np.testing.assert_allclose(gradient[known], d_x, atol=GRADIENT["float32"])
    assert np.isnan(gradient[[3, 4, 5, 7]]).all()
    assert value[8] == INF


@pytest.mark.parametrize("kept", [0, 100, 200])
@pytest.mark.usefixtures("interpreted")
def test_blocks_of_rows_that_do_not_count(kept):
    """Masked rows hold NaN, and so would every result that read them."""
    layer, labels = layer_of(300, 3, 140), labels_of(300, 140)
    labels[kept:] = -1
    layer.x[kept:] = NAN
    expected = oracle(layer._replace(x=np.nan_to_num(layer.x)), labels, ignore_index=-1)
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda at: loss(
                at.x,
                at.kernel,
                labels,
                at.bias,
                ignore_index=-1,
                reduction="mean",
                gradients_in_forward=True,
            )
        )
    )(layer)
    assert_close(value, expected.mean, VALUE["float32"])
    d_logits = expected.gradient / max(kept, 1)
    known = chained(d_logits, layer._replace(x=np.nan_to_num(layer.x)))
    assert_layer_close(gradient, known, GRADIENT["float32"])


@pytest.mark.usefixtures("interpreted")
def test_half_precision():
    layer, keywords = CASES["everything"]
    half = Layer(*(jnp.asarray(a, jnp.bfloat16) for a in layer))
    expected = oracle(half, **keywords)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda at: loss(at.x, at.kernel, bias=at.bias, **IN_FORWARD, **keywords))
    )(half)
    assert value.dtype == jnp.float32
    assert {g.dtype for g in gradient} == {jnp.dtype(jnp.bfloat16)}
    assert_close(value, expected.losses.sum(), VALUE["bfloat16"])
    assert_layer_close(gradient, chained(expected.gradient, half), GRADIENT["bfloat16"])


@pytest.mark.usefixtures("interpreted")
def test_mixed_precision_is_that_of_float32():
    layer, keywords = CASES["everything"]
    mixed = layer._replace(kernel=jnp.asarray(layer.kernel, jnp.bfloat16))
    expected = oracle(mixed, **keywords)
    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda x: loss(x, mixed.kernel, bias=layer.bias, **IN_FORWARD, **keywords)
        )
    )(layer.x)
    assert_close(value, expected.losses.sum(), VALUE["float32"])
    assert_close(gradient, chained(expected.gradient, mixed).x, GRADIENT["float32"])


@pytest.mark.parametrize("name", ["everything", "soft, everything"])
@pytest.mark.usefixtures("interpreted")
def test_gradients_in_statistics_and_in_what_no_kernel_knows(name):
    """Differences of the oracle agree: for scalars and weights by XLA, for the layer by kernels."""
    layer, keywords = CASES[name]
    keywords = dict(keywords)
    fixed = {n: keywords.pop(n) for n in ("labels", "where", "ignore_index") if n in keywords}
    scalars = {n: np.asarray(x, np.float32) for n, x in keywords.items()}
    shares = {"log_normalizer": 1.0, "label_log_prob": -0.7, "entropy": 0.4}

    def summed(losses: Any, stats: Any) -> Any:
        return losses.sum() + sum(s * getattr(stats, n).sum() for n, s in shares.items())

    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradient(layer, scalars):
        x, kernel, bias = layer
        result = loss(x, kernel, bias=bias, return_stats=True, **IN_FORWARD, **fixed, **scalars)
        return summed(*result)

    rng = np.random.default_rng(3)
    at = (exact(layer), scalars)
    along = jax.tree.map(lambda a: rng.standard_normal(np.shape(a)), at)

    def value(step: float) -> float:
        moved = jax.tree.map(lambda a, b: a + step * b, at, along)
        expected = oracle(moved[0], **fixed, **moved[1])
        return summed(expected.losses, expected)

    difference = (value(1e-6) - value(-1e-6)) / 2e-6
    products = jax.tree.map(
        lambda a, b: np.vdot(np.asarray(a, np.float64), b), gradient(layer, scalars), along
    )
    assert_close(sum(jax.tree.leaves(products)), difference, GRADIENT["float32"])


@pytest.mark.usefixtures("interpreted")
def test_second_order_by_kernels_and_no_forward_mode():
    layer, keywords = CASES["everything"]
    along = directions(layer, 4)
    step = 1e-6

    def gradient_at(step: float) -> Layer:
        moved = Layer(*(a + step * b for a, b in zip(exact(layer), exact(along), strict=True)))
        return chained(oracle(moved, **keywords).gradient, moved)

    def total(at):
        return loss(at.x, at.kernel, bias=at.bias, **IN_FORWARD, **keywords)

    def slope(at):
        return sum(jnp.vdot(g, v) for g, v in zip(jax.grad(total)(at), along, strict=True))

    got = jax.jit(jax.grad(slope))(layer)
    plus, minus = gradient_at(step), gradient_at(-step)
    expected = [(a - b) / (2 * step) for a, b in zip(plus, minus, strict=True)]
    assert_layer_close(got, expected, GRADIENT["float32"])
    with pytest.raises(TypeError, match="gradients_in_forward: expected False in forward mode"):
        jax.jvp(total, (layer,), (along,))


@pytest.mark.parametrize("batched", ["x", "kernel"])
@pytest.mark.usefixtures("interpreted")
def test_vmap(batched):
    x, kernel, _ = layer_of(10, 3, 140)
    labels = labels_of(5, 140)
    if batched == "x":
        arguments, axes = (x.reshape(2, 5, 3), kernel), (0, None)
    else:
        arguments, axes = (x[:5], np.stack([kernel, 2 * kernel])), (None, 0)

    def evaluate(x, kernel):
        losses = loss(x, kernel, labels)
        return losses, jax.grad(lambda *at: loss(*at, labels, **IN_FORWARD), (0, 1))(x, kernel)

    losses, gradients = jax.jit(jax.vmap(evaluate, axes))(*arguments)
    for i in range(2):
        x, kernel = (a if axis is None else a[i] for a, axis in zip(arguments, axes, strict=True))
        layer = Layer(x, kernel, np.zeros(140))
        expected = oracle(layer, labels)
        assert_close(losses[i], expected.losses, VALUE["float32"])
        known = chained(expected.gradient, layer)[:2]
        assert_layer_close([g[i] for g in gradients], known, GRADIENT["float32"])


@pytest.mark.usefixtures("interpreted")
def test_no_rows():
    layer = Layer(jnp.zeros((0, 3)), jnp.ones((3, 5)), None)
    labels = jnp.zeros(0, jnp.int32)
    assert loss(layer.x, layer.kernel, labels).shape == (0,)
    gradient = jax.grad(lambda w: loss(layer.x, w, labels, **IN_FORWARD))(layer.kernel)
    np.testing.assert_array_equal(gradient, np.zeros((3, 5)))


def sizes(jaxpr: Any) -> set[int]:
    """Sizes of all arrays outside of the kernels."""
    found = {v.aval.size for eqn in jaxpr.eqns for v in eqn.outvars}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(eqn.params):
                found |= sizes(inner)
    return found


@pytest.mark.usefixtures("interpreted")
def test_nothing_has_the_size_of_the_logits():
    n, d, k = 1000, 8, 1100
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((n, d), (d, k))]
    labels = jnp.zeros(n, jnp.int32)
    gradients = jax.value_and_grad(lambda *at: loss(*at, labels, **IN_FORWARD), (0, 1))
    assert max(sizes(jax.make_jaxpr(gradients)(*shapes).jaxpr)) <= 8 * max(n, k)


def traced(n: int, d: int, k: int, dtype: Any, **keywords: Any) -> tuple[Any, list[Any]]:
    shapes = [jax.ShapeDtypeStruct(shape, dtype) for shape in ((n, d), (d, k), (k,))]
    labels = jax.ShapeDtypeStruct((n,), jnp.int32)
    keywords = {"gradients_in_forward": True, "reduction": "mean", **keywords}
    return lambda x, w, b, y: loss(x, w, y, b, **keywords), [*shapes, labels]


LOWERED = {
    "plain": traced(9, 5, 10, jnp.float32),
    "large": traced(8192, 4096, 128256, jnp.bfloat16),
    "ragged": traced(1000, 1000, 1001, jnp.bfloat16),
    "everything": traced(
        9, 700, 7, jnp.float32, where=np.arange(63).reshape(9, 7) % 3 != 0, **EVERYTHING
    ),
}


@pytest.mark.parametrize("name", LOWERED)
def test_lowers_for_tpu(name):
    function, arguments = LOWERED[name]
    text = lowered_for_tpu(jax.value_and_grad(function, (0, 1, 2)), *arguments)
    assert text.count("tpu_custom_call") >= 3


def test_lowers_under_vmap():
    function, arguments = traced(300, 5, 10, jnp.float32)
    batch = [jax.ShapeDtypeStruct((2, *a.shape), a.dtype) for a in arguments]
    text = lowered_for_tpu(jax.vmap(jax.value_and_grad(function, (0, 1, 2))), *batch)
    assert "tpu_custom_call" in text


def test_lowers_with_64_bit_integers():
    with jax.enable_x64(True):
        function, (*arguments, _) = traced(300, 5, 10, jnp.float32, ignore_index=-1)
        labels = jax.ShapeDtypeStruct((300,), jnp.int64)
        text = lowered_for_tpu(jax.value_and_grad(function, (0, 1, 2)), *arguments, labels)
    assert "tpu_custom_call" in text


def test_needs_a_tpu():
    with pytest.raises(NotImplementedError, match="expected a TPU for 'mosaic_tpu', got "):
        loss(jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.zeros(2, jnp.int32))


@pytest.mark.parametrize(
    ("x", "kernel", "expected"),
    [
        ((2, 3), "float16", "x: expected bfloat16 or float32 for 'mosaic_tpu', got float16"),
        ((2, 0), "float32", "x: expected at least one feature for 'mosaic_tpu', got none"),
        ((2, 10**6), "float32", "x: expected rows of which 128 fit in 33554432 bytes, got"),
    ],
)
@pytest.mark.usefixtures("interpreted")
def test_refused_before_it_is_compiled(x, kernel, expected):
    features = jax.ShapeDtypeStruct(x, kernel)
    layer = jax.ShapeDtypeStruct((x[1], 4), kernel)
    labels = jnp.zeros(2, jnp.int32)
    with pytest.raises(NotImplementedError, match=expected):
        jax.eval_shape(jax.grad(lambda x, w: loss(x, w, labels, **IN_FORWARD)), features, layer)


@pytest.mark.parametrize("shape", [(1, 1, 2), (8192, 4096, 128256), (100, 50000, 1000)], ids=str)
@pytest.mark.parametrize("of", [None, "x", "kernel"])
def test_tiles_cover_no_more_than_the_arrays_need(shape, of):
    n, d, k = shape
    x: Any = jax.ShapeDtypeStruct((n, d), jnp.bfloat16)
    kernel: Any = jax.ShapeDtypeStruct((d, k), jnp.bfloat16)
    layer = LinearLayer(x, kernel)
    whole = linear_blocks.LayerShape(n, k, d)
    tile = linear_blocks.tile_sizes(layer, Rows(None), whole, 9, of)
    for size, full in zip(tile[:2], whole[:2], strict=True):
        assert size % 128 == 0
        assert size - 128 < full
    assert tile.features == min(d, 512) or d % tile.features == 0
