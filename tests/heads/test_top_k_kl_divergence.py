"""KL divergence from top-k log-probabilities: its definition in float64, and its bounds."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.chosen import cotangents_of, few_digits, logits_of, scalars_of
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.derivatives import check_along
from tests.support.oracles.heads import head
from tests.support.random_heads import D, K, N, random_head
from tests.support.random_problems import assert_within, rounding
from tests.support.tolerances import GRADIENT, RANDOM_GRADIENT, RANDOM_VALUE, VALUE

TILED = 26_400  # of 131 rows and 41 classes, both prime: no tile divides them
INF, NAN = np.inf, np.nan
TopK: Any = xentjax.TopK  # whose arrays may be NumPy's
linear_top_k, linear_top_k_kl_divergence = xentjax.linear_top_k, xentjax.linear_top_k_kl_divergence
loss: Any = linear_top_k_kl_divergence


def softmax(a: np.ndarray) -> np.ndarray:
    p = np.exp(a - a.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def coarse(p: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Probabilities of the classes of each row, and of all others together."""
    others = np.ones(p.shape, bool)
    np.put_along_axis(others, indices, False, -1)
    rest = (p * others).sum(-1, keepdims=True)
    return np.concatenate([np.take_along_axis(p, indices, -1), rest], -1)


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(p > 0, p * np.log(p / q), 0).sum(-1)


def log_ratio(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """log(q / p), 0 where q is."""
    return np.log(np.where(q > 0, q, p) / p)


def target_of(k: int, seed: int, where: Any = None) -> tuple[Any, np.ndarray]:
    """The top k of random pmfs in float32, and the pmf of the k + 1 outcomes they stand for."""
    rng = np.random.default_rng((k, seed))
    a = rng.uniform(0.3, 4) * rng.standard_normal((N, K))
    p = softmax(a if where is None or np.ndim(where) < 2 else np.where(where, a, -INF))
    indices = np.argsort(-p, -1)[:, :k].astype(np.int32)
    with np.errstate(divide="ignore"):
        log_probs = np.log(np.take_along_axis(p, indices, -1)).astype(np.float32)
    known = np.exp(log_probs.astype(np.float64))
    rest = np.maximum(1 - known.sum(-1, keepdims=True), 0)
    return TopK(log_probs, indices), np.concatenate([known, rest], -1)


@partial(jax.jit, static_argnames="how")
def evaluate(log_probs, indices, arrays, cotangents, *, how=()):
    """Divergences and the gradients in the head and in the target."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def divergences(log_probs, moving):
        return linear_top_k_kl_divergence(
            TopK(log_probs, indices), **{**arrays, **moving}, **dict(how)
        )

    value, pullback = jax.vjp(divergences, log_probs, moving)
    return value, *pullback(cotangents)


def slopes_of(
    p: np.ndarray, head_p: np.ndarray, indices: np.ndarray, reverse: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Slope in the head's logits, the size of its terms, and slope in the known log p."""
    q = coarse(head_p, indices)
    outcome = np.full(head_p.shape, q.shape[-1] - 1)
    np.put_along_axis(
        outcome, indices, np.broadcast_to(np.arange(indices.shape[-1]), indices.shape), -1
    )

    def at_class(x: np.ndarray) -> np.ndarray:
        return np.take_along_axis(x, outcome, -1)

    ratio = log_ratio(q, p)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(head_p / at_class(q))  # of each class in its outcome
        if reverse:
            slope = head_p * (at_class(ratio) - kl(q, p)[:, None])
            size = head_p * (1 + np.abs(at_class(ratio)) + kl(q, p)[:, None])
            of_target = p[:, :-1] * (q[:, -1:] / p[:, -1:] - q[:, :-1] / p[:, :-1])
        else:
            slope, size = head_p - share * at_class(p), head_p + share * at_class(p)
            of_target = p[:, :-1] * (ratio[:, -1:] - ratio[:, :-1])
    return slope, size, of_target


@pytest.mark.parametrize(
    ("dtype", "options", "k", "reverse", "how"),
    [
        ("float32", "", 3, False, {}),
        ("float32", "cap temperature", 7, False, {"max_bytes": TILED}),
        ("float32", "temperature rows", 7, True, {"implementation": "reference"}),
        ("bfloat16", "temperature", 5, True, {"max_bytes": TILED}),
        ("float16", "classes", 4, False, {"max_bytes": 6000}),
    ],
)
def test_200_random_configurations(dtype, options, k, reverse, how):
    """Each of five compiled functions meets 40 draws of numbers, masks and scalars."""
    cotangents = cotangents_of((N,))
    how = tuple({**how, "reverse": reverse}.items())
    for seed in range(40):
        arrays = random_head(dtype, options, None, seed)
        del arrays["labels"]
        where = arrays.get("where")
        if where is not None and where.ndim == 2:
            where = where | ~where.any(-1, keepdims=True)
        target, p = target_of(k, seed, where)
        value, d_target, gradient = evaluate(*target, arrays, cotangents, how=how)
        assert value.dtype == jnp.float32
        assert (np.asarray(value) >= 0).all()
        expected = head(**{**arrays, **scalars_of(arrays)}, labels=np.zeros(N, np.int32))
        keep = expected.keep
        x = np.where(keep[:, None], arrays["x"], 0)
        head_p = softmax(
            logits_of({**arrays, "x": x, **({"where": where} if where is not None else {})})
        )
        q, indices = coarse(head_p, target.indices), target.indices
        true = np.where(keep, kl(q, p) if reverse else kl(p, q), 0)
        slope, size, of_target = slopes_of(p, head_p, indices, reverse)
        slope, size = (np.where(keep[:, None], s, 0) for s in (slope, size))
        # Both pmfs are rounded: the head's by its logits, the target's rest by its probabilities.
        logs = np.abs(log_ratio(q, p))
        error = RANDOM_VALUE * (
            1 + np.abs(true) + logs.max(-1) + np.abs(size).sum(-1) * expected.size
        )
        of_rest = RANDOM_VALUE * (logs[:, -1] + (q / p)[:, -1] * reverse + 1)
        assert_within(value, true, error + of_rest)

        moved = (
            RANDOM_GRADIENT + 4 * RANDOM_VALUE * expected.size + RANDOM_VALUE / p[:, -1] * reverse
        )
        terms = size * moved[:, None] + RANDOM_VALUE * head_p
        chained = expected.pulled_back(cotangents[:, None] * slope)
        bound = expected.sizes_of(cotangents[:, None] * terms)
        least = float(jnp.finfo(dtype).smallest_subnormal)
        for name, got in gradient.items():
            assert got.dtype == arrays[name].dtype
            rounded = rounding(dtype) * np.abs(chained[name]) + least
            assert_within(got, chained[name], bound[name] + rounded)
        assert_close(
            d_target[keep], (cotangents[:, None] * of_target)[keep], 1e-4 if reverse else 1e-5
        )
        np.testing.assert_array_equal(d_target[~keep], 0)


def problem(seed: int = 3, k: int = 5) -> tuple[dict[str, Any], Any, np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = {"x": (N, D), "kernel": (D, K), "bias": (K,)}
    arrays = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    return arrays, *target_of(k, seed)


@pytest.mark.parametrize("reverse", [False, True])
def test_every_derivative(reverse):
    """Forward mode and two second derivatives, against differences of the oracle's gradient."""
    arrays, target, p = problem()
    arrays["temperature"] = np.float32(1.5)
    rng = np.random.default_rng(5)
    cotangents = cotangents_of((N,))

    def total(moving):
        loss = linear_top_k_kl_divergence(target, **moving, reverse=reverse, max_bytes=TILED)
        return jnp.vdot(cotangents, loss)

    def true_gradient(at):
        expected = head(**at, labels=np.zeros(N, np.int32))
        slope, *_ = slopes_of(p, softmax(logits_of(at)), target.indices, reverse)
        gradients = expected.pulled_back(cotangents[:, None] * slope)
        return {n: gradients[n] for n in arrays}

    check_along(total, true_gradient, arrays, rng)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_lies_between_zero_and_the_divergence_of_all_classes(scale):
    """More classes known make it larger, up to the whole; 0 for the head's own top k."""
    arrays, *_ = problem()
    arrays["kernel"] *= scale
    logits = logits_of(arrays)
    q = softmax(logits)
    teacher = {**arrays, "bias": arrays["bias"] + np.linspace(-1, 1, K, dtype=np.float32)}
    p = softmax(logits_of(teacher))
    whole = kl(p, q)
    lower = np.zeros(N)
    divergence = jax.jit(linear_top_k_kl_divergence)
    for k in (1, 3, 10, 40, 41):
        top = linear_top_k(**teacher, k=k)
        value = np.asarray(divergence(top, **arrays), np.float64)
        rounding = 1e-6 * (1 + np.abs(logits).max(-1) + 10 * whole)
        assert (value >= 0).all()
        assert (value >= lower - rounding).all()
        assert (value <= whole + rounding).all()
        lower = value
        own = divergence(linear_top_k(**arrays, k=k), **arrays)
        assert (own >= 0).all()
        assert (own <= rounding).all()
    assert (lower >= whole - rounding).all()


def test_the_rest_keeps_its_digits_where_the_known_classes_have_nearly_all():
    """Both rests are e^-20 and less; differences from 1 would be 0 in float32."""
    rest_p, rest_q = 1e-9, 3e-12
    log_probs = np.log1p([[-rest_p]]).astype(np.float32)
    logits = np.array([[0.0, np.log(rest_q) - np.log(2), np.log(rest_q) - np.log(2)]])
    arrays = {"x": np.ones((1, 1), np.float32), "kernel": logits.astype(np.float32)}
    target = TopK(log_probs, np.zeros((1, 1), np.int32))
    p = -np.expm1(np.float64(log_probs[0, 0]))
    q = softmax(arrays["kernel"].astype(np.float64))[0, 1:].sum()
    expected = p * np.log(p / q) + (1 - p) * (np.log1p(-p) - np.log1p(-q))
    got = linear_top_k_kl_divergence(target, **arrays)
    np.testing.assert_allclose(got, [expected], rtol=1e-4)
    gradient = jax.grad(lambda kernel: linear_top_k_kl_divergence(target, arrays["x"], kernel)[0])(
        arrays["kernel"]
    )
    np.testing.assert_allclose(gradient[0, 1:], (q - p) / 2, rtol=1e-4)


@pytest.mark.parametrize("max_bytes", [None, TILED])
def test_bad_values(max_bytes):
    """NaN and -inf of the head; classes that are none, in rows that count and rows that do not."""
    arrays, target, _ = problem()
    target = TopK(np.array(target.log_probs), np.array(target.indices))
    cotangents = cotangents_of((N,))
    how = (("max_bytes", max_bytes),)
    good = evaluate(*target, arrays, cotangents, how=how)
    bad = np.isin(np.arange(N), [0, 1, 2, 3, 4, 65, 66])
    x = arrays["x"].copy()
    x[[0, 65]] = NAN
    target.indices[1, 0] = target.indices[1, 1]
    target.indices[2, 3] = K
    target.indices[3, 0] = -2
    target.indices[4, 0] = -1  # with a probability
    target.log_probs[66] = 0  # a sum of 5
    got = evaluate(*target, {**arrays, "x": x}, cotangents, how=how)
    for a, b in ((got[0], good[0]), (got[2]["x"], good[2]["x"])):
        assert np.isnan(a[bad]).all()
        assert_close(a[~bad], b[~bad], GRADIENT["float32"])
    masked = evaluate(*target, {**arrays, "x": x, "where": ~bad}, cotangents, how=how)
    np.testing.assert_array_equal(masked[0][bad], 0)
    assert_close(masked[0][~bad], good[0][~bad], VALUE["float32"])
    np.testing.assert_array_equal(masked[2]["x"][bad], 0)
    np.testing.assert_array_equal(masked[1][bad], 0)
    assert np.isfinite(masked[2]["kernel"]).all()
    concrete = linear_top_k_kl_divergence(target, **arrays | {"x": x}, where=~bad, reduction="mean")
    assert_close(concrete, np.mean(good[0][~bad]), VALUE["float32"])

    nothing = {**arrays, "bias": np.full(K, -INF, np.float32)}
    value, _, gradient = evaluate(*problem()[1], nothing, cotangents, how=how)
    assert np.isnan(value).all()
    assert np.isnan(gradient["x"]).all()


@pytest.mark.parametrize("max_bytes", [None, TILED])
def test_classes_that_the_head_cannot_have(max_bytes):
    """+inf where the target has them, nothing where it does not, nor for a rest of rounding."""
    arrays, target, _ = problem()
    arrays["bias"][7] = -INF
    has = (target.indices == 7).any(-1)
    value = linear_top_k_kl_divergence(target, **arrays, max_bytes=max_bytes)
    assert np.isposinf(value[has]).all()
    assert np.isfinite(value[~has]).all()
    where = np.arange(K)[None] != 7
    arrays["bias"][7] = NAN
    np.testing.assert_array_equal(
        linear_top_k_kl_divergence(target, **arrays, where=where, max_bytes=max_bytes), value
    )
    # A teacher of five classes, all of which are known; their probabilities add up to 1 +- 1e-7.
    arrays, *_ = problem()
    arrays["bias"][5:] = -INF
    teacher = {**arrays, "x": arrays["x"] + 1}
    top = linear_top_k(**teacher, k=5)
    expected = kl(softmax(logits_of(teacher))[:, :5], softmax(logits_of(arrays))[:, :5])
    assert_close(linear_top_k_kl_divergence(top, **arrays), expected, 1e-5)
    # The same as masks, where the teacher's top 8 hold three entries that are no class.
    where = np.arange(K)[None] < 5
    arrays["bias"][5:] = teacher["bias"][5:] = 0
    top = linear_top_k(**teacher, k=8, where=where)
    assert (np.asarray(top.indices)[:, 5:] == -1).all()
    value, gradient = jax.value_and_grad(
        lambda kernel: jnp.sum(
            linear_top_k_kl_divergence(top, **{**arrays, "kernel": kernel}, where=where)
        )
    )(arrays["kernel"])
    assert_close(value, expected.sum(), 1e-5)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 2, 1), (0, 3, 4)], ids=str)
def test_one_row_feature_or_class_and_no_rows(shape):
    n, _, k = shape
    arrays = few_digits(*shape)
    rng = np.random.default_rng(0)
    p = softmax(rng.standard_normal((n, k))) if n else np.zeros((0, k))
    indices = np.argsort(-p, -1)[:, :1].astype(np.int32)
    target = TopK(np.log(np.take_along_axis(p, indices, -1)).astype(np.float32), indices)
    value, _, gradient = evaluate(*target, arrays, cotangents_of((n,)))
    expected = kl(coarse(p, indices), coarse(softmax(logits_of(arrays)), indices)) if n else []
    assert_close(value, expected, 1e-5)
    assert {n: g.shape for n, g in gradient.items()} == {n: a.shape for n, a in arrays.items()}
    mean = linear_top_k_kl_divergence(target, **arrays, reduction="mean")
    assert_close(mean, np.mean(expected) if n else 0, 1e-5)


def test_leading_axes_are_those_of_x():
    arrays, target, _ = problem()
    arrays["x"], target = arrays["x"][:6], TopK(*(a[:6] for a in target))
    value = linear_top_k_kl_divergence(target, **arrays)
    again = linear_top_k_kl_divergence(
        TopK(*(a.reshape(2, 3, -1) for a in target)),
        **{**arrays, "x": arrays["x"].reshape(2, 3, D)},
    )
    np.testing.assert_array_equal(again, value.reshape(2, 3))


def test_float64_stays():
    arrays, target, p = problem()
    with jax.enable_x64(True):
        arrays = {n: a.astype(np.float64) for n, a in arrays.items()}
        exact = TopK(np.log(p[:, :-1]), target.indices)
        value = linear_top_k_kl_divergence(exact, **arrays, max_bytes=TILED)
        narrow = {n: a.astype(np.float32) for n, a in arrays.items()}
        assert linear_top_k_kl_divergence(exact, **narrow).dtype == np.float64
    assert value.dtype == np.float64
    expected = kl(p, coarse(softmax(logits_of(arrays)), target.indices))
    assert_close(value, expected, 1e-12)


def test_rows_that_do_not_count_cost_no_products(products):
    # No other test has this shape: see `products`.
    x, kernel = jnp.ones((517, 5)), jnp.ones((5, 11))
    target = TopK(jnp.full((517, 2), jnp.log(0.3)), jnp.tile(jnp.arange(2), (517, 1)))

    @jax.jit
    def loss(x, where):
        return linear_top_k_kl_divergence(target, x, kernel, where=where, max_bytes=1600)

    tenth = np.arange(517) % 10 == 3
    assert products(loss, x, np.zeros(517, bool)) == 0
    some, every = (products(loss, x, kept) for kept in (tenth, np.ones(517, bool)))
    assert 0 < 4 * some <= every


def test_memory_of_a_language_model():
    """Logits of 2048 tokens and 32768 classes take 268 MB."""
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 512), (512, 32768))]
    target = TopK(
        jax.ShapeDtypeStruct((2048, 64), jnp.float32), jax.ShapeDtypeStruct((2048, 64), jnp.int32)
    )
    forward = partial(linear_top_k_kl_divergence, reduction="mean")
    for function, megabytes in ((forward, 34), (jax.value_and_grad(forward, (1, 2)), 80)):
        assert temporary_bytes(function, target, *shapes) <= megabytes * 10**6


X, KERNEL = jnp.zeros((2, 3)), jnp.zeros((3, 4))
LOG_PROBS, INDICES = np.full((2, 2), np.log(0.4), np.float32), np.array([[0, 1], [3, 2]])


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "target: expected TopK(log_probs, indices), got ndarray",
         lambda: loss(LOG_PROBS, X, KERNEL)),
        (TypeError, "target.log_probs: expected a floating dtype, got int32",
         lambda: loss(TopK(INDICES, INDICES), X, KERNEL)),
        (TypeError, "target.indices: expected an integer dtype, got float32",
         lambda: loss(TopK(LOG_PROBS, LOG_PROBS), X, KERNEL)),
        (ValueError, "target.log_probs: expected shape (2,) of the rows by at least one class, "
         "got shape (1, 2)", lambda: loss(TopK(LOG_PROBS[:1], INDICES), X, KERNEL)),
        (ValueError, "target.indices: expected the shape of target.log_probs, (2, 2), got shape "
         "(2, 1)", lambda: loss(TopK(LOG_PROBS, INDICES[:, :1]), X, KERNEL)),
        (ValueError, "target.indices: expected in each row different classes in 0..3, got [2, 2] "
         "in row (1,)", lambda: loss(TopK(LOG_PROBS, np.array([[0, 1], [2, 2]])), X, KERNEL)),
        (ValueError, "target.indices: expected in each row different classes in 0..3, got [0, 4] "
         "in row (0,)", lambda: loss(TopK(LOG_PROBS, np.array([[0, 4], [2, 1]])), X, KERNEL)),
        (ValueError, "target.indices: expected in each row different classes in 0..3, got [0, -1] "
         "in row (0,)", lambda: loss(TopK(LOG_PROBS, np.array([[0, -1], [2, 1]])), X, KERNEL)),
        (ValueError, "target.log_probs: expected log-probabilities whose exponentials sum to at "
         "most 1, got the sum 2 in row (0,)",
         lambda: loss(TopK(0 * LOG_PROBS, INDICES), X, KERNEL)),
        (TypeError, "reverse: expected True or False, got 1",
         lambda: loss(TopK(LOG_PROBS, INDICES), X, KERNEL, reverse=1)),
        (ValueError, "reduction: expected one of 'none', 'sum', 'mean', got 'average'",
         lambda: loss(TopK(LOG_PROBS, INDICES), X, KERNEL, reduction="average")),
        (NotImplementedError, "implementation: expected None, 'xla' or 'reference' "
         "(no kernel makes this), got 'mosaic_gpu'",
         lambda: loss(TopK(LOG_PROBS, INDICES), X, KERNEL, implementation="mosaic_gpu")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.usefixtures("unchecked_annotations")
def test_wrong_arguments_say_what_was_expected(error, message, call: Any):
    with pytest.raises(error) as raised:
        call()
    assert str(raised.value) == message
