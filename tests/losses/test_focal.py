"""Focal loss: values, derivatives, bad values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import check_derivatives, derivatives
from tests.support.oracles import cross_entropy as oracles, losses as oracles_losses
from tests.support.problems import IMPLEMENTATIONS, PROBLEMS, ROW, WEIGHTS_7, Problem
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
focal_loss = xentjax.softmax_focal_loss


def arguments(name):
    return next(p for p in PROBLEMS if p.name == name).arguments()


@pytest.mark.parametrize(
    ("name", "gamma", "implementation"),
    [
        ("plain", 2.0, "xla"),
        ("plain", 0.5, "reference"),
        ("axis 1", 2.0, "xla"),
        ("weights", 0.0, "xla"),
        ("ignored", 5.0, "xla"),
        ("row mask", 1.0, "xla"),
        ("class mask", 0.5, "xla"),
        ("class mask", 2.0, "reference"),
        ("mask on two axes", 2.0, "xla"),
    ],
)
def test_softmax_focal_loss(name, gamma, implementation):
    logits, labels, keywords = arguments(name)
    check_derivatives(
        partial(focal_loss, labels=labels, gamma=gamma, **keywords),
        lambda x: oracles_losses.softmax_focal_loss(x, labels, gamma=gamma, **keywords),
        logits,
        implementation,
    )


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions(reduction):
    """Reductions are those of the cross-entropy, a special case of the loss."""
    logits, labels, keywords = arguments("ignored")
    keywords |= {"class_weights": WEIGHTS_7}
    oracle = oracles.cross_entropy(logits, labels, **keywords)
    expected = oracle.mean if reduction == "mean" else oracle.losses.sum()
    got = focal_loss(logits, labels, gamma=0.0, reduction=reduction, **keywords)
    assert_close(got, expected, VALUE["float32"])
    losses = oracles_losses.softmax_focal_loss(logits, labels, **keywords)
    expected = losses.sum() / (oracle.denominator if reduction == "mean" else 1)
    assert_close(
        focal_loss(logits, labels, reduction=reduction, **keywords), expected, VALUE["float32"]
    )


@pytest.mark.parametrize("gamma", [0.0, 0.1, 1.0, 2.0])
def test_focal_loss_of_certain_rows(gamma):
    """p_y near 1, at 1 and near 0: right in all orders, also where (1 - p)^gamma has no slope."""
    margins = np.array([9.0, 12.0, 20.0, 80.0, 104.0, 1e4, INF, -20.0, -104.0, -1e4], np.float32)
    logits = np.stack([np.zeros_like(margins), -margins], -1)
    labels = np.zeros(len(margins), np.int32)
    loss = partial(focal_loss, labels=labels, gamma=gamma)
    value, gradient, derivative, *second = derivatives(lambda x, **k: loss(x, **k), "xla")(logits)
    clean = np.where(np.isinf(logits), -1e5, logits)
    assert_close(
        value, oracles_losses.softmax_focal_loss(clean, labels, gamma=gamma), VALUE["float32"]
    )
    expected = oracles_losses.numerical_gradient(
        lambda x: oracles_losses.softmax_focal_loss(x, labels, gamma=gamma), clean
    )
    np.testing.assert_allclose(gradient, expected, atol=GRADIENT["float32"])
    np.testing.assert_allclose(derivative, 0, atol=VALUE["float32"])
    for product in second:  # all logits alike change nothing
        np.testing.assert_allclose(product, 0, atol=GRADIENT["float32"])
    hessian = jax.hessian(lambda x: focal_loss(x, jnp.int32(0), gamma=gamma))
    hessians = jax.jit(jax.vmap(hessian))(logits)
    assert np.isfinite(hessians).all()
    np.testing.assert_allclose(hessians[2:7], 0, atol=1e-6)


def test_gamma_is_traced_and_differentiable():
    logits, labels, _ = arguments("plain")
    logits[0, labels[0]] = 40.0  # p_y = 1
    for at in (0.5, 0.0):
        value, slope = jax.jit(
            jax.value_and_grad(lambda g: jnp.sum(focal_loss(logits, labels, gamma=g)))
        )(at)

        def oracle(g):
            return oracles_losses.softmax_focal_loss(logits, labels, gamma=g).sum()

        assert_close(value, oracle(at), VALUE["float32"])
        expected = (oracle(at + 1e-6) - oracle(at)) / 1e-6
        assert_close(slope, expected, GRADIENT["float32"])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_bad_label_is_nan_in_its_row_alone(implementation):
    labels = jnp.array([1, -1, 4, -100, 0])
    where = jnp.array([[True, True, False, True]] * 5)
    for keywords in ({"gamma": 0.5}, {"where": where, "class_weights": jnp.zeros(4)}):
        run = derivatives(
            lambda x, k=keywords, **i: focal_loss(x, labels, **k, **i), implementation
        )
        results = run([ROW] * 5)
        for result in results[:3]:
            assert np.isnan(result[1:-1]).all()
            assert np.isfinite(result[[0, -1]]).all()


def masked_row(x, **keywords):
    return focal_loss(x, jnp.array([2, -7]), ignore_index=-7, gamma=0.5, **keywords)


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


@pytest.mark.parametrize(
    "call",
    [
        lambda x, **k: focal_loss(x, jnp.array([1]), gamma=0.5, **k),
        lambda x, **k: focal_loss(x, jnp.array([2]), -1, jnp.array([[True, True, False, True]])),
    ],
    ids=["label", "masked label"],
)  # fmt: skip
def test_impossible_class_with_mass_costs_inf(call):
    value, gradient, *_ = derivatives(call, "xla")([[0.5, -INF, 2.0, 0.25]])
    assert value[0] == INF
    assert np.isfinite(gradient).all()


def test_zero_weight_on_an_impossible_label_costs_nothing():
    weights = jnp.array([1.0, 0.0, 1.0, 1.0])
    results = derivatives(
        lambda x, **k: focal_loss(x, jnp.array([1]), class_weights=weights, **k), "xla"
    )([[0.5, -INF, 2.0, 0.25]])
    for result in results:
        assert np.isfinite(result).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        logits, labels, _ = arguments("plain")
        logits = jnp.asarray(logits, dtype)
        x = np.asarray(logits, np.float64)

        def oracle(x):
            return oracles_losses.softmax_focal_loss(x, labels)

        value, gradient = jax.value_and_grad(lambda x: focal_loss(x, labels, reduction="sum"))(
            logits
        )
        assert value.dtype == ("float64" if dtype == "float64" else "float32")
        assert gradient.dtype == dtype
        assert_close(value, oracle(x).sum(), VALUE[dtype])
        slope = oracles_losses.numerical_gradient(oracle, x)
        assert_close(gradient, slope, max(GRADIENT[dtype], 1e-9))  # what differences resolve


def test_vmap_equals_the_batched_call():
    logits, labels, _ = Problem("batch", shape=(4, 3, 7)).arguments()
    expected = oracles_losses.softmax_focal_loss(logits, labels)
    assert_close(jax.vmap(focal_loss)(logits, labels), expected, VALUE["float32"])


def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row():
    n, k = 64, 512
    logits, labels = jnp.zeros((n, k), jnp.float32), jnp.zeros(n, jnp.int32)
    assert residual_bytes(lambda x: jnp.sum(focal_loss(x, labels)), logits) <= 48 * n


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "gamma: expected a finite number >= 0, got -1",
         lambda x, y: focal_loss(x, y, gamma=-1.0)),
        (ValueError, "gamma: expected a finite number >= 0 (a scalar), got shape (2,)",
         lambda x, y: focal_loss(x, y, gamma=jnp.ones(2))),
        (TypeError, "labels: expected an integer dtype (class indices), got float32",
         lambda x, y: focal_loss(x, jnp.zeros((2, 3), jnp.float32))),
        (ValueError, "class_weights: expected one weight a class, shape (3,), got (2,)",
         lambda x, y: focal_loss(x, y, class_weights=jnp.ones(2))),
        (ValueError, "reduction: expected one of", lambda x, y: focal_loss(x, y, reduction="")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
