"""The checks of `test_parallel.py` of a linear layer split over eight devices."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from tests.programs.parallel_devices import PROBLEMS, mesh
from tests.support import kernels
from tests.support.closeness import assert_close
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
from tests.support.oracles.divergences import divergence
from tests.support.oracles.heads import head
from tests.support.problems import EVERYTHING, Problem
from tests.support.tolerances import GRADIENT, VALUE
from tests.support.virtual_devices import NUM_DEVICES, collectives, sent_once
from xentjax import (
    linear_js_divergence,
    linear_kl_divergence,
    linear_log_probs,
    linear_loss,
    linear_softmax_cross_entropy,
)
from xentjax.ops import Rows
from xentjax.ops.backends import contexts
from xentjax.ops.linear import statistics
from xentjax.ops.rows import Layer as LinearLayer

K_LOCAL = 9
HELD = NUM_DEVICES * K_LOCAL
K = 57  # the seventh device holds three classes and six columns of padding, the eighth padding
ROWS = 131
WEIGHTS = np.linspace(0, 3, K).astype(np.float32)

# Of 131 rows, 3 features and 9 classes a device: tiles of both passes overlap.
TILED = 1060
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def wide(problem: Problem) -> Problem:
    """The problem of `parallel_devices`, with rows and classes for several tiles a device."""
    *rows, k = problem.shape
    rows = (7, 19) if len(rows) == 2 else (ROWS,)
    keywords = dict(problem.keywords)
    if "class_weights" in keywords:
        keywords["class_weights"] = WEIGHTS
    return replace(problem, shape=(*rows, K if k < 20 else HELD), keywords=keywords)


def arguments(problem: Problem) -> tuple[Layer, np.ndarray, dict[str, Any]]:
    """A layer whose logits have the problem's scale, its labels and its keywords."""
    _, labels, keywords = problem.arguments()
    *rows, k = problem.shape
    rng = np.random.default_rng(sum(map(ord, problem.name)))
    shapes = (*rows, 3), (3, k), (k,)
    x, kernel, bias = (rng.standard_normal(s).astype(np.float32) for s in shapes)
    # Four terms of one variance each: the logits' is scale^2.
    scale = np.float32(problem.scale / 2)
    return Layer(x, scale * kernel, scale * bias), labels, keywords


NAMES = {"three dimensions", "small logits", "offset, temperature", "ignored", "row mask",
         "shared mask", "everything", "soft, everything"}  # fmt: skip
TABLE = {p.name: wide(p) for p in PROBLEMS if p.name in NAMES}


def padded(x: Any, value: Any) -> Any:
    """`x` with its classes padded to what the devices hold."""
    width = [(0, 0)] * (x.ndim - 1) + [(0, max(HELD - x.shape[-1], 0))]
    return jnp.pad(x, width, constant_values=value)


def parallel(
    function: Any,
    layer: Layer,
    labels: Any,
    *,
    where: Any = None,
    padding: float = 50.0,
    devices: Any = None,
    axis_name: str | tuple[str, ...] = "classes",
    **keywords: Any,
) -> Any:
    """A function of a whole layer, whose classes are split over the devices."""
    row_dims, num_classes = layer.x.ndim - 1, layer.kernel.shape[1]
    by_class = P(*(None,) * row_dims, axis_name)
    arrays = {
        "x": layer.x,
        "kernel": padded(layer.kernel, padding),
        "bias": padded(layer.bias, padding),
        "labels": labels if labels.ndim == row_dims else padded(labels, 0),
    }
    specs = {
        "x": P(),
        "kernel": P(None, axis_name),
        "bias": P(axis_name),
        "labels": P() if labels.ndim == row_dims else by_class,
    }
    if where is not None:
        arrays["where"] = padded(where, True) if where.ndim > row_dims else where
        specs["where"] = by_class if where.ndim > row_dims else P()
    return jax.shard_map(
        lambda arrays: function(**arrays, axis_name=axis_name, num_classes=num_classes, **keywords),
        mesh=devices or mesh(classes=NUM_DEVICES),
        in_specs=(specs,),
        out_specs=P(),
    )(arrays)


parallel_loss = partial(parallel, linear_softmax_cross_entropy)


def assert_matches_oracle(problem: Problem, max_bytes: int | None) -> None:
    """Losses, statistics, and the gradient of the layer under a cotangent for each row."""
    layer, labels, keywords = arguments(problem)
    expected = oracle(layer, labels, **keywords)
    cotangent = np.linspace(0.5, 2, expected.losses.size).reshape(expected.losses.shape)
    # A padded column that enters a sum adds exp(0), which only small logits show.
    options = {"padding": 0.0 if problem.scale < 1 else 50.0, "max_bytes": max_bytes, **keywords}

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(layer):
        loss, stats = parallel_loss(layer, labels, return_stats=True, **options)
        return jnp.sum(loss * jnp.asarray(cotangent, loss.dtype)), (loss, stats)

    (_, (losses, stats)), gradient = run(layer)
    assert losses.dtype == jnp.float32
    assert_close(losses, expected.losses, VALUE["float32"])
    for name in ("log_normalizer", "label_log_prob", "entropy"):
        assert_close(getattr(stats, name), getattr(expected, name), VALUE["float32"])
    np.testing.assert_array_equal(stats.predicted, expected.predicted)
    d_logits = cotangent[..., None] * expected.gradient
    assert_layer_close(gradient, chained(d_logits, layer), GRADIENT["float32"])


for _name, _problem in TABLE.items():
    CHECKS[f"{_name}, in tiles"] = partial(assert_matches_oracle, _problem, TILED)
CHECKS["small logits, in one tile"] = partial(assert_matches_oracle, TABLE["small logits"], None)


@check
def tiles_of_the_table_overlap_in_rows_and_classes() -> None:
    linear = Rows(LinearLayer(jnp.zeros((ROWS, 3)), jnp.zeros((3, K_LOCAL))))
    for tiling in (statistics.forward_blocks, statistics._backward_blocks):
        assert all(map(overlap, tiling(linear, TILED)))
        assert all(blocks.count == 1 for blocks in tiling(linear, None))


@check
def bad_values() -> None:
    """A bad label, NaN features and classes of -inf, all of one device's too, in tiles."""
    layer, labels, _ = arguments(wide(Problem("bad", shape=(6, 19))))
    layer.bias[[0, *range(9, 18)]] = -np.inf
    labels[:] = 18 + labels % 39
    labels[[0, 1, 2, 3]] = -1, K, HELD - 1, HELD
    labels[[4, 5]] = 0, 12
    labels[[6, 7]] = -100
    expected = oracle(layer, labels, ignore_index=-100)
    d_x = chained(expected.gradient, layer).x
    layer.x[[6, 8]] = np.nan

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(x):
        at = layer._replace(x=x)
        losses = parallel_loss(at, labels, ignore_index=-100, max_bytes=TILED)
        return jnp.sum(losses), losses

    (_, losses), gradient = run(layer.x)
    assert np.isnan(losses[8])
    assert np.isnan(gradient[8]).all()
    others = np.arange(ROWS) != 8
    assert_close(losses[others], expected.losses[others], VALUE["float32"])
    assert_close(gradient[others], d_x[others], GRADIENT["float32"])


@check
def log_probs_and_entropies() -> None:
    """Log-probabilities, entropies and their gradients, some rows ignored, in tiles."""
    layer, labels, keywords = arguments(TABLE["ignored"])
    expected = head(layer.x, layer.kernel, labels, layer.bias, temperature=1.5, **keywords)

    @jax.jit
    def run(layer):
        def both(layer):
            return parallel(linear_log_probs, layer, labels, return_entropy=True,
                            temperature=1.5, max_bytes=TILED, **keywords)  # fmt: skip

        value, pullback = jax.vjp(both, layer)
        return value, pullback(jax.tree.map(jnp.ones_like, value))[0]

    (log_probs, entropy), gradient = run(layer)
    assert_close(log_probs, expected.label_log_prob, VALUE["float32"])
    assert_close(entropy, expected.entropy, VALUE["float32"])
    true = expected.gradients(label_log_prob=1.0, entropy=1.0)
    assert_layer_close(gradient, (true[n] for n in Layer._fields), GRADIENT["float32"])


def two_heads(rows: int) -> dict[str, Any]:
    """Heads of 2 and 3 features, whose classes the devices can split."""
    rng = np.random.default_rng(rows)
    shapes = {"target_x": (rows, 2), "target_kernel": (2, HELD), "target_bias": (HELD,),
              "x": (rows, 3), "kernel": (3, HELD), "bias": (HELD,)}  # fmt: skip
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


SPLIT_HEADS = {"target_x": P(), "target_kernel": P(None, "classes"), "target_bias": P("classes"),
               "x": P(), "kernel": P(None, "classes"), "bias": P("classes")}  # fmt: skip


def parallel_divergence(function: Any, arrays: dict[str, Any], specs: Any, **keywords: Any) -> Any:
    """A divergence of heads whose classes are split over the devices."""
    return jax.shard_map(
        lambda arrays: function(**arrays, axis_name="classes", **keywords),
        mesh=mesh(classes=NUM_DEVICES),
        in_specs=(specs,),
        out_specs=P(),
    )(arrays)


@check
def divergences_of_two_heads() -> None:
    """Values and gradients, with masked rows and classes; one device has no class left."""
    heads = two_heads(ROWS)
    where = np.random.default_rng(0).random((ROWS, HELD)) < 0.7
    where[:, :K_LOCAL] = where[5] = False
    specs = {**SPLIT_HEADS, "where": P(None, "classes")}
    cotangent = np.linspace(0.5, 2, ROWS).astype(np.float32)
    functions = {
        "kl": partial(linear_kl_divergence, max_bytes=TILED),
        "reverse": partial(linear_kl_divergence, reverse=True),
        "js": partial(linear_js_divergence, weight=0.3, max_bytes=TILED),
    }
    for kind, function in functions.items():

        def losses(heads, function=function):
            arrays = {**heads, "where": where}
            return parallel_divergence(function, arrays, specs, temperature=1.5)

        value, pullback = jax.jit(partial(jax.vjp, losses))(heads)
        (gradient,) = jax.jit(lambda pullback: pullback(cotangent))(pullback)
        pair = divergence(kind, **heads, where=where, temperature=1.5, weight=0.3)
        assert_close(value, pair.value, VALUE["float32"])
        true = pair.gradients(cotangent)
        for name, got in gradient.items():
            assert_close(got, true[name], GRADIENT["float32"])


@check
def numbers_a_row_of_two_heads_cross_and_sums_of_the_gradients_of_x() -> None:
    rows = 512
    heads = two_heads(rows)
    for function, limit in ((linear_kl_divergence, 24), (linear_js_divergence, 28)):
        for max_bytes in (None, 40_000):

            def mean(heads, function=function, max_bytes=max_bytes):
                keywords = {"reduction": "mean", "max_bytes": max_bytes}
                return parallel_divergence(function, heads, SPLIT_HEADS, **keywords)

            sent = [
                sent_once(jax.jit(run).lower(heads).compile().as_text() or "")
                for run in (mean, jax.value_and_grad(mean))
            ]
            assert sent[1] == sorted([*sent[0], (2 * rows, 4), (3 * rows, 4)])
            moved = sum(n * size for n, size in sent[0])
            assert 16 * rows <= moved <= limit * rows, moved / rows


@check
def a_loss_of_ones_own() -> None:
    """The gradients of a function of log-probability and entropy are those of its statistics."""
    layer, labels, keywords = arguments(TABLE["ignored"])
    expected = head(layer.x, layer.kernel, labels, layer.bias, temperature=1.5, **keywords)

    @jax.jit
    @jax.value_and_grad
    def run(layer):
        own = partial(linear_loss, lambda stats: jnp.exp(stats.label_log_prob) - stats.entropy)
        return parallel(own, layer, labels, temperature=1.5, max_bytes=TILED, **keywords)

    value, gradient = run(layer)
    share = expected.keep / expected.keep.sum()
    p = np.exp(expected.label_log_prob)
    assert_close(value, np.sum(share * (p - expected.entropy)), VALUE["float32"])
    true = expected.gradients(label_log_prob=share * p, entropy=-share)
    assert_layer_close(gradient, (true[n] for n in Layer._fields), GRADIENT["float32"])


@check
def gradients_in_what_a_loss_closes_over() -> None:
    """Devices with rows of their own share a coefficient, and the weights of their sums differ."""
    rng = np.random.default_rng(6)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((2 * NUM_DEVICES, 3), (3, K)))
    labels, coefficient = rng.integers(0, K, 2 * NUM_DEVICES).astype(np.int32), np.float32(0.7)

    def part(x, kernel, labels, coefficient):
        def loss(stats):
            return coefficient * stats.entropy - stats.label_log_prob

        weight = (1 + jax.lax.axis_index("classes")).astype(x.dtype)
        total = linear_loss(loss, x, kernel, labels, reduction="sum")
        return jax.lax.psum(weight * total, "classes")

    specs = P("classes"), P(), P("classes"), P()
    mapped = jax.shard_map(part, mesh=mesh(classes=NUM_DEVICES), in_specs=specs, out_specs=P())
    got = jax.jit(jax.grad(mapped, (0, 1, 3)))(x, kernel, labels, coefficient)
    expected = head(x, kernel, labels)
    weights = np.repeat(np.arange(1.0, NUM_DEVICES + 1), 2)
    true = expected.gradients(label_log_prob=-weights, entropy=coefficient * weights)
    for gradient, exactly in zip(
        got, (true["x"], true["kernel"], np.vdot(weights, expected.entropy)), strict=True
    ):
        assert_close(gradient, exactly, GRADIENT["float32"])


@check
def a_mask_of_one_class_a_device_masks_classes() -> None:
    """A slice of one column is not taken for a mask of rows; the same column everywhere is one."""
    layer, labels, _ = arguments(Problem("one class", shape=(ROWS, NUM_DEVICES)))
    masks = np.random.default_rng(5).random((ROWS, NUM_DEVICES)) < 0.6
    masks[0] = False

    def losses(mask, spec):
        mapped = jax.shard_map(
            lambda layer, mask: linear_softmax_cross_entropy(
                layer.x, layer.kernel, labels, layer.bias, axis_name="classes", where=mask
            ),
            mesh=mesh(classes=NUM_DEVICES),
            in_specs=(Layer(P(), P(None, "classes"), P("classes")), spec),
            out_specs=P(),
        )
        return jax.jit(mapped)(layer, mask)

    expected = oracle(layer, labels, where=masks).losses
    assert_close(losses(masks, P(None, "classes")), expected, VALUE["float32"])
    expected = oracle(layer, labels, where=masks[:, 1]).losses
    assert_close(losses(masks[:, 1:2], P()), expected, VALUE["float32"])


@check
def half_precision() -> None:
    layer, labels, _ = arguments(Problem("half", shape=(ROWS, HELD)))
    layer = Layer(*(jnp.asarray(a, jnp.bfloat16) for a in layer))
    expected = oracle(layer, labels)

    def mean(layer):
        return parallel_loss(layer, labels, reduction="mean", max_bytes=TILED)

    value, gradient = jax.jit(jax.value_and_grad(mean))(layer)
    assert value.dtype == jnp.float32
    assert all(a.dtype == jnp.bfloat16 for a in gradient)
    assert_close(value, expected.mean, VALUE["bfloat16"])
    for got, wanted in zip(gradient, chained(expected.gradient / ROWS, layer), strict=True):
        largest = np.max(np.abs(wanted))
        np.testing.assert_allclose(
            got.astype(jnp.float32) / largest, wanted / largest, atol=GRADIENT["bfloat16"]
        )


@check
def forward_mode_and_second_order_over_two_mesh_axes() -> None:
    layer, labels, keywords = arguments(TABLE["everything"])
    along, step = directions(layer, 1), 1e-5

    def total(layer):
        return parallel_loss(
            layer, labels, reduction="sum", max_bytes=TILED,
            devices=mesh(a=2, b=4), axis_name=("a", "b"), **keywords,
        )  # fmt: skip

    @jax.jit
    def run(layer, along):
        return jax.jvp(total, (layer,), (along,))[1], jax.jvp(jax.grad(total), (layer,), (along,))

    slope, (gradient, product) = run(layer, along)
    here = chained(oracle(layer, labels, **keywords).gradient, layer)
    assert_layer_close(gradient, here, GRADIENT["float32"])
    assert_close(slope, sum(map(np.vdot, here, exact(along))), GRADIENT["float32"])
    plus, minus = (
        chained(oracle(at, labels, **keywords).gradient, at)
        for at in (moved(layer, step, along), moved(layer, -step, along))
    )
    expected = [(p - m) / (2 * step) for p, m in zip(plus, minus, strict=True)]
    assert_layer_close(product, expected, GRADIENT["float32"])


@check
def gradients_in_targets_weights_and_scalars() -> None:
    """Gradients agree with differences of the oracle."""
    layer, labels, keywords = arguments(TABLE["soft, everything"])
    where = keywords.pop("where")
    moving = {n: np.asarray(v, np.float32) for n, v in {**keywords, "labels": labels}.items()}
    exact_moving = {n: v.astype(np.float64) for n, v in moving.items()}
    step, rng = 1e-5, np.random.default_rng(3)

    def total(moving):
        return jnp.sum(parallel_loss(layer, where=where, max_bytes=TILED, **moving))

    gradient = jax.jit(jax.grad(total))({n: jnp.asarray(v) for n, v in moving.items()})
    for name, at in exact_moving.items():
        along = rng.standard_normal(at.shape)
        plus, minus = (
            oracle(layer, where=where, **{**exact_moving, name: at + s * step * along}).losses.sum()
            for s in (1, -1)
        )
        got = np.vdot(np.asarray(gradient[name], np.float64), along)
        assert_close(got, (plus - minus) / (2 * step), GRADIENT["float32"])


@check
def gradients_inside_of_shard_map_and_rows_split_too() -> None:
    """Rows over one mesh axis, classes over another; each device asks for its own gradients."""
    layer, labels, _ = arguments(Problem("inside", shape=(2 * ROWS, HELD)))
    keywords: dict[str, Any] = {"label_smoothing": 0.1, "z_loss": 0.1}

    def step(layer, labels):
        def total(layer):
            return linear_softmax_cross_entropy(
                layer.x, layer.kernel, labels, layer.bias,
                axis_name="classes", reduction="sum", max_bytes=2 * TILED, **keywords,
            )  # fmt: skip

        value, gradient = jax.value_and_grad(total)(layer)
        return value[None], gradient

    specs = Layer(P("data"), P(None, "classes"), P("classes"))
    values, gradient = jax.jit(
        jax.shard_map(
            step,
            mesh=mesh(data=2, classes=4),
            in_specs=(specs, P("data")),
            out_specs=(P("data"), specs),
        )
    )(layer, labels)
    expected = oracle(layer, labels, **keywords)
    assert_close(values, expected.losses.reshape(2, -1).sum(-1), VALUE["float32"])
    assert_layer_close(gradient, chained(expected.gradient, layer), GRADIENT["float32"])


@check
def numbers_a_row_cross_and_one_sum_of_the_gradient_of_x() -> None:
    """Outside of every loop over tiles, and whatever the number of classes."""
    rows, features, k = 512, 24, 64 * NUM_DEVICES

    def sent(num_classes, max_bytes, with_gradient, keywords):
        shapes = (rows, features), (features, num_classes), (num_classes,)
        labels = jnp.zeros(rows, jnp.int32)

        def mean(layer):
            options = {**keywords(num_classes), "max_bytes": max_bytes}
            return parallel_loss(layer, labels, reduction="mean", **options)

        run = jax.value_and_grad(mean) if with_gradient else mean
        compiled = jax.jit(run).lower(Layer(*map(jnp.zeros, shapes))).compile()
        return sent_once(compiled.as_text() or "")

    def everything(num_classes):
        return {**EVERYTHING, "class_weights": jnp.ones(num_classes)}

    for max_bytes, keywords, limit in ((None, lambda _: {}, 12), (40_000, everything, 28)):
        loss, both = (sent(k, max_bytes, gradient, keywords) for gradient in (False, True))
        assert both == sorted([*loss, (rows * features, 4)])
        assert loss == sent(2 * k, max_bytes, False, keywords)
        moved = sum(n * size for n, size in loss)
        assert 12 * rows <= moved <= limit * rows, moved / rows


@check
def gradients_of_what_devices_share_are_summed_once() -> None:
    """Rows split in shard_map: nothing of the logits' size is sent, and nothing in a loop."""
    layer, labels, _ = arguments(Problem("rows", shape=(NUM_DEVICES * ROWS, HELD)))
    expected = chained(oracle(layer, labels).gradient, layer)
    specs = Layer(P("data"), P(), P())
    for in_forward, max_bytes in ((False, TILED), (True, 40 * TILED)):

        def total(layer, labels, in_forward=in_forward, max_bytes=max_bytes):
            x, kernel, bias = layer
            loss = linear_softmax_cross_entropy(
                x, kernel, labels, bias, reduction="sum",
                max_bytes=max_bytes, gradients_in_forward=in_forward,
            )  # fmt: skip
            return jax.lax.psum(loss, "data")

        gradient = jax.shard_map(
            jax.grad(total),
            mesh=mesh(data=NUM_DEVICES),
            in_specs=(specs, P("data")),
            out_specs=specs,
        )
        run = jax.jit(gradient).lower(layer, labels).compile()
        assert sent_once(run.as_text() or "") == [(HELD, 4), (3 * HELD, 4)]
        assert_layer_close(run(layer, labels), expected, GRADIENT["float32"])


@check
def gradients_of_shared_heads_are_summed_once() -> None:
    """Rows split in shard_map, the gradients made with the value: nothing is sent in a loop."""
    rows = 24 * NUM_DEVICES
    heads = two_heads(rows)
    specs = {n: P("data") if n.endswith("x") else P() for n in heads}

    def total(heads):
        loss = linear_kl_divergence(**heads, reduction="sum", max_bytes=40 * TILED)
        return jax.lax.psum(loss, "data")

    gradient = jax.shard_map(
        jax.grad(total), mesh=mesh(data=NUM_DEVICES), in_specs=(specs,), out_specs=specs
    )
    run = jax.jit(gradient).lower(heads).compile()
    sent = [(HELD, 4), (HELD, 4), (2 * HELD, 4), (3 * HELD, 4)]
    assert sent_once(run.as_text() or "") == sent
    true = divergence("kl", **heads).gradients(np.ones(rows))
    for name, got in run(heads).items():
        assert_close(got, true[name], GRADIENT["float32"])


@check
def labels_split_over_an_axis_that_the_layer_is_not() -> None:
    """The loss varies over a mesh axis that x and kernel do not; with rows to skip, in tiles."""
    layer, labels, _ = arguments(wide(Problem("two raters", shape=(6, 24))))
    labels = np.concatenate([labels, labels[::-1]])
    labels[::5] = -1
    specs = Layer(P(), P(None, "classes"), P("classes"))

    def losses(layer, labels):
        x, kernel, bias = layer
        return linear_softmax_cross_entropy(
            x, kernel, labels, bias, axis_name="classes", ignore_index=-1, max_bytes=2 * TILED
        )

    split = jax.shard_map(
        losses, mesh=mesh(data=2, classes=4), in_specs=(specs, P("data")), out_specs=P("data")
    )
    gradient = jax.jit(jax.grad(lambda layer: jnp.sum(split(layer, labels))))(layer)
    raters = (oracle(layer, y, ignore_index=-1).gradient for y in np.split(labels, 2))
    raters = (chained(d_logits, layer) for d_logits in raters)
    assert_layer_close(gradient, map(np.add, *raters), GRADIENT["float32"])


def kernels_of_slices() -> None:
    """Two devices interpret kernels: on all, callbacks would leave collectives no threads."""
    layer, labels, keywords = arguments(Problem("kernels", shape=(9, HELD)))
    half = Layer(*(jnp.asarray(a, jnp.bfloat16) for a in layer))
    expected = oracle(half, labels, **keywords)
    interpreters = {
        "mosaic_gpu": contexts.interpret_for_gpu(kernels.gpu_interpreter()),
        "mosaic_tpu": contexts.interpret_for_tpu(True),
    }
    devices = Mesh(np.array(jax.devices()[:2]), ("classes",))
    fixed = {"labels": labels, "devices": devices, **keywords}
    for name, interpreted in interpreters.items():
        run = jax.jit(partial(parallel_loss, implementation=name, **fixed))
        with interpreted:
            assert_close(run(half), expected.losses, VALUE["bfloat16"])


@check
def sharded_arrays_under_jit() -> None:
    """The loss of one device on arrays that are split by rows or by classes."""
    layer, labels, _ = arguments(Problem("jit", shape=(ROWS - 3, HELD)))
    expected = oracle(layer, labels)
    gradients = chained(expected.gradient / len(labels), layer)
    devices = mesh(shards=NUM_DEVICES)
    by_row = Layer(P("shards"), P(), P()), P("shards")
    by_class = Layer(P(), P(None, "shards"), P("shards")), P()
    for specs in (by_row, by_class):
        shardings = jax.tree.map(partial(NamedSharding, devices), specs)
        at, y = jax.device_put((layer, labels), shardings)
        for max_bytes in (None, TILED):

            def mean(layer, labels, max_bytes=max_bytes):
                x, kernel, bias = layer
                return linear_softmax_cross_entropy(
                    x, kernel, labels, bias, reduction="mean", max_bytes=max_bytes
                )

            compiled = jax.jit(jax.value_and_grad(mean)).lower(at, y).compile()
            value, gradient = compiled(at, y)
            assert_close(value, expected.mean, VALUE["float32"])
            assert_layer_close(gradient, gradients, GRADIENT["float32"])
            if (
                max_bytes is None
            ):  # of one tile, the gradients of shared inputs are all that is sent
                hlo = compiled.as_text() or ""
                assert "all-gather" not in hlo
                sent = max(n for arrays in collectives(hlo) for n, _ in arrays)
                assert sent <= max(layer.x.size, layer.kernel.size)
