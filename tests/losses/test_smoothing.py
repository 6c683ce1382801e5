"""Smoothed labels: values, masks, dtypes, transformations, against optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.closeness import assert_close
from tests.support.problems import PROBLEMS
from tests.support.tolerances import VALUE

smooth_labels = xentjax.smooth_labels


def test_smooth_labels():
    """Rows keep their sum, over the classes that take part; nothing else gets mass."""
    labels = np.eye(4, dtype=np.float32)[[0, 3, 1]]
    np.testing.assert_allclose(
        smooth_labels(labels, 0.2), 0.8 * labels + 0.05, rtol=VALUE["float32"]
    )
    where = np.array([[True, True, True, False], [True] * 4, [False] * 4])
    got = smooth_labels(labels, 0.3, where=where)
    np.testing.assert_allclose(
        got,
        [[0.8, 0.1, 0.1, 0], [0.075, 0.075, 0.075, 0.775], [0, 0, 0, 0]],
        rtol=VALUE["float32"],
    )
    joined = smooth_labels(np.ones((2, 3, 5), np.float32), 1.0, axis=(0, -1))
    np.testing.assert_allclose(joined, 0.1, rtol=VALUE["float32"])
    one_row = smooth_labels(labels, 1.0, where=np.array([[True], [False], [True]]))
    np.testing.assert_allclose(one_row, [[0.25] * 4, [0] * 4, [0.25] * 4])


def test_smooth_labels_are_the_keyword_label_smoothing():
    problem = next(p for p in PROBLEMS if p.name == "soft, class mask")
    logits, labels, keywords = problem.arguments()
    got = xentjax.softmax_cross_entropy(
        logits, smooth_labels(labels, 0.3, where=keywords["where"]), **keywords
    )
    # The keyword gives each kept class e/K, also where the target lost mass to masked ones.
    expected = xentjax.softmax_cross_entropy(logits, labels, label_smoothing=0.3, **keywords)
    assert_close(got, expected, VALUE["float32"])


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_smooth_labels_keep_their_dtype(dtype):
    with jax.enable_x64(dtype == "float64"):
        got = smooth_labels(jnp.asarray([0.0, 1.0], dtype), 0.5)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got, np.float64), [0.25, 0.75])


def test_smooth_labels_under_transformations():
    labels = jnp.eye(3)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(smooth_labels, (0, None)))(labels, 0.3), smooth_labels(labels, 0.3)
    )
    slope = jax.grad(lambda a: jnp.vdot(smooth_labels(labels, a), labels))(0.3)
    np.testing.assert_allclose(slope, 3 * (1 / 3 - 1), rtol=VALUE["float32"])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), axis=st.sampled_from([-1, 1]), masked=st.booleans())
def test_replaces_optax(seed, axis, masked):
    rng = np.random.default_rng(seed)
    shape = (3, 4, 5)
    labels = np.moveaxis(rng.dirichlet(np.ones(shape[axis]), np.delete(shape, axis)), -1, axis)
    labels = jnp.asarray(labels, jnp.float32)
    where = None
    if masked:
        where = np.ones(shape, bool)
        np.moveaxis(where, axis, -1)[..., 0] = False
        where = jnp.asarray(where)
    alpha = rng.uniform(0, 1)
    with jax.numpy_dtype_promotion("standard"):
        smoothed = optax.losses.smooth_labels(labels, alpha, axis=axis, where=where)
    np.testing.assert_allclose(
        smooth_labels(labels, alpha, axis=axis, where=where),
        smoothed
        if where is None
        else jnp.where(where, smoothed, 0),  # optax gives masked classes mass
        rtol=1e-6,
        atol=1e-7,
    )


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "alpha: expected a number in [0, 1], got 1.5",
         lambda x, y: smooth_labels(x, 1.5)),
        (TypeError, "labels: expected a floating dtype, got int32",
         lambda x, y: smooth_labels(y, 0.1)),
        (ValueError, "where: expected a shape that broadcasts to the labels' (2, 3), got (2,)",
         lambda x, y: smooth_labels(x, 0.1, where=jnp.ones(2, bool))),
        (ValueError, "axis: expected axes of an array of 2 dimensions, got 2",
         lambda x, y: smooth_labels(x, 0.1, axis=2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
