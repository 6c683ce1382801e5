"""Log-probabilities and entropies of a linear head, against float64 of the whole logits."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import kernels
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.derivatives import check_along
from tests.support.oracles.heads import Head, head
from tests.support.random_heads import D, K, N, random_head
from tests.support.random_problems import assert_within, rounding
from tests.support.tolerances import GRADIENT, RANDOM_GRADIENT, RANDOM_VALUE, VALUE
from xentjax import linear_log_probs
from xentjax.heads import log_probs
from xentjax.heads._statistics import head_statistics
from xentjax.ops import Requested
from xentjax.ops.backends import contexts

TILED = 13_200  # rows and classes are prime: no tile divides them
INF, NAN = np.inf, np.nan


@partial(jax.jit, static_argnames="how")
def evaluate(arrays, cotangents, *, how):
    """Log-probabilities, entropies and the gradients under a cotangent for each."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def both(moving):
        return linear_log_probs(**{**arrays, **moving}, return_entropy=True, **dict(how))

    value, pullback = jax.vjp(both, moving)
    return value, pullback(cotangents)[0]


def cotangents_of(labels: Any) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(2)
    return tuple(rng.uniform(0.5, 2, np.shape(labels)).astype(np.float32) for _ in range(2))


def exact(arrays: dict[str, Any], how: dict[str, Any]) -> Head:
    ignored = {n: v for n, v in how.items() if n == "ignore_index"}
    scalars = {n: float(arrays[n]) for n in ("temperature", "logit_soft_cap") if n in arrays}
    return head(**{**arrays, **scalars}, **ignored)


def check(arrays: dict[str, Any], how: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Values and gradients against the oracle; both are returned."""
    arrays = {n: np.asarray(x) for n, x in arrays.items()}
    expected, cotangents = exact(arrays, how), cotangents_of(arrays["labels"])
    (log_probs, entropy), gradient = evaluate(arrays, cotangents, how=tuple(how.items()))
    assert_close(log_probs, expected.label_log_prob, VALUE["float32"])
    assert_close(entropy, expected.entropy, VALUE["float32"])
    d_log_probs, d_entropy = cotangents
    true = expected.gradients(label_log_prob=d_log_probs, entropy=d_entropy)
    for name, got in gradient.items():
        assert_close(got, true[name], GRADIENT["float32"])
    return (log_probs, entropy), gradient


def plain(n: int = N, d: int = D, k: int = K) -> dict[str, Any]:
    rng = np.random.default_rng((n, d, k))
    x, kernel, bias = (rng.standard_normal(s) for s in ((n, d), (d, k), (k,)))
    arrays = {"x": x / np.sqrt(d), "kernel": kernel, "bias": bias}
    labels = rng.integers(0, k, n).astype(np.int32)
    return {**{n: a.astype(np.float32) for n, a in arrays.items()}, "labels": labels}


@pytest.mark.parametrize(
    ("dtype", "options", "how"),
    [
        ("float32", "", {}),
        ("float32", "cap temperature", {"max_bytes": TILED}),
        ("float32", "temperature classes", {"max_bytes": TILED}),
        ("float32", "cap rows", {"max_bytes": 3000, "ignore_index": -100}),
        ("float32", "temperature rows", {"implementation": "reference"}),
        ("bfloat16", "cap temperature rows", {"max_bytes": TILED}),
        ("bfloat16", "shared", {}),
        ("float16", "temperature", {"max_bytes": TILED, "ignore_index": 3}),
    ],
)
def test_200_random_configurations(dtype, options, how):
    """Each of eight compiled functions meets 25 draws of numbers, masks and scalars."""
    least = float(jnp.finfo(dtype).smallest_subnormal)
    for seed in range(25):
        arrays = random_head(dtype, options, how.get("ignore_index"), seed)
        expected = exact(arrays, how)
        d_log_probs, d_entropy = cotangents = cotangents_of(arrays["labels"])
        value, gradient = evaluate(arrays, cotangents, how=tuple(how.items()))
        assert all(v.dtype == jnp.float32 for v in value)
        assert (np.asarray(value[0]) <= 0).all()
        assert (np.asarray(value[1]) >= 0).all()
        # The logits are rounded in float32, and reach what they are for by its derivative.
        for name, got in zip(("label_log_prob", "entropy"), value, strict=True):
            true, slope = getattr(expected, name), np.abs(expected.slopes[name]).sum(-1)
            assert_within(got, true, RANDOM_VALUE * (1 + np.abs(true) + slope * expected.size))
        shares = {"label_log_prob": d_log_probs, "entropy": d_entropy}
        moved = RANDOM_GRADIENT + 4 * RANDOM_VALUE * expected.size
        true = expected.gradients(**shares)
        sizes = expected.gradient_sizes(**{n: moved * c for n, c in shares.items()})
        for name, got in gradient.items():
            assert got.dtype == arrays[name].dtype
            rounded = rounding(dtype) * np.abs(true[name]) + least
            assert_within(got, true[name], sizes[name] + rounded)


def test_none_is_above_0():
    """Soft caps of large logits too, whose label may be rounded otherwise than its row."""
    arrays = plain(4000, 2, 3)
    arrays["kernel"] *= 30
    arrays["labels"] = np.argmax(arrays["x"] @ arrays["kernel"] + arrays["bias"], -1)
    capped: dict[str, Any] = {"logit_soft_cap": 20.0, "temperature": 0.7}
    for scalars in ({}, capped):
        assert (linear_log_probs(**arrays, **scalars) <= 0).all()


def test_every_derivative():
    """Forward mode and two second derivatives, against differences of the oracle's gradient."""
    rng = np.random.default_rng(5)
    arrays = {**plain(), "temperature": np.float32(1.5), "logit_soft_cap": np.float32(3)}
    moving = {n: a for n, a in arrays.items() if n != "labels"}
    shares = dict(zip(("label_log_prob", "entropy"), cotangents_of(arrays["labels"]), strict=True))

    def total(moving):
        both = linear_log_probs(
            **moving, labels=arrays["labels"], return_entropy=True, max_bytes=TILED
        )
        return sum(jnp.vdot(c, x) for c, x in zip(shares.values(), both, strict=True))

    def true_gradient(at):
        return exact({**at, "labels": arrays["labels"]}, {}).gradients(**shares)

    check_along(total, true_gradient, moving, rng)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 2, 1), (0, 3, 4)], ids=str)
def test_one_row_feature_or_class_and_no_rows(shape):
    check(plain(*shape), {})


def test_leading_axes_are_those_of_x():
    arrays = plain(6)
    log_probs = linear_log_probs(**arrays)
    arrays |= {"x": arrays["x"].reshape(2, 3, D), "labels": arrays["labels"].reshape(2, 3)}
    np.testing.assert_array_equal(linear_log_probs(**arrays), log_probs.reshape(2, 3))
    arrays |= {"x": arrays["x"][1, 2], "labels": arrays["labels"][1, 2]}
    assert_close(linear_log_probs(**arrays), log_probs[5], VALUE["float32"])


def test_float64_stays():
    arrays = plain()
    arrays = {n: a.astype(np.float64) if n != "labels" else a for n, a in arrays.items()}
    expected = exact(arrays, {})
    with jax.enable_x64(True):
        log_probs, entropy = linear_log_probs(**arrays, return_entropy=True)
    assert log_probs.dtype == entropy.dtype == np.float64
    assert_close(log_probs, expected.label_log_prob, VALUE["float64"])
    assert_close(entropy, expected.entropy, VALUE["float64"])


@pytest.mark.parametrize("how", [{}, {"max_bytes": TILED}], ids=["one tile", "tiles"])
def test_bad_values(how):
    """Labels of no class, of a masked class and of logit -inf; masked and ignored rows of NaN."""
    arrays = plain()
    arrays["bias"][[0, 7]] = -INF
    labels = arrays["labels"] = 8 + arrays["labels"] % 33
    where = np.ones((N, K), bool)
    where[2] = where[4, 8:20] = False
    labels[4] = 9  # which is masked
    labels[[5, 66]] = 0, 7
    labels[[1, 65, 128]] = -1, K, 2**31 - 1
    labels[[3, 70]] = -100
    arrays["where"] = where
    how = {**how, "ignore_index": -100}
    value, gradient = check(arrays, how)
    assert np.isneginf(value[0][jnp.array([4, 5, 66])]).all()
    assert np.isnan(value[0]).sum() == 3
    assert np.isfinite(value[1]).all()
    assert np.isnan(gradient["x"][jnp.array([1, 65, 128])]).all()

    x = arrays["x"].copy()
    x[[2, 3, 70]] = [[NAN], [INF], [-INF]]
    again = evaluate({**arrays, "x": x}, cotangents_of(labels), how=tuple(how.items()))
    jax.tree.map(np.testing.assert_array_equal, again, (value, gradient))


@pytest.mark.parametrize("how", [{}, {"max_bytes": TILED}], ids=["one tile", "tiles"])
def test_nan_stays_in_its_row(how):
    """NaN features, and a row whose classes are all -inf."""
    arrays = plain()
    labels, cotangents = arrays["labels"], cotangents_of(arrays["labels"])
    good = evaluate(arrays, cotangents, how=tuple(how.items()))
    x = arrays["x"].copy()
    x[[0, 65], 1] = NAN
    bad = np.isin(np.arange(N), [0, 65])
    value, gradient = evaluate({**arrays, "x": x}, cotangents, how=tuple(how.items()))
    for got, expected in zip((*value, gradient["x"]), (*good[0], good[1]["x"]), strict=True):
        assert np.isnan(got[bad]).all()
        assert_close(got[~bad], expected[~bad], GRADIENT["float32"])
    of_nothing = linear_log_probs(x, arrays["kernel"], labels, np.full(K, -INF, np.float32), **how)
    assert np.isnan(of_nothing).all()
    none = np.zeros(N, bool)
    np.testing.assert_array_equal(linear_log_probs(x, arrays["kernel"], labels, where=none), 0)


def test_rows_that_do_not_count_cost_no_products(products):
    # No other test has this shape: see `products`.
    x, kernel, labels = jnp.ones((523, 5)), jnp.ones((5, 11)), jnp.zeros(523, jnp.int32)

    @jax.jit
    def gradient(x, where):
        def total(x):
            both = linear_log_probs(
                x, kernel, labels, where=where, return_entropy=True, max_bytes=1600
            )
            return jnp.sum(both[0] + both[1])

        return jax.grad(total)(x)

    tenth = np.arange(523) % 10 == 3
    assert products(gradient, x, np.zeros(523, bool)) == 0
    some, every = (products(gradient, x, kept) for kept in (tenth, np.ones(523, bool)))
    assert 0 < 4 * some <= every


SHAPES = [
    jax.ShapeDtypeStruct((2048, 512), jnp.float32),
    jax.ShapeDtypeStruct((512, 32768), jnp.float32),
    jax.ShapeDtypeStruct((2048,), jnp.int32),
]


@pytest.mark.parametrize("return_entropy", [False, True])
def test_only_what_is_asked_for_is_computed(return_entropy, monkeypatch):
    asked = []

    def telling(rows, split, requested, *how):
        asked.append(requested)
        return head_statistics(rows, split, requested, *how)

    monkeypatch.setattr(log_probs, "head_statistics", telling)
    jax.clear_caches()
    function: Any = partial(linear_log_probs, return_entropy=return_entropy)
    jax.eval_shape(function, *SHAPES)
    assert asked == [Requested(mean=return_entropy)]


def test_memory_of_a_language_model():
    """Logits of 2048 tokens and 32768 classes take 268 MB."""

    def policy(x, kernel, labels):
        log_probs, entropy = linear_log_probs(x, kernel, labels, return_entropy=True)
        return jnp.mean(log_probs * log_probs - entropy)

    forward = partial(linear_log_probs, return_entropy=True)
    for function, megabytes in ((forward, 30), (jax.value_and_grad(policy, (0, 1)), 60)):
        assert temporary_bytes(function, *SHAPES) <= megabytes * 10**6


@pytest.mark.kernels
@pytest.mark.parametrize(
    ("implementation", "interpreter", "dtype"),
    [
        ("mosaic_tpu", lambda: contexts.interpret_for_tpu(True), jnp.float32),
        ("mosaic_gpu", lambda: contexts.interpret_for_gpu(kernels.gpu_interpreter()), jnp.bfloat16),
    ],
)
def test_kernels_agree_with_xla(implementation, interpreter, dtype):
    arrays = plain(40, 16, 300)
    arrays |= {"x": jnp.asarray(arrays["x"], dtype), "kernel": jnp.asarray(arrays["kernel"], dtype)}
    arrays["labels"][::3] = -100
    arrays |= {"temperature": np.float32(1.5), "logit_soft_cap": np.float32(3)}
    cotangents = cotangents_of(arrays["labels"])
    expected = evaluate(arrays, cotangents, how=(("ignore_index", -100),))
    with interpreter():
        how = ("ignore_index", -100), ("implementation", implementation)
        got = evaluate(arrays, cotangents, how=how)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, VALUE["float32"] if b.dtype == jnp.float32 else GRADIENT["bfloat16"])


X, KERNEL, LABELS = jnp.zeros((2, 3)), jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "labels: expected an integer dtype (class indices), got float32; "
         "linear_softmax_cross_entropy takes probabilities",
         lambda: linear_log_probs(X, KERNEL, jnp.zeros((2, 4)))),
        (ValueError, "labels: expected the leading axes of x, (2,), got (1,)",
         lambda: linear_log_probs(X, KERNEL, LABELS[:1])),
        (ValueError, "kernel: expected shape (3, K), the features of x by at least one class, "
         "got shape (4, 3)", lambda: linear_log_probs(X, KERNEL.T, LABELS)),
        (ValueError, "temperature: expected a finite number > 0, got 0.0",
         lambda: linear_log_probs(X, KERNEL, LABELS, temperature=0.0)),
        (ValueError, "max_bytes: expected an integer >= 1 or None, got 0",
         lambda: linear_log_probs(X, KERNEL, LABELS, max_bytes=0)),
        (ValueError, "implementation: expected one of 'xla', 'reference', 'mosaic_tpu', "
         "'mosaic_gpu', got 'fast'",
         lambda: linear_log_probs(X, KERNEL, LABELS, implementation="fast")),  # pyright: ignore[reportArgumentType]
        (ValueError, "num_classes: expected None without axis_name, got 4",
         lambda: linear_log_probs(X, KERNEL, LABELS, num_classes=4)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
