"""Random configurations of the two softmax cross-entropies, value and gradient, against float64.

Hypothesis draws what is compiled (shape, axes, dtypes, keywords); each of these then meets several
draws of the numbers, extreme ones among them, as data of one compiled function.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.oracles import cross_entropy as oracles
from tests.support.random_problems import (
    Layout,
    assert_within,
    random_where,
    rounding,
    single,
    spoil,
)
from tests.support.tolerances import GRADIENT, RANDOM_GRADIENT, RANDOM_VALUE, VALUE

# Row dimensions and class dimensions: more than one class dimension are several axes.
SHAPES = [
    ((), (7,)),
    ((4,), (1,)),
    ((3,), (2,)),
    ((1,), (40,)),
    ((2, 3), (5,)),
    ((4,), (2, 3)),
    ((2, 1, 2), (13,)),
]
DTYPES = ["float32", "float32", "bfloat16", "float16", "float64"]


@st.composite
def layouts(draw) -> Layout:
    rows, classes = draw(st.sampled_from(SHAPES))
    ndim = len(rows) + len(classes)
    axes = tuple(draw(st.permutations(range(ndim)))[: len(classes)])
    signed = tuple(a - ndim * draw(st.booleans()) for a in axes)
    single = len(axes) == 1 and draw(st.booleans())
    return Layout(rows, classes, axes, signed[0] if single else signed)


@dataclass(frozen=True)
class Configuration:
    """Everything of one call that decides what is compiled."""

    soft: bool
    layout: Layout
    dtype: str
    label_dtype: str
    where: str | None
    scalars: dict[str, Any] = field(default_factory=dict)
    weighted: bool = False


@st.composite
def configurations(draw) -> Configuration:
    def maybe(strategy):
        return draw(strategy) if draw(st.booleans()) else None

    soft = draw(st.booleans())
    scalars = {
        "label_smoothing": maybe(st.sampled_from([0.0625, 0.3, 1.0])),
        "z_loss": maybe(st.sampled_from([1e-4, 0.1])),
        "logit_soft_cap": maybe(st.sampled_from([0.5, 30.0])),
        "temperature": maybe(st.sampled_from([0.3, 0.5, 7.0])),
        "reduction": maybe(st.sampled_from(["none", "sum", "mean"])),
        "return_stats": maybe(st.just(True)),
        "ignore_index": None if soft else maybe(st.sampled_from([0, -1, -100, 300])),
    }
    labels = ["float32", "bfloat16", "int32", "bool"] if soft else ["int32", "int8", "uint8"]
    return Configuration(
        soft=soft,
        layout=draw(layouts()),
        dtype=draw(st.sampled_from(DTYPES)),
        label_dtype=draw(st.sampled_from(labels)),
        where=draw(st.sampled_from([None, "classes", "shared", "size 1", "rows", "one row"])),
        scalars={name: value for name, value in scalars.items() if value is not None},
        weighted=draw(st.booleans()),
    )


def random_logits(layout: Layout, dtype: str, rng: Any) -> np.ndarray:
    """[*rows, K]: scales from 1e-3 to 1e3, and offsets as large as the dtype takes."""
    x = rng.standard_normal((*layout.rows, layout.num_classes)) * 10.0 ** rng.uniform(-3, 3)
    offset = rng.choice([0.0, 0.0, -30.0, 1e4 if dtype == "float16" else 1e5])
    return (x + offset).astype(jnp.dtype(dtype))


def random_call(c: Configuration, rng: Any) -> tuple[Any, Any, dict[str, Any]]:
    """Logits, labels and the keywords that are arrays."""
    layout, k = c.layout, c.layout.num_classes
    x = random_logits(layout, c.dtype, rng)
    where = random_where(c.where, layout, rng)
    mask = np.ones(x.shape, bool)
    if where is not None:
        mask &= where if where.ndim == x.ndim else where[..., None]
    indices = np.asarray(rng.integers(0, k, layout.rows))
    arrays: dict[str, Any] = {}
    if not c.soft:
        ignored = c.scalars.get("ignore_index")
        if c.scalars.get("reduction") != "mean" and rng.random() < 0.3:
            indices[rng.random(layout.rows) < 0.4] = k
        limits = np.iinfo(c.label_dtype)
        if ignored is not None and limits.min <= ignored <= limits.max:
            indices[rng.random(layout.rows) < 0.4] = ignored
            mask &= (indices != ignored)[..., None]
        labels = indices.astype(c.label_dtype)
    elif c.label_dtype in ("int32", "bool"):
        labels = layout.array(np.eye(k)[indices]).astype(c.label_dtype)
    else:
        mass = rng.gamma(0.5, size=x.shape) * (rng.random(x.shape) < 0.8)
        labels = layout.array(mass / np.maximum(mass.sum(-1, keepdims=True), 1e-3))
        labels = labels.astype(jnp.dtype(c.label_dtype))
    spoil(x, mask, rng)
    if where is not None:
        arrays["where"] = layout.array(where) if where.ndim == x.ndim else where
    if c.weighted:
        arrays["class_weights"] = (rng.gamma(1.0, size=k) * (rng.random(k) < 0.8)).astype("f4")
    return layout.array(x), labels, arrays


def bounds(dtype: str) -> tuple[float, float]:
    if dtype == "float64":
        return VALUE["float64"], GRADIENT["float64"]
    return RANDOM_VALUE, RANDOM_GRADIENT


def check_cross_entropy(c: Configuration, seed: int, draws: int) -> None:
    loss = (
        xentjax.softmax_cross_entropy
        if c.soft
        else xentjax.softmax_cross_entropy_with_integer_labels
    )
    scalars = {n: single(v) if isinstance(v, float) else v for n, v in c.scalars.items()}

    @jax.jit
    def evaluate(x, labels, arrays):
        def total(x):
            result = loss(x, labels, c.layout.axis, **scalars, **arrays)
            losses, stats = result if c.scalars.get("return_stats") else (result, None)
            return jnp.sum(losses), (losses, stats)

        (_, results), gradient = jax.value_and_grad(total, has_aux=True)(x)
        return *results, gradient

    oracle_keywords = {n: v for n, v in scalars.items() if n not in ("reduction", "return_stats")}
    reduction = c.scalars.get("reduction", "none")
    value_bound, gradient_bound = bounds(c.dtype)
    for i in range(draws):
        x, labels, arrays = random_call(c, np.random.default_rng((seed, i)))
        with jax.enable_x64(c.dtype == "float64"):
            losses, stats, gradient = evaluate(x, labels, arrays)
        assert losses.dtype == ("float64" if c.dtype == "float64" else "float32")
        assert gradient.dtype == c.dtype
        expected = oracles.cross_entropy(
            x,
            labels.astype(np.float64) if c.soft else labels,
            c.layout.axis,
            **oracle_keywords,
            **arrays,
        )
        share = 1.0
        with np.errstate(invalid="ignore"):
            if reduction == "none":
                assert_within(losses, expected.losses, value_bound * expected.value_scale)
            else:
                if reduction == "mean":
                    share = 1 / expected.denominator if expected.denominator else 0.0
                total = expected.losses.sum() if reduction == "sum" else expected.mean
                assert_within(losses, total, value_bound * share * expected.value_scale.sum())
        scale = np.broadcast_to(
            expected.gradient_scale[..., None], (*c.layout.rows, c.layout.num_classes)
        )
        with np.errstate(invalid="ignore"):
            expected_gradient = expected.gradient * share
        assert_within(
            gradient,
            expected_gradient,
            gradient_bound * share * c.layout.array(scale)
            + rounding(c.dtype) * np.abs(expected_gradient),
        )
        if stats is not None:
            check_stats(stats, expected, value_bound, x, c.layout.axis, oracle_keywords, arrays)


def check_stats(stats, expected, bound, x, axis, keywords, arrays) -> None:
    adjustments = {n: v for n, v in keywords.items() if n in ("logit_soft_cap", "temperature")}
    where = arrays.get("where")

    def log_prob(labels):
        return oracles.cross_entropy(x, labels, axis, where, **adjustments)

    # The classes that a float32 argmax may confuse have the same probability but for rounding.
    likeliest, got = log_prob(expected.predicted), log_prob(np.asarray(stats.predicted))
    scale = likeliest.value_scale
    assert_within(got.label_log_prob, likeliest.label_log_prob, bound * scale)
    largest = np.abs(expected.log_normalizer)
    assert_within(
        stats.log_normalizer, expected.log_normalizer, bound * (scale + largest + np.log(40))
    )
    assert_within(stats.entropy, expected.entropy, bound * scale * (1 + np.log(40)))
    finite = np.where(np.isfinite(expected.label_log_prob), expected.label_log_prob, 0)
    assert_within(stats.label_log_prob, expected.label_log_prob, bound * (scale + np.abs(finite)))


@pytest.mark.slow
@settings(max_examples=90, deadline=None, derandomize=True)
@given(c=configurations(), seed=st.integers(0, 2**32 - 1))
def test_cross_entropies(c, seed):
    check_cross_entropy(c, seed, draws=4)


def test_a_bad_label_under_a_soft_cap_makes_every_entry_nan():
    logits, labels = np.array([[-np.inf, 1.0, 2.0]], np.float32), np.array([7], np.int32)
    gradient = jax.grad(
        lambda x: jnp.sum(
            xentjax.softmax_cross_entropy_with_integer_labels(x, labels, logit_soft_cap=5.0)
        )
    )(logits)
    assert np.isnan(gradient).all()
