"""The bad-value table: the same result on every implementation, under jit, in every derivative."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.derivatives import derivatives
from tests.support.oracles import cross_entropy as oracles
from tests.support.oracles.softmax import softmax
from tests.support.problems import IMPLEMENTATIONS, ROW
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
integer_loss = xentjax.softmax_cross_entropy_with_integer_labels
soft_loss = xentjax.softmax_cross_entropy

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def evaluate(call, logits, implementation):
    """Losses, gradient of their sum, jvp along ones, and two second-order products, all jitted."""
    return derivatives(call, implementation)(logits)


def test_label_out_of_range_is_nan_in_loss_and_gradient(implementation):
    bad = [-1, -3, 4, 5, -100, 2**31 - 1, -(2**31)]
    labels = jnp.array([2, *bad, 0], jnp.int32)
    for result in evaluate(
        lambda x, **k: integer_loss(x, labels, **k), [ROW] * len(labels), implementation
    ):
        assert np.isnan(result[1:-1]).all()
        assert np.isfinite(result[[0, -1]]).all()


def test_label_minus_100_of_1000_classes_is_not_class_900(implementation):
    x = jnp.zeros((1, 1000))
    assert np.isnan(integer_loss(x, jnp.array([-100]), implementation=implementation)).all()


def test_bad_label_under_a_class_mask_makes_every_entry_nan(implementation):
    labels, where = jnp.array([7, 0]), jnp.array([[True, False, True, True]] * 2)
    _, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, labels, where=where, **k), [ROW, ROW], implementation
    )
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()


def test_bad_label_in_a_weighted_mean_touches_no_other_row(implementation):
    weights = jnp.array([1.0, 2.0, 3.0, 4.0])
    _, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(
            x, jnp.array([9, 1]), class_weights=weights, reduction="mean", **k
        ),
        [ROW, ROW],
        implementation,
    )
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("how", ["ignore_index", "row mask", "soft, row mask", "class mask"])
@pytest.mark.parametrize(
    "extra", [{}, {"label_smoothing": 0.1, "logit_soft_cap": 3.0}], ids=["", "+"]
)
def test_rows_that_do_not_count(how, extra, implementation):
    """Masked rows may hold anything: loss 0, gradient 0, no effect on the mean."""
    labels = np.array([1, -7, -7], np.int32)
    soft = np.full((3, 4), 0.25, np.float32)
    keep = np.array([True, False, False])
    loss, labels, keywords = {
        "ignore_index": (integer_loss, labels, {"ignore_index": -7}),
        "row mask": (integer_loss, labels, {"where": keep}),
        "soft, row mask": (soft_loss, soft, {"where": keep}),
        "class mask": (integer_loss, labels, {"where": np.repeat(keep[:, None], 4, 1)}),
    }[how]
    keywords = keywords | extra
    alone = oracles.cross_entropy([ROW], labels[:1], **extra)
    for reduction in ("none", "mean"):
        run = derivatives(
            lambda x, reduction=reduction, **k: loss(
                x, labels, reduction=reduction, **keywords, **k
            ),
            implementation,
        )
        for garbage in (NAN, INF, -INF, 1e38):
            results = run([ROW, [garbage] * 4, [0.0, garbage, 1.0, 2.0]])
            value, gradient = results[:2]
            np.testing.assert_array_equal(np.ravel(value)[1:], 0)
            np.testing.assert_array_equal(gradient[1:], 0)
            np.testing.assert_allclose(np.ravel(value)[0], alone.losses[0], rtol=VALUE["float32"])
            np.testing.assert_allclose(gradient[:1], alone.gradient, atol=GRADIENT["float32"])
            for result in results:
                assert np.isfinite(result).all()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_kept_is_zero_and_not_nan(reduction, implementation):
    labels = jnp.full(3, -100)
    results = evaluate(
        lambda x, **k: integer_loss(x, labels, ignore_index=-100, reduction=reduction, **k),
        np.full((3, 4), NAN),
        implementation,
    )
    for result in results:
        np.testing.assert_array_equal(result, 0)


def test_mean_of_kept_weights_that_sum_to_zero_is_zero(implementation):
    results = evaluate(
        lambda x, **k: integer_loss(
            x, jnp.array([0, 0]), class_weights=jnp.array([0.0, 1, 1, 1]), reduction="mean", **k
        ),
        [ROW, ROW],
        implementation,
    )
    for result in results:
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("soft", [False, True], ids=["integer", "soft"])
def test_impossible_class_without_mass_is_exact(soft, implementation):
    """-inf off the target: the loss, and derivatives of every order, of the remaining classes."""
    row = [0.5, -INF, 2.0, 0.25]
    kept = [0, 2, 3]
    call = (
        (lambda x, **k: soft_loss(x, jnp.array([[0.0, 0.0, 1.0, 0.0]]), **k))
        if soft
        else (lambda x, **k: integer_loss(x, jnp.array([2]), **k))
    )
    value, gradient, derivative, *second = evaluate(call, [row], implementation)
    p = softmax(np.array(row)[kept])
    np.testing.assert_allclose(value[0], -np.log(p[1]), rtol=VALUE["float32"])
    expected = p - [0, 1, 0]
    np.testing.assert_allclose(gradient[0, kept], expected, rtol=GRADIENT["float32"])
    assert gradient[0, 1] == 0
    assert abs(derivative[0]) < VALUE["float32"]
    for product in second:  # (diag p - p p^T) 1 = 0
        np.testing.assert_allclose(product, 0, atol=GRADIENT["float32"])


def test_impossible_class_in_a_full_jacobian(implementation):
    """Forward mode through -inf logits, where 0 * inf lurks in every product."""
    row = jnp.array([0.5, -INF, 2.0, 0.25])
    target = jnp.array([0.5, 0.0, 0.5, 0.0])
    slopes = jax.jacfwd(lambda x: soft_loss(x, target, implementation=implementation))
    jacobian, hessian = jax.jit(lambda x: (slopes(x), jax.jacfwd(slopes)(x)))(row)
    p = np.insert(softmax([0.5, 2.0, 0.25]), 1, 0)
    np.testing.assert_allclose(jacobian, p - target, atol=GRADIENT["float32"])
    np.testing.assert_allclose(hessian, np.diag(p) - np.outer(p, p), atol=GRADIENT["float32"])


def test_impossible_class_and_gradient_in_the_labels(implementation):
    """The slope there is +inf; a row of labels that does not move along it stays finite."""
    row, target = jnp.array([0.5, -INF, 2.0, 0.25]), jnp.array([0.5, 0.0, 0.5, 0.0])

    def loss(t):
        return soft_loss(row, t, implementation=implementation)

    assert jax.grad(loss)(target)[1] == INF
    still = jax.jvp(loss, (target,), (jnp.array([1.0, 0.0, -1.0, 0.0]),))[1]
    np.testing.assert_allclose(still, 2.0 - 0.5, rtol=GRADIENT["float32"])


@pytest.mark.parametrize(
    "call",
    [
        lambda x, **k: integer_loss(x, jnp.array([2]), label_smoothing=0.1, **k),
        lambda x, **k: soft_loss(x, jnp.full((1, 4), 0.25), **k),
        lambda x, **k: integer_loss(x, jnp.array([1]), **k),
    ],
    ids=["smoothing", "soft label", "label"],
)
def test_impossible_class_with_mass_costs_inf(call, implementation):
    value, gradient, *_ = evaluate(call, [[0.5, -INF, 2.0, 0.25]], implementation)
    assert value[0] == INF
    assert np.isfinite(gradient).all()


def test_where_takes_the_impossible_class_out_of_the_smoothing(implementation):
    row, where = [0.5, -INF, 2.0, 0.25], jnp.array([[True, False, True, True]])
    expected = oracles.cross_entropy([row], np.array([2]), where=where, label_smoothing=0.1)
    value, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([2]), where=where, label_smoothing=0.1, **k),
        [row],
        implementation,
    )
    np.testing.assert_allclose(value, expected.losses, rtol=VALUE["float32"])
    np.testing.assert_allclose(gradient, expected.gradient, atol=GRADIENT["float32"])


def test_masked_label_costs_inf(implementation):
    where = jnp.array([[True, True, False, True]])
    value, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([2]), where=where, **k), [ROW], implementation
    )
    assert value[0] == INF
    assert np.isfinite(gradient).all()


def test_masked_class_may_hold_anything(implementation):
    where = jnp.array([[True, False, True, True]])
    keywords: dict[str, Any] = {
        "label_smoothing": 0.1,
        "logit_soft_cap": 5.0,
        "temperature": 2.0,
        "z_loss": 0.1,
    }
    clean = oracles.cross_entropy([[0.5, 0, 2.0, 0.25]], np.array([0]), where=where, **keywords)
    run = derivatives(
        lambda x, **k: integer_loss(x, jnp.array([0]), where=where, **keywords, **k),
        implementation,
    )
    for garbage in (NAN, INF, -INF, 1e30, -1e30):
        results = run([[0.5, garbage, 2.0, 0.25]])
        np.testing.assert_allclose(results[0], clean.losses, rtol=VALUE["float32"])
        np.testing.assert_allclose(results[1], clean.gradient, atol=GRADIENT["float32"])
        for result in results:
            assert np.isfinite(result).all()


def test_whole_row_impossible_is_nan(implementation):
    value, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([1, 2]), **k), [[-INF] * 4, ROW], implementation
    )
    assert np.isnan(value[0])
    assert np.isfinite(value[1])
    assert np.isfinite(gradient[1]).all()


def test_nan_logit_stays_in_its_row(implementation):
    value, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([1, 2]), **k),
        [[0.0, 1.0, NAN, 2.0], ROW],
        implementation,
    )
    assert np.isnan(value[0])
    assert np.isnan(gradient[0]).all()
    assert np.isfinite(value[1])
    assert np.isfinite(gradient[1]).all()


@pytest.mark.parametrize("weight", ["class weight", "full smoothing"])
def test_zero_mass_on_an_impossible_label_costs_nothing(weight, implementation):
    row = [0.5, -INF, 2.0, 0.25]
    keywords = (
        {"class_weights": jnp.array([1.0, 0.0, 1.0, 1.0])}
        if weight == "class weight"
        else {"label_smoothing": 1.0, "where": jnp.array([[True, False, True, True]])}
    )
    results = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([1]), **keywords, **k), [row], implementation
    )
    for result in results:
        assert np.isfinite(result).all()


def test_common_offset_costs_no_digits(implementation):
    """lse - a_y loses 4e-3 at an offset of 1e5; log s - (a_y - m) loses nothing."""
    rng = np.random.default_rng(0)
    logits = (rng.integers(-512, 512, (16, 50)) / 128).astype(np.float32)  # exact at the offset
    labels = rng.integers(0, 50, 16).astype(np.int32)
    expected = oracles.cross_entropy(logits, labels).losses
    got = integer_loss(logits + np.float32(1e5), labels, implementation=implementation)
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])


def test_common_offset_costs_no_digits_at_a_temperature(implementation):
    """The shift is subtracted before the division, which would round the offset to 2e-3."""
    rng = np.random.default_rng(0)
    logits = (rng.integers(-512, 512, (16, 50)) / 128).astype(np.float32)
    labels = rng.integers(0, 50, 16).astype(np.int32)
    expected = oracles.cross_entropy(logits, labels, temperature=3.0)

    def losses(x, temperature):
        return integer_loss(
            x, labels, temperature=temperature, return_stats=True, implementation=implementation
        )

    shifted = logits + np.float32(1e5)
    got, stats = losses(shifted, 3.0)
    np.testing.assert_allclose(got, expected.losses, rtol=VALUE["float32"])
    np.testing.assert_allclose(stats.entropy, expected.entropy, rtol=VALUE["float32"])
    normalizer = expected.log_normalizer + 1e5 / 3
    np.testing.assert_allclose(stats.log_normalizer, normalizer, rtol=VALUE["float32"])
    # d/dT sum (log s - z_y) = -sum (p - y) a / T^2, of which the offset is no part.
    slope = jax.grad(lambda t: losses(shifted, t)[0].sum())(jnp.float32(3.0))
    np.testing.assert_allclose(
        slope, -(expected.gradient * logits.astype(np.float64)).sum() / 3.0, rtol=1e-5
    )


def test_half_precision_logits_give_a_float32_loss(implementation):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((8, 1000)), jnp.bfloat16)
    labels = jnp.asarray(rng.integers(0, 1000, 8), jnp.int32)
    got = integer_loss(logits, labels, implementation=implementation)
    expected = oracles.cross_entropy(logits, np.asarray(labels)).losses
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])


def test_largest_finite_logits(implementation):
    big = float(jnp.finfo(jnp.float32).max)
    results = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([0, 1]), **k),
        [[big, 0.0, 0.0, -big], [-big, -big, -big, -big]],
        implementation,
    )
    np.testing.assert_allclose(results[0], [0, np.log(4)], rtol=VALUE["float32"])
    assert np.isfinite(results[1]).all()


def test_impossible_class_in_second_derivatives_by_the_temperature(implementation):
    """-inf is -inf at every temperature: the class leaves all derivatives, in either mode."""

    @jax.jit
    def curvatures(row):
        def loss(t):
            return integer_loss(row, jnp.int32(2), temperature=t, implementation=implementation)

        return jnp.stack([jax.grad(jax.grad(loss))(2.0), jax.jacfwd(jax.jacfwd(loss))(2.0)])

    with_it, without = (jnp.array(row) for row in ([0.5, -INF, 2.0], [0.5, -1e5, 2.0]))
    np.testing.assert_allclose(curvatures(with_it), curvatures(without), rtol=GRADIENT["float32"])


@pytest.mark.parametrize(
    "keywords",
    [{"class_weights": jnp.array([0.0, 1.0, 1.0, 1.0])}, {"label_smoothing": 1.0}],
    ids=["class weight 0", "full smoothing"],
)
def test_no_weight_hides_a_nan(keywords, implementation):
    labels = jnp.array([0, 0, 7])
    rows = [[0.0, NAN, 1.0, 2.0], [-INF] * 4, ROW]
    value, gradient, *_ = evaluate(
        lambda x, **k: integer_loss(x, labels, **keywords, **k), rows, implementation
    )
    assert np.isnan(value).all()
    assert np.isnan(gradient[[0, 2]]).all()


def test_a_soft_cap_leaves_impossible_classes_impossible(implementation):
    row, cap = [0.5, -INF, 2.0, 0.25], 3.0
    kept = oracles.cross_entropy([[0.5, 2.0, 0.25]], np.array([1]), logit_soft_cap=cap)
    value, gradient, *second = evaluate(
        lambda x, **k: integer_loss(x, jnp.array([2]), logit_soft_cap=cap, **k),
        [row],
        implementation,
    )
    np.testing.assert_allclose(value, kept.losses, rtol=VALUE["float32"])
    np.testing.assert_allclose(gradient[0, [0, 2, 3]], kept.gradient[0], atol=GRADIENT["float32"])
    assert gradient[0, 1] == 0
    for result in second:
        assert np.isfinite(result).all()
    slope = jax.grad(
        lambda c: integer_loss(
            jnp.array(row), jnp.int32(2), logit_soft_cap=c, implementation=implementation
        )
    )
    assert np.isfinite(slope(cap))
    impossible = integer_loss(jnp.array(row), jnp.int32(1), logit_soft_cap=cap)
    assert impossible == INF


def test_wide_host_labels_do_not_wrap(implementation):
    """2^32 is not class 0, and 2^32 - 100 is not -100."""
    x = jnp.zeros((3, 4))
    labels = np.array([2**32, 2**32 - 100, 1])
    got = integer_loss(x, labels, ignore_index=-100, implementation=implementation)
    np.testing.assert_allclose(got, [NAN, NAN, np.log(4)], rtol=VALUE["float32"])
