"""Batch normalisation against float64, and its gradient against difference quotients."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.backend import DATA
from experiments.cifar10.network.norm import NORM_EPSILON, BatchNorm

SHAPE = (4, 2, 3, 5)
MOMENTUM = 0.6
WEIGHTS = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def data(*, mean: float = 1.0) -> np.ndarray:
    """[N, H, W, C], every channel with its own size."""
    rng = np.random.default_rng(0)
    return ((rng.normal(size=SHAPE) + mean) * np.arange(1, 6)).astype(np.float32)


def reference(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Normalise by the statistics of the batch, in float64."""
    x = x.astype(np.float64)
    deviation = np.sqrt(x.var((0, 1, 2)) + NORM_EPSILON)
    return (x - x.mean((0, 1, 2))) / deviation * scale + bias


def apply_in_parts(params: Any, x: np.ndarray, parts: int, *, train: bool) -> Any:
    """Result, running statistics and the gradients of sum(weights * result) for params and x.

    The parts of the batch are on an axis, as devices are.
    """
    layer = BatchNorm(MOMENTUM, jnp.float32, train, use_scale="scale" in params)
    statistics = {"mean": jnp.full(SHAPE[-1:], 2.0), "var": jnp.full(SHAPE[-1:], 3.0)}

    def one(part: jax.Array, weights: jax.Array) -> Any:
        def apply(params: Any, part: jax.Array) -> Any:
            variables = {"params": params, "batch_stats": statistics}
            return layer.apply(variables, part, mutable=["batch_stats"])

        y, transpose, state = jax.vjp(apply, params, part, has_aux=True)
        of_params, of_part = transpose(weights)
        return y, state["batch_stats"], jax.lax.psum(of_params, DATA), of_part

    split = [jnp.asarray(each).reshape(parts, -1, *SHAPE[1:]) for each in (x, WEIGHTS)]
    y, state, of_params, of_x = jax.jit(jax.vmap(one, axis_name=DATA))(*split)
    state, of_params = jax.tree.map(lambda leaf: leaf[0], (state, of_params))
    return y.reshape(SHAPE), state, of_params, of_x.reshape(SHAPE)


def parameters(*, use_scale: bool) -> dict[str, np.ndarray]:
    bias = np.linspace(-1, 1, SHAPE[-1], dtype=np.float32)
    return {"bias": bias} | ({"scale": bias + 2.0} if use_scale else {})


@pytest.mark.parametrize("use_scale", [False, True], ids=["bias", "scale and bias"])
@pytest.mark.parametrize("parts", [1, 2])
def test_result_and_gradients_of_a_split_batch(parts, use_scale):
    x, params = data(), parameters(use_scale=use_scale)
    y, _, of_params, of_x = apply_in_parts(params, x, parts, train=True)
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    scale = exact.get("scale", np.ones(SHAPE[-1]))
    np.testing.assert_allclose(y, reference(x, scale, exact["bias"]), rtol=1e-5, atol=1e-5)

    normalized = reference(x, np.ones(SHAPE[-1]), np.zeros(SHAPE[-1]))
    np.testing.assert_allclose(of_params["bias"], WEIGHTS.sum((0, 1, 2)), rtol=1e-5, atol=1e-5)
    if use_scale:
        expected = (WEIGHTS * normalized).sum((0, 1, 2))
        np.testing.assert_allclose(of_params["scale"], expected, rtol=1e-5, atol=1e-5)

    step = 1e-4
    for index in [(0, 0, 0, 0), (1, 1, 2, 3), (3, 0, 1, 4)]:
        up, down = x.astype(np.float64), x.astype(np.float64)
        up[index] += step
        down[index] -= step
        change = reference(up, scale, exact["bias"]) - reference(down, scale, exact["bias"])
        slope = (change * WEIGHTS).sum() / (2 * step)
        np.testing.assert_allclose(of_x[index], slope, rtol=1e-4, atol=1e-5)


def test_running_statistics_follow_the_batch():
    x = data()
    statistics = apply_in_parts(parameters(use_scale=False), x, 2, train=True)[1]
    exact = x.astype(np.float64)
    for name, old, batch in (
        ("mean", 2.0, exact.mean((0, 1, 2))),
        ("var", 3.0, exact.var((0, 1, 2))),
    ):
        expected = MOMENTUM * old + (1 - MOMENTUM) * batch
        np.testing.assert_allclose(statistics[name], expected, rtol=1e-5)


def test_without_training_the_running_statistics_are_used():
    x, params = data(), parameters(use_scale=True)
    y, statistics, *_ = apply_in_parts(params, x, 1, train=False)
    expected = (x - 2.0) / np.sqrt(3.0 + NORM_EPSILON) * params["scale"] + params["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    assert set(np.asarray(statistics["mean"])) == {2.0}


def test_sums_of_many_rows_round_little():
    x = np.random.default_rng(3).normal(1.0, 1.0, (64, 24, 24, 4)).astype(np.float32)
    layer = BatchNorm(0.0, jnp.float32, train=True, use_scale=False)
    statistics = {"mean": jnp.zeros(4), "var": jnp.ones(4)}
    variables = {"params": {"bias": jnp.zeros(4)}, "batch_stats": statistics}

    def one(part: jax.Array) -> Any:
        return layer.apply(variables, part, mutable=["batch_stats"])[1]["batch_stats"]

    actual = jax.jit(jax.vmap(one, axis_name=DATA))(x[None])
    exact = x.astype(np.float64)
    np.testing.assert_allclose(actual["mean"][0], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(actual["var"][0], exact.var((0, 1, 2)), rtol=2e-5)
