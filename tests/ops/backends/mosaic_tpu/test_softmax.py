"""Softmax and log_softmax by the TPU kernel: interpreted against float64, and lowered."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.kernels import lowered_for_tpu
from tests.support.oracles.softmax import normalized
from tests.support.tolerances import GRADIENT, VALUE
from xentjax.ops.backends import contexts
from xentjax.ops.backends.mosaic_tpu import softmax as kernel

pytestmark = pytest.mark.kernels

INF = np.inf
FUNCTIONS: dict[str, Any] = {
    name: partial(getattr(xentjax, name), implementation="mosaic_tpu")
    for name in ("log_softmax", "softmax")
}


@pytest.fixture(params=FUNCTIONS)
def name(request):
    return request.param


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(kernel, "_MOST_ROWS", 16)
    with contexts.interpret_for_tpu(True):
        yield


@pytest.mark.parametrize("shape", [(1, 2), (37, 129), (3, 5, 1000)], ids=str)
@pytest.mark.usefixtures("interpreted")
def test_value_and_derivatives(name, shape):
    rng = np.random.default_rng(shape)
    logits = (3 * rng.standard_normal(shape)).astype(np.float32)
    direction = rng.standard_normal(shape)
    weight = rng.standard_normal(shape).astype(np.float32)

    @jax.jit
    def evaluate(x, dx):
        value, derivative = jax.jvp(FUNCTIONS[name], (x,), (dx,))
        return value, derivative, jax.grad(lambda x: jnp.vdot(FUNCTIONS[name](x), weight))(x)

    value, derivative, gradient = evaluate(logits, direction.astype(np.float32))
    np.testing.assert_allclose(
        value, normalized(name, logits), rtol=VALUE["float32"], atol=VALUE["float32"]
    )
    step = 1e-6
    moved = (normalized(name, logits + s * step * direction) for s in (1, -1))
    difference = np.subtract(*moved) / (2 * step)
    atol = 10 * VALUE["float32"]
    np.testing.assert_allclose(derivative, difference, rtol=GRADIENT["float32"], atol=atol)
    slope = np.vdot(np.asarray(gradient, np.float64), direction)
    np.testing.assert_allclose(
        slope,
        np.vdot(difference, weight),
        rtol=GRADIENT["float32"],
        atol=atol * np.sqrt(logits.size),
    )


@pytest.mark.parametrize("kind", ["classes", "rows"])
@pytest.mark.usefixtures("interpreted")
def test_where(name, kind):
    logits = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, INF], [0.5, 0.25, 0.125]], np.float32)
    where = full = np.array([[True, False, True], [False, False, False], [True, True, True]])
    if kind == "rows":
        where = np.array([[False], [False], [True]])
        full = np.repeat(where, 3, 1)
    got = jax.jit(lambda x: FUNCTIONS[name](x, -1, where))(logits)
    np.testing.assert_allclose(got, normalized(name, logits, -1, full), rtol=VALUE["float32"])


@pytest.mark.usefixtures("interpreted")
def test_extremes(name):
    logits = np.array([[0.0, -INF, 1.0], [1e5, 1e5 + 1, -1e5], [-INF] * 3, [0, np.nan, 1]])
    got = jax.jit(FUNCTIONS[name])(logits.astype(np.float32))
    np.testing.assert_allclose(got, normalized(name, logits), rtol=VALUE["float32"])
    assert np.isnan(got[2:]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.usefixtures("interpreted")
def test_half_precision_and_vmap(name, dtype):
    """A batch along any axis is more rows."""
    logits = jnp.asarray(np.random.default_rng(1).standard_normal((4, 9, 3)), dtype)
    got = jax.jit(jax.vmap(FUNCTIONS[name], 2))(logits)
    assert got.dtype == dtype
    rounding = float(jnp.finfo(dtype).eps)
    expected = normalized(name, np.moveaxis(np.asarray(logits, np.float64), 2, 0))
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rounding, atol=rounding)


@pytest.mark.parametrize("shape", [(3, 10), (8192, 50257)], ids=str)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_lowers_for_tpu(name, shape, dtype):
    logits = jax.ShapeDtypeStruct(shape, dtype)
    gradient = jax.grad(lambda x: jnp.sum(FUNCTIONS[name](x).astype(jnp.float32)))
    assert "tpu_custom_call" in lowered_for_tpu(FUNCTIONS[name], logits)
    lowered_for_tpu(gradient, logits)


@pytest.mark.usefixtures("interpreted")
def test_refuses_rows_that_do_not_fit(name):
    with pytest.raises(NotImplementedError, match="logits: expected rows of at most 2097152 bytes"):
        jax.eval_shape(FUNCTIONS[name], jax.ShapeDtypeStruct((4, 2**18), jnp.float32))


def test_needs_a_tpu(name):
    with pytest.raises(NotImplementedError, match="expected a TPU for 'mosaic_tpu', got "):
        FUNCTIONS[name](jnp.zeros((2, 3)))
