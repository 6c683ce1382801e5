"""Brier score against float64: values, derivatives, limits."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import check_derivatives, derivatives
from tests.support.oracles import losses as oracles
from tests.support.problems import IMPLEMENTATIONS, PROBLEMS, ROW, Problem
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
brier_score = xentjax.brier_score


def arguments(name):
    return next(p for p in PROBLEMS if p.name == name).arguments()


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "xla") for name in (
        "one class", "axis 1", "ignored", "row mask",
        "mask on two axes", "soft", "soft, class mask",
    )] + [(name, i) for name in ("plain", "class mask") for i in IMPLEMENTATIONS],
)  # fmt: skip
def test_brier_score(name, implementation):
    logits, labels, keywords = arguments(name)
    check_derivatives(
        partial(brier_score, labels=labels, **keywords),
        lambda x: oracles.brier_score(x, labels, **keywords),
        logits,
        implementation,
    )


def test_common_offset_costs_no_digits():
    logits = np.array([[0.5, -1, 2], [1, 0.25, -3]], np.float32)
    offset = np.float32(1e5)
    expected = oracles.brier_score(logits, np.array([0, 1]))
    got = brier_score(logits + offset, np.array([0, 1]))
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])


@pytest.mark.parametrize("axis", [-1, 1, (0, 2)], ids=str)
def test_one_hot_rows_of_integers_are_pmfs(axis):
    logits, rng = np.zeros((2, 3, 4), np.float32), np.random.default_rng(0)
    logits += rng.standard_normal(logits.shape).astype(np.float32)
    one_hot = rng.integers(0, 2, logits.shape)
    got = brier_score(logits, one_hot, axis)
    np.testing.assert_array_equal(got, brier_score(logits, one_hot.astype(np.float32), axis))
    np.testing.assert_array_equal(got, brier_score(logits, one_hot.astype(bool), axis))


def test_brier_score_lies_between_0_and_2():
    logits = np.array([[100, 0, 0], [0, 100, 0], [1, 1, 1], [9, 0, 0]], np.float32)
    got = brier_score(logits, jnp.zeros(4, jnp.int32))
    np.testing.assert_allclose(got[:3], [0, 2, 2 / 3], rtol=VALUE["float32"])
    # Of this one an expansion 1 - 2 p_y + sum p_k^2 keeps no digit at all.
    expected = oracles.brier_score(logits[3:], np.zeros(1, int))
    np.testing.assert_allclose(got[3:], expected, rtol=2 * VALUE["float32"])


def test_brier_score_reductions_and_gradients_in_the_pmf():
    logits, labels, _ = arguments("soft")
    expected = oracles.brier_score(logits, labels)
    assert_close(brier_score(logits, labels, reduction="sum"), expected.sum(), VALUE["float32"])
    assert_close(brier_score(logits, labels, reduction="mean"), expected.mean(), VALUE["float32"])
    gradient = jax.grad(lambda t: jnp.sum(brier_score(logits, t)))(labels)
    p = np.exp(oracles.log_softmax(logits)[0])
    assert_close(gradient, 2 * (labels - p), GRADIENT["float32"])
    logits, labels, keywords = arguments("ignored")
    kept = labels != -100
    expected = oracles.brier_score(logits, labels, **keywords)[kept].mean()
    assert_close(brier_score(logits, labels, reduction="mean", **keywords), expected, 1e-6)
    shared = np.full(7, 1 / 7, np.float32)
    assert_close(
        brier_score(logits, shared),
        oracles.brier_score(logits, np.broadcast_to(shared, logits.shape)),
        VALUE["float32"],
    )


LOSSES = {
    "indices": lambda x, y=1, **k: brier_score(x, jnp.full(x.shape[:-1], y), **k),
    "pmfs": lambda x, **k: brier_score(x, jnp.array([0.5, 0.0, 0.25, 0.25]), **k),
}


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "xla") for name in LOSSES] + [("indices", "reference")],
)
def test_impossible_class_is_as_if_it_were_not_there(name, implementation):
    """-inf on a class without target mass is exact in every order: the same as -1e4."""
    call = LOSSES[name] if name != "indices" else lambda x, **k: LOSSES["indices"](x, y=2, **k)
    run = derivatives(call, implementation)
    for got, expected in zip(
        run([[0.5, -INF, 2.0, 0.25]]), run([[0.5, -1e4, 2.0, 0.25]]), strict=True
    ):
        assert_close(got, expected, GRADIENT["float32"])


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "classes") for name in LOSSES] + [("indices", "rows")],
)
def test_masked_entries_may_hold_anything(name, kind):
    if kind == "classes":
        where = np.array([[True, True, False, True], [False] * 4])
    else:
        where = np.array([True, False])
    run = derivatives(
        lambda x, **k: LOSSES[name](x, where=where, reduction="mean", **k), "xla"
    )  # fmt: skip
    kept = -1.0 if kind == "rows" else 7.0
    expected = run([[0.5, 3.0, kept, 0.25], [0.0] * 4])
    assert all(np.isfinite(result).all() for result in expected)
    for garbage in (NAN, INF, -INF, 1e38):
        entry = kept if kind == "rows" else garbage
        results = run([[0.5, 3.0, entry, 0.25], [garbage] * 4])
        for got, clean in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got, clean)
    np.testing.assert_array_equal(expected[1][1], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_bad_rows_are_nan_alone(name):
    run = derivatives(LOSSES[name], "xla")
    for bad in ([-INF] * 4, [0.0, 1.0, NAN, 2.0]):
        for result in run([ROW, bad])[:2]:
            assert np.isnan(result[1]).all()
            assert np.isfinite(result[0]).all()


def test_bad_label_is_nan_in_score_and_gradient():
    labels = jnp.array([1, -1, 4, -100, 0])
    where = jnp.array([[True, True, False, True]] * 5)
    for keywords in ({}, {"where": where}):
        results = derivatives(lambda x, k=keywords, **i: brier_score(x, labels, **k, **i), "xla")(
            [ROW] * 5
        )
        for result in results:
            assert np.isfinite(result[[0, -1]]).all()
        for result in results[:3]:
            assert np.isnan(result[1:-1]).all()
    assert np.isnan(brier_score(jnp.zeros((1, 4)), np.array([2**32]))).all()  # not class 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, labels, _ = arguments("plain")
        x = jnp.asarray(x, dtype)

        def oracle(x):
            return oracles.brier_score(x, labels)

        value, gradient = jax.value_and_grad(lambda x: jnp.sum(brier_score(x, labels)))(x)
        assert value.dtype == ("float64" if dtype == "float64" else "float32")
        assert gradient.dtype == dtype
        expected = oracle(np.asarray(x, np.float64))
        assert_close(value, expected.sum(), VALUE[dtype])
        slope = oracles.numerical_gradient(oracle, np.asarray(x, np.float64))
        assert_close(gradient, slope, max(GRADIENT[dtype], 1e-9))


def test_vmap_equals_the_batched_call():
    logits, labels, _ = Problem("batch", shape=(4, 3, 7)).arguments()
    expected = oracles.brier_score(logits, labels)
    assert_close(jax.vmap(brier_score)(logits, labels), expected, VALUE["float32"])


def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row():
    n, k = 64, 512
    x = jax.random.normal(jax.random.key(0), (n, k), jnp.float32)
    labels = jnp.zeros(n, jnp.int32)
    assert residual_bytes(lambda x: jnp.sum(brier_score(x, labels)), x) <= 32 * n


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "ignore_index: expected None with probabilities as labels, got 1",
         lambda x, y: brier_score(x, x, ignore_index=1)),
        (ValueError, "labels: expected the logits' shape without the classes, (2,), got (3,)",
         lambda x, y: brier_score(x, jnp.zeros(3, jnp.int32))),
        (ValueError, "labels: expected class indices, integers of shape (2,), or probabilities of "
         "shape (2, 3), got float32 of shape (2,)",
         lambda x, y: brier_score(x, jnp.zeros(2, jnp.float32))),
        (ValueError, "reduction: expected one of", lambda x, y: brier_score(x, y, reduction="")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
