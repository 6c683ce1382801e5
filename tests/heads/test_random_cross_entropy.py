"""Random configurations of the linear cross-entropy, value and gradients, against float64.

Hypothesis draws what is compiled (dtype, tiling, labels, keywords); each of these then meets
several draws of the numbers as data of one compiled function.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.oracles import cross_entropy as oracles
from tests.support.tolerances import RANDOM_GRADIENT, RANDOM_VALUE

# Rows and classes are prime: with these bytes every tiling has several blocks, which overlap.
N, D, K = 131, 5, 41
MAX_BYTES = 14_000
KEYWORDS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.25, "class_weights": True, "reduction": "mean"},
    {"z_loss": 1e-2, "logit_soft_cap": 30.0, "temperature": 0.5, "where": "rows"},
    {"label_smoothing": 0.125, "temperature": 2.0, "where": "classes", "reduction": "mean"},
]
MODES: list[dict[str, Any]] = [
    {"max_bytes": None},
    {"max_bytes": MAX_BYTES},
    {"max_bytes": 4000},
    {"max_bytes": MAX_BYTES, "gradients_in_forward": True},
]


@dataclass(frozen=True)
class Configuration:
    """Everything of one call that decides what is compiled."""

    dtype: str
    soft: bool
    mode: dict[str, Any]
    keywords: dict[str, Any]


def configurations() -> st.SearchStrategy[Configuration]:
    return st.builds(
        Configuration,
        dtype=st.sampled_from(["float32", "bfloat16"]),
        soft=st.booleans(),
        mode=st.sampled_from(MODES),
        keywords=st.sampled_from(KEYWORDS),
    )


def random_layer(dtype: str, rng: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of scales from 1e-3 to 1e2, by large features or by a large kernel, and a bias."""
    scale, of_x = 10.0 ** rng.uniform(-3, 2), 10.0 ** rng.uniform(-2, 2)
    x = of_x * rng.standard_normal((N, D))
    kernel = scale / of_x * rng.standard_normal((D, K))
    bias = scale * rng.standard_normal(K) + rng.choice([0.0, 100.0])
    return x.astype(jnp.dtype(dtype)), kernel.astype(jnp.dtype(dtype)), bias.astype(np.float32)


def random_call(c: Configuration, rng: Any) -> tuple[Any, Any, dict[str, Any]]:
    """The layer, labels and keywords, of which some rows do not count and hold NaN."""
    x, kernel, bias = random_layer(c.dtype, rng)
    arrays = {n: v for n, v in c.keywords.items() if n not in ("reduction", "where")}
    arrays = {n: np.float32(v) for n, v in arrays.items()}
    labels = rng.integers(0, K, N).astype(np.int32)
    if "where" in c.keywords:
        where = rng.random(N if c.keywords["where"] == "rows" else (N, K)) < 0.7
        if where.ndim == 2:
            where[np.arange(N), labels] = True
            where[rng.random(N) < 0.1] = False
        x[~(where if where.ndim == 1 else where.any(-1))] = np.nan
        arrays["where"] = where
    if "class_weights" in arrays:
        arrays["class_weights"] = rng.gamma(1.0, size=K).astype(np.float32)
    if c.soft:
        mass = rng.gamma(0.5, size=(N, K))
        labels = (mass / mass.sum(-1, keepdims=True)).astype(np.float32)
    return (x, kernel, bias), labels, arrays


@partial(jax.jit, static_argnames=("reduction", "how"))
def evaluate(layer, labels, arrays, *, reduction, how):
    def total(layer):
        x, kernel, bias = layer
        return xentjax.linear_softmax_cross_entropy(
            x, kernel, labels, bias, reduction=reduction, **dict(how), **arrays
        )

    return jax.value_and_grad(total)(layer)


def stored_logits(x: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Logits of the naive form: a product that is rounded to the dtype of its factors."""
    product = (x.astype(np.float32) @ kernel.astype(np.float32)).astype(x.dtype)
    return product.astype(np.float32) + bias


def exact(layer: Any) -> list[np.ndarray]:
    return [np.nan_to_num(np.asarray(a, np.float64)) for a in layer]


def gradients(d_logits: np.ndarray, layer: Any) -> list[np.ndarray]:
    x, kernel, _ = exact(layer)
    return [d_logits @ kernel.T, x.T @ d_logits, d_logits.sum(0)]


def sizes(scale: np.ndarray, layer: Any) -> list[np.ndarray]:
    """Sizes of the terms that add up to the gradients, from those of the gradients in logits."""
    return gradients(np.repeat(scale[:, None], K, 1), [np.abs(a) for a in exact(layer)])


@pytest.mark.slow
@settings(max_examples=50, deadline=None, derandomize=True)
@given(c=configurations(), seed=st.integers(0, 2**32 - 1))
def test_error_is_no_larger_than_that_of_stored_logits(c, seed):
    reduction = c.keywords.get("reduction", "sum")
    for i in range(4):
        layer, labels, arrays = random_call(c, np.random.default_rng((seed, i)))
        value, gradient = evaluate(
            layer, labels, arrays, reduction=reduction, how=tuple(c.mode.items())
        )
        assert value.dtype == jnp.float32
        assert [g.dtype for g in gradient] == [a.dtype for a in layer]
        x, kernel, bias = exact(layer)
        true = oracles.cross_entropy(x @ kernel + bias, labels, **arrays)
        naive = oracles.cross_entropy(stored_logits(*layer), labels, **arrays)
        share = 1 / true.denominator if reduction == "mean" else 1.0
        # float32 sums round relative to their terms. So do the logits, whose roundings reach the
        # losses by their gradient, and that by the softmax, which they change by a factor.
        product = np.max(np.abs(x) @ np.abs(kernel) + np.abs(bias), -1)
        scale = share * (true.value_scale + product * true.gradient_scale)
        of_softmax = 2 * RANDOM_VALUE * product / float(arrays.get("temperature", 1.0))
        error = abs(float(value) - share * true.losses.sum())
        assert error <= RANDOM_VALUE * scale.sum(), (error, scale.sum())

        difference = share * np.abs(naive.gradient - true.gradient)
        bounds = zip(
            gradient,
            gradients(share * true.gradient, layer),
            gradients(difference, [np.abs(a) for a in exact(layer)]),
            sizes(share * true.gradient_scale * (RANDOM_GRADIENT + of_softmax), layer),
            gradients(share * np.abs(true.gradient), [np.abs(a) for a in exact(layer)]),
            strict=True,
        )
        rounding = float(jnp.finfo(c.dtype).eps) if c.dtype == "bfloat16" else 0.0
        for got, expected, of_naive, scale, moved in bounds:
            error = np.abs(np.asarray(got, np.float64) - expected)
            # Half-precision products round the cotangent of the logits, and the result once more.
            bound = of_naive + scale + rounding * (moved + np.abs(expected))
            assert (error <= bound).all(), float(np.max(error / np.maximum(bound, 1e-300)))
