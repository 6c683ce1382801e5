"""The choice of an implementation: the table decides, a kernel that cannot gives way aloud."""

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from xentjax.ops import choice, mosaic_gpu
from xentjax.ops.choice import Case, Measured, fastest

FAST = Measured("cpu", "logits", "float32", 100, 1000, "mosaic_gpu", 1.5)
TABLE = (
    FAST,
    FAST._replace(implementation="mosaic_tpu", times_as_fast=1.2),
    FAST._replace(implementation="reference", dtype="bfloat16"),
    FAST._replace(implementation="reference", device_kind="abacus", times_as_fast=9.0),
    FAST._replace(implementation="reference", operation="linear"),
)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (("logits", jnp.float32, 100), "mosaic_gpu"),
        (("logits", jnp.float32, 1000), "mosaic_gpu"),
        (("logits", jnp.float32, 99), "xla"),
        (("logits", jnp.float32, 1001), "xla"),
        (("logits", jnp.float16, 500), "xla"),
        (("logits", jnp.bfloat16, 500), "reference"),
        (("linear", jnp.float32, 500), "reference"),
    ],
    ids=str,
)
def test_the_fastest_measured_here(case, expected, monkeypatch):
    monkeypatch.setattr(choice, "MEASURED", TABLE)
    assert fastest(Case(*case)) == expected


def test_without_a_measurement_it_is_xla():
    assert {fastest(Case(*row[1:4])) for row in TABLE} == {"xla"}


@pytest.mark.parametrize("operation", ["logits", "linear"])
def test_a_kernel_that_cannot_gives_way_and_says_so_once(operation, monkeypatch):
    """On a GPU too old for it."""
    monkeypatch.setattr(mosaic_gpu, "_compute_capability", lambda: "8.0")
    monkeypatch.setattr(choice, "MEASURED", (FAST._replace(operation=operation),))
    monkeypatch.setattr(choice, "_warn_once", choice.functools.cache(choice._warn_once.__wrapped__))
    labels = np.array([3, 4])

    def loss(num_classes):
        if operation == "linear":
            x, kernel = jnp.ones((2, 1)), jnp.ones((1, num_classes))
            return xentjax.linear_softmax_cross_entropy(x, kernel, labels)
        logits = jnp.ones((2, num_classes))
        return xentjax.softmax_cross_entropy_with_integer_labels(logits, labels)

    line = "implementation: 'mosaic_gpu' is the fastest here, but .*got 8.0; used 'xla'$"
    with pytest.warns(UserWarning, match=line) as said:
        np.testing.assert_allclose(loss(201), np.log(201), rtol=1e-6)
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(loss(202), np.log(202), rtol=1e-6)


@pytest.mark.parametrize("operation", ["logits", "linear"])
def test_a_kernel_is_chosen_for_its_platform_alone(operation, monkeypatch):
    """Whatever device was measured: the program may be for another machine."""
    dtype = "float32" if operation == "logits" else "bfloat16"
    monkeypatch.setattr(choice, "MEASURED", (FAST._replace(operation=operation, dtype=dtype),))
    labels = np.array([3, 4])
    if operation == "logits":
        arguments: Any = (jnp.ones((2, 204)),)
        function: Any = xentjax.softmax_cross_entropy_with_integer_labels
    else:
        arguments = jnp.ones((2, 64), dtype), jnp.ones((64, 204), dtype)
        function = xentjax.linear_softmax_cross_entropy
    loss = jax.jit(lambda *at: function(*at, labels))

    traced = loss.trace(*arguments)
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("mosaic_gpu" in text) == (platform == "cuda")
    np.testing.assert_allclose(loss(*arguments), np.log(204), rtol=1e-6)


def test_a_named_kernel_that_cannot_raises(monkeypatch):
    monkeypatch.setattr(choice, "MEASURED", TABLE)
    with pytest.raises(NotImplementedError, match="implementation: expected a TPU"):
        xentjax.softmax_cross_entropy_with_integer_labels(
            jnp.ones((2, 203)), np.array([3, 4]), implementation="mosaic_tpu"
        )
