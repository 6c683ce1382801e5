"""The checks of `test_parallel.py` of logits and samples split over eight devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec as P

from tests.support import tolerances
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import EVERYTHING, Problem
from tests.support.virtual_devices import NUM_DEVICES, collectives
from xentjax import (
    counts,
    softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

K_LOCAL = 3
HELD = NUM_DEVICES * K_LOCAL
K = 19  # the seventh device holds one class and two columns of padding, the eighth padding alone
ROWS = 6
WEIGHTS = np.linspace(0, 3, K).astype(np.float32)
ALL_KEYWORDS = {**EVERYTHING, "class_weights": WEIGHTS}

PROBLEMS = [
    Problem("no padding", shape=(ROWS, HELD)),
    Problem("three dimensions", shape=(2, 3, K)),
    # A padded column that enters a sum adds exp(0), which only small logits show.
    Problem("small logits", shape=(ROWS, K), scale=0.02, keywords={"label_smoothing": 0.1}),
    Problem("offset 1e5", shape=(ROWS, K), offset=1e5),
    Problem("offset, temperature", shape=(ROWS, K), offset=1e5, keywords={"temperature": 3.0}),
    Problem("offset -1e5", shape=(ROWS, K), offset=-1e5),
    Problem("logits of +-200", shape=(ROWS, K), scale=100.0),
    Problem("weights", shape=(ROWS, K), keywords={"class_weights": WEIGHTS}),
    Problem("ignored", shape=(ROWS, K), keywords={"ignore_index": -100}),
    Problem("ignored class", shape=(ROWS, K), keywords={"ignore_index": 11}),
    Problem("class mask", shape=(ROWS, K), where="classes"),
    Problem("row mask", shape=(ROWS, K), where="rows", keywords={"label_smoothing": 0.2}),
    Problem("shared mask", shape=(ROWS, K), where="one mask for all rows"),
    Problem(
        "everything",
        shape=(ROWS, K),
        where="classes",
        keywords={**ALL_KEYWORDS, "ignore_index": -1},
    ),
    Problem("soft", shape=(ROWS, K), soft=True),
    Problem("soft, everything", shape=(ROWS, K), soft=True, where="classes", keywords=ALL_KEYWORDS),
]
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


def mesh(**axes: int) -> Any:
    devices = np.array(jax.devices()).reshape(tuple(axes.values()))
    return Mesh(devices, tuple(axes))


def padded(x: np.ndarray, value: Any) -> np.ndarray:
    """`x` with its classes padded to what the devices hold."""
    width = [(0, 0)] * (x.ndim - 1) + [(0, max(HELD - x.shape[-1], 0))]
    return np.pad(x, width, constant_values=value)


def parallel_loss(
    logits: Any,
    labels: Any,
    *,
    where: Any = None,
    devices: Any = None,
    axis_name: str | tuple[str, ...] = "classes",
    **keywords: Any,
) -> Any:
    """The loss of whole arrays, their classes split over the devices."""
    row_dims = logits.ndim - 1
    split = P(*(None,) * row_dims, axis_name)
    arrays = {"logits": logits, "labels": labels}
    specs = {"logits": split, "labels": split if labels.ndim == logits.ndim else P()}
    if where is not None:
        by_class = where.ndim == logits.ndim
        arrays["where"] = jnp.asarray(padded(where, True) if by_class else where)
        specs["where"] = split if by_class else P()
    soft = labels.ndim == logits.ndim
    loss = softmax_cross_entropy if soft else softmax_cross_entropy_with_integer_labels
    return jax.shard_map(
        lambda arrays: loss(**arrays, axis_name=axis_name, **keywords),
        mesh=devices or mesh(classes=NUM_DEVICES),
        in_specs=(specs,),
        out_specs=P(),
    )(arrays)


def assert_matches_oracle(logits, labels, num_classes=K, padding=np.nan, **keywords):
    """Losses, statistics, mean and the gradient under a cotangent for each row."""
    expected = oracles.cross_entropy(logits, labels, **keywords)
    cotangent = np.linspace(0.5, 2, expected.losses.size).reshape(expected.losses.shape)
    labels = padded(labels, 0) if labels.ndim == logits.ndim else labels

    @jax.jit
    def run(x):
        def total(x):
            options = {**keywords, "num_classes": num_classes, "return_stats": True}
            loss, stats = parallel_loss(x, jnp.asarray(labels), **options)
            return jnp.sum(loss * jnp.asarray(cotangent, loss.dtype)), (loss, stats)

        (_, aux), gradient = jax.value_and_grad(total, has_aux=True)(x)
        mean = parallel_loss(
            x, jnp.asarray(labels), **keywords, num_classes=num_classes, reduction="mean"
        )
        return *aux, gradient, mean

    losses, stats, gradient, mean = run(jnp.asarray(padded(logits, padding)))
    close = partial(np.testing.assert_allclose, rtol=2e-6, atol=2e-6)
    close(losses, expected.losses, err_msg="loss")
    close(mean, expected.mean, err_msg="mean")
    known = ~np.isnan(expected.log_normalizer)  # no statement about rows of NaN, or of -inf alone
    for name in ("log_normalizer", "label_log_prob", "entropy"):
        actual, wanted = getattr(stats, name)[known], getattr(expected, name)[known]
        close(actual, wanted, err_msg=name)
    np.testing.assert_array_equal(np.asarray(stats.predicted)[known], expected.predicted[known])
    full = np.broadcast_to(cotangent[..., None], logits.shape) * expected.gradient
    real = np.asarray(gradient)[..., : logits.shape[-1]]
    np.testing.assert_allclose(real, full, rtol=1e-5, atol=4 * tolerances.LOSS_GRADIENT)
    rest = np.asarray(gradient)[..., logits.shape[-1] :]
    good = ~np.isnan(expected.losses) | np.isnan(expected.log_normalizer)
    assert not np.any(rest[good]), "padding has a gradient"


def one_problem(problem: Problem) -> None:
    logits, labels, keywords = problem.arguments()
    padding = 0 if problem.scale < 1 else np.nan
    assert_matches_oracle(logits, labels, logits.shape[-1], padding, **keywords)


for _problem in PROBLEMS:
    CHECKS[_problem.name] = partial(one_problem, _problem)


@check
def bad_values() -> None:
    """Rows of the table of bad values; no row touches another."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((12, K)).astype(np.float32)
    labels = rng.integers(0, K, 12).astype(np.int32)
    labels[:4] = -1, K, HELD - 1, HELD
    labels[4:] = 10
    logits[5, [0, 4]] = -np.inf
    logits[6, 3:9] = -np.inf  # whole slices
    logits[7, :15] = -np.inf  # the label and its whole slice
    logits[8] = -np.inf
    logits[9, 2] = np.nan
    labels[10], logits[10] = -100, np.nan
    logits[11, 3:] = -np.inf
    labels[11] = 1
    assert_matches_oracle(logits, labels, ignore_index=-100)
    smoothed = {"label_smoothing": 0.1, "where": np.isfinite(logits) | np.isnan(logits)}
    rows = [3, 5, 6, 9, 10]
    smoothed["where"] = smoothed["where"][rows]
    assert_matches_oracle(logits[rows], labels[rows], ignore_index=-100, **smoothed)


@check
def smoothing_over_an_impossible_class_is_infinite() -> None:
    logits = np.zeros((2, HELD), np.float32)
    logits[0, 5] = -np.inf
    losses = jax.jit(partial(parallel_loss, label_smoothing=0.1))(logits, jnp.array([0, 0]))
    assert np.isposinf(losses[0])
    np.testing.assert_allclose(losses[1], np.log(HELD), rtol=1e-6)


@check
def wide_labels_of_the_host_do_not_wrap() -> None:
    labels = np.array([2**32 + 1, 1, -1])
    losses = jax.shard_map(
        lambda x: softmax_cross_entropy_with_integer_labels(
            x, labels, axis_name="classes", ignore_index=-1
        ),
        mesh=mesh(classes=NUM_DEVICES),
        in_specs=P(None, "classes"),
        out_specs=P(),
    )(np.zeros((3, HELD), np.float32))
    np.testing.assert_allclose(losses, [np.nan, np.log(HELD), 0], rtol=1e-6)


@check
def half_precision() -> None:
    logits, labels, _ = Problem("half", shape=(ROWS, HELD)).arguments(jnp.bfloat16)

    def mean(x):
        return parallel_loss(x, jnp.asarray(labels), reduction="mean")

    value, gradient = jax.jit(jax.value_and_grad(mean))(jnp.asarray(logits))
    expected = oracles.cross_entropy(logits, labels)
    assert value.dtype == jnp.float32
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected.mean, rtol=1e-6)
    actual = gradient.astype(jnp.float32) * ROWS
    np.testing.assert_allclose(actual, expected.gradient, rtol=1e-2, atol=1e-3)


@check
def forward_mode_and_second_order() -> None:
    """d loss = <p - e_y, v> and H v = p v - p <p, v>, here with a slice of -inf."""
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((ROWS, HELD)).astype(np.float32)
    logits[:, 3:6] = -np.inf
    v = rng.standard_normal(logits.shape).astype(np.float32)
    labels = np.full(ROWS, 7, np.int32)

    def total(x):
        return parallel_loss(x, jnp.asarray(labels), reduction="sum")

    @jax.jit
    def run(x, v):
        return jax.jvp(total, (x,), (v,))[1], jax.jvp(jax.grad(total), (x,), (v,))[1]

    slope, product = run(jnp.asarray(logits), jnp.asarray(v))
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(-1, keepdims=True)
    inner = (p * v).sum(-1, keepdims=True)
    np.testing.assert_allclose(slope, (inner[:, 0] - v[:, 7]).sum(), rtol=1e-5)
    np.testing.assert_allclose(product, p * v - p * inner, rtol=1e-5, atol=1e-6)


@check
def gradients_in_targets_weights_and_scalars() -> None:
    """Gradients are those of the loss on one device."""
    logits, labels, _ = Problem("all inputs", shape=(ROWS, HELD), soft=True).arguments()
    inputs = {
        "labels": jnp.asarray(labels),
        "class_weights": jnp.linspace(0.5, 2, HELD),
        "label_smoothing": jnp.float32(0.2),
        "z_loss": jnp.float32(0.1),
        "logit_soft_cap": jnp.float32(4),
        "temperature": jnp.float32(1.5),
    }

    def gradients(loss):
        return jax.jit(
            jax.grad(lambda inputs: loss(jnp.asarray(logits), reduction="mean", **inputs))
        )(inputs)

    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6),
        gradients(parallel_loss),
        gradients(softmax_cross_entropy),
    )


@check
def gradient_inside_of_shard_map_and_rows_split_too() -> None:
    """Rows over one mesh axis, classes over another; each device asks for its own gradient."""
    logits, labels, _ = Problem("inside", shape=(ROWS, HELD)).arguments()

    def step(x, y):
        return jax.value_and_grad(
            lambda x: softmax_cross_entropy_with_integer_labels(
                x, y, axis_name="classes", label_smoothing=0.1, z_loss=0.1, reduction="sum"
            )
        )(x)

    values, gradient = jax.jit(
        jax.shard_map(
            lambda x, y: jax.tree.map(lambda a: a.reshape(1) if a.ndim == 0 else a, step(x, y)),
            mesh=mesh(data=2, classes=4),
            in_specs=(P("data", "classes"), P("data")),
            out_specs=(P("data"), P("data", "classes")),
        )
    )(logits, labels)
    expected = oracles.cross_entropy(logits, labels, label_smoothing=0.1, z_loss=0.1)
    np.testing.assert_allclose(values, expected.losses.reshape(2, -1).sum(-1), rtol=1e-6)
    np.testing.assert_allclose(gradient, expected.gradient, atol=1e-6)


@check
def two_mesh_axes_hold_the_classes() -> None:
    logits, labels, _ = Problem("two axes", shape=(ROWS, HELD)).arguments()
    losses = jax.jit(partial(parallel_loss, devices=mesh(a=2, b=4), axis_name=("a", "b")))(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    np.testing.assert_allclose(losses, oracles.cross_entropy(logits, labels).losses, rtol=1e-6)


@check
def vmap() -> None:
    logits, labels, _ = Problem("vmap", shape=(2, ROWS, HELD)).arguments()
    per_row = jax.jit(jax.vmap(jax.value_and_grad(partial(parallel_loss, reduction="sum"))))
    values, gradient = per_row(jnp.asarray(logits), jnp.asarray(labels))
    expected = oracles.cross_entropy(logits, labels)
    np.testing.assert_allclose(values, expected.losses.sum(-1), rtol=1e-6)
    np.testing.assert_allclose(gradient, expected.gradient, atol=1e-6)


@check
def arguments_split_by_mistake_are_named() -> None:
    """Arrays that should differ between devices and do not, as far as is known, and the reverse."""
    logits, labels = jnp.zeros((NUM_DEVICES, HELD)), jnp.zeros(NUM_DEVICES, jnp.int32)

    def message(**specs: P) -> str:
        loss = jax.shard_map(
            lambda x, y: softmax_cross_entropy_with_integer_labels(x, y, axis_name="classes"),
            mesh=mesh(classes=NUM_DEVICES),
            in_specs=(specs["logits"], specs["labels"]),
            out_specs=P(),
        )
        try:
            jax.eval_shape(loss, logits, labels)
        except ValueError as error:
            return str(error).splitlines()[0]
        return ""

    split = P(None, "classes")
    assert not message(logits=split, labels=P())
    expected = "logits: expected an array split over 'classes' by in_specs"
    assert message(logits=P(), labels=P()).startswith(expected)
    expected = "labels: expected the same array on all devices of 'classes'"
    # Its shape is wrong as well, and is looked at later.
    assert message(logits=split, labels=P("classes")).startswith(expected)


@check
def counts_of_all_devices() -> None:
    rng = np.random.default_rng(2)
    samples = rng.integers(-1, 6, 64).astype(np.int32)  # -1 and 5 are no class
    weights = rng.random(64).astype(np.float32)
    where = rng.random(64) < 0.5
    integer, weighted = jax.jit(
        jax.shard_map(
            lambda x, w, keep: (
                counts(x, 5, axis_name="data"),
                counts(x, 5, axis_name="data", weights=w, where=keep),
            ),
            mesh=mesh(data=NUM_DEVICES),
            in_specs=P("data"),
            out_specs=P(),
        )
    )(samples, weights, where)
    match = samples[:, None] == np.arange(5)
    assert integer.dtype == np.int32
    np.testing.assert_array_equal(integer, match.sum(0))
    np.testing.assert_allclose(weighted, (weights * where) @ match, rtol=1e-6)


@check
def at_most_64_bytes_a_row_cross() -> None:
    """Collectives of the compiled loss and gradient send no more, for any number of classes."""
    rows, classes = 512, 64 * NUM_DEVICES
    logits = jnp.zeros((rows, classes))
    indices, pmfs = jnp.zeros(rows, jnp.int32), jnp.zeros((rows, classes))
    everything = {**EVERYTHING, "class_weights": jnp.ones(classes), "return_stats": True}
    for labels, keywords, limit in (
        (indices, {}, 12),
        (indices, everything, 28),
        (indices, {**everything, "where": np.ones((rows, classes), bool)}, 32),
        (pmfs, {**everything, "where": np.ones((rows, classes), bool)}, 48),
    ):

        def mean(x, labels=labels, keywords=keywords):
            return parallel_loss(x, labels, reduction="mean", **keywords)

        has_aux = "return_stats" in keywords
        step = jax.jit(jax.value_and_grad(mean, has_aux=has_aux))
        hlo = step.lower(logits).compile().as_text() or ""
        moved = sum(n * size for arrays in collectives(hlo) for n, size in arrays)
        assert 12 * rows <= moved <= limit * rows + 64, moved / rows
