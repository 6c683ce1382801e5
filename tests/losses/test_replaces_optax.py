"""A program that imports these names from optax runs unchanged with xentjax."""

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import xentjax
from tests.support.oracles import cross_entropy as oracles
from tests.support.tolerances import RANDOM_GRADIENT, RANDOM_VALUE
from xentjax import losses

SHAPES = [((5,), -1), ((3, 4), 0), ((2, 5, 3), 1), ((2, 5, 3), -1)]

# The kinds of labels each shared name takes; a name that both gain has to be added here.
LABELS = {
    "poly_loss_cross_entropy": "soft",
    "safe_softmax_cross_entropy": "soft",
    "sigmoid_binary_cross_entropy": "binary",
    "sigmoid_focal_loss": "binary",
    "smooth_labels": "none",
    "softmax_cross_entropy": "soft",
    "softmax_cross_entropy_with_integer_labels": "integer",
}


def public_names(module: Any) -> set[str]:
    return {n for n in dir(module) if not n.startswith("_") and callable(getattr(module, n))}


def test_every_shared_name_is_here():
    assert public_names(optax.losses) & public_names(losses) == set(LABELS)


@pytest.mark.parametrize("name", LABELS)
def test_parameters_keep_place_kind_and_default(name):
    """Parameters that optax has come first; those added here are keyword-only."""
    ours = list(inspect.signature(getattr(xentjax, name)).parameters.values())
    theirs = list(inspect.signature(getattr(optax.losses, name)).parameters.values())
    positional = [p for p in theirs if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    by_name = {p.name: p for p in ours}
    assert [p.name for p in ours[: len(positional)]] == [p.name for p in positional]
    for p in theirs:
        assert (by_name[p.name].kind, by_name[p.name].default) == (p.kind, p.default)
    added = [p for p in ours if p.name not in {q.name for q in theirs}]
    if name == "safe_softmax_cross_entropy":  # the same function as the first, axis and where too
        added = [p for p in added if p.name not in ("axis", "where")]
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in added)


def arguments(name, shape, axis, dtype, masked):
    """Positional and keyword arguments of one call, and the argument to differentiate."""
    rng = np.random.default_rng(len(name) + sum(shape) + axis + masked)
    logits = rng.normal(0, 5, shape).astype(jnp.dtype(dtype))
    mass = rng.gamma(0.5, size=shape)
    soft = (mass / mass.sum(axis, keepdims=True)).astype(jnp.dtype(dtype))
    where = rng.random(shape) < 0.7
    np.moveaxis(where, axis, -1)[..., 0] = True
    mask = {"where": where} if masked else {}
    match LABELS[name]:
        case "integer":
            index = rng.integers(0, shape[axis], np.delete(shape, axis % len(shape)))
            # A label on a masked class is finite in optax and +inf here: see the test below.
            labels = np.zeros_like(index) if masked else index
            return (logits, labels.astype(np.int32), axis), mask
        case "binary":
            keywords = {"alpha": 0.25, "gamma": 1.5} if "focal" in name else {}
            return (logits, (rng.random(shape) < 0.5).astype(jnp.dtype(dtype))), keywords
        case "none":
            # optax leaves alpha / K on masked classes, which are no targets: compared without.
            return (soft, 0.125), {"axis": axis}
    if name == "poly_loss_cross_entropy":
        return (logits, soft), {"axis": axis, "epsilon": 1.5, **mask}
    if name == "safe_softmax_cross_entropy":
        return (np.moveaxis(logits, axis, -1), np.moveaxis(soft, axis, -1)), {}
    return (logits, soft, axis), mask


def takes_a_mask(name):
    return "where" in inspect.signature(getattr(optax.losses, name)).parameters


CALLS = [
    (name, masked) for name in LABELS for masked in (False, True)
    if not masked or (takes_a_mask(name) and name != "smooth_labels")
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize(("name", "masked"), CALLS, ids=lambda x: {True: "where"}.get(x, str(x)))
def test_values_and_gradients(name, masked, shape, axis, dtype):
    """One call works for both; optax in float64 is the oracle."""
    positional, keywords = arguments(name, shape, axis, dtype, masked)

    def value_and_gradient(function, positional):
        def total(x):
            value = function(x, *positional[1:], **keywords)
            return jnp.sum(value), value

        (_, value), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(positional[0])
        return np.asarray(value, np.float64), np.asarray(gradient, np.float64)

    value, gradient = value_and_gradient(getattr(xentjax, name), positional)
    with jax.enable_x64(True):
        wide = tuple(
            jnp.asarray(x, jnp.float64 if jnp.issubdtype(x.dtype, jnp.floating) else None)
            if isinstance(x, np.ndarray) else x
            for x in positional
        )  # fmt: skip
        keywords = {k: jnp.asarray(v) if k == "where" else v for k, v in keywords.items()}
        expected, slope = value_and_gradient(getattr(optax.losses, name), wide)
    # What has the dtype of an argument is rounded to it at the end.
    last = float(jnp.finfo(dtype).eps) if dtype == "bfloat16" else 0.0
    last_value = last if name == "smooth_labels" else 0.0
    for got, wanted, bound in (
        (value, expected, RANDOM_VALUE + last_value),
        (gradient, slope, RANDOM_GRADIENT + last),
    ):
        assert got.shape == wanted.shape
        np.testing.assert_array_less(
            np.abs(got - wanted), bound * np.maximum(1, np.abs(wanted)) + 1e-300
        )


def test_a_label_on_a_masked_class_is_impossible():
    """optax subtracts a masked logit from a normaliser without it: a loss of -97 here."""
    logits, labels = np.array([[1.0, 2.0, 100.0]], np.float32), np.array([2], np.int32)
    where = np.array([[True, True, False]])
    theirs = optax.softmax_cross_entropy_with_integer_labels(
        jnp.asarray(logits), jnp.asarray(labels), where=jnp.asarray(where)
    )
    assert theirs < -97
    ours = xentjax.softmax_cross_entropy_with_integer_labels(logits, labels, where=where)
    np.testing.assert_array_equal(ours, [np.inf])


@pytest.mark.parametrize(
    "name", ["softmax_cross_entropy", "safe_softmax_cross_entropy", "poly_loss_cross_entropy"]
)
def test_an_impossible_class_without_mass(name):
    """optax's first and third are NaN at a logit of -inf; its second has a function of its own."""
    logits = np.array([[1.0, -np.inf, 0.5]], np.float32)
    labels = np.array([[0.25, 0.0, 0.75]], np.float32)
    keywords = {"epsilon": 0.0} if name.startswith("poly") else {}

    def total(x):
        return jnp.sum(getattr(xentjax, name)(x, labels, **keywords))

    value, gradient = jax.value_and_grad(total)(logits)
    expected = oracles.cross_entropy(logits, labels)
    np.testing.assert_allclose(value, expected.losses.sum(), rtol=RANDOM_VALUE)
    np.testing.assert_allclose(gradient, expected.gradient, atol=RANDOM_GRADIENT)
