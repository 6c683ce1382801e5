"""Top-k, samples and their divergence on one, two and eight devices, for `test_parallel.py`."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from tests.support.closeness import assert_close
from tests.support.random_heads import random_head
from tests.support.tolerances import GRADIENT
from tests.support.virtual_devices import NUM_DEVICES, sent_once
from xentjax import TopK, linear_sample, linear_top_k, linear_top_k_kl_divergence

N, K = 128, 40  # which two and eight divide
TILED = 5000
KEY = jax.random.key(7)
BY_CLASS = {"kernel": P(None, "d"), "bias": P("d"), "where": P(None, "d")}
CHECKS: dict[str, Callable[[], None]] = {}


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


@cache
def arrays() -> dict[str, Any]:
    """A head whose rows each mask some classes, and all of some device's, and whose logits vary."""
    given = random_head("float32", "temperature", None, 3)
    where = np.random.default_rng(4).random((N, K)) < 0.8
    where[: N // 2, 5:10] = False
    where[7] = False
    kernel, bias = given["kernel"][:, :K], given["bias"][:K].copy()
    bias[[0, 30]] = -np.inf
    x, temperature = given["x"][:N], given["temperature"]
    return {"x": x, "kernel": kernel, "bias": bias, "where": where, "temperature": temperature}


def choices(arrays: Any, **how: Any) -> tuple[Any, Any]:
    return (
        linear_top_k(**arrays, k=6, **how),
        linear_sample(KEY, **arrays, num_samples=5, **how),
    )


@cache
def on_one_device() -> tuple[Any, Any]:
    placed = jax.device_put(arrays(), jax.devices()[0])
    return jax.tree.map(np.asarray, jax.jit(choices)(placed))


def assert_same(got: Any) -> None:
    """Classes equal in every bit, log-probabilities to rounding."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(on_one_device()), strict=True):
        if b.dtype == np.int32:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, atol=5e-6)


def mesh_of(devices: int, kind: AxisType = AxisType.Auto) -> Mesh:
    return Mesh(np.array(jax.devices()[:devices]), ("d",), axis_types=(kind,))


def split_in_shard_map(devices: int, max_bytes: int | None) -> None:
    specs = {n: BY_CLASS.get(n, P()) for n in arrays()}
    run = jax.shard_map(
        partial(choices, axis_name="d", max_bytes=max_bytes),
        mesh=mesh_of(devices),
        in_specs=(specs,),
        out_specs=P(),
    )
    assert_same(jax.jit(run)(arrays()))


def sharded(devices: int, by: str, kind: AxisType) -> None:
    by_row = {"x": P("d"), "where": P("d")}
    specs, mesh = by_row if by == "rows" else BY_CLASS, mesh_of(devices, kind)
    with jax.set_mesh(mesh):
        placed = {
            n: jax.device_put(a, NamedSharding(mesh, specs.get(n, P())))
            for n, a in arrays().items()
        }
        assert_same(jax.jit(partial(choices, max_bytes=TILED))(placed))


for _devices in (2, NUM_DEVICES):
    for _max_bytes in (None, TILED):
        _name = f"classes over {_devices} devices, max_bytes={_max_bytes}"
        CHECKS[_name] = partial(split_in_shard_map, _devices, _max_bytes)
    for _kind in (AxisType.Auto, AxisType.Explicit):
        for _by in ("rows", "classes"):
            _name = f"{_by} over {_devices} devices, {_kind.name}"
            CHECKS[_name] = partial(sharded, _devices, _by, _kind)


@check
def rows_over_an_explicit_axis_that_masks_and_targets_are_not_split_over() -> None:
    mesh = mesh_of(2, AxisType.Explicit)
    placed = {**arrays(), "x": jax.device_put(arrays()["x"], NamedSharding(mesh, P("d")))}
    target = TopK(*on_one_device()[0])
    expected = linear_top_k_kl_divergence(target, **arrays())
    with jax.set_mesh(mesh):
        assert_same(jax.jit(choices)(placed))
        loss = jax.jit(linear_top_k_kl_divergence)(target, **placed)
    np.testing.assert_allclose(loss, expected, atol=5e-6)


@check
def gradients_where_classes_are_split() -> None:
    """Gradients of all three, in tiles, are those of one device."""
    whole = {n: a for n, a in arrays().items() if n != "where"}
    whole["bias"] = np.where(np.isfinite(whole["bias"]), whole["bias"], 0)
    target = jax.jit(partial(linear_top_k, k=4))(**{**whole, "bias": -whole["bias"]})

    def total(arrays: Any, target: TopK, **how: Any) -> jax.Array:
        top, sample = choices(arrays, **how)
        divergence = linear_top_k_kl_divergence(target, **arrays, **how)
        return jnp.sum(top.log_probs**2) + jnp.sum(sample.log_probs) + jnp.sum(divergence)

    specs = {n: BY_CLASS.get(n, P()) for n in whole}
    split = jax.shard_map(
        partial(total, axis_name="d", max_bytes=TILED),
        mesh=mesh_of(NUM_DEVICES),
        in_specs=(specs, P()),
        out_specs=P(),
    )
    placed, given = jax.device_put((whole, target), jax.devices()[0])
    expected = jax.jit(jax.value_and_grad(total, (0, 1), allow_int=True))(placed, given)
    got = jax.jit(jax.value_and_grad(split, (0, 1), allow_int=True))(whole, target)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        if b.dtype == jnp.float32:
            assert_close(a, b, GRADIENT["float32"])


@check
def few_numbers_a_row_cross() -> None:
    """None in a loop, and as many for twice the classes."""
    rows, k = 512, 16

    def sent(function: Any, num_classes: int) -> list[tuple[int, int]]:
        layer = jnp.zeros((rows, 24)), jnp.zeros((24, num_classes))
        run = jax.shard_map(
            partial(function, axis_name="d", max_bytes=40_000),
            mesh=mesh_of(NUM_DEVICES),
            in_specs=(P(), P(None, "d")),
            out_specs=P(),
        )
        return sent_once(jax.jit(run).lower(*layer).compile().as_text() or "")

    target = TopK(jnp.full((rows, k), -5.0), jnp.tile(jnp.arange(k, dtype=jnp.int32), (rows, 1)))
    gathered = rows * k * NUM_DEVICES, 4  # the k largest logits of every device
    for function, limit in (
        (partial(linear_top_k, k=k), 8 * k + 12),
        (partial(linear_sample, KEY), 32),
        (partial(linear_top_k_kl_divergence, target), 4 * k + 12),
    ):
        arrays = sent(function, 64 * NUM_DEVICES)
        assert arrays == sent(function, 128 * NUM_DEVICES)
        moved = sum(n * size // (NUM_DEVICES if (n, size) == gathered else 1) for n, size in arrays)
        assert moved <= limit * rows, (moved / rows, limit)
