"""Poly-1 loss: values, derivatives, bad values, against optax."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import check_derivatives, derivatives
from tests.support.oracles import losses as oracles_losses
from tests.support.problems import IMPLEMENTATIONS, PROBLEMS, WEIGHTS_7, Problem
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
poly_loss = xentjax.poly_loss_cross_entropy


def arguments(name):
    return next(p for p in PROBLEMS if p.name == name).arguments()


@pytest.mark.parametrize(
    ("name", "epsilon", "implementation"),
    [
        ("soft", 2.0, "xla"),
        ("soft", -1.0, "reference"),
        ("soft on axis 1", 2.0, "xla"),
        ("soft, class mask", 0.5, "xla"),
        ("soft, class mask", 2.0, "reference"),
    ],
)
def test_poly_loss(name, epsilon, implementation):
    logits, labels, keywords = arguments(name)
    if name == "soft, class mask":
        keywords["class_weights"] = WEIGHTS_7
    check_derivatives(
        partial(poly_loss, labels=labels, epsilon=epsilon, **keywords),
        lambda x: oracles_losses.poly_loss(x, labels, epsilon=epsilon, **keywords),
        logits,
        implementation,
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions(reduction):
    logits, labels, keywords = arguments("soft, row mask")
    del keywords["label_smoothing"]
    losses = oracles_losses.poly_loss(logits, labels, **keywords)
    expected = losses.sum() / (keywords["where"].sum() if reduction == "mean" else 1)
    got = poly_loss(logits, labels, reduction=reduction, **keywords)
    assert_close(got, expected, VALUE["float32"])


def test_epsilon_is_traced_and_differentiable():
    logits, labels, _ = arguments("soft")
    slope = jax.jit(jax.grad(lambda e: jnp.sum(poly_loss(logits, labels, epsilon=e))))(2.0)
    missed = oracles_losses.poly_loss(logits, labels) - oracles_losses.poly_loss(
        logits, labels, epsilon=1.0
    )
    assert_close(slope, missed.sum(), GRADIENT["float32"])


def test_poly_loss_is_differentiable_in_labels_and_class_weights():
    logits, labels, _ = arguments("soft")
    log_p, _ = oracles_losses.log_softmax(logits)
    cost = -log_p + 2 * (1 - np.exp(log_p))
    d_labels, d_weights = jax.grad(
        lambda t, w: jnp.sum(poly_loss(logits, t, class_weights=w)), argnums=(0, 1)
    )(labels, WEIGHTS_7)
    assert_close(d_labels, WEIGHTS_7 * cost, GRADIENT["float32"])
    assert_close(d_weights, (labels * cost).sum(0), GRADIENT["float32"])


def masked_row(x, **keywords):
    targets = jnp.array([0.5, 0.0, 0.5, 0.0])
    return poly_loss(x, targets, where=jnp.array([True, False]), **keywords)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_rows_that_do_not_count_and_impossible_classes(implementation):
    """The class of -inf has no target mass: everything is as if it were at -1e4."""
    run = derivatives(partial(masked_row, reduction="mean"), implementation)
    expected = run([[0.5, -1e4, 2.0, 0.25], [0.0] * 4])
    for garbage in (NAN, INF, -INF, 1e38):
        for got, clean in zip(
            run([[0.5, -INF, 2.0, 0.25], [garbage] * 4]), expected, strict=True
        ):  # fmt: skip
            assert np.isfinite(got).all()
            assert_close(got, clean, GRADIENT["float32"])


def test_impossible_class_with_mass_costs_inf():
    value, gradient, *_ = derivatives(
        lambda x, **k: poly_loss(x, jnp.full((1, 4), 0.25), **k), "xla"
    )([[0.5, -INF, 2.0, 0.25]])
    assert value[0] == INF
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        logits, labels, _ = arguments("plain")
        labels = np.full(logits.shape, 1 / 8, np.float32)
        logits = jnp.asarray(logits, dtype)
        x = np.asarray(logits, np.float64)

        def oracle(x):
            return oracles_losses.poly_loss(x, labels)

        value, gradient = jax.value_and_grad(lambda x: poly_loss(x, labels, reduction="sum"))(
            logits
        )
        assert value.dtype == ("float64" if dtype == "float64" else "float32")
        assert gradient.dtype == dtype
        assert_close(value, oracle(x).sum(), VALUE[dtype])
        slope = oracles_losses.numerical_gradient(oracle, x)
        assert_close(gradient, slope, max(GRADIENT[dtype], 1e-9))  # what differences resolve


def test_vmap_equals_the_batched_call():
    logits, _, _ = Problem("batch", shape=(4, 3, 7)).arguments()
    soft = np.full(7, 1 / 7, np.float32)
    expected = oracles_losses.poly_loss(logits, np.broadcast_to(soft, logits.shape))
    assert_close(jax.vmap(poly_loss, (0, None))(logits, soft), expected, VALUE["float32"])


def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row():
    n, k = 64, 512
    logits = jnp.zeros((n, k), jnp.float32)
    soft = jnp.full((n, k), 1 / k, jnp.float32)
    assert residual_bytes(lambda x, t: jnp.sum(poly_loss(x, t)), logits, soft) <= 32 * n


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), axis=st.sampled_from([-1, 1]), masked=st.booleans())
def test_replaces_optax(seed, axis, masked):
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    logits = jnp.asarray(rng.normal(0, 5, shape), jnp.float32)
    labels = np.moveaxis(rng.dirichlet(np.ones(shape[axis]), np.delete(shape, axis)), -1, axis)
    labels = jnp.asarray(labels, jnp.float32)
    where = None
    if masked:
        where = np.ones(shape, bool)
        np.moveaxis(where, axis, -1)[..., 0] = False
        where = jnp.asarray(where)
    epsilon = rng.uniform(-1, 3)
    np.testing.assert_allclose(
        poly_loss(logits, labels, epsilon=epsilon, axis=axis, where=where),
        optax.losses.poly_loss_cross_entropy(
            logits, labels, epsilon=epsilon, axis=axis, where=where
        ),
        rtol=1e-5,
        atol=1e-5,
    )


def test_where_optax_is_wrong():
    """NaN at -inf logits."""
    logits, labels = jnp.array([0.0, -INF, 1.0]), jnp.array([1.0, 0.0, 0.0])
    assert np.isnan(optax.losses.poly_loss_cross_entropy(logits, labels))
    p = 1 / (1 + np.e)
    np.testing.assert_allclose(poly_loss(logits, labels), -np.log(p) + 2 * (1 - p), rtol=1e-6)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "epsilon: expected a finite number, got nan",
         lambda x, y: poly_loss(x, x, epsilon=NAN)),
        (ValueError, "labels: expected one target a class, the logits' shape (2, 3), got shape",
         lambda x, y: poly_loss(x, y)),
        (ValueError, "reduction: expected one of", lambda x, y: poly_loss(x, x, reduction="")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
