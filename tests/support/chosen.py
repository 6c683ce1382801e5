"""Log-probabilities of chosen classes of a linear head and their gradients, in float64."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.support.oracles.heads import head
from tests.support.random_heads import D, K, N
from tests.support.random_problems import assert_within, rounding
from tests.support.tolerances import RANDOM_GRADIENT, RANDOM_VALUE


def scalars_of(arrays: dict[str, Any]) -> dict[str, float]:
    return {n: float(arrays[n]) for n in ("temperature", "logit_soft_cap") if n in arrays}


def heads(arrays: dict[str, Any], indices: np.ndarray) -> list[Any]:
    """The oracle's statistics, for each of the chosen classes [..., m] as the label."""
    arrays = {**arrays, **scalars_of(arrays)}
    return [head(**arrays, labels=np.maximum(of_row, 0)) for of_row in np.moveaxis(indices, -1, 0)]


def few_digits(n: int = N, d: int = D, k: int = K) -> dict[str, Any]:
    """A head whose logits are exact in float32, and have their ties."""
    rng = np.random.default_rng((n, d, k))
    arrays = {"x": (n, d), "kernel": (d, k), "bias": (k,)}
    return {
        name: (np.round(4 * rng.standard_normal(s)) / 4).astype(np.float32)
        for name, s in arrays.items()
    }


def logits_of(arrays: dict[str, Any]) -> np.ndarray:
    """Logits before the softmax in float64; -inf for masked classes."""
    x, kernel = (np.asarray(arrays[n], np.float64) for n in ("x", "kernel"))
    a, scalars = x @ kernel + arrays.get("bias", 0), scalars_of(arrays)
    if cap := scalars.get("logit_soft_cap"):
        a = cap * np.tanh(a / cap)
    a /= scalars.get("temperature", 1.0)
    where = arrays.get("where")
    return a if where is None or where.ndim < a.ndim else np.where(where, a, -np.inf)


def cotangents_of(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(2).uniform(0.5, 2, shape).astype(np.float32)


def assert_random_close(
    arrays: dict[str, Any], indices: Any, log_probs: Any, gradient: Any, cotangents: Any
) -> None:
    """Log-probabilities [..., m] of the indices, and gradients under a cotangent for each."""
    indices, dtype = np.asarray(indices), str(arrays["x"].dtype)
    assert log_probs.dtype == jnp.float32
    assert (np.asarray(log_probs) <= 0).all()
    true, sizes = dict.fromkeys(gradient, 0.0), dict.fromkeys(gradient, 0.0)
    for i, expected in enumerate(heads(arrays, indices)):
        np.testing.assert_array_equal(indices[..., i] >= 0, expected.keep)
        value, slope = expected.label_log_prob, np.abs(expected.slopes["label_log_prob"]).sum(-1)
        bound = RANDOM_VALUE * (1 + np.abs(value) + slope * expected.size)
        assert_within(log_probs[..., i], value, bound)
        cotangent = cotangents[..., i]
        moved = (RANDOM_GRADIENT + 4 * RANDOM_VALUE * expected.size) * cotangent
        for name in gradient:
            true[name] = true[name] + expected.gradients(label_log_prob=cotangent)[name]
            sizes[name] = sizes[name] + expected.gradient_sizes(label_log_prob=moved)[name]
    least = float(jnp.finfo(dtype).smallest_subnormal)
    for name, got in gradient.items():
        assert got.dtype == arrays[name].dtype
        rounded = rounding(dtype) * np.abs(true[name]) + least
        assert_within(got, true[name], sizes[name] + rounded)
