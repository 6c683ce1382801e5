"""Negative log-likelihood of given log-probabilities: values, derivatives, bad labels, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import derivatives
from tests.support.oracles import losses as oracles
from tests.support.problems import PROBLEMS, WEIGHTS_7
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
nll_loss = xentjax.nll_loss
CASES = [
    "plain", "one row", "axis 1", "two axes", "weights", "ignored", "row mask", "class mask",
    "mask on two axes",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_gradient_and_jvp(name):
    """Linear: the gradient is minus the weight at the label, whatever the log-probabilities are."""
    log_probs, labels, keywords = next(p for p in PROBLEMS if p.name == name).arguments()
    tangent = np.random.default_rng(1).standard_normal(log_probs.shape).astype(np.float32)

    @jax.jit
    def everything(x, dx):
        value, derivative = jax.jvp(lambda x: nll_loss(x, labels, **keywords), (x,), (dx,))
        return value, derivative, jax.grad(lambda x: jnp.sum(nll_loss(x, labels, **keywords)))(x)

    value, derivative, gradient = everything(log_probs, tangent)
    assert_close(value, oracles.nll_loss(log_probs, labels, **keywords), VALUE["float32"])
    expected = oracles.nll_loss(tangent, labels, **keywords)
    assert_close(derivative, expected, GRADIENT["float32"])
    assert_close(np.vdot(gradient, tangent), expected.sum(), GRADIENT["float32"])
    assert np.count_nonzero(gradient) == np.count_nonzero(expected)


def test_of_log_softmax_it_is_the_cross_entropy():
    logits, labels, _ = next(p for p in PROBLEMS if p.name == "plain").arguments()
    for reduction in ("none", "sum", "mean"):
        keywords = {"class_weights": WEIGHTS_7, "reduction": reduction}
        expected = xentjax.softmax_cross_entropy_with_integer_labels(logits, labels, **keywords)
        got = nll_loss(xentjax.log_softmax(logits), labels, **keywords)
        assert_close(got, expected, 2 * VALUE["float32"])


def test_bad_label_is_nan_in_its_row_alone():
    labels = jnp.array([2, -1, 4, -100, 0])
    where = jnp.array([[False, True, True, True]] * 5).at[4].set(True)
    for keywords in ({}, {"where": where}):
        results = derivatives(lambda x, implementation, k=keywords: nll_loss(x, labels, **k), None)(
            np.full((5, 4), -1.0)
        )
        for result in results[:3]:
            assert np.isnan(result[1:-1]).all()
            assert np.isfinite(result[[0, -1]]).all()


@pytest.mark.parametrize("how", ["ignore_index", "row mask", "class mask"])
def test_rows_that_do_not_count_may_hold_anything(how):
    labels = np.array([1, -7], np.int32)
    keep = np.array([True, False])
    keywords = {
        "ignore_index": {"ignore_index": -7},
        "row mask": {"where": keep},
        "class mask": {"where": np.repeat(keep[:, None], 3, 1)},
    }[how]
    run = derivatives(
        lambda x, implementation: nll_loss(x, labels, reduction="mean", **keywords), None
    )
    for garbage in (NAN, INF, -INF):
        value, gradient, *_ = run([[-1.0, -2.0, -3.0], [garbage] * 3])
        assert value == 2
        np.testing.assert_array_equal(gradient, [[0, -1, 0], [0, 0, 0]])


def test_impossible_label_costs_inf_unless_its_weight_is_zero():
    log_probs = jnp.array([[-INF, 0.0], [-INF, 0.0]])
    value, gradient, *_ = derivatives(
        lambda x, implementation: nll_loss(x, jnp.array([0, 1])), None
    )(log_probs)
    np.testing.assert_array_equal(value, [INF, 0])
    np.testing.assert_array_equal(gradient, [[-1, 0], [0, -1]])
    weights = jnp.array([0.0, 1.0])
    np.testing.assert_array_equal(
        nll_loss(log_probs, jnp.array([0, 1]), class_weights=weights), [0, 0]
    )


def test_masked_label_costs_inf():
    log_probs, where = jnp.array([[-1.0, NAN, -2.0]]), jnp.array([[True, False, True]])
    value, gradient = jax.value_and_grad(lambda x: nll_loss(x, jnp.array([1]), -1, where)[0])(
        log_probs
    )
    assert value == INF
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        log_probs = jnp.asarray([[-0.1, -3.3], [-1.7, -0.3]], dtype)
        value, gradient = jax.value_and_grad(
            lambda x: nll_loss(x, np.array([1, 0]), reduction="sum")
        )(log_probs)
    assert value.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    assert_close(value, oracles.nll_loss(log_probs, np.array([1, 0])).sum(), VALUE[dtype])


def test_vmap_over_one_argument():
    log_probs = -np.arange(6, dtype=np.float32).reshape(2, 3)
    labels = np.array([2, 0], np.int32)
    np.testing.assert_array_equal(jax.vmap(nll_loss, (None, 0))(log_probs[1], labels), [5, 3])
    np.testing.assert_array_equal(jax.vmap(nll_loss, (0, None))(log_probs, labels[0]), [2, 5])


def test_reverse_mode_keeps_the_labels_alone():
    log_probs, labels = jnp.zeros((64, 512)), jnp.zeros(64, jnp.int32)
    kept = residual_bytes(lambda x: nll_loss(x, labels, reduction="mean"), log_probs)
    assert kept <= 8 * 64


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "log_probs: expected a floating dtype, got int32",
         lambda x, y: nll_loss(jnp.zeros((2, 3), jnp.int32), y)),
        (ValueError, "log_probs: expected at least one axis", lambda x, y: nll_loss(x[0, 0], y)),
        (TypeError, "labels: expected an integer dtype (class indices), got float32",
         lambda x, y: nll_loss(x, jnp.zeros(2, jnp.float32))),
        (ValueError, "labels: expected the logits' shape without the classes, (2,), got (2, 3)",
         lambda x, y: nll_loss(x, jnp.zeros((2, 3), jnp.int32))),
        (ValueError, "class_weights: expected one weight a class, shape (3,), got (2,)",
         lambda x, y: nll_loss(x, y, class_weights=jnp.ones(2))),
        (ValueError, "reduction: expected one of", lambda x, y: nll_loss(x, y, reduction="avg")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
