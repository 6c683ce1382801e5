"""A caller's loss of the statistics of a linear head, against float64 of the whole logits."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import xentjax
from tests.support import kernels
from tests.support.closeness import assert_close
from tests.support.compiled import temporary_bytes
from tests.support.oracles.heads import Head, head
from tests.support.random_heads import D, K, N, random_head
from tests.support.random_problems import assert_within, rounding
from tests.support.tolerances import GRADIENT, RANDOM_VALUE, VALUE
from xentjax import linear_softmax_cross_entropy
from xentjax.heads import _row_function
from xentjax.ops import Requested
from xentjax.ops.backends import contexts
from xentjax.ops.linear import in_forward

linear_loss: Any = xentjax.linear_loss
TILED = 13_200  # rows and classes are prime: no tile divides them
STATS = ("log_normalizer", "label_log_prob", "entropy")
Slopes = dict[str, np.ndarray]


@pytest.fixture(autouse=True, scope="module")
def thin_tiles():
    """Make tiles thin: all of so few classes would be one block."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(in_forward, "_FEWEST_CLASSES", 1)
        yield


def nll(stats):
    return -stats.label_log_prob


def surrogate(stats, advantage, old):
    """The clipped surrogate with an entropy bonus; whether the row was clipped as aux."""
    ratio = jnp.exp(stats.label_log_prob - old)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    return -gain - 0.01 * stats.entropy, ratio


def surrogate_in_float64(s: Head, advantage: Any, old: Any) -> tuple[Any, Slopes, list[Any]]:
    ratio = np.exp(s.label_log_prob - old)
    clipped = np.clip(ratio, 0.8, 1.2)
    free = ratio * advantage <= clipped * advantage
    gain = np.where(free, ratio, clipped) * advantage
    slope = np.where(free, ratio * advantage, 0)
    d_stats = {"label_log_prob": -slope, "entropy": np.full_like(slope, -0.01)}
    return -gain - 0.01 * s.entropy, d_stats, [-np.where(free, ratio, clipped), slope]


def focal(stats):
    return -((1 - jnp.exp(stats.label_log_prob)) ** 2) * stats.label_log_prob


def focal_in_float64(s: Head) -> tuple[Any, Slopes, list[Any]]:
    p = np.exp(s.label_log_prob)
    slope = 2 * (1 - p) * p * s.label_log_prob - (1 - p) ** 2
    return -((1 - p) ** 2) * s.label_log_prob, {"label_log_prob": slope}, []


def z_loss(stats, weight):
    return weight["of"] * stats.log_normalizer**2 - stats.label_log_prob


def z_loss_in_float64(s: Head, weight: Any) -> tuple[Any, Slopes, list[Any]]:
    square = s.log_normalizer**2
    d_stats = {
        "log_normalizer": 2 * weight * s.log_normalizer,
        "label_log_prob": -np.ones_like(square),
    }
    return weight * square - s.label_log_prob, d_stats, [square]


def k3(stats, reference):
    """The low-variance estimate of KL to a stored reference."""
    gap = reference - stats.label_log_prob
    return jnp.exp(gap) - 1 - gap


def k3_in_float64(s: Head, reference: Any) -> tuple[Any, Slopes, list[Any]]:
    gap = reference - s.label_log_prob
    return np.exp(gap) - 1 - gap, {"label_log_prob": 1 - np.exp(gap)}, [np.exp(gap) - 1]


@dataclass(frozen=True)
class Case:
    """A loss, the same in NumPy with its derivatives, and how its inputs are drawn."""

    loss: Callable[..., Any]
    exact: Callable[..., tuple[Any, Slopes, list[Any]]]
    near: tuple[bool, ...] = ()
    """Whether each input is drawn near the label's log-probability, or near 0."""
    has_aux: bool = False

    def inputs(self, expected: Head, rng: Any) -> list[np.ndarray]:
        near = np.nan_to_num(expected.label_log_prob)
        noise = [0.3 * rng.standard_normal(near.shape) for _ in self.near]
        drawn = [
            x + near if is_near else 3 * x for x, is_near in zip(noise, self.near, strict=True)
        ]
        return [x.astype(np.float32) for x in drawn]

    def arguments(self, inputs: list[Any]) -> tuple[Any, ...]:
        return ({"of": inputs[0]},) if self.loss is z_loss else tuple(inputs)


CASES = {
    "surrogate": Case(surrogate, surrogate_in_float64, (False, True), has_aux=True),
    "focal": Case(focal, focal_in_float64),
    "z-loss": Case(z_loss, z_loss_in_float64, (False,)),
    "k3": Case(k3, k3_in_float64, (True,)),
}


@partial(jax.jit, static_argnames=("case", "how"))
def evaluate(arrays, inputs, *, case, how):
    """The loss and its gradients in all that is floating, inputs too."""
    moving = {n: x for n, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def total(moving, inputs):
        result = linear_loss(
            case.loss, **{**arrays, **moving}, inputs=case.arguments(inputs),
            has_aux=case.has_aux, **dict(how),
        )  # fmt: skip
        return result if case.has_aux else (result, ())

    return jax.value_and_grad(total, (0, 1), has_aux=True)(moving, inputs)


def exact(arrays: dict[str, Any], how: dict[str, Any]) -> Head:
    ignored = {n: v for n, v in how.items() if n == "ignore_index"}
    scalars = {n: float(arrays[n]) for n in ("temperature", "logit_soft_cap") if n in arrays}
    return head(**{**arrays, **scalars}, **ignored)


@pytest.mark.parametrize(
    ("name", "dtype", "options", "how"),
    [
        ("surrogate", "float32", "cap temperature", {"max_bytes": TILED}),
        ("surrogate", "bfloat16", "temperature rows", {"max_bytes": TILED}),
        ("surrogate", "float32", "temperature classes", {"max_bytes": 3000, "reduction": "sum"}),
        ("focal", "float32", "rows", {"max_bytes": TILED, "ignore_index": -100}),
        ("focal", "float16", "temperature", {"implementation": "reference"}),
        ("z-loss", "float32", "cap classes", {"max_bytes": TILED}),
        ("z-loss", "float32", "shared", {"reduction": "sum"}),
        ("k3", "float32", "temperature rows", {"max_bytes": TILED, "ignore_index": 3}),
    ],
)
def test_200_random_configurations(name, dtype, options, how):
    """Each of eight compiled functions meets 25 draws of numbers, masks, scalars and inputs."""
    case, least = CASES[name], float(jnp.finfo(dtype).smallest_subnormal)
    for seed in range(25):
        arrays = random_head(dtype, options, how.get("ignore_index"), seed)
        s = exact(arrays, how)
        inputs = case.inputs(s, np.random.default_rng((9, seed)))
        losses, d_stats, d_inputs = case.exact(s, *(np.float64(a) for a in inputs))
        for a in inputs:
            a[~s.keep] = np.nan  # which nobody reads
        (value, aux), (gradient, input_gradient) = evaluate(
            arrays, inputs, case=case, how=tuple(how.items())
        )
        share = 1 / s.keep.sum() if how.get("reduction") != "sum" else 1.0
        rounded = RANDOM_VALUE * (1 + s.size + np.abs(s.label_log_prob))
        if case.has_aux:
            ratio = np.exp(s.label_log_prob - np.where(s.keep, inputs[1], 0))
            assert_within(aux, np.where(s.keep, ratio, 0), rounded * ratio)
            # A ratio at the edge of the clip falls on either side.
            edge = np.abs(ratio[:, None] - [0.8, 1.2]).min(-1) < rounded * ratio
        else:
            edge = np.zeros(N, bool)
        # A row's statistics are rounded by the size of its logits, and its loss by theirs.
        moved = {n: RANDOM_VALUE * (1 + s.size + np.abs(getattr(s, n))) for n in d_stats}
        bound = sum(np.abs(d_stats[n]) * moved[n] for n in d_stats) + RANDOM_VALUE * (
            1 + np.abs(losses)
        )
        total = share * np.where(s.keep, losses, 0).sum()
        assert_within(value, total, share * np.where(s.keep, bound, 0).sum())

        kept = {n: share * np.where(s.keep, d, 0) for n, d in d_stats.items()}
        true = s.gradients(**kept)
        curved = 1 + sum(np.abs(d) for d in d_stats.values())
        relative = RANDOM_VALUE * (1 + s.size) * curved
        loose = {n: share * s.keep * np.where(edge, 2 * (1 + np.abs(d)), relative * (1 + np.abs(d)))
                 for n, d in d_stats.items()}  # fmt: skip
        sizes = s.gradient_sizes(**loose)
        for n, got in gradient.items():
            assert got.dtype == arrays[n].dtype
            assert_within(got, true[n], sizes[n] + rounding(dtype) * np.abs(true[n]) + least)
        for got, d in zip(input_gradient, d_inputs, strict=True):
            bound = np.where(edge, 2 * (1 + np.abs(d)), relative * (1 + np.abs(d)))
            assert_within(got, share * np.where(s.keep, d, 0), share * s.keep * bound)


def plain(n: int = N, d: int = D, k: int = K) -> dict[str, Any]:
    rng = np.random.default_rng((n, d, k))
    x, kernel, bias = (rng.standard_normal(s) for s in ((n, d), (d, k), (k,)))
    arrays = {"x": x / np.sqrt(d), "kernel": kernel, "bias": bias}
    labels = rng.integers(0, k, n).astype(np.int32)
    return {**{n: a.astype(np.float32) for n, a in arrays.items()}, "labels": labels}


@pytest.mark.parametrize("how", [{}, {"max_bytes": TILED}], ids=["one tile", "tiles"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"ignore_index": 3, "temperature": 1.5, "logit_soft_cap": 3.0, "reduction": "sum"},
        {"where": np.arange(N) % 3 > 0},
    ],
    ids=["plain", "ignored", "masked"],
)
def test_with_the_cross_entropy_it_is_the_cross_entropy(how, more):
    """Value and gradients are those of gradients in forward, bit for bit.

    Without it, the cross-entropy adds up the rows in another order.
    """
    arrays, keywords = plain(), {"reduction": "mean", **more, **how}

    @jax.jit
    def evaluate(layer):
        def by_function(layer):
            return linear_loss(nll, **layer, labels=arrays["labels"], **keywords)

        by_name = partial(linear_softmax_cross_entropy, labels=arrays["labels"], **keywords)

        def in_forward(layer):
            return by_name(**layer, gradients_in_forward=True)

        return (
            (by_function(layer), jax.value_and_grad(by_function)(layer)),
            (in_forward(layer), jax.value_and_grad(in_forward)(layer)),
            by_name(**layer),
        )

    got, expected, without = evaluate({n: arrays[n] for n in ("x", "kernel", "bias")})
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert_close(got[0], without, VALUE["float32"])


def test_arrays_closed_over_have_gradients():
    """A coefficient of all rows, in the scope of a jitted training step and outside of one."""
    arrays, keep = plain(), np.arange(N) % 3 > 0
    bonus = np.where(keep, 1.0, 0.0).astype(np.float32)  # the logarithm is for kept rows alone

    def total(coefficient):
        def loss(stats, bonus):
            return (
                -stats.label_log_prob - coefficient * jnp.log(bonus) - coefficient * stats.entropy
            )

        return linear_loss(loss, **arrays, inputs=(bonus,), where=keep, max_bytes=TILED)

    s = exact({**arrays, "where": keep}, {})
    for differentiated in (jax.grad(total), jax.jit(jax.grad(total)), jax.grad(jax.jit(total))):
        assert_close(differentiated(0.5), -s.entropy.sum() / keep.sum(), GRADIENT["float32"])
    each = jax.vmap(jax.grad(total))(jnp.array([0.5, 0.25]))
    assert_close(each, np.full(2, -s.entropy.sum() / keep.sum()), GRADIENT["float32"])


def test_arrays_closed_over_inside_shard_map_scan_and_checkpoint():
    """A coefficient that devices share, while their rows and weights differ."""
    arrays, weights = plain(), np.linspace(1, 2, N, dtype=np.float32)
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))

    def part(x, labels, weights, coefficient):
        def loss(stats, weight):
            return -weight * stats.label_log_prob - coefficient * stats.entropy

        @jax.checkpoint
        def total(x):
            layer = {**arrays, "x": x, "labels": labels}
            how = {"inputs": (weights,), "reduction": "sum", "max_bytes": TILED}
            return jax.lax.psum(linear_loss(loss, **layer, **how), "devices")

        def step(carry, scale):
            return carry + total(scale * x), None

        return jax.lax.scan(step, jnp.float32(0), jnp.array([1.0, 0.5]))[0]

    rows = (P("devices"), P("devices"), P("devices"), P())
    mapped = jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=P())
    gradient = jax.jit(jax.grad(mapped, 3))(arrays["x"], arrays["labels"], weights, 0.5)
    entropies = [exact({**arrays, "x": scale * arrays["x"]}, {}).entropy for scale in (1, 0.5)]
    assert_close(gradient, -np.sum(entropies), GRADIENT["float32"])


def test_an_array_closed_over_may_differ_where_rows_are_shared():
    arrays, mesh = plain(), Mesh(np.array(jax.devices()[:1]), ("devices",))

    def part(coefficient):
        loss = linear_loss(lambda stats: -coefficient[0] * stats.label_log_prob, **arrays)
        return jax.lax.psum(loss, "devices")

    mapped = jax.shard_map(part, mesh=mesh, in_specs=P("devices"), out_specs=P())
    value, gradient = jax.value_and_grad(mapped)(jnp.array([3.0]))
    expected = -exact(arrays, {}).label_log_prob.mean()
    assert_close(value, 3 * expected, VALUE["float32"])
    assert_close(gradient, expected[None], GRADIENT["float32"])


def test_a_function_may_change_between_calls():
    """Numbers that a function reads from outside are those of the call, not of the first one."""
    arrays = plain()
    weight: list[Any] = [1.0]

    def loss(stats):
        return -weight[0] * stats.label_log_prob

    def named(stats):
        return -stats.label_log_prob, {weight[0]: stats.entropy}

    first = linear_loss(loss, **arrays)
    weight[0] = 2.0
    assert_close(linear_loss(loss, **arrays), 2 * first, VALUE["float32"])
    for three in (jnp.float32(3), np.full(1, 3, np.float32)):
        weight[0] = three
        assert_close(linear_loss(loss, **arrays), 3 * first, VALUE["float32"])
    for name in ("before", "after"):
        weight[0] = name
        _, aux = linear_loss(named, **arrays, has_aux=True)
        assert list(aux) == [name]


class Objective:
    def loss(self, stats):
        return focal(stats)


OBJECTIVE = Objective()


@pytest.mark.parametrize("loss", [lambda: focal, lambda: OBJECTIVE.loss], ids=["def", "method"])
def test_eager_calls_of_one_function_compile_once(loss):
    """Methods too, which are new objects with every access."""
    compilations: list[str] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if "backend_compile" in event:
            compilations.append(event)

    arrays = {n: jnp.asarray(a) for n, a in plain().items()}
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        linear_loss(loss(), **arrays, temperature=0.5)
        first = len(compilations)
        linear_loss(loss(), **arrays, temperature=0.7)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert 0 < first == len(compilations)


@pytest.mark.parametrize(
    ("loss", "requested"),
    [
        (nll, Requested()),
        (lambda s: s.label_log_prob + 0 * s.entropy[0], Requested(mean=True)),
        (lambda s: jnp.where(s.predicted == 3, 1.0, 0.0), Requested(predicted=True)),
        (lambda s: jax.jit(lambda s: s.log_normalizer)(s), Requested(normalizer=True)),
        (lambda s: s._replace(entropy=s.entropy + 1).label_log_prob, Requested()),
    ],
)
def test_only_what_the_function_uses_is_computed(loss, requested):
    function, closed_over = _row_function.row_function(loss, [], jnp.float32, False, frozenset())
    assert function.requested == requested
    assert closed_over == []


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1, 4), (3, 2, 1), (0, 3, 4)], ids=str)
def test_one_row_feature_or_class_and_no_rows(shape):
    arrays = plain(*shape)
    value, gradient = jax.value_and_grad(lambda x: linear_loss(nll, **{**arrays, "x": x}))(
        arrays["x"]
    )
    s, n = exact(arrays, {}), max(shape[0], 1)
    assert_close(value, -s.label_log_prob.sum() / n, VALUE["float32"])
    true = s.gradients(label_log_prob=np.full(shape[0], -1 / n))
    assert_close(gradient, true["x"], GRADIENT["float32"])
    nothing = jnp.zeros((shape[0], 0))
    assert_close(
        linear_loss(lambda s, _: nll(s), **arrays, inputs=(nothing,)), value, VALUE["float32"]
    )


def test_leading_axes_soft_labels_and_trees():
    """Inputs and aux have the leading axes of x, and any axes after them."""
    arrays, rng = plain(6), np.random.default_rng(4)
    pmfs = rng.dirichlet(np.ones(K), 6).astype(np.float32)
    weights = rng.uniform(1, 2, (6, 2)).astype(np.float32)

    def loss(stats, extras):
        losses = -extras["weights"].sum(-1) * stats.label_log_prob
        return losses, {"both": extras["weights"], "entropy": stats.entropy}

    total = partial(linear_loss, loss, kernel=arrays["kernel"], has_aux=True)
    value, aux = total(x=arrays["x"], labels=pmfs, inputs=({"weights": weights},))
    shaped = {"weights": weights.reshape(2, 3, 2)}
    again, shaped_aux = total(
        x=arrays["x"].reshape(2, 3, D), labels=pmfs.reshape(2, 3, K), inputs=(shaped,)
    )
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(shaped_aux["both"], shaped["weights"])
    np.testing.assert_array_equal(shaped_aux["entropy"], aux["entropy"].reshape(2, 3))
    losses = linear_softmax_cross_entropy(arrays["x"], arrays["kernel"], pmfs)
    assert_close(value, np.mean(weights.sum(-1) * losses), VALUE["float32"])


def test_float64_stays():
    arrays = plain()
    arrays = {n: a.astype(np.float64) if n != "labels" else a for n, a in arrays.items()}
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(
            lambda x: linear_loss(focal, **{**arrays, "x": x}, max_bytes=2 * TILED)
        )(arrays["x"])
    s = exact(arrays, {})
    losses, d_stats, _ = focal_in_float64(s)
    assert value.dtype == gradient.dtype == np.float64
    assert_close(value, losses.mean(), VALUE["float64"])
    true = s.gradients(label_log_prob=d_stats["label_log_prob"] / N)
    assert_close(gradient, true["x"], GRADIENT["float64"])


@pytest.mark.parametrize("how", [{}, {"max_bytes": TILED}, {"max_bytes": 3000}], ids=str)
def test_bad_values(how):
    """A bad label is NaN in its row alone, even where the function hides it; masked rows are 0."""
    arrays, keep = plain(), np.arange(N) % 3 != 1
    advantage = np.ones(N, np.float32)

    def bounded(stats, advantage):
        shown = jnp.where(jnp.isnan(stats.label_log_prob), 0.0, stats.label_log_prob)
        return jnp.maximum(advantage * shown, -5.0) / advantage, 1 + stats.entropy

    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
    def run(x, advantage, labels):
        return linear_loss(
            bounded, **{**arrays, "x": x, "labels": labels}, inputs=(advantage,),
            has_aux=True, where=keep, ignore_index=-100, **how,
        )  # fmt: skip

    bad, ignored = [3, 65, 129], [0, 6, 66]
    labels = arrays["labels"].copy()
    labels[ignored] = -100
    (good, aux), gradients = run(arrays["x"], advantage, labels)
    assert np.isfinite(good)
    kept = keep & (labels != -100)
    np.testing.assert_array_equal(aux == 0, ~kept)
    for gradient in gradients:
        assert not gradient[~kept].any()
    x, unread = arrays["x"].copy(), advantage.copy()
    x[~kept] = np.resize([np.nan, np.inf, -np.inf], ((~kept).sum(), D))
    unread[~kept] = 0.0
    again = run(x, unread, labels)
    jax.tree.map(np.testing.assert_array_equal, again, ((good, aux), gradients))

    labels[bad] = -1, K, 2**31 - 1
    (value, _), spoiled = run(x, unread, labels)
    assert np.isnan(value)
    for gradient, expected in zip(spoiled, gradients, strict=True):
        rows = np.isnan(gradient).reshape(N, -1)
        np.testing.assert_array_equal(rows.all(-1), np.isin(np.arange(N), bad))
        others = ~np.isin(np.arange(N), bad)
        assert_close(gradient[others], expected[others], GRADIENT["float32"])


def test_nothing_kept_is_zero():
    """The function has no value at 0 and closes over an array."""
    arrays = plain()
    none = np.zeros(N, bool)

    def total(inputs, scale, max_bytes):
        def loss(stats, weight, coefficient):
            return scale * jnp.log(weight) * coefficient / stats.entropy

        return linear_loss(loss, **arrays, inputs=inputs, where=none, max_bytes=max_bytes)

    for max_bytes in (TILED, 100):
        inputs = jnp.zeros(N), jnp.ones(N)
        value, gradients = jax.value_and_grad(total, (0, 1))(inputs, 2.0, max_bytes)
        for result in jax.tree.leaves((value, gradients)):
            np.testing.assert_array_equal(result, 0)


def test_rows_that_do_not_count_cost_no_products(products):
    # No other test has this shape: see `products`.
    x, kernel, labels = jnp.ones((541, 5)), jnp.ones((5, 11)), jnp.zeros(541, jnp.int32)

    @jax.jit
    def gradient(x, where):
        return jax.grad(
            lambda x: linear_loss(focal, x, kernel, labels, where=where, max_bytes=4000)
        )(x)

    tenth = np.arange(541) % 10 == 3
    assert products(gradient, x, np.zeros(541, bool)) == 0
    some, every = (products(gradient, x, kept) for kept in (tenth, np.ones(541, bool)))
    assert 0 < 4 * some <= every


def test_memory_of_a_language_model():
    """Logits of 2048 tokens and 32768 classes take 268 MB."""
    floats = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((2048, 512), (512, 32768), (2048,))]
    labels = jax.ShapeDtypeStruct((2048,), jnp.int32)

    def policy(x, kernel, rows, labels):
        return linear_loss(lambda *a: surrogate(*a)[0], x, kernel, labels, inputs=(rows, rows))

    gradient = jax.value_and_grad(policy, (0, 1))
    assert temporary_bytes(gradient, *floats, labels) <= 80 * 10**6


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
    inputs = [np.ones(40, np.float32), np.full(40, -5, np.float32)]
    call = partial(evaluate, arrays, inputs, case=CASES["surrogate"])
    expected = call(how=(("ignore_index", -100),))
    with interpreter():
        got = call(how=(("ignore_index", -100), ("implementation", implementation)))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_close(a, b, GRADIENT["float32"] if b.dtype == jnp.float32 else GRADIENT["bfloat16"])


def test_explicit_axes_and_arrays_closed_over():
    arrays = {n: jnp.asarray(a) for n, a in plain(4).items()}
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        arrays["x"] = jax.device_put(arrays["x"], NamedSharding(mesh, P("devices")))
        two = jnp.float32(2)
        with pytest.raises(NotImplementedError) as raised:
            linear_loss(lambda s: -two * s.label_log_prob, **arrays)
    assert str(raised.value) == (
        "loss: expected a function that closes over no array where Explicit mesh axes split the "
        "head, got 1 (pass them as inputs, an entry a row)"
    )


FORWARD = (
    r"^linear_loss: expected reverse mode, got forward mode \(jvp, jacfwd\), which "
    r"linear_log_probs and linear_softmax_cross_entropy have(\n---|$)"
)
SECOND = (
    r"^linear_loss: expected one derivative, got a second one, which linear_log_probs and "
    r"linear_softmax_cross_entropy have(\n---|$)"
)


@pytest.mark.parametrize("how", [{}, {"max_bytes": 100}], ids=["in forward", "in tiles"])
def test_derivatives_that_are_not_there_are_refused_in_one_line(how):
    x, kernel, labels = jnp.ones((5, 3)), jnp.ones((3, 41)), jnp.zeros(5, jnp.int32)

    def total(x, kernel):
        return linear_loss(nll, x, kernel, labels, **how)

    gradient = jax.grad(total)
    calls = [
        (FORWARD, lambda: jax.jvp(partial(total, kernel=kernel), (x,), (x,))),
        (FORWARD, lambda: jax.jvp(jax.jit(partial(total, kernel=kernel)), (x,), (x,))),
        (FORWARD, lambda: jax.jit(jax.jacfwd(total))(x, kernel)),
        (SECOND, lambda: jax.grad(lambda x: gradient(x, kernel).sum())(x)),
        (SECOND, lambda: jax.grad(lambda kernel: gradient(x, kernel).sum())(kernel)),
        (SECOND, lambda: jax.grad(jax.jit(lambda x: jax.jit(gradient)(x, kernel).sum()))(x)),
        (SECOND, lambda: jax.hessian(total)(x, kernel)),
        (SECOND, lambda: jax.jvp(partial(gradient, kernel=kernel), (x,), (x,))),
    ]
    for line, call in calls:
        with pytest.raises(TypeError, match=line):
            call()


X, KERNEL, LABELS = jnp.zeros((2, 3)), jnp.zeros((3, 4)), jnp.zeros(2, jnp.int32)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "loss: expected an array with the loss of each row, got tuple; has_aux=True "
         "takes a pair", lambda f: f(lambda s: (s.entropy, s.entropy))),
        (TypeError, "loss: expected a pair (loss, aux) with has_aux=True, got an array",
         lambda f: f(lambda s: s.entropy, has_aux=True)),
        (TypeError, "loss: expected losses of a floating dtype, got int32",
         lambda f: f(lambda s: s.predicted)),
        (ValueError, "loss: expected shape (1,) for one row, got shape (); linear_loss itself "
         "takes the mean or sum of the rows",
         lambda f: f(lambda s: s.entropy.sum())),
        (ValueError, "loss: expected shape (1,) for one row, got shape (2,)",
         lambda f: f(lambda s: s.entropy * jnp.ones(2))),
        (ValueError, "loss: expected auxiliary results with one leading axis, of size 1 for one "
         "row, got shape ()",
         lambda f: f(lambda s: (s.entropy, {"mean": s.entropy.mean()}), has_aux=True)),
        (TypeError, "aux: expected an array, got str",
         lambda f: f(lambda s: (s.entropy, {"name": "a"}), has_aux=True)),
        (TypeError, "inputs: expected a tuple of arrays or trees, got float32 of shape (2,)",
         lambda f: f(nll, inputs=jnp.ones(2, jnp.float32))),
        (ValueError, "inputs[1]['a']: expected an array whose leading axes are those of x, (2,), "
         "got shape (3, 2)", lambda f: f(nll, inputs=(jnp.ones(2), {"a": jnp.ones((3, 2))}))),
        (TypeError, "inputs[0]: expected an array, got object",
         lambda f: f(nll, inputs=(object(),))),
        (ValueError, "labels: expected the leading axes of x, (2,), got (1,)",
         lambda f: linear_loss(nll, X, KERNEL, LABELS[:1])),
        (ValueError, "reduction: expected one of 'sum', 'mean', got 'none'",
         lambda f: f(nll, reduction="none")),
        (ValueError, "labels: expected class indices",
         lambda f: linear_loss(nll, X, KERNEL, jnp.ones(2))),
        (TypeError, "has_aux: expected no derivative of the auxiliary results, got one",
         lambda f: jax.grad(lambda x: linear_loss(
             lambda s: (s.entropy, s.entropy), x, KERNEL, LABELS, has_aux=True)[1].sum())(X)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call, unchecked_annotations):
    with pytest.raises(error) as raised:
        call(lambda loss, **keywords: linear_loss(loss, X, KERNEL, LABELS, **keywords))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


def test_a_loss_is_a_function():
    with pytest.raises(TypeError) as raised:
        _row_function.row_function(3, [], jnp.float32, False, frozenset())
    assert str(raised.value) == "loss: expected a function of SoftmaxStats and inputs, got 3"
