"""The largest classes of a linear head, against a sort of the whole logits and float64."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

from tests.support.chosen import (
    assert_random_close,
    cotangents_of,
    few_digits,
    heads,
    logits_of,
)
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.derivatives import check_along
from tests.support.random_heads import D, K, N, random_head
from tests.support.random_problems import assert_within
from tests.support.tolerances import GRADIENT, RANDOM_VALUE, VALUE
from xentjax import linear_top_k

TILED = 26_400  # of 131 rows and 41 classes, both prime: no tile divides them
INF, NAN = np.inf, np.nan


@partial(jax.jit, static_argnames=("k", "how"))
def evaluate(arrays, k, cotangents, *, how=()):
    """The largest classes and the gradients under a cotangent for each log-probability."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def log_probs(moving):
        top = linear_top_k(**{**arrays, **moving}, k=k, **dict(how))
        return top.log_probs, top.indices

    value, pullback, indices = jax.vjp(log_probs, moving, has_aux=True)
    return value, indices, pullback(cotangents)[0]


@pytest.mark.parametrize(
    ("dtype", "options", "k", "how"),
    [
        ("float32", "", 3, {}),
        ("float32", "cap temperature", 7, {"max_bytes": TILED}),
        ("float32", "temperature rows", 7, {"implementation": "reference"}),
        ("bfloat16", "cap classes", 5, {"max_bytes": TILED}),
        ("float16", "shared", 4, {"max_bytes": 6000}),
    ],
)
def test_200_random_configurations(dtype, options, k, how):
    """Each of five compiled functions meets 40 draws of numbers, masks and scalars."""
    cotangents = cotangents_of((N, k))
    for seed in range(40):
        arrays = random_head(dtype, options, None, seed)
        del arrays["labels"]
        log_probs, indices, gradient = evaluate(arrays, k, cotangents, how=tuple(how.items()))
        assert_random_close(arrays, indices, log_probs, gradient, cotangents)
        # Rounding of the logits may have changed the order of those that are close.
        expected = heads(arrays, np.asarray(indices))[0]
        x = np.where(expected.keep[:, None], arrays["x"], 0)
        kept, a = expected.keep, logits_of({**arrays, "x": x})
        largest = -np.sort(-a, -1)[kept, :k]
        normalizer = expected.log_normalizer[kept, None]
        bound = RANDOM_VALUE * (1 + np.abs(largest - normalizer) + 2 * expected.size[kept, None])
        assert_within(np.asarray(log_probs)[kept], largest - normalizer, bound)
        assert all(len(set(row)) == k for row in np.asarray(indices)[kept])
        assert (np.asarray(indices)[~kept] == -1).all()


def test_indices_are_those_of_a_sort_with_ties():
    """Logits have few values, so that most are equal to others; every k, many tilings."""
    arrays = few_digits()
    logits = jnp.asarray(logits_of(arrays), jnp.float32)
    expected = jax.lax.top_k(logits, K)[1]
    assert (np.diff(-np.sort(-np.asarray(logits), -1)[:, :8]) == 0).any(-1).mean() > 0.3
    for k, max_bytes in [(1, None), (K, None), (4, 40_000), (K, TILED), (30, 6000), (9, 1)]:
        indices = linear_top_k(**arrays, k=k, max_bytes=max_bytes).indices
        assert indices.dtype == jnp.int32
        np.testing.assert_array_equal(indices, expected[:, :k])


@pytest.mark.parametrize("max_bytes", [None, TILED, 6000])
def test_classes_of_logit_minus_infinity_come_before_masked_ones(max_bytes):
    """All classes are asked for, of which each row masks some and some are -inf."""
    arrays = few_digits()
    rng = np.random.default_rng(3)
    arrays["bias"][rng.random(K) < 0.4] = -INF
    arrays["where"] = rng.random((N, K)) < 0.5
    arrays["where"][5] = False
    arrays["where"][6] = np.arange(K) == 40
    top = linear_top_k(**arrays, k=K, max_bytes=max_bytes)
    logits = logits_of({n: a for n, a in arrays.items() if n != "where"})
    for i, (row, where) in enumerate(zip(logits, arrays["where"], strict=True)):
        classes = np.flatnonzero(where)
        order = classes[np.argsort(-row[classes], kind="stable")]
        expected = np.concatenate([order, np.full(K - len(order), -1)])
        np.testing.assert_array_equal(top.indices[i], expected)
        if i != 5:
            true = row[order] - np.log(np.exp(row[order]).sum()) if len(order) else row[order]
            if np.isfinite(row[order]).any():
                assert_close(top.log_probs[i][: len(order)], true, VALUE["float32"])
                assert np.isneginf(top.log_probs[i][len(order) :]).all()
    assert np.isneginf(np.asarray(top.log_probs)[np.asarray(top.indices) >= 0]).any()
    np.testing.assert_array_equal(top.log_probs[5], 0)


@pytest.mark.parametrize("max_bytes", [None, TILED])
def test_nan_stays_in_its_row(max_bytes):
    """NaN features, and a row whose classes are all -inf; masked rows of NaN give 0."""
    arrays = few_digits()
    how, cotangents = (("max_bytes", max_bytes),), cotangents_of((N, 3))
    good = evaluate(arrays, 3, cotangents, how=how)
    bad = np.isin(np.arange(N), [0, 65])
    spoilt = {**arrays, "x": np.where(bad[:, None], NAN, arrays["x"]).astype(np.float32)}
    got = evaluate(spoilt, 3, cotangents, how=how)
    for a, b in ((got[0], good[0]), (got[2]["x"], good[2]["x"])):
        assert np.isnan(a[bad]).all()
        assert_close(a[~bad], b[~bad], GRADIENT["float32"])
    np.testing.assert_array_equal(got[1][~bad], good[1][~bad])

    nothing = {**arrays, "bias": np.full(K, -INF, np.float32)}
    log_probs, _, gradient = evaluate(nothing, 3, cotangents, how=how)
    assert np.isnan(log_probs).all()
    assert np.isnan(gradient["x"]).all()
    log_probs, indices, gradient = evaluate({**spoilt, "where": ~bad}, 3, cotangents, how=how)
    np.testing.assert_array_equal(log_probs[bad], 0)
    np.testing.assert_array_equal(indices[bad], -1)
    np.testing.assert_array_equal(gradient["x"][bad], 0)
    assert np.isfinite(gradient["kernel"]).all()


def test_one_nan_logit_comes_first():
    arrays = few_digits(3, 2, 6)
    arrays["kernel"][1, 4] = NAN
    arrays["x"][1:, 1] = 0.5
    arrays["x"][0] = 1.0
    top = linear_top_k(**arrays, k=2)
    np.testing.assert_array_equal(top.indices[:, 0], 4)
    assert np.isnan(top.log_probs).all()


def test_every_derivative():
    """Forward mode and two second derivatives, against differences of the oracle's gradient."""
    rng = np.random.default_rng(5)
    arrays = few_digits()
    arrays["x"] += 0.01 * rng.standard_normal(arrays["x"].shape).astype(np.float32)
    arrays |= {"temperature": np.float32(1.5), "logit_soft_cap": np.float32(3)}
    cotangents = cotangents_of((N, 3))

    def total(moving):
        return jnp.vdot(cotangents, linear_top_k(**moving, k=3, max_bytes=TILED).log_probs)

    indices = np.asarray(linear_top_k(**arrays, k=3).indices)

    def true_gradient(at):
        each = [
            h.gradients(label_log_prob=cotangents[:, i]) for i, h in enumerate(heads(at, indices))
        ]
        return {n: sum(g[n] for g in each) for n in arrays}

    check_along(total, true_gradient, arrays, rng)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 2, 1), (0, 3, 4)], ids=str)
def test_one_row_feature_or_class_and_no_rows(shape):
    arrays = few_digits(*shape)
    k = shape[2]
    cotangents = cotangents_of((shape[0], k))
    log_probs, indices, gradient = evaluate(arrays, k, cotangents)
    np.testing.assert_array_equal(indices, np.argsort(-logits_of(arrays), -1, kind="stable"))
    for i, expected in enumerate(heads(arrays, np.asarray(indices))):
        assert_close(log_probs[:, i], expected.label_log_prob, VALUE["float32"])
    assert {n: g.shape for n, g in gradient.items()} == {n: a.shape for n, a in arrays.items()}
    mesh = Mesh(np.array(jax.devices()[:1]), ("classes",))
    split = jax.shard_map(
        partial(linear_top_k, k=k, axis_name="classes"),
        mesh=mesh,
        in_specs=(P(), P(None, "classes")),
        out_specs=P(),
    )
    assert jax.eval_shape(split, arrays["x"], arrays["kernel"]).indices.shape == indices.shape


def test_leading_axes_are_those_of_x():
    arrays = few_digits(6)
    top = linear_top_k(**arrays, k=3)
    again = linear_top_k(**{**arrays, "x": arrays["x"].reshape(2, 3, D)}, k=3)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.reshape(6, 3)), top, again)
    one = linear_top_k(**{**arrays, "x": arrays["x"][5]}, k=3)
    np.testing.assert_array_equal(one.indices, top.indices[5])
    assert_close(one.log_probs, top.log_probs[5], VALUE["float32"])


def test_float64_stays():
    arrays = {n: a.astype(np.float64) / 3 for n, a in few_digits().items()}
    with jax.enable_x64(True):
        top = linear_top_k(**arrays, k=2, max_bytes=TILED)
    assert top.log_probs.dtype == np.float64
    for i, expected in enumerate(heads(arrays, np.asarray(top.indices))):
        assert_close(top.log_probs[:, i], expected.label_log_prob, VALUE["float64"])


def test_rows_that_do_not_count_cost_no_products(products):
    # No other test has this shape: see `products`.
    x, kernel = jnp.ones((521, 5)), jnp.ones((5, 11))

    @jax.jit
    def top(x, where):
        return linear_top_k(x, kernel, 2, where=where, max_bytes=1600)

    tenth = np.arange(521) % 10 == 3
    assert products(top, x, np.zeros(521, bool)) == 0
    some, every = (products(top, x, kept) for kept in (tenth, np.ones(521, bool)))
    assert 0 < 4 * some <= every


def test_memory_of_a_language_model():
    """Logits of 512 tokens and 151,936 classes take 311 MB, those of a tile 31 MB."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((512, 256), (256, 151_936))]

    def loss(x, kernel):
        return jnp.sum(jnp.square(linear_top_k(x, kernel, 64).log_probs))

    for function, megabytes in (
        (partial(linear_top_k, k=64), 32),
        (jax.value_and_grad(loss, (0, 1)), 80),
    ):
        assert temporary_bytes(function, *shapes) <= megabytes * 10**6


X, KERNEL = jnp.zeros((2, 3)), jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "k: expected an integer 1..4, the number of classes, got 5",
         lambda: linear_top_k(X, KERNEL, 5)),
        (ValueError, "k: expected an integer 1..4, the number of classes, got 0",
         lambda: linear_top_k(X, KERNEL, 0)),
        (TypeError, "k: expected an integer, got 2.0",
         lambda: linear_top_k(X, KERNEL, 2.0)),  # pyright: ignore[reportArgumentType]
        (TypeError, "k: expected an integer that is known under jit (a static argument), "
         "got a traced int32[]", lambda: jax.jit(partial(linear_top_k, X, KERNEL))(jnp.int32(2))),
        (ValueError, "temperature: expected a finite number > 0, got 0.0",
         lambda: linear_top_k(X, KERNEL, 2, temperature=0.0)),
        (NotImplementedError, "implementation: expected None, 'xla' or 'reference' "
         "(no kernel makes this), got 'mosaic_gpu'",
         lambda: linear_top_k(X, KERNEL, 2, implementation="mosaic_gpu")),
        (ValueError, "implementation: expected one of 'xla', 'reference', 'mosaic_tpu', "
         "'mosaic_gpu', got 'fast'", lambda: linear_top_k(X, KERNEL, 2, implementation="fast")),  # pyright: ignore[reportArgumentType]
        (ValueError, "max_bytes: expected an integer >= 1 or None, got 0",
         lambda: linear_top_k(X, KERNEL, 2, max_bytes=0)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.usefixtures("unchecked_annotations")
def test_wrong_arguments_say_what_was_expected(error, message, call: Any):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
