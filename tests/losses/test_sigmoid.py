"""Sigmoid cross-entropy and focal loss: values and every derivative, against float64 and optax."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec as P

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import derivatives
from tests.support.oracles import losses as oracles
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
cross_entropy = xentjax.sigmoid_binary_cross_entropy
focal_loss = xentjax.sigmoid_focal_loss

CASES = {
    "cross-entropy": (cross_entropy, {}),
    "pos_weight": (cross_entropy, {"pos_weight": 3.0}),
    "pos_weight of each question": (
        cross_entropy,
        {"pos_weight": np.array([0.5, 0.0, 2.0, 1.0], np.float32)},
    ),
    "masked": (cross_entropy, {"where": np.array([True, False, True, True])}),
    "focal": (focal_loss, {}),
    "focal, gamma 0": (focal_loss, {"gamma": 0.0}),
    "focal, gamma 0.5, alpha": (focal_loss, {"gamma": 0.5, "alpha": 0.25}),
    "focal of each question": (
        focal_loss,
        {
            "gamma": np.array([0.0, 1.0, 2.0, 5.0], np.float32),
            "alpha": np.array([0.0, 0.5, 0.25, 1.0], np.float32),
        },
    ),
}
SATURATED = ["cross-entropy", "focal", "focal, gamma 0", "focal, gamma 0.5, alpha"]
FEW = pytest.mark.parametrize("case", ["pos_weight", "focal, gamma 0.5, alpha"], indirect=True)


@pytest.fixture(params=CASES)
def case(request):
    """The loss and its float64 oracle, as functions of logits and labels."""
    loss, keywords = CASES[request.param]
    return partial(loss, **keywords), partial(getattr(oracles, loss.__name__), **keywords)


def problem(kind):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((3, 4))).astype(np.float32)
    labels = {
        "int": rng.integers(0, 2, (3, 4)).astype(np.int32),
        "bool": rng.random((3, 4)) < 0.5,
        "soft": rng.random((3, 4)).astype(np.float32),
        "hard float": rng.integers(0, 2, (3, 4)).astype(np.float32),
        "one row for all": np.array([1, 0, 1, 0], np.int8),
    }[kind]
    return logits, labels


@pytest.mark.parametrize("kind", ["int", "soft"])
def test_value_gradient_and_jvp(case, kind):
    loss, oracle = case
    logits, labels = problem(kind)
    check_value_gradient_and_jvp(loss, oracle, logits, labels)


@FEW
@pytest.mark.parametrize("kind", ["bool", "hard float", "one row for all"])
def test_kinds_of_labels(case, kind):
    loss, oracle = case
    logits, labels = problem(kind)
    check_value_gradient_and_jvp(loss, oracle, logits, labels)


def check_value_gradient_and_jvp(loss, oracle, logits, labels):
    tangent = np.random.default_rng(1).standard_normal(logits.shape).astype(np.float32)

    @jax.jit
    def everything(x, dx):
        value, derivative = jax.jvp(lambda x: loss(x, labels), (x,), (dx,))
        return value, derivative, jax.grad(lambda x: jnp.sum(loss(x, labels)))(x)

    value, derivative, gradient = everything(logits, tangent)
    expected = oracles.numerical_gradient(lambda x: oracle(x, labels), logits)
    assert value.dtype == jnp.float32
    assert value.shape == logits.shape
    assert_close(value, oracle(logits, labels), VALUE["float32"])
    assert_close(gradient, expected, GRADIENT["float32"])
    assert_close(derivative, expected * tangent, GRADIENT["float32"])


@FEW
@pytest.mark.parametrize("kind", ["int", "soft"])
def test_second_derivatives(case, kind):
    loss, oracle = case
    logits, labels = problem(kind)
    expected = oracles.along(
        partial(oracles.numerical_gradient, lambda x: oracle(x, labels)), logits, 1.0, 1e-2
    )
    for product in derivatives(lambda x, implementation: loss(x, labels), None)(logits)[3:]:
        assert_close(product, expected, GRADIENT["float32"])


def test_derivatives_in_labels_and_factors():
    """Labels may be exactly 0 or 1, where log t has no derivative."""
    logits, labels = problem("soft")
    labels[0] = [0, 1, 0, 1]
    inside = np.clip(labels, 1e-5, 1 - 1e-5)  # the differences need labels on both sides
    for name, keywords in (
        ("sigmoid_binary_cross_entropy", {"pos_weight": 3.0}),
        ("sigmoid_focal_loss", {"gamma": 0.5, "alpha": 0.25}),
    ):
        loss, oracle = getattr(xentjax, name), getattr(oracles, name)
        gradient = jax.grad(
            lambda t, factors, loss=loss: jnp.sum(loss(logits, t, **factors)), argnums=(0, 1)
        )
        d_labels, d_factors = gradient(labels, keywords)
        expected = oracles.numerical_gradient(
            lambda t, oracle=oracle, k=keywords: oracle(logits, t, **k), inside, 1e-6
        )
        assert_close(d_labels, expected, 10 * GRADIENT["float32"])
        for factor, value in keywords.items():
            expected = oracles.numerical_gradient(
                lambda v, o=oracle, k=keywords, f=factor: o(logits, labels, **{**k, f: v}), value
            )
            assert_close(d_factors[factor], expected, GRADIENT["float32"])


@pytest.mark.parametrize("name", SATURATED)
@pytest.mark.parametrize("label", [0, 1])
def test_saturated_logits_keep_their_relative_precision(name, label):
    """Far on the right side loss and gradient are exponentially small, not 0."""
    loss, keywords = CASES[name]
    oracle = partial(getattr(oracles, loss.__name__), labels=label, **keywords)
    logits = np.array([1, 5, 12, 20, 25], np.float32) * (1 if label else -1)
    value, gradient = jax.vmap(jax.value_and_grad(lambda x: loss(x, label, **keywords)))(logits)
    np.testing.assert_allclose(value, oracle(logits), rtol=GRADIENT["float32"])
    slope = oracles.along(oracle, logits, 1.0)
    np.testing.assert_allclose(gradient, slope, rtol=GRADIENT["float32"])


@pytest.mark.parametrize("name", SATURATED)
@pytest.mark.parametrize("dtype", [np.int32, np.float32], ids=["int", "float"])
def test_infinite_logits(name, dtype):
    """Certain and right: 0 in all orders. Certain and wrong: +inf, with the slope of the tail."""
    loss, keywords = CASES[name]
    labels = np.array([1, 0, 1, 0], dtype)
    value, gradient, derivative, *second = derivatives(
        lambda x, implementation: loss(x, labels, **keywords), None
    )([INF, -INF, -INF, INF])
    alpha = keywords.get("alpha")
    right, wrong = (1.0, 1.0) if alpha is None else (alpha, 1 - alpha)
    np.testing.assert_array_equal(value, [0, 0, INF, INF])
    np.testing.assert_allclose(gradient, [0, 0, -right, wrong])
    np.testing.assert_allclose(derivative, [0, 0, -right, wrong])
    for product in second:
        np.testing.assert_array_equal(product, 0)


LABELS = np.array([0.0, 0.25, 0.55, 0.9, 1.0])
LIMITS = {
    "cross-entropy": (cross_entropy, {}),
    "pos_weight 0": (cross_entropy, {"pos_weight": 0.0}),
    "pos_weight": (cross_entropy, {"pos_weight": 3.0}),
    "focal": (focal_loss, {}),
    "focal, gamma 0": (focal_loss, {"gamma": 0.0}),
    "focal, alpha and gamma": (
        focal_loss,
        {
            "alpha": np.array([0.0, 0.2, 0.4, 0.8, 1.0])[:, None, None],
            "gamma": np.array([0.0, 0.5, 1.5, 5.0])[:, None],
        },
    ),
}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("sign", [1, -1])
def test_derivatives_in_labels_at_infinite_logits(name, sign):
    """The limit of the slope, and from a label without mass on the wrong side that of a step."""
    loss, keywords = LIMITS[name]
    labels, *factors = np.broadcast_arrays(LABELS, *keywords.values())
    keywords = {k: v.astype(np.float32) for k, v in zip(keywords, factors, strict=True)}
    oracle = partial(getattr(oracles, loss.__name__), **keywords)
    inward = np.where(labels < 1, 1e-6, -1e-6)
    far, further = 1e6, 1e300
    expected, near = oracle(sign * further, labels), oracle(sign * far, labels)
    step = (oracle(sign * further, labels + inward) - expected) / inward

    @jax.jit
    def everything(a, t, dt, keywords):
        value, derivative = jax.jvp(lambda t: loss(a, t, **keywords), (t,), (dt,))
        gradient = jax.grad(lambda a, t, k: jnp.sum(loss(a, t, **k)), argnums=(0, 1, 2))
        return value, derivative, gradient(a, t, keywords)

    logits, tangent = jnp.full(labels.shape, sign * INF), np.where(labels == 0.55, 0.0, -2.0)
    value, derivative, (d_logits, d_labels, d_factors) = everything(
        logits, labels.astype(np.float32), tangent.astype(np.float32), keywords
    )
    np.testing.assert_array_equal(value, np.where(expected > 0, INF, 0))
    limit = np.where(step == 0, 0, np.copysign(INF, step))
    np.testing.assert_array_equal(d_labels, limit)
    np.testing.assert_array_equal(derivative, np.where(tangent == 0, 0, -limit))
    np.testing.assert_allclose(d_logits, sign * near / far, rtol=GRADIENT["float32"], atol=1e-12)
    for d_factor in d_factors.values():
        assert not np.isnan(d_factor).any()


@pytest.mark.parametrize("sign", [1, -1])
def test_mixed_derivative_at_infinite_logits(sign):
    """Derivatives in a logit and its label are those of the tail, in either order."""
    labels, far = np.array([0.25, 0.5, 0.9], np.float32), 1e6
    loss = partial(focal_loss, alpha=0.8, gamma=1.5)
    oracle = partial(oracles.sigmoid_focal_loss, alpha=np.float32(0.8), gamma=1.5)
    expected = sign * oracles.along(lambda t: oracle(sign * far, t), labels, 1.0) / far
    for first, second in ((0, 1), (1, 0)):
        mixed = jax.vmap(jax.grad(jax.grad(loss, first), second), (None, 0))
        assert_close(mixed(jnp.float32(sign * INF), labels), expected, GRADIENT["float32"])


@pytest.mark.parametrize("name", SATURATED)
def test_no_logit_gives_nan_up_to_third_order(name):
    loss, keywords = CASES[name]
    logits = jnp.array([0.0, 20.0, 60.0, 90.0, 104.0, 1e4, 1e37, INF])
    logits = jnp.concatenate([logits, -logits])
    for labels in (jnp.zeros(16), jnp.ones(16)):
        third = jax.vmap(jax.grad(jax.grad(jax.grad(partial(loss, **keywords)))))
        assert np.isfinite(third(logits, labels)).all()


@FEW
def test_label_that_is_no_answer_is_nan_in_loss_and_gradient(case):
    loss, _ = case
    labels = np.array([[1, -1, 2, 0]], np.int32)
    results = derivatives(lambda x, implementation: loss(x, labels), None)([[0.5, 1, -2, 3]])
    for result in results[:3]:
        np.testing.assert_array_equal(np.isnan(result)[0], [False, True, True, False])


@FEW
def test_nan_logit_stays_in_its_element(case):
    loss, _ = case
    labels = np.array([[1, 1, 0, 0]], np.int32)
    for result in derivatives(lambda x, implementation: loss(x, labels), None)(
        [[0.5, 1.0, NAN, 3.0]]
    ):
        np.testing.assert_array_equal(np.isnan(result)[0], [False, False, True, False])


@pytest.mark.parametrize(
    "loss",
    [partial(cross_entropy, pos_weight=0.0), partial(focal_loss, alpha=0.0)],
    ids=["pos_weight", "alpha"],
)
def test_no_weight_hides_a_nan(loss):
    assert np.isnan(loss(jnp.float32(NAN), 1))
    assert np.isnan(loss(jnp.float32(0), 2))


@pytest.mark.parametrize("loss", [cross_entropy, partial(focal_loss, gamma=0.5)], ids=["CE", "FL"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_masked_elements_may_hold_anything(loss, reduction):
    where = np.array([[True, False], [False, True]])
    clean = np.asarray(loss(jnp.array([0.5, -1.0]), jnp.array([1.0, 0.0])))
    run = derivatives(
        lambda x, implementation: loss(x[0], x[1], where=where, reduction=reduction), None
    )
    for garbage in (NAN, INF, -INF, 1e38):
        results = run([[[0.5, garbage], [garbage, -1.0]], [[1.0, garbage], [garbage, 0.0]]])
        expected = {"none": np.diag(clean), "mean": clean.mean()}[reduction]
        np.testing.assert_allclose(results[0], expected, rtol=VALUE["float32"])
        for result in results:
            assert np.isfinite(result).all()
        for gradient in results[1]:
            np.testing.assert_array_equal(gradient[~where], 0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions(case, reduction):
    """The mean is over the elements kept, whatever their weights are."""
    loss, oracle = case
    logits, labels = problem("soft")
    expected = oracle(logits, labels).sum()
    if reduction == "mean":
        expected /= 9 if loss.keywords.get("where") is not None else 12
    assert_close(loss(logits, labels, reduction=reduction), expected, VALUE["float32"])


def test_mean_of_nothing_is_zero():
    x = jnp.full((2, 3), NAN)
    masked = cross_entropy(x, x, where=jnp.zeros((2, 3), bool), reduction="mean")
    assert masked == 0
    assert cross_entropy(jnp.zeros((0, 3)), jnp.zeros((0, 3)), reduction="mean") == 0


@FEW
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes(case, dtype):
    """optax computes and returns a half-precision loss in half precision."""
    loss, oracle = case
    with jax.enable_x64(dtype == "float64"):
        logits, labels = problem("int")
        logits = jnp.asarray(logits, dtype)
        value, gradient = jax.value_and_grad(lambda x: jnp.sum(loss(x, labels)))(logits)
    assert value.dtype == ("float64" if dtype == "float64" else "float32")
    assert gradient.dtype == dtype
    assert_close(value, oracle(logits, labels).sum(), VALUE[dtype])
    expected = oracles.numerical_gradient(lambda x: oracle(x, labels), logits)
    assert_close(gradient, expected, max(GRADIENT[dtype], 1e-10))  # what differences resolve


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), soft=st.booleans(), alpha=st.sampled_from([None, 0.25]))
def test_replaces_optax(seed, soft, alpha):
    rng = np.random.default_rng(seed)
    logits = jnp.asarray(rng.normal(0, 5, (2, 5)), jnp.float32)
    labels = rng.random(5) if soft else rng.integers(0, 2, 5)
    labels = jnp.asarray(labels, jnp.float32 if soft else jnp.int32)
    in_full = jnp.broadcast_to(labels, logits.shape)
    np.testing.assert_allclose(
        cross_entropy(logits, labels),
        optax.losses.sigmoid_binary_cross_entropy(logits, in_full),
        rtol=1e-5,
        atol=1e-6,
    )
    gamma = float(rng.uniform(0, 5))
    np.testing.assert_allclose(
        focal_loss(logits, labels, alpha=alpha, gamma=gamma),
        optax.losses.sigmoid_focal_loss(logits, in_full, alpha=alpha, gamma=gamma),
        rtol=1e-4,
        atol=1e-6,
    )


def test_where_optax_is_wrong():
    """NaN at infinite logits that are right, half-precision losses, labels that are no answer."""
    logits, labels = jnp.array([INF, -INF]), jnp.array([1, 0])
    for name in ("sigmoid_binary_cross_entropy", "sigmoid_focal_loss"):
        ours, theirs = getattr(xentjax, name), jax.jit(getattr(optax.losses, name))
        assert np.isnan(theirs(logits, labels)).all()
        np.testing.assert_array_equal(ours(logits, labels), 0)
        half = jnp.asarray([3.3], jnp.bfloat16)
        assert theirs(half, labels[:1]).dtype == jnp.bfloat16
        assert ours(half, labels[:1]).dtype == jnp.float32
        assert np.isfinite(theirs(jnp.zeros(1), jnp.array([-1]))).all()
        assert np.isnan(ours(jnp.zeros(1), jnp.array([-1]))).all()


@FEW
def test_vmap_equals_the_batched_call(case):
    loss, oracle = case
    logits, labels = problem("int")
    assert_close(jax.vmap(loss)(logits, labels), oracle(logits, labels), VALUE["float32"])
    shared = jax.vmap(loss, (0, None))(logits, labels[0])
    assert_close(shared, oracle(logits, labels[0]), VALUE["float32"])


def test_reverse_mode_keeps_only_the_inputs(case):
    loss, _ = case
    logits, labels = jnp.zeros((64, 4)), jnp.zeros((64, 4), jnp.int32)
    kept = residual_bytes(lambda x: loss(x, labels, reduction="sum"), logits)
    assert kept <= labels.nbytes + labels.size + 64  # labels, mask, factors


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "logits: expected a floating dtype, got int32",
         lambda x, y: cross_entropy(y, y)),
        (TypeError, "labels: expected probabilities of a real dtype, got complex64",
         lambda x, y: cross_entropy(x, x.astype(jnp.complex64))),
        (ValueError, "labels: expected a shape that broadcasts to the logits' (2, 3), got (2,)",
         lambda x, y: focal_loss(x, y[:, 0])),
        (ValueError, "labels: expected a shape that broadcasts to the logits' (3,), got (2, 3)",
         lambda x, y: cross_entropy(x[0], y)),
        (ValueError, "where: expected a shape that broadcasts to the logits' (2, 3), got (2,)",
         lambda x, y: cross_entropy(x, y, where=jnp.ones(2, bool))),
        (TypeError, "where: expected a bool array, got int32",
         lambda x, y: cross_entropy(x, y, where=y)),
        (ValueError, "pos_weight: expected finite numbers >= 0, got -1.0",
         lambda x, y: cross_entropy(x, y, pos_weight=-1.0)),
        (ValueError, "pos_weight: expected a shape that broadcasts to the logits' (2, 3), got (2,)",
         lambda x, y: cross_entropy(x, y, pos_weight=jnp.ones(2))),
        (ValueError, "alpha: expected numbers in [0, 1], got 1.5",
         lambda x, y: focal_loss(x, y, alpha=1.5)),
        (ValueError, "gamma: expected finite numbers >= 0, got nan",
         lambda x, y: focal_loss(x, y, gamma=NAN)),
        (ValueError, "gamma: expected finite numbers >= 0, got inf",
         lambda x, y: focal_loss(x, y, gamma=INF)),
        (ValueError, "gamma: expected finite numbers >= 0, got -2.0",
         lambda x, y: focal_loss(x, y, gamma=jnp.array([[1.0, 0.5, -2.0], [1.0, NAN, 3.0]]))),
        (ValueError, "pos_weight: expected finite numbers >= 0, got 1e+39",
         lambda x, y: cross_entropy(x, y, pos_weight=np.array([[1.0], [1e39]]))),
        (ValueError, "reduction: expected one of 'none', 'sum', 'mean', got 'average'",
         lambda x, y: cross_entropy(x, y, reduction="average")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    x, y = jnp.zeros((2, 3), jnp.float32), jnp.zeros((2, 3), jnp.int32)
    with pytest.raises(error) as raised:
        call(x, y)
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    ("loss", "split"),
    [
        *((cross_entropy, name) for name in ("logits", "labels", "where", "pos_weight")),
        *((focal_loss, name) for name in ("logits", "labels", "where", "alpha", "gamma")),
    ],
)
def test_one_argument_may_be_split_over_an_explicit_axis(loss, split):
    """The loss is split where any of them is, and its gradient as the logits are."""
    mesh = AbstractMesh((2,), ("rows",), axis_types=(AxisType.Explicit,))
    dtypes = {"logits": "float32", "labels": "int32", "where": "bool"}
    for name in ("alpha", "gamma") if loss is focal_loss else ("pos_weight",):
        dtypes[name] = "float32"
    shardings = {n: NamedSharding(mesh, P("rows") if n == split else P()) for n in dtypes}
    arguments = {
        name: jax.ShapeDtypeStruct((4, 3), dtype, sharding=shardings[name])
        for name, dtype in dtypes.items()
    }
    logits = arguments.pop("logits")

    def total(logits, arguments):
        losses = loss(logits, **arguments)
        return jnp.sum(losses), losses

    with jax.sharding.use_abstract_mesh(mesh):
        gradient, losses = jax.eval_shape(jax.grad(total, has_aux=True), logits, arguments)
    assert losses.sharding.spec[0] == "rows"
    assert gradient.sharding.spec[0] == ("rows" if split == "logits" else None)


def focal_derivatives(a: np.ndarray, gamma: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Orders 0 to 3 in the logit of the loss at label 1, by Leibniz's rule in float64.

    With p = sigmoid(a) and q = sigmoid(-a), whose slopes are p q and -p q, it is w h of w = q^gamma
    and h = log(1 + e^-a). Beside each order, how large its terms are.
    """
    p, q = np.exp(-np.logaddexp(0, -a)), np.exp(-np.logaddexp(0, a))
    h = [np.logaddexp(0, -a), -q, p * q, p * q * (q - p)]
    w0 = q**gamma
    w1 = -gamma * p * w0
    bracket, size = (gamma * p) ** 2 - gamma * p * q, (gamma * p) ** 2 + gamma * p * q
    w2 = bracket * w0
    w3 = bracket * w1 + (2 * gamma**2 * p * p * q - gamma * p * q * (q - p)) * w0
    w, sizes = [w0, w1, w2, w3], [w0, -w1, size * w0, (1 + gamma) * size * w0]

    def leibniz(w, h, n):
        return np.sum([math.comb(n, k) * w[k] * h[n - k] for k in range(n + 1)], 0)

    return [(leibniz(w, h, n), leibniz(sizes, list(map(np.abs, h)), n)) for n in range(4)]


@pytest.mark.parametrize("gamma", [None, 0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("label", [0, 1])
def test_derivatives_keep_their_digits_at_every_logit(gamma, label):
    """1 - p has lost them at a logit of 18, where p (1 - p) would be 0."""
    a = np.linspace(-90, 90, 181).astype(np.float32)

    def loss(x):
        if gamma is None:
            return cross_entropy(x, jnp.int32(label))
        return focal_loss(x, jnp.int32(label), gamma=gamma)

    sign = 1 if label else -1
    expected = focal_derivatives(sign * a.astype(np.float64), gamma or 0.0)
    # q^gamma rounds as its logarithm does.
    rounding = 2e-7 * (5 + (gamma or 0.0) * np.logaddexp(0, sign * a.astype(np.float64)))
    for order, (exact, size) in enumerate(expected):
        got = np.asarray(jax.jit(jax.vmap(loss))(a), np.float64)
        # Of products below the smallest normal number nothing is left.
        assert np.all(np.abs(got - sign**order * exact) <= rounding * size + 1e-35)
        loss = jax.grad(loss)
