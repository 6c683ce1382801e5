"""The two softmax cross-entropies: values, every derivative, every keyword, against float64."""

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import IMPLEMENTATIONS, PROBLEMS, WEIGHTS_7, Problem, loss_of
from tests.support.tolerances import GRADIENT, LOSS_GRADIENT, VALUE

integer_loss = xentjax.softmax_cross_entropy_with_integer_labels
soft_loss = xentjax.softmax_cross_entropy


@pytest.fixture(params=IMPLEMENTATIONS)
def implementation(request):
    return request.param


@pytest.fixture(params=PROBLEMS, ids=lambda p: p.name)
def problem(request):
    return request.param


def test_value_gradient_and_jvp(problem, implementation):
    logits, labels, keywords = problem.arguments()
    expected = oracles.cross_entropy(logits, labels, **keywords)
    tangent = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)

    def losses(x):
        return loss_of(labels)(x, labels, implementation=implementation, **keywords)

    @jax.jit
    def everything(x, dx):
        value, derivative = jax.jvp(losses, (x,), (dx,))
        return value, derivative, jax.grad(lambda x: jnp.sum(losses(x)))(x)

    value, derivative, gradient = everything(logits, tangent)
    assert value.dtype == jnp.float32
    assert value.shape == expected.losses.shape
    assert_close(value, expected.losses, VALUE["float32"])
    assert_close(gradient, expected.gradient, LOSS_GRADIENT)
    axes = problem.axis if isinstance(problem.axis, tuple) else (problem.axis,)
    directional = (expected.gradient * tangent.astype(np.float64)).sum(axes)
    assert_close(derivative, directional, LOSS_GRADIENT)


@pytest.mark.parametrize("name", ["plain", "everything", "axis 1", "soft, everything"])
def test_hessian_vector_product(name, implementation):
    """Forward over reverse, reverse over forward and vmap agree with differences of the oracle."""
    problem = next(p for p in PROBLEMS if p.name == name)
    logits, labels, keywords = problem.arguments()
    direction = np.random.default_rng(2).standard_normal(logits.shape)
    step = 1e-5
    plus, minus = (
        oracles.cross_entropy(logits + s * step * direction, labels, **keywords).gradient
        for s in (1, -1)
    )
    expected = (plus - minus) / (2 * step)
    direction = direction.astype(np.float32)

    def total(x):
        return jnp.sum(loss_of(labels)(x, labels, implementation=implementation, **keywords))

    @jax.jit
    def products(x, v):
        forward_over_reverse = jax.jvp(jax.grad(total), (x,), (v,))[1]
        reverse_over_forward = jax.grad(lambda x: jax.jvp(total, (x,), (v,))[1])(x)
        reverse_over_reverse = jax.vmap(
            jax.grad(lambda x, v: jnp.vdot(jax.grad(total)(x), v)), (None, 0)
        )(x, v[None])[0]
        return forward_over_reverse, reverse_over_forward, reverse_over_reverse

    for product in products(logits, direction):
        assert_close(product, expected, GRADIENT["float32"])


def test_hessian_is_diag_minus_outer_product(implementation):
    logits = jnp.asarray(np.random.default_rng(3).standard_normal(7), jnp.float32)
    hessian = jax.hessian(lambda x: integer_loss(x, jnp.int32(2), implementation=implementation))
    p = np.exp(np.asarray(logits, np.float64))
    p /= p.sum()
    assert_close(hessian(logits), np.diag(p) - np.outer(p, p), GRADIENT["float32"])


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("name", ["plain", "weights", "everything", "soft, everything", "ignored"])
def test_reductions(name, reduction):
    logits, labels, keywords = next(p for p in PROBLEMS if p.name == name).arguments()
    oracle = oracles.cross_entropy(logits, labels, **keywords)
    expected = {"none": oracle.losses, "sum": oracle.losses.sum(), "mean": oracle.mean}[reduction]
    got, gradient = jax.value_and_grad(
        lambda x: jnp.sum(loss_of(labels)(x, labels, reduction=reduction, **keywords))
    )(logits)
    assert_close(got, np.sum(expected), VALUE["float32"])
    scale = 1 / oracle.denominator if reduction == "mean" else 1.0
    assert_close(gradient, oracle.gradient * scale, GRADIENT["float32"])


@pytest.mark.parametrize(
    "name", ["plain", "everything", "ignored", "axis 1", "soft", "soft, everything"]
)
def test_stats_and_their_gradients(name, implementation):
    logits, labels, keywords = next(p for p in PROBLEMS if p.name == name).arguments()
    expected = oracles.cross_entropy(logits, labels, **keywords)
    loss, stats = loss_of(labels)(
        logits, labels, return_stats=True, implementation=implementation, **keywords
    )
    assert_close(loss, expected.losses, VALUE["float32"])
    for field in ("log_normalizer", "label_log_prob", "entropy"):
        assert getattr(stats, field).dtype == jnp.float32
        assert_close(getattr(stats, field), getattr(expected, field), VALUE["float32"])
    assert stats.predicted.dtype == jnp.int32
    np.testing.assert_array_equal(stats.predicted, expected.predicted)

    direction = np.random.default_rng(4).standard_normal(logits.shape)
    step = 1e-5
    plus, minus = (
        oracles.cross_entropy(logits + s * step * direction, labels, **keywords) for s in (1, -1)
    )
    for field in ("log_normalizer", "label_log_prob", "entropy"):
        difference = (getattr(plus, field) - getattr(minus, field)).sum() / (2 * step)
        gradient = jax.grad(
            lambda x, field=field: jnp.sum(
                getattr(loss_of(labels)(x, labels, return_stats=True, **keywords)[1], field)
            )
        )(logits)
        assert_close(np.vdot(gradient, direction), difference, GRADIENT["float32"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
@pytest.mark.parametrize("name", ["plain", "everything", "soft"])
def test_dtypes(name, dtype, implementation):
    """Half precision is computed in float32, float64 stays, gradients have the logits' dtype."""
    with jax.enable_x64(dtype == "float64"):
        logits, labels, keywords = next(p for p in PROBLEMS if p.name == name).arguments()
        logits = jnp.asarray(logits, dtype)
        expected = oracles.cross_entropy(logits, labels, **keywords)
        value, gradient = jax.value_and_grad(
            lambda x: jnp.sum(loss_of(labels)(x, labels, implementation=implementation, **keywords))
        )(logits)
    assert value.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    if dtype == "float64" and keywords:  # float32 class weights and targets are exact in float64
        assert jnp.isfinite(value)
    assert_close(value, expected.losses.sum(), VALUE[dtype])
    assert_close(gradient, expected.gradient, GRADIENT[dtype])


def test_vmap_equals_the_batched_call(implementation):
    logits, labels, _ = Problem("batch", shape=(4, 3, 7)).arguments()
    expected = oracles.cross_entropy(logits, labels)

    def mean(x, y):
        return integer_loss(x, y, reduction="mean", implementation=implementation)

    value, gradient = jax.vmap(jax.value_and_grad(mean))(logits, labels)
    assert_close(value, expected.losses.mean(-1), VALUE["float32"])
    assert_close(gradient, expected.gradient / 3, GRADIENT["float32"])


@pytest.mark.parametrize("in_axes", [(0, None), (None, 0)], ids=["labels shared", "logits shared"])
def test_vmap_over_one_argument(in_axes):
    logits, labels, _ = Problem("batch", shape=(4, 7)).arguments()
    got = jax.vmap(integer_loss, in_axes)(
        logits if in_axes[0] == 0 else logits[0], labels if in_axes[1] == 0 else labels[0]
    )
    grid = [[oracles.cross_entropy(x, y).losses for y in labels] for x in logits]
    expected = np.array(grid)[:, 0] if in_axes[0] == 0 else np.array(grid)[0]
    assert_close(got, expected, VALUE["float32"])


def test_inside_scan_and_checkpoint():
    logits, labels, _ = Problem("scan", shape=(4, 3, 7)).arguments()

    @jax.grad
    def gradient(x):
        def body(total, row):
            loss = jax.checkpoint(integer_loss)(row[0], row[1])
            return total + jnp.sum(loss), None

        return jax.lax.scan(body, jnp.float32(0), (x, jnp.asarray(labels)))[0]

    expected = oracles.cross_entropy(logits, labels).gradient
    assert_close(gradient(jnp.asarray(logits)), expected, GRADIENT["float32"])


def test_gradients_in_labels_and_class_weights():
    logits, labels, _ = Problem("linear in both", soft=True).arguments()
    minus_log_p = -np.asarray(logits, np.float64)
    minus_log_p += np.log(np.exp(logits.astype(np.float64)).sum(-1, keepdims=True))
    d_labels, d_weights = jax.grad(
        lambda t, w: jnp.sum(soft_loss(logits, t, class_weights=w)), argnums=(0, 1)
    )(labels, WEIGHTS_7)
    assert_close(d_labels, WEIGHTS_7 * minus_log_p, GRADIENT["float32"])
    assert_close(d_weights, (labels * minus_log_p).sum(0), GRADIENT["float32"])

    indices = np.array([0, 2, 2, 6, 5, 1], np.int32)
    d_weights = jax.grad(lambda w: jnp.sum(integer_loss(logits, indices, class_weights=w)))(
        WEIGHTS_7
    )
    expected = np.zeros(7)
    np.add.at(expected, indices, minus_log_p[np.arange(6), indices])
    assert_close(d_weights, expected, GRADIENT["float32"])


@pytest.mark.parametrize("keyword", ["label_smoothing", "z_loss", "logit_soft_cap", "temperature"])
def test_gradients_in_scalars(keyword):
    """Traced scalars work and are differentiable, also beside a logit of -inf."""
    logits, labels, _ = Problem("scalars").arguments()
    at, step = 0.3, 1e-6

    def scalar(value: Any) -> dict[str, Any]:
        return {keyword: value}

    if keyword == "temperature":
        logits = logits.copy()
        logits[np.arange(6), (labels + 1) % 7] = -np.inf
    plus, minus = (
        oracles.cross_entropy(logits, labels, **scalar(at + s * step)).losses.sum() for s in (1, -1)
    )
    gradient = jax.jit(jax.grad(lambda v: jnp.sum(integer_loss(logits, labels, **scalar(v)))))(at)
    assert_close(gradient, (plus - minus) / (2 * step), GRADIENT["float32"])


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "logits: expected a floating dtype, got int32",
         lambda x, y: integer_loss(jnp.zeros((2, 3), jnp.int32), y)),
        (ValueError, "logits: expected at least one axis",
         lambda x, y: integer_loss(jnp.float32(1), y)),
        (ValueError, "logits: expected at least one class along axis -1",
         lambda x, y: integer_loss(jnp.zeros((2, 0)), y)),
        (TypeError, "labels: expected an integer dtype (class indices), got float32",
         lambda x, y: integer_loss(x, jnp.zeros(2, jnp.float32))),
        (ValueError, "labels: expected the logits' shape without the classes, (2,), got (3,)",
         lambda x, y: integer_loss(x, jnp.zeros(3, jnp.int32))),
        (ValueError, "labels: expected one target a class, the logits' shape (2, 3), got shape",
         lambda x, y: soft_loss(x, jnp.ones((2, 1)))),
        (ValueError, "axis: expected axes of an array of 2 dimensions, got 2",
         lambda x, y: integer_loss(x, y, 2)),
        (ValueError, "axis: expected distinct axes", lambda x, y: integer_loss(x, y, (1, -1))),
        (TypeError, "where: expected a bool array, got float32",
         lambda x, y: integer_loss(x, y, where=jnp.ones((2, 3), jnp.float32))),
        (ValueError, "where: expected a shape that broadcasts to the logits' (2, 3), got (2, 2)",
         lambda x, y: integer_loss(x, y, where=jnp.ones((2, 2), bool))),
        (ValueError, "where: expected a shape that broadcasts to the rows' (2,), got (3,)",
         lambda x, y: integer_loss(x, y, where=jnp.ones(3, bool))),
        (ValueError, "where: expected 2 (classes) or 1 (rows) dimensions, got 3",
         lambda x, y: integer_loss(x, y, where=jnp.ones((1, 2, 3), bool))),
        (ValueError, "class_weights: expected one weight a class, shape (3,), got (2,)",
         lambda x, y: integer_loss(x, y, class_weights=jnp.ones(2))),
        (ValueError, "label_smoothing: expected a number in [0, 1], got 1.5",
         lambda x, y: integer_loss(x, y, label_smoothing=1.5)),
        (ValueError, "z_loss: expected a finite number >= 0, got -1",
         lambda x, y: integer_loss(x, y, z_loss=-1.0)),
        (ValueError, "temperature: expected a finite number > 0, got 0",
         lambda x, y: integer_loss(x, y, temperature=0.0)),
        (TypeError, "",
         lambda x, y: integer_loss(x, y, temperature=cast(Any, None))),
        (ValueError, "logit_soft_cap: expected a finite number > 0 or None, got -3",
         lambda x, y: integer_loss(x, y, logit_soft_cap=-3.0)),
        (ValueError, "reduction: expected one of 'none', 'sum', 'mean', got 'average'",
         lambda x, y: integer_loss(x, y, reduction="average")),  # pyright: ignore[reportArgumentType]
        (ValueError, "implementation: expected one of 'xla', 'reference', 'mosaic_tpu', "
         "'mosaic_gpu', got 'fast'",
         lambda x, y: integer_loss(x, y, implementation="fast")),  # pyright: ignore[reportArgumentType]
        (TypeError, "",
         lambda x, y: integer_loss(x, y, ignore_index=cast(Any, 1.5))),
    ],  # no message: the types of the annotations, which the suite checks before our own checks
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_wrong_arguments_say_what_was_expected(error, message, call, transform):
    x, y = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
    with pytest.raises(error) as raised:
        transform(call)(x, y)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_annotations_promise_arrays(transform):
    """Lists are taken, and the suite's checks of annotations know none of them."""
    with pytest.raises(TypeError):
        transform(lambda y: integer_loss(cast(Any, [1.0]), y))(jnp.zeros(2, jnp.int32))


def test_scalars_must_be_scalars():
    with pytest.raises(ValueError, match=r"temperature: expected a finite number > 0 \(a scalar\)"):
        integer_loss(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32), temperature=jnp.ones(2))


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32])
def test_narrow_label_dtypes_count_every_class(dtype):
    """An iota in the labels' own dtype would wrap around at 256 classes."""
    logits = np.random.default_rng(5).standard_normal((3, 300)).astype(np.float32)
    labels = np.array([0, 1, 100], dtype)
    expected = oracles.cross_entropy(logits, labels)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(integer_loss(x, labels)))(logits)
    assert_close(value, expected.losses.sum(), VALUE["float32"])
    assert_close(gradient, expected.gradient, GRADIENT["float32"])


def test_ignore_index_beyond_the_label_dtype_matches_nothing():
    logits, labels = np.zeros((2, 300), np.float32), np.array([156, 3], np.uint8)
    got = integer_loss(logits, labels, ignore_index=-100)  # -100 would wrap to 156
    assert_close(got, np.full(2, np.log(300)), VALUE["float32"])


def test_one_hot_integers_are_soft_labels():
    logits, labels, _ = Problem("one-hot").arguments()
    one_hot = np.eye(7, dtype=np.int32)[labels]
    expected = oracles.cross_entropy(logits, labels).losses
    assert_close(soft_loss(logits, one_hot), expected, VALUE["float32"])
    assert_close(soft_loss(logits, one_hot.astype(bool)), expected, VALUE["float32"])


def test_one_target_for_all_rows_broadcasts():
    logits, labels, _ = Problem("shared target", soft=True).arguments()
    expected = oracles.cross_entropy(logits, np.broadcast_to(labels[0], logits.shape)).losses
    assert_close(soft_loss(logits, labels[0]), expected, VALUE["float32"])


def test_no_rows():
    loss = integer_loss(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32))
    assert loss.shape == (0,)
    assert integer_loss(jnp.zeros((0, 3)), jnp.zeros(0, jnp.int32), reduction="mean") == 0


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), axis=st.sampled_from([-1, 1]))
def test_replaces_the_safe_loss_of_optax(seed, axis):
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    logits = jnp.asarray(rng.normal(0, 5, shape), jnp.float32)
    labels = np.moveaxis(rng.dirichlet(np.ones(shape[axis]), np.delete(shape, axis)), -1, axis)
    labels = jnp.asarray(labels, jnp.float32)
    np.testing.assert_allclose(
        xentjax.safe_softmax_cross_entropy(logits, labels),
        optax.losses.safe_softmax_cross_entropy(logits, labels),
        rtol=1e-5,
        atol=1e-5,
    )


def test_where_the_safe_loss_of_optax_is_wrong():
    """NaN at -inf logits in forward mode."""
    logits, labels = jnp.array([0.0, -np.inf, 1.0]), jnp.array([1.0, 0.0, 0.0])
    ones = jnp.ones(3)
    theirs, ours = (
        jax.jvp(lambda x, f=f: f(x, labels), (logits,), (ones,))[1]
        for f in (optax.losses.safe_softmax_cross_entropy, xentjax.safe_softmax_cross_entropy)
    )
    assert np.isnan(theirs)
    np.testing.assert_allclose(ours, 0, atol=1e-6)
