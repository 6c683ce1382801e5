"""Residuals, allocations, traces and compilations of a loss."""

import chex
import jax
import jax.monitoring
import jax.numpy as jnp
import pytest

import xentjax
from tests.support.compiled import temporary_bytes
from tests.support.residuals import residual_bytes

loss = xentjax.softmax_cross_entropy_with_integer_labels


@pytest.mark.parametrize(
    "keywords",
    [{}, {"label_smoothing": 0.1, "z_loss": 1e-3, "logit_soft_cap": 5.0, "temperature": 2.0}],
    ids=["plain", "keywords"],
)
def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row(keywords):
    n, k = 64, 512
    logits, labels = jnp.zeros((n, k)), jnp.zeros(n, jnp.int32)
    kept = residual_bytes(lambda x: loss(x, labels, reduction="mean", **keywords), logits)
    assert 0 < kept <= 32 * n  # the labels are among them


@pytest.mark.parametrize("mode", ["value_and_grad", "donated step"])
@pytest.mark.parametrize("shape", [(128, 1024), (4, 32768)], ids=str)
def test_no_temporary_of_the_logits_size(mode, shape):
    logits, labels = jnp.zeros(shape), jnp.zeros(shape[0], jnp.int32)
    value_and_grad = jax.value_and_grad(lambda x: loss(x, labels, reduction="mean"))

    def step(x):
        value, gradient = value_and_grad(x)
        return value, x - 0.1 * gradient

    if mode == "value_and_grad":
        compiled = jax.jit(value_and_grad)
    else:
        compiled = jax.jit(step, donate_argnums=0)
    assert temporary_bytes(compiled, logits) <= 0.05 * logits.nbytes + 16 * shape[0]


@pytest.mark.parametrize(
    ("function", "most"),
    [
        (lambda x, y: xentjax.brier_score(x, y[:, 0].astype(jnp.int32), reduction="mean"), 1),
        (lambda x, y: xentjax.brier_score(x, y, reduction="mean"), 0),
        (lambda x, y: xentjax.kl_divergence_with_logits(y, x, 2.0, reduction="mean"), 2),
    ],
    ids=["brier, labels", "brier, pmfs", "kl, student"],
)
def test_temporaries_of_value_and_gradient(function, most):
    x, y = jnp.zeros((2, 128, 1024))
    compiled = jax.jit(jax.value_and_grad(function))
    assert temporary_bytes(compiled, x, y) <= (most + 0.05) * x.nbytes + 16 * len(x)


def test_one_trace_a_shape():
    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(x, y, smoothing):
        return jax.value_and_grad(
            lambda x: loss(x, y, label_smoothing=smoothing, reduction="mean")
        )(x)

    labels = jnp.zeros(4, jnp.int32)
    for seed, smoothing in enumerate((0.0, 0.1, 0.2)):
        step(jax.random.normal(jax.random.key(seed), (4, 5)), labels, jnp.float32(smoothing))


def test_eager_calls_of_one_shape_compile_once():
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compilations.append(event)

    labels, logits = jnp.zeros(4, jnp.int32), jnp.ones((4, 5))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loss(logits, labels, label_smoothing=0.1)
        first = len(compilations)
        for smoothing in (0.2, 0.3):
            loss(logits, labels, label_smoothing=smoothing)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(compilations) == first
