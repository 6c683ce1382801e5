"""The cross-entropy of a linear layer: every tiling against float64 of the whole logits."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.layers import (
    Layer,
    assert_layer_close,
    chained,
    directions,
    exact,
    moved,
    oracle,
    overlap,
)
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import PROBLEMS, WEIGHTS_7, Problem
from tests.support.tolerances import GRADIENT, VALUE
from xentjax.ops import Rows
from xentjax.ops.linear import in_forward as ops_in_forward, statistics
from xentjax.ops.rows import Layer as LinearLayer

loss: Any = xentjax.linear_softmax_cross_entropy


# Of 131 rows, 3 features and 41 classes. Rows and classes are prime: no tile divides them.
TILED = 13_200
IN_FORWARD: dict[str, Any] = {"gradients_in_forward": True, "max_bytes": TILED}
MODES = [{"max_bytes": TILED}, {**IN_FORWARD, "reduction": "sum"}]
MODE_IDS = ["tiles", "in forward"]
WEIGHTS_41 = np.resize(WEIGHTS_7, 41)


def wide(problem: Problem) -> Problem:
    """The problem with as many rows and classes as tiles of `TILED` bytes overlap on."""
    *rows, k = problem.shape
    rows = {(6,): (131,), (2, 3): (7, 19)}.get(tuple(rows), tuple(rows))
    keywords = dict(problem.keywords)
    if "class_weights" in keywords:
        keywords["class_weights"] = WEIGHTS_41
    return replace(problem, shape=(*rows, 41 if k == 7 else k), keywords=keywords)


def named(name: str) -> tuple[Layer, np.ndarray, dict[str, Any]]:
    """A layer whose logits have the problem's scale, its labels and its keywords."""
    problem = wide(next(p for p in PROBLEMS if p.name == name))
    _, labels, keywords = problem.arguments()
    *rows, k = problem.shape
    rng = np.random.default_rng(sum(map(ord, name)))
    x, kernel, bias = (rng.standard_normal(shape) for shape in [(*rows, 3), (3, k), (k,)])
    # Few digits: the logits are exact in float32, and have their ties. Four terms of variance 1.
    x, kernel, bias = np.round(4 * x) / 4, np.round(8 * kernel) / 8, np.round(8 * bias) / 8
    size = problem.scale / 2
    layer = Layer(x, size * kernel, size * bias + problem.offset)
    return Layer(*(a.astype(np.float32) for a in layer)), labels, keywords


@pytest.fixture(autouse=True, scope="module")
def thin_tiles():
    """Make tiles thin: `gradients_in_forward` would have the table's few classes in one block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops_in_forward, "_FEWEST_CLASSES", 1)
        yield


def test_tiles_of_the_table_overlap_in_rows_and_classes():
    linear = Rows(LinearLayer(jnp.zeros((131, 3), jnp.float32), jnp.zeros((3, 41), jnp.float32)))
    rows = ops_in_forward.fitting_row_blocks(linear, TILED)
    assert rows is not None
    tilings = [
        *statistics.forward_blocks(linear, TILED),
        *statistics._backward_blocks(linear, TILED),
        rows,
        ops_in_forward._class_blocks(linear, rows, TILED),
    ]
    assert all(map(overlap, tilings))
    whole = [
        *statistics.forward_blocks(linear, None),
        *statistics._backward_blocks(linear, None),
    ]
    assert all(blocks.count == 1 for blocks in whole)


TABLE = [p.name for p in PROBLEMS if p.axis == -1]


def evaluate(layer: Layer, labels: Any, how: dict[str, Any], **arrays: Any) -> Any:
    """The losses, the gradient of their sum and, but for gradients in forward, a derivative."""
    shape = labels.shape[: layer.x.ndim - 1] if how.get("reduction", "none") == "none" else ()
    in_forward = how.get("gradients_in_forward", False)
    along = None if in_forward else directions(layer, 1)
    results = _evaluate(layer, labels, arrays, cotangents(shape), along, how=tuple(how.items()))
    return jax.tree.map(np.asarray, results)


@partial(jax.jit, static_argnames="how")  # tests of the same keywords share what it compiles
def _evaluate(layer, labels, arrays, cotangent, along, *, how):
    def losses(layer):
        x, kernel, bias = layer
        return loss(x, kernel, labels, bias, **dict(how), **arrays)

    if along is None:
        value, pullback = jax.vjp(losses, layer)
        return value, *pullback(cotangent), None
    value, derivative = jax.linearize(losses, layer)
    return value, *jax.linear_transpose(derivative, layer)(cotangent), derivative(along)


def cotangents(shape: tuple[int, ...]) -> np.ndarray:
    """Weight of each loss in the gradients."""
    return np.random.default_rng(2).uniform(0.5, 2, shape).astype(np.float32)


def check(layer: Layer, labels: Any, how: dict[str, Any], **keywords: Any) -> tuple[Any, Layer]:
    """Value, gradients and derivative against the oracle; the first two of them."""
    arrays = {k: np.float32(v) if isinstance(v, float) else v for k, v in keywords.items()}
    ignored = {k: how[k] for k in ("ignore_index",) if k in how}
    expected = oracle(layer, labels, **arrays, **ignored)
    value, gradient, derivative = evaluate(layer, labels, how, **arrays)
    assert value.dtype == jnp.float32
    reduction = how.get("reduction", "none")
    total = {"none": expected.losses, "sum": expected.losses.sum(), "mean": expected.mean}
    assert value.shape == np.shape(total[reduction])
    assert_close(value, total[reduction], VALUE["float32"])
    share = 1 / expected.denominator if reduction == "mean" else 1.0
    d_logits = share * cotangents(value.shape)[..., None] * expected.gradient
    assert_layer_close(gradient, chained(d_logits, layer), GRADIENT["float32"])
    if derivative is not None:
        (x, kernel, _), (dx, d_kernel, d_bias) = exact(layer), exact(directions(layer, 1))
        moves = dx @ kernel + x @ d_kernel + d_bias
        assert_close(derivative, (expected.gradient * moves).sum(-1), GRADIENT["float32"])
    return value, gradient


def check_named(name: str, how: dict[str, Any]) -> None:
    layer, labels, keywords = named(name)
    if "ignore_index" in keywords:  # static, like `how`
        how = how | {"ignore_index": keywords.pop("ignore_index")}
    check(layer, labels, how, **keywords)


@pytest.mark.parametrize("name", TABLE)
def test_table_in_tiles(name):
    few_classes = name in ("one class", "two classes")
    check_named(name, {"max_bytes": 64 if few_classes else TILED})


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("plain", {}),
        ("soft, everything", {}),
        ("everything", {"implementation": "reference"}),
    ],
)
def test_table_in_one_tile_and_reference(name, how):
    check_named(name, how)


@pytest.mark.parametrize(
    ("name", "reduction"),
    [
        ("three dimensions", "sum"),
        ("weights and smoothing", "mean"),
        ("ignored", "mean"),
        ("everything", "mean"),
        ("soft, everything", "sum"),
        ("soft, row mask", "mean"),
    ],
)
def test_gradients_in_forward(name, reduction):
    check_named(name, {**IN_FORWARD, "reduction": reduction})


@pytest.mark.parametrize(
    ("how", "reduction"), [({"max_bytes": TILED}, "mean"), (IN_FORWARD, "sum")], ids=MODE_IDS
)
def test_value_alone(how, reduction):
    layer, labels, keywords = named("everything")
    expected = oracle(layer, labels, **keywords)
    got = jax.jit(lambda at: loss(*at[:2], labels, at[2], reduction=reduction, **how, **keywords))(
        layer
    )
    total = {"sum": expected.losses.sum(), "mean": expected.mean}[reduction]
    assert_close(got, total, VALUE["float32"])


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
def test_gradients_in_everything_else(how):
    """Class weights, targets and scalars, against differences of the oracle."""
    layer, labels, keywords = named("soft, everything")
    where = keywords.pop("where")
    moving = {**keywords, "labels": labels}
    moving = {name: np.asarray(value, np.float32) for name, value in moving.items()}

    def total(moving):
        others = {n: v for n, v in moving.items() if n != "labels"}
        return loss(
            *layer[:2], moving["labels"], layer.bias, where=where, reduction="sum", **how, **others
        )

    gradient = jax.jit(jax.grad(total))(moving)
    rng = np.random.default_rng(3)
    step = 1e-5
    for name, at in moving.items():
        along = rng.standard_normal(at.shape)
        plus, minus = (
            oracle(layer, **{**moving, "where": where, name: at + s * step * along}).losses.sum()
            for s in (1, -1)
        )
        got = np.vdot(np.asarray(gradient[name], np.float64), along)
        assert_close(got, (plus - minus) / (2 * step), GRADIENT["float32"])


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
def test_gradients_in_class_weights_with_integer_labels(how):
    layer, labels, keywords = named("weights and smoothing")
    weights = keywords.pop("class_weights")
    gradient = jax.jit(
        jax.grad(
            lambda w: loss(
                *layer[:2], labels, layer.bias, class_weights=w, reduction="sum", **how, **keywords
            )
        )
    )(weights)
    along = np.random.default_rng(4).standard_normal(41)
    plus, minus = (
        oracle(layer, labels, class_weights=weights + s * along, **keywords).losses.sum()
        for s in (1, -1)
    )
    assert_close(np.vdot(gradient, along), (plus - minus) / 2, GRADIENT["float32"])


STATS = ("log_normalizer", "label_log_prob", "entropy")


def check_stats(stats: xentjax.SoftmaxStats, expected: oracles.CrossEntropy) -> None:
    for field in STATS:
        assert getattr(stats, field).dtype == jnp.float32
        assert_close(getattr(stats, field), getattr(expected, field), VALUE["float32"])
    assert stats.predicted.dtype == jnp.int32
    np.testing.assert_array_equal(stats.predicted, expected.predicted)


@pytest.mark.parametrize("name", ["three dimensions", "soft, everything"])
def test_stats_and_their_gradients(name):
    layer, labels, keywords = named(name)
    expected = oracle(layer, labels, **keywords)
    along = directions(layer, 5)
    shares = dict(zip(STATS, (1.0, -0.7, 0.4), strict=True))

    def total(stats):
        return sum(share * getattr(stats, field).sum() for field, share in shares.items())

    @jax.jit
    def everything(layer):
        def with_stats(layer):
            losses, stats = loss(
                *layer[:2], labels, layer[2], return_stats=True, max_bytes=TILED, **keywords
            )
            return total(stats), (losses, stats)

        return jax.grad(with_stats, has_aux=True)(layer)

    gradient, (value, stats) = everything(layer)
    assert_close(value, expected.losses, VALUE["float32"])
    check_stats(stats, expected)
    step = 1e-5
    plus, minus = (oracle(moved(layer, s * step, along), labels, **keywords) for s in (1, -1))
    difference = (total(plus) - total(minus)) / (2 * step)
    got = sum(np.vdot(g, a) for g, a in zip(exact(gradient), exact(along), strict=True))
    assert_close(got, difference, GRADIENT["float32"])


def test_stats_with_gradients_in_forward():
    layer, labels, keywords = named("everything")
    expected = oracle(layer, labels, **keywords)

    def total(x):
        return loss(
            x, layer.kernel, labels, layer.bias, reduction="sum", return_stats=True,
            **IN_FORWARD, **keywords,
        )  # fmt: skip

    value, _ = jax.jit(total)(layer.x)
    (with_gradient, stats), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(layer.x)
    for got in (value, with_gradient):
        assert_close(got, expected.losses.sum(), VALUE["float32"])
    check_stats(stats, expected)
    assert_close(gradient, chained(expected.gradient, layer).x, GRADIENT["float32"])
    with pytest.raises(TypeError, match="return_stats"):
        jax.eval_shape(jax.grad(lambda x: jnp.sum(total(x)[1].entropy)), layer.x)


def test_hessian_vector_product():
    layer, labels, keywords = named("everything")
    along = directions(layer, 6)
    step = 1e-5

    def total(layer):
        return loss(*layer[:2], labels, layer[2], reduction="sum", max_bytes=TILED, **keywords)

    @jax.jit
    def forward_over_reverse(layer, along):
        return jax.jvp(jax.grad(total), (layer,), (along,))[1]

    plus, minus = (
        chained(oracle(at, labels, **keywords).gradient, at)
        for at in (moved(layer, step, along), moved(layer, -step, along))
    )
    expected = [(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)]
    assert_layer_close(forward_over_reverse(layer, along), expected, GRADIENT["float32"])


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
@pytest.mark.parametrize("axes", [(0, None), (None, 0)], ids=["x", "kernel"])
def test_vmap(how, axes):
    """Value and gradient under vmap over x or the kernel equal a loop over the oracle."""
    layer, labels, _ = named("plain")
    x, kernel = (
        np.stack([a, b]) if axis == 0 else a
        for a, b, axis in zip(layer[:2], directions(layer, 7)[:2], axes, strict=True)
    )

    def mean(x, kernel):
        return loss(x, kernel, labels, layer.bias, reduction="mean", **how)

    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(mean, (0, 1)), axes))(x, kernel)
    for i in range(2):
        at = Layer(x if axes[0] is None else x[i], kernel if axes[1] is None else kernel[i],
                   layer.bias)  # fmt: skip
        expected = oracle(at, labels)
        assert_close(value[i], expected.mean, VALUE["float32"])
        expected_gradient = chained(expected.gradient / 131, at)[:2]
        assert_layer_close([g[i] for g in gradient], expected_gradient, GRADIENT["float32"])


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
def test_checkpoint_inside_scan(how):
    layer, labels, _ = named("plain")
    xs = np.stack([layer.x, directions(layer, 9).x])

    def mean(x, kernel):
        return loss(x, kernel, labels, layer.bias, reduction="mean", **how)

    @jax.jit
    @jax.grad
    def gradient(kernel):
        def body(total, x):
            return total + jax.checkpoint(mean)(x, kernel), None

        return jax.lax.scan(body, jnp.float32(0), xs)[0]

    expected = sum(
        chained(oracle(at, labels).gradient / 131, at).kernel
        for at in (layer._replace(x=x) for x in xs)
    )
    assert_close(gradient(layer.kernel), expected, GRADIENT["float32"])


# No block size near the one allowed divides the first two; a power of two always has such a size.
@pytest.mark.parametrize(("k", "divides"), [(1009, False), (50257, False), (2**17, True)])
@pytest.mark.parametrize("in_forward", [False, True], ids=MODE_IDS)
def test_no_column_is_padded(k, divides, in_forward):
    """The loss is log K near logits of 0; a column too many would change it by 1/K."""
    rng = np.random.default_rng(10)
    x, kernel = rng.standard_normal((3, 2)), 0.01 * rng.standard_normal((2, k))
    layer = Layer(x.astype(np.float32), kernel.astype(np.float32), np.zeros(k, np.float32))
    labels = np.array([0, k // 2, k - 1], np.int32)
    max_bytes = 4 * (11 * k // 2 if in_forward else 7 * k // 10)
    linear = Rows(LinearLayer(*map(jnp.asarray, layer)))
    if in_forward:
        rows = ops_in_forward.fitting_row_blocks(linear, max_bytes)
        assert rows is not None
        classes = [ops_in_forward._class_blocks(linear, rows, max_bytes)]
    else:
        tilings = statistics.forward_blocks, statistics._backward_blocks
        classes = [tiling(linear, max_bytes)[1] for tiling in tilings]
    assert all(blocks.count > 1 for blocks in classes)
    assert any(map(overlap, classes)) != divides

    value, gradient = jax.jit(
        jax.value_and_grad(
            lambda bias: loss(
                *layer[:2], labels, bias, reduction="mean", max_bytes=max_bytes,
                gradients_in_forward=in_forward,
            )
        )
    )(layer.bias)  # fmt: skip
    expected = oracle(layer, labels)
    assert expected.mean == pytest.approx(np.log(k), abs=0.02)
    assert float(value) == pytest.approx(expected.mean, rel=VALUE["float32"])
    d_bias = expected.gradient.sum(0) / 3
    np.testing.assert_allclose(gradient, d_bias, rtol=GRADIENT["float32"])


@pytest.mark.parametrize(
    ("dtypes", "how"),
    [
        (("bfloat16", "bfloat16"), {"max_bytes": TILED}),
        (("bfloat16", "bfloat16"), IN_FORWARD),
        (("float16", "float16"), {"max_bytes": TILED}),
        (("float16", "float16"), IN_FORWARD),
        (("bfloat16", "float32"), {"max_bytes": TILED}),
        (("float32", "bfloat16"), IN_FORWARD),
    ],
)
def test_half_precision_is_no_worse_than_stored_logits(dtypes, how):
    layer, labels, _ = named("plain")
    layer = Layer(jnp.asarray(layer.x, dtypes[0]), jnp.asarray(layer.kernel, dtypes[1]), layer.bias)
    expected = oracle(layer, labels)
    wider = np.promote_types(*map(jnp.dtype, dtypes))

    def tiled(x, kernel, bias):
        return loss(x, kernel, labels, bias, reduction="mean", **how)

    def stored(x, kernel, bias):
        logits = (x.astype(wider) @ kernel.astype(wider)).astype(jnp.float32) + bias[None]
        return xentjax.softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")

    value, gradient = jax.jit(jax.value_and_grad(tiled, (0, 1, 2)))(*layer)
    naive, naive_gradient = jax.jit(jax.value_and_grad(stored, (0, 1, 2)))(*layer)
    assert value.dtype == jnp.float32
    assert_close(value, expected.mean, VALUE["float32"])  # products accumulate in float32
    assert [g.dtype for g in gradient] == [*map(jnp.dtype, dtypes), jnp.float32]
    truth = expected.mean, *chained(expected.gradient / 131, layer)
    for got, other, true in zip((value, *gradient), (naive, *naive_gradient), truth, strict=True):
        error, error_of_stored = (
            np.max(np.abs(np.asarray(a, np.float64) - true)) for a in (got, other)
        )
        ulp = float(jnp.finfo(got.dtype).eps) * np.max(np.abs(true))
        assert error <= error_of_stored + ulp


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
def test_float64_stays(how):
    how = how | {"max_bytes": 2 * how["max_bytes"]}
    layer, labels, keywords = named("weights and smoothing")
    layer = exact(layer)
    keywords["class_weights"] = keywords["class_weights"].astype(np.float64)
    with jax.enable_x64(True):
        value, gradient = jax.jit(
            jax.value_and_grad(
                lambda at: loss(*at[:2], labels, at[2], reduction="sum", **how, **keywords)
            )
        )(layer)
    expected = oracle(layer, labels, **keywords)
    assert all(a.dtype == np.float64 for a in (value, *gradient))
    assert_close(value, expected.losses.sum(), VALUE["float64"])
    assert_layer_close(gradient, chained(expected.gradient, layer), GRADIENT["float64"])


@pytest.mark.parametrize("how", MODES, ids=MODE_IDS)
def test_bad_label_or_nan_features_are_nan_in_their_row_alone(how):
    layer, labels, _ = named("plain")
    good = evaluate(layer, labels, how)[1].x
    x, bad_labels = layer.x.copy(), labels.copy()
    x[[0, 65], 1] = np.nan
    bad = {1: -1, 65: 41, 66: -100, 130: 2**31 - 1}
    bad_labels[[*bad]] = [*bad.values()]
    cases = [(layer, bad_labels, [*bad]), (layer._replace(x=x), labels, [0, 65])]
    for at, at_labels, bad_rows in cases:
        value, gradient, derivative = evaluate(at, at_labels, how)
        rows = np.isin(np.arange(131), bad_rows)
        np.testing.assert_array_equal(np.isnan(gradient.x), np.repeat(rows[:, None], 3, 1))
        assert_close(gradient.x[~rows], good[~rows], GRADIENT["float32"])
        for result in [] if derivative is None else [value, derivative]:
            np.testing.assert_array_equal(np.isnan(result), rows)


@pytest.mark.parametrize("kind", ["ignore_index", "row mask", "class mask", "soft"])
@pytest.mark.parametrize("how", MODES, ids=MODE_IDS)
def test_rows_that_do_not_count_may_hold_anything(how, kind):
    layer, labels, _ = named("soft" if kind == "soft" else "plain")
    keep = np.arange(131) % 3 == 1
    x = layer.x.copy()
    x[~keep] = np.resize(np.array([np.nan, np.inf, -np.inf], np.float32), ((~keep).sum(), 3))
    x[0] = np.nan
    keywords: dict[str, Any] = {}
    if kind == "ignore_index":
        labels[~keep] = -100
        how = how | {"ignore_index": -100}
    else:
        where = np.repeat(keep[:, None], 41, 1) if kind == "class mask" else keep
        keywords = {"where": where}
    value, gradient, derivative = evaluate(layer._replace(x=x), labels, how, **keywords)
    # The same without garbage is what the oracle says; with it, nothing changes.
    x[~keep] = 0
    results = check(layer._replace(x=x), labels, how, **keywords)
    for got, expected in zip((value, *gradient), (results[0], *results[1]), strict=True):
        np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(gradient.x[~keep], 0)
    for result in [] if derivative is None else [value, derivative]:
        np.testing.assert_array_equal(result[~keep], 0)


@pytest.mark.parametrize(
    "how", [*MODES, {**IN_FORWARD, "reduction": "mean"}], ids=[*MODE_IDS, "in forward, mean"]
)
def test_nothing_kept_is_zero(how):
    layer, labels, _ = named("plain")
    layer = layer._replace(x=np.full_like(layer.x, np.nan))
    how, labels = how | {"ignore_index": -100}, np.full_like(labels, -100)
    for result in jax.tree.leaves(evaluate(layer, labels, how)):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize("how", MODES, ids=MODE_IDS)
def test_bias_of_minus_infinity(how):
    """A bias of -inf is exact without target mass, even in a whole tile; labels there cost +inf."""
    layer, labels, _ = named("plain")
    bias = layer.bias.copy()
    bias[:22] = -np.inf
    labels = 22 + labels % 19
    layer = layer._replace(bias=bias)
    _, gradient = check(layer, labels, how)
    np.testing.assert_array_equal(gradient.bias[:22], 0)

    labels[[0, 70]] = [3, 21]
    value, _ = check(layer, labels, how)
    assert np.isinf(value).sum() == (2 if value.ndim else 1)


@pytest.mark.parametrize("how", MODES, ids=MODE_IDS)
def test_smoothing_on_an_impossible_class_is_infinite_unless_masked(how):
    layer, labels, _ = named("plain")
    bias = layer.bias.copy()
    bias[40] = -np.inf
    layer, labels = layer._replace(bias=bias), labels % 40
    smoothing = np.float32(0.1)
    value, *_ = evaluate(layer, labels, how, label_smoothing=smoothing)
    np.testing.assert_array_equal(value, np.inf)
    where = np.repeat(np.arange(41)[None] < 40, 131, 0)
    check(layer, labels, how, label_smoothing=smoothing, where=where)


@pytest.mark.parametrize("how", MODES, ids=MODE_IDS)
def test_bias_all_minus_infinity_is_nan_unless_masked(how):
    layer, labels, _ = named("plain")
    layer = layer._replace(bias=np.full(41, -np.inf, np.float32))
    where = np.arange(131) % 2 == 1
    value, gradient, _ = evaluate(layer, labels, how, where=where)
    assert np.isnan(value[where] if value.ndim else value).all()
    np.testing.assert_array_equal(np.isnan(gradient.x).all(-1), where)
    np.testing.assert_array_equal(gradient.x[~where], 0)
    for result in jax.tree.leaves(evaluate(layer, labels, how, where=np.zeros(131, bool))):
        np.testing.assert_array_equal(result, 0)


@pytest.mark.parametrize(
    "how",
    [
        {"max_bytes": 1600},
        {"max_bytes": 4000, "gradients_in_forward": True},
    ],
    ids=MODE_IDS,
)
def test_rows_that_do_not_count_cost_no_products(products, how):
    # No other test has this shape: see `products`.
    x, kernel, labels = jnp.ones((521, 5)), jnp.ones((5, 11)), jnp.zeros(521, jnp.int32)

    @jax.jit
    def value_and_gradient(x, where):
        return jax.value_and_grad(
            lambda x: loss(x, kernel, labels, where=where, reduction="sum", **how)
        )(x)

    tenth = np.arange(521) % 10 == 3
    assert products(value_and_gradient, x, np.zeros(521, bool)) == 0
    some, every = (products(value_and_gradient, x, kept) for kept in (tenth, np.ones(521, bool)))
    assert 0 < 4 * some <= every


def mean_loss_of(how: dict[str, Any]) -> Any:
    return lambda x, kernel, labels: loss(x, kernel, labels, reduction="mean", **how)


def layer_shapes(n: int, d: int, k: int) -> list[jax.ShapeDtypeStruct]:
    sizes = [(n, d), (d, k)]
    floats = [jax.ShapeDtypeStruct(size, jnp.float32) for size in sizes]
    return [*floats, jax.ShapeDtypeStruct((n,), jnp.int32)]


@pytest.mark.parametrize(
    ("max_bytes", "in_forward", "enough"),
    [(2**21, False, True), (2**22, True, False), (2**23, True, True)],
)
def test_max_bytes_bounds_the_temporaries(max_bytes, in_forward, enough):
    """Logits take 32 MiB; 4 MiB are too few for gradients in the forward pass, which give way."""
    n, d, k = 512, 32, 16384
    if in_forward:
        linear = Rows(LinearLayer(jnp.zeros((n, d), jnp.float32), jnp.zeros((d, k), jnp.float32)))
        assert (ops_in_forward.fitting_row_blocks(linear, max_bytes) is not None) == enough
    mean = mean_loss_of({"max_bytes": max_bytes, "gradients_in_forward": in_forward})
    for function in (mean, jax.value_and_grad(mean, (0, 1))):
        used = temporary_bytes(function, *layer_shapes(n, d, k))
        assert used <= 1.25 * max_bytes + 16 * n


def stored(x: Any, kernel: Any, labels: Any) -> Any:
    return xentjax.softmax_cross_entropy_with_integer_labels(x @ kernel, labels, reduction="mean")


@pytest.mark.parametrize("in_forward", [False, True], ids=MODE_IDS)
def test_default_memory_of_a_language_model(in_forward):
    """4096 tokens of 768 features, 50304 classes: 786 MiB of logits."""
    shapes = layer_shapes(4096, 768, 50304)
    mean = mean_loss_of({"gradients_in_forward": in_forward})
    gradient, stored_gradient = (
        temporary_bytes(jax.value_and_grad(f, (0, 1)), *shapes) for f in (mean, stored)
    )
    assert gradient <= 0.15 * stored_gradient
    assert temporary_bytes(mean, *shapes) <= 0.1 * 4 * 4096 * 50304


def test_eager_calls_of_one_shape_compile_once():
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "compile" in event:
            compilations.append(event)

    layer, labels, _ = named("plain")
    layer = Layer(*map(jnp.asarray, layer))
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        loss(*layer[:2], labels, layer.bias, label_smoothing=0.1, max_bytes=TILED)
        first = len(compilations)
        for smoothing in (0.2, 0.3):
            loss(*layer[:2], labels, layer.bias, label_smoothing=smoothing, max_bytes=TILED)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert first > 0
    assert len(compilations) == first


@pytest.mark.parametrize("how", [{"max_bytes": TILED}, IN_FORWARD], ids=MODE_IDS)
def test_no_rows(how):
    x, kernel, labels = jnp.zeros((0, 3)), jnp.zeros((3, 41)), jnp.zeros(0, jnp.int32)
    assert loss(x, kernel, labels, reduction="mean", **how) == 0
    if how is not IN_FORWARD:
        assert loss(x, kernel, labels, **how).shape == (0,)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "x: expected a floating dtype, got int32",
         lambda x, k, y: loss(y, k, y)),
        (TypeError, "kernel: expected a floating dtype, got int32",
         lambda x, k, y: loss(x, jnp.zeros((3, 4), jnp.int32), y)),
        (ValueError, "x: expected at least one axis, that of the features, got shape ()",
         lambda x, k, y: loss(jnp.float32(1), k, jnp.int32(0))),
        (ValueError, "kernel: expected shape (3, K), the features of x by at least one class, "
         "got shape (4, 3)", lambda x, k, y: loss(x, k.T, y)),
        (ValueError, "kernel: expected shape (3, K), the features of x by at least one class, "
         "got shape (3,)", lambda x, k, y: loss(x, k[:, 0], y)),
        (ValueError, "kernel: expected shape (3, K), the features of x by at least one class, "
         "got shape (3, 0)", lambda x, k, y: loss(x, k[:, :0], y)),
        (ValueError, "bias: expected one number a class, shape (4,), got shape (1,)",
         lambda x, k, y: loss(x, k, y, jnp.zeros(1))),
        (TypeError, "bias: expected a floating dtype, got int32",
         lambda x, k, y: loss(x, k, y, jnp.zeros(4, jnp.int32))),
        (ValueError, "labels: expected class indices, integers of shape (2,), or probabilities of "
         "shape (2, 4), got float32 of shape (2, 3)",
         lambda x, k, y: loss(x, k, jnp.zeros((2, 3), jnp.float32))),
        (ValueError, "labels: expected", lambda x, k, y: loss(x, k, y[:1])),
        (ValueError, "ignore_index: expected None with probabilities as labels, got -100",
         lambda x, k, y: loss(x, k, jnp.zeros((2, 4)), ignore_index=-100)),
        (ValueError, "where: expected a shape that broadcasts to the logits' (2, 4), got (2, 3)",
         lambda x, k, y: loss(x, k, y, where=jnp.ones((2, 3), bool))),
        (ValueError, "class_weights: expected one weight a class, shape (4,), got (3,)",
         lambda x, k, y: loss(x, k, y, class_weights=jnp.ones(3))),
        (ValueError, "label_smoothing: expected a number in [0, 1], got 1.5",
         lambda x, k, y: loss(x, k, y, label_smoothing=1.5)),
        (ValueError, "max_bytes: expected an integer >= 1 or None, got 0",
         lambda x, k, y: loss(x, k, y, max_bytes=0)),
        (ValueError, "reduction: expected one of 'none', 'sum', 'mean', got 'average'",
         lambda x, k, y: loss(x, k, y, reduction="average")),
        (ValueError, "implementation: expected one of 'xla', 'reference', 'mosaic_tpu', "
         "'mosaic_gpu', got 'fast'",
         lambda x, k, y: loss(x, k, y, implementation="fast")),
        (ValueError, "reduction (with gradients_in_forward): expected one of 'sum', 'mean', "
         "got 'none'", lambda x, k, y: loss(x, k, y, gradients_in_forward=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_wrong_arguments_say_what_was_expected(error, message, call, transform):
    x, kernel, labels = jnp.zeros((2, 3)), jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32)
    with pytest.raises(error) as raised:
        transform(call)(x, kernel, labels)
    assert str(raised.value).startswith(message)


def test_forward_mode_of_gradients_in_forward_is_a_type_error():
    layer, labels, _ = named("plain")

    def total(x):
        return loss(x, layer.kernel, labels, reduction="sum", **IN_FORWARD)

    calls = (
        lambda x: jax.jvp(total, (x,), (x,)),
        jax.jit(lambda x: jax.jvp(total, (x,), (x,))),
        lambda x: jax.jvp(jax.jit(total), (x,), (x,)),  # jax finds out after the call returned
        lambda x: jax.jacfwd(jax.jit(total))(x),
        lambda x: jax.linearize(jax.jit(total), x)[1](x),
    )
    line = (
        r"^gradients_in_forward: expected False in forward mode \(jvp, jacfwd\), got True(\n---|$)"
    )
    for call in calls:
        with pytest.raises(TypeError, match=line):
            call(layer.x)
