"""Samples of a linear head: their distribution, their log-probabilities, and equal bits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry_2x32
from scipy.stats import chi2, kstest

from tests.support.chosen import (
    assert_random_close,
    cotangents_of,
    few_digits,
    heads,
    logits_of,
)
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.random_heads import D, K, N, random_head
from tests.support.tolerances import GRADIENT, VALUE
from xentjax import linear_log_probs, linear_sample
from xentjax.ops.linear.gumbel import gumbel, gumbel_of_bits, threefry

KEY = jax.random.key(7)
INF, NAN = np.inf, np.nan
# About four arrays of a tile: of 131 rows and 41 classes, both prime, no tile divides them.
TILED = 26_400


@partial(jax.jit, static_argnames="how")
def evaluate(key, arrays, cotangents, *, how=()):
    """Samples, last, and the gradients under a cotangent for each log-probability."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def log_probs(moving):
        sample = linear_sample(key, **{**arrays, **moving}, num_samples=3, **dict(how))
        return jnp.moveaxis(sample.log_probs, 0, -1), jnp.moveaxis(sample.indices, 0, -1)

    value, pullback, indices = jax.vjp(log_probs, moving, has_aux=True)
    return value, indices, pullback(cotangents)[0]


@pytest.mark.parametrize(
    ("dtype", "options", "how"),
    [
        ("float32", "", {}),
        ("float32", "cap temperature", {"max_bytes": TILED}),
        ("float32", "temperature rows", {"implementation": "reference"}),
        ("bfloat16", "cap classes", {"max_bytes": TILED}),
        ("float16", "shared", {"max_bytes": 6000}),
    ],
)
def test_200_random_configurations(dtype, options, how):
    """Each of five compiled functions meets 40 draws of numbers, masks and scalars."""
    cotangents = cotangents_of((N, 3))
    for seed in range(40):
        arrays = random_head(dtype, options, None, seed)
        del arrays["labels"]
        key = jax.random.key(seed)
        log_probs, indices, gradient = evaluate(key, arrays, cotangents, how=tuple(how.items()))
        assert_random_close(arrays, indices, log_probs, gradient, cotangents)
        if arrays.get("where", np.ones(0)).ndim == 2:
            chosen = np.asarray(indices)[np.asarray(indices)[:, 0] >= 0]
            where = np.broadcast_to(arrays["where"], (N, K))[np.asarray(indices)[:, 0] >= 0]
            assert np.take_along_axis(where, chosen, -1).all()


@pytest.mark.parametrize(
    ("options", "offset"), [("", 0), ("", 1e5), ("cap temperature", 3), ("temperature", 1e5)]
)
def test_a_million_draws_have_the_right_distribution(options, offset):
    """Pearson's test of 250,000 draws of each of four rows, and of all together."""
    rng = np.random.default_rng(3)
    k, draws = 11, 250_000
    arrays: dict[str, Any] = {
        "x": np.round(8 * rng.standard_normal((4, 2))) / 8,
        "kernel": np.round(4 * rng.standard_normal((2, k))) / 8,
        "bias": np.linspace(-1, 2, k).round(1) + offset,
    }
    if "temperature" in options:
        arrays["temperature"] = 1.75
    if "cap" in options:
        arrays["logit_soft_cap"] = 2.5
    arrays = {n: np.asarray(a, np.float32) for n, a in arrays.items()}
    arrays["where"] = (np.arange(k) != 4)[None]
    indices, log_probs = linear_sample(KEY, **arrays, num_samples=draws)
    logits = logits_of(arrays)
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    assert p[p > 0].min() * draws > 5
    total = 0.0
    for row in range(4):
        counts = np.bincount(indices[:, row], minlength=k)
        kept = p[row] > 0
        assert counts[~kept].sum() == 0
        statistic = (np.square(counts - draws * p[row])[kept] / (draws * p[row][kept])).sum()
        assert chi2.sf(statistic, kept.sum() - 1) > 1e-4
        total += statistic
    assert 1e-3 < chi2.sf(total, 4 * (k - 2)) < 1 - 1e-3
    expected = np.log(np.take_along_axis(p, np.asarray(indices).T, -1)).T
    np.testing.assert_allclose(log_probs, expected, atol=5e-6)


def test_samples_rows_and_classes_are_independent():
    """Pairs of samples of a row, and of rows of a sample, are uniform over pairs of classes."""
    x, kernel = np.ones((200, 1), np.float32), np.zeros((1, 5), np.float32)
    indices = np.asarray(linear_sample(KEY, x, kernel, num_samples=200).indices)
    for pairs in (5 * indices[:-1] + indices[1:], 5 * indices[:, :-1] + indices[:, 1:]):
        counts = np.bincount(pairs.ravel(), minlength=25)
        expected = pairs.size / 25
        assert chi2.sf((np.square(counts - expected) / expected).sum(), 24) > 1e-4


def test_noise_has_the_right_distribution_and_tails():
    columns = jnp.arange(100_000, dtype=jnp.uint32)
    noise = gumbel(jnp.array([3, 9], jnp.uint32), jnp.uint32(5), columns, jnp.float32)
    assert kstest(noise, "gumbel_r").pvalue > 1e-3
    largest = 2**32 - 1
    high = np.array([0, 0, 0, 1, 2**16, 2**31, largest, largest], np.uint32)
    low = np.array([0, 1, largest, 7, 0, 0, 0, largest], np.uint32)
    v = (high + (low + 0.5) / 2**32) / 2**32
    expected = -np.log(-np.log1p(-np.minimum(v, 1 - 2.0**-24)))
    words = jnp.asarray(high), jnp.asarray(low)
    np.testing.assert_allclose(gumbel_of_bits(*words, jnp.float32), expected, rtol=2e-6)
    with jax.enable_x64(True):
        expected = -np.log(-np.log1p(-np.minimum(v, 1 - 2.0**-53)))
        np.testing.assert_allclose(gumbel_of_bits(*words, jnp.float64), expected, rtol=1e-13)


def test_bits_are_those_of_jax():
    key = np.array([3, 2**32 - 5], np.uint32)
    counters = np.random.default_rng(0).integers(0, 2**32, 200, np.uint32)
    got = threefry(*jnp.asarray(key), *jnp.split(jnp.asarray(counters), 2))
    np.testing.assert_array_equal(jnp.concatenate(got), threefry_2x32(key, counters))


def test_equal_bits_for_every_tiling():
    """Six tile sizes, stored logits, and a few of the rows."""
    arrays: dict[str, Any] = random_head("float32", "temperature", None, 4)
    del arrays["labels"]
    expected = linear_sample(KEY, **arrays, num_samples=20)
    ways = [{"max_bytes": b} for b in (100, 4000, 20_000, 60_000, 200_000, 10**6)]
    for how in [*ways, {"implementation": "reference"}]:
        sample = linear_sample(KEY, **arrays, num_samples=20, **how)
        np.testing.assert_array_equal(sample.indices, expected.indices)
        np.testing.assert_allclose(sample.log_probs, expected.log_probs, rtol=1e-5, atol=5e-6)
    few = linear_sample(KEY, **{**arrays, "x": arrays["x"][:50]}, num_samples=4)
    np.testing.assert_array_equal(few.indices, expected.indices[:4, :50])
    one = linear_sample(KEY, **arrays)
    np.testing.assert_array_equal(one.indices, expected.indices[0])
    three = linear_sample(KEY, **{**arrays, "x": arrays["x"][:6].reshape(2, 3, D)}, num_samples=4)
    np.testing.assert_array_equal(three.indices, expected.indices[:4, :6].reshape(4, 2, 3))


def test_a_batch_of_keys_or_rows_gives_what_each_member_gives():
    arrays = few_digits(6)
    keys = jax.random.split(KEY, 3)
    sample = jax.vmap(lambda key: linear_sample(key, **arrays))(keys)
    of_rows = jax.vmap(lambda x: linear_sample(KEY, **{**arrays, "x": x}))
    for i, key in enumerate(keys):
        np.testing.assert_array_equal(sample.indices[i], linear_sample(key, **arrays).indices)
    assert len(np.unique(sample.indices, axis=0)) == 3
    x = arrays["x"].reshape(3, 2, D)
    for got, member in zip(of_rows(x).indices, x, strict=True):
        expected = linear_sample(KEY, **{**arrays, "x": member}).indices
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg"])
def test_every_kind_of_key(implementation):
    arrays = few_digits(6)
    key = jax.random.key(3, impl=implementation)
    expected = linear_sample(key, **arrays)
    np.testing.assert_array_equal(linear_sample(key, **arrays).indices, expected.indices)
    if implementation == "threefry2x32":
        raw = jax.random.PRNGKey(3)
        np.testing.assert_array_equal(linear_sample(raw, **arrays).indices, expected.indices)


@pytest.mark.parametrize("max_bytes", [None, TILED])
def test_bad_values(max_bytes):
    """-inf classes, NaN rows, a row without a class of its own, masked rows of NaN."""
    arrays = few_digits()
    how, cotangents = (("max_bytes", max_bytes),), cotangents_of((N, 3))
    arrays["bias"][::2] = -INF
    good = evaluate(KEY, arrays, cotangents, how=how)
    assert (np.asarray(good[1]) % 2 == 1).all()
    assert np.isfinite(good[2]["kernel"]).all()
    bad = np.isin(np.arange(N), [0, 65])
    spoilt = {**arrays, "x": np.where(bad[:, None], NAN, arrays["x"]).astype(np.float32)}
    log_probs, indices, gradient = evaluate(KEY, spoilt, cotangents, how=how)
    assert np.isnan(log_probs[bad]).all()
    assert (np.asarray(indices)[bad] == -1).all()
    assert np.isnan(gradient["x"][bad]).all()
    np.testing.assert_array_equal(indices[~bad], good[1][~bad])
    assert_close(gradient["x"][~bad], good[2]["x"][~bad], GRADIENT["float32"])

    masked = evaluate(KEY, {**spoilt, "where": ~bad}, cotangents, how=how)
    np.testing.assert_array_equal(masked[0][bad], 0)
    np.testing.assert_array_equal(masked[1][bad], -1)
    np.testing.assert_array_equal(masked[1][~bad], good[1][~bad])
    np.testing.assert_array_equal(masked[2]["x"][bad], 0)
    assert np.isfinite(masked[2]["kernel"]).all()

    nothing = {**arrays, "bias": np.full(K, -INF, np.float32)}
    log_probs, indices, gradient = evaluate(KEY, nothing, cotangents, how=how)
    assert np.isnan(log_probs).all()
    assert (np.asarray(indices) == -1).all()
    assert np.isnan(gradient["x"]).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 2, 1), (0, 3, 4)], ids=str)
def test_one_row_feature_or_class_and_no_rows(shape):
    arrays = few_digits(*shape)
    log_probs, indices, gradient = evaluate(KEY, arrays, cotangents_of((shape[0], 3)))
    assert log_probs.shape == indices.shape == (shape[0], 3)
    for i, expected in enumerate(heads(arrays, np.asarray(indices))):
        assert_close(log_probs[:, i], expected.label_log_prob, VALUE["float32"])
    assert {n: g.shape for n, g in gradient.items()} == {n: a.shape for n, a in arrays.items()}
    one = linear_sample(KEY, arrays["x"][0] if shape[0] else arrays["x"], arrays["kernel"])
    assert one.indices.shape == ((0,) if shape[0] == 0 else ())


def test_second_derivatives_are_those_of_the_log_probabilities():
    arrays = few_digits()
    labels = linear_sample(KEY, **arrays).indices

    def products(log_probs):
        def total(kernel):
            return jnp.sum(jnp.square(log_probs({**arrays, "kernel": kernel})))

        along = jnp.cos(jnp.arange(D * K, dtype=jnp.float32)).reshape(D, K)
        return jax.jit(partial(jax.jvp, jax.grad(total)))((arrays["kernel"],), (along,))

    got = products(lambda at: linear_sample(KEY, **at, max_bytes=TILED).log_probs)
    expected = products(lambda at: linear_log_probs(**at, labels=labels))
    for a, b in zip(got, expected, strict=True):
        assert_close(a, b, GRADIENT["float32"])


def test_float64_stays():
    arrays = {n: a.astype(np.float64) / 3 for n, a in few_digits().items()}
    with jax.enable_x64(True):
        sample = linear_sample(KEY, **arrays, max_bytes=2 * TILED)
        expected = linear_sample(KEY, **arrays)
    assert sample.log_probs.dtype == np.float64
    assert sample.indices.dtype == np.int32
    np.testing.assert_array_equal(sample.indices, expected.indices)
    true = heads(arrays, np.asarray(sample.indices)[:, None])[0].label_log_prob
    assert_close(sample.log_probs, true, VALUE["float64"])


def test_samples_share_one_pass_of_products(products):
    # No other test has this shape: see `products`.
    x, kernel = jnp.ones((519, 5)), jnp.ones((5, 11))

    @partial(jax.jit, static_argnums=1)
    def draw(where, num_samples):
        return linear_sample(KEY, x, kernel, where=where, max_bytes=1600, num_samples=num_samples)

    every, tenth = np.ones(519, bool), np.arange(519) % 10 == 3
    assert products(draw, ~every, None) == 0
    assert 0 < 4 * products(draw, tenth, None) <= products(draw, every, None)
    assert products(draw, every, None) == products(draw, every, 5)


def test_memory_of_a_language_model():
    """Logits of 2048 tokens and 32768 classes take 268 MB."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 512), (512, 32768))]

    def policy(x, kernel):
        return jnp.mean(jnp.square(linear_sample(KEY, x, kernel).log_probs))

    for function, megabytes in (
        (partial(linear_sample, KEY), 30),
        (jax.value_and_grad(policy, (0, 1)), 60),
    ):
        assert temporary_bytes(function, *shapes) <= megabytes * 10**6


X, KERNEL = jnp.zeros((2, 3)), jnp.zeros((3, 4))


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "key: expected a random key, got float32 of shape (2,)",
         lambda: linear_sample(jnp.zeros(2), X, KERNEL)),
        (ValueError, "key: expected one random key, got shape (2,)",
         lambda: linear_sample(jax.random.split(KEY), X, KERNEL)),
        (ValueError, "num_samples: expected an integer >= 1 or None, got 0",
         lambda: linear_sample(KEY, X, KERNEL, num_samples=0)),
        (TypeError, "num_samples: expected an integer, got 2.0",
         lambda: linear_sample(KEY, X, KERNEL, num_samples=2.0)),  # pyright: ignore[reportArgumentType]
        (ValueError, "temperature: expected a finite number > 0, got 0.0",
         lambda: linear_sample(KEY, X, KERNEL, temperature=0.0)),
        (NotImplementedError, "implementation: expected None, 'xla' or 'reference' "
         "(no kernel makes this), got 'mosaic_tpu'",
         lambda: linear_sample(KEY, X, KERNEL, implementation="mosaic_tpu")),
        (ValueError, "kernel: expected shape (3, K), the features of x by at least one class, "
         "got shape (4, 3)", lambda: linear_sample(KEY, X, KERNEL.T)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.usefixtures("unchecked_annotations")
def test_wrong_arguments_say_what_was_expected(error, message, call: Any):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
