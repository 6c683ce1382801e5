"""Calls on Explicit mesh axes of several devices, against the same calls on one device.

    python -m tests.programs.explicit_axes

prints a line for each call and way of splitting that differs, then how many were tried.
"""

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

from tests.support.tolerances import TRANSFORMED
from tests.support.transformations import (
    CALLS,
    Arguments,
    Call,
    Draw,
    Everything,
    K,
    everything,
    on_explicit_axes,
)
from tests.support.virtual_devices import collectives
from xentjax import (
    linear_softmax_cross_entropy,
    linear_top_k,
    softmax_cross_entropy_with_integer_labels,
)


def on_one_device(call: Call) -> tuple[Arguments, Everything]:
    """Arguments of a call, and what is expected for them."""
    return _of(call.function, tuple(call.draws.items()))


@cache
def _of(function: Any, draws: tuple[tuple[str, Draw], ...]) -> tuple[Arguments, Everything]:
    """Once for calls that differ only in which arguments are split."""
    call = Call("", function, dict(draws))
    arguments = {n: jnp.asarray(x) for n, x in call.arguments(np.random.default_rng(0)).items()}
    return arguments, jax.jit(partial(everything, call))(arguments, None, {})


def differences(call: Call, by: str, mesh: Mesh) -> list[str]:
    """The results of a call that differ where its rows or classes are split over the mesh."""
    arguments, expected = on_one_device(call)
    got = on_explicit_axes(call, arguments, by, mesh)
    return [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree.leaves_with_path(got), jax.tree.leaves(expected), strict=True
        )
        if not np.allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED)
    ]


def check_that_a_split_kernel_stays_where_it_is(mesh: Mesh) -> None:
    """Numbers a row and the gradient of x cross between devices, neither kernel nor logits."""
    n, d, k = 64, 16, 4000
    arrays = jnp.zeros((n, d)), jnp.zeros((d, k)), jnp.zeros(n, jnp.int32)

    def mean(x: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
        return linear_softmax_cross_entropy(x, kernel, labels, reduction="mean")

    whole, split = (NamedSharding(mesh, P(*spec)) for spec in ((), (None, "devices")))
    placed = [jax.device_put(a, s) for a, s in zip(arrays, (whole, split, whole), strict=True)]
    step = jax.jit(jax.value_and_grad(mean, (0, 1))).lower(*placed).compile()
    sent = [size for moved in collectives(step.as_text() or "") for size, _ in moved]
    assert max(sent) <= n * d, sent
    assert step(*placed)[1][1].sharding.is_equivalent_to(split, 2)


# How x, kernel, labels and mask of a layer may lie on three mesh axes.
LAYOUTS: dict[str, tuple[tuple[Any, ...], ...]] = {
    "batch, sequence and classes": (("a", "b", None), (None, "c"), ("a", "b"), ("a", "b", "c")),
    "sequence": ((None, "b", None), (), (None, "b"), ()),
    "batch, and the kernel over the same axis": (("a",), ("a", "c"), ("a",), ()),
    "batch, and the classes over the same axis": (("a",), (None, "a"), ("a",), ()),
    "features": ((None, None, "a"), ("a",), (), ()),
    "classes over two axes": ((), (None, ("a", "b")), (), ()),
    "batch over two axes": ((("a", "b"),), (), (), ()),
    "labels alone": ((), (), ("a",), ()),
    "masked classes alone": ((), (), (), (None, None, "c")),
}


def layouts_that_differ(mesh: Mesh) -> list[str]:
    """The layouts whose mean loss or gradients are not those of one device."""
    rng = np.random.default_rng(0)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((4, 6, 8), (8, 12)))
    labels = rng.integers(-1, 12, (4, 6)).astype(np.int32)
    arrays = x, kernel, labels, rng.random((4, 6, 12)) < 0.8

    def mean(x: Any, kernel: Any, labels: Any, where: Any, in_forward: bool) -> jax.Array:
        return linear_softmax_cross_entropy(
            x, kernel, labels, where=where, ignore_index=-1, label_smoothing=0.1, z_loss=0.01,
            class_weights=np.linspace(0.5, 2, 12, dtype=np.float32), reduction="mean",
            gradients_in_forward=in_forward, max_bytes=3000,
        )  # fmt: skip

    differ = []
    for in_forward in (False, True):
        step = jax.jit(jax.value_and_grad(partial(mean, in_forward=in_forward), (0, 1)))
        expected = step(*arrays)
        for name, specs in LAYOUTS.items():
            shardings = (NamedSharding(mesh, P(*spec)) for spec in specs)
            got = step(*map(jax.device_put, arrays, shardings))
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                if not np.allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED):
                    differ.append(f"{name}, in forward {in_forward}")
    return differ


def eager_calls_that_differ(mesh: Mesh) -> list[str]:
    """The calls outside of jit and `jax.set_mesh` whose values or gradients are not right.

    Arrays carry their mesh, here one that splits both leading axes and the classes.
    """
    rng = np.random.default_rng(1)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((4, 6, 8), (8, 12)))
    labels = rng.integers(0, 12, (4, 6)).astype(np.int32)
    head = (x, kernel), (P("a", "b"), P(None, "c"))
    calls = {
        "loss": (softmax_cross_entropy_with_integer_labels, (x @ kernel,), (P("a", "b", "c"),)),
        "head": (linear_softmax_cross_entropy, *head),
        "top-k": (lambda x, kernel, _: linear_top_k(x, kernel, 3).log_probs, *head),
    }

    def run(call: Any, moving: Any, labels: jax.Array) -> Any:
        value, pullback = jax.vjp(lambda *moving: call(*moving, labels), *moving)
        return value, pullback(jax.device_put(np.ones(value.shape, np.float32), value.sharding))

    differ = []
    for name, (call, arrays, specs) in calls.items():
        expected = run(call, tuple(map(jnp.asarray, arrays)), jnp.asarray(labels))
        shardings = [NamedSharding(mesh, spec) for spec in (*specs, P("a", "b"))]
        *moving, placed = map(jax.device_put, (*arrays, labels), shardings)
        got = run(call, moving, placed)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            if not np.allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED):
                differ.append(name)
    return differ


def meshes_of(devices: np.ndarray) -> dict[str, Mesh]:
    """The mesh for rows, and one of as many devices as there are classes."""
    return {
        by: Mesh(devices[:n], ("devices",), axis_types=(AxisType.Explicit,))
        for by, n in (("rows", len(devices)), ("classes", K))
    }


def main() -> None:
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    devices = np.array(jax.devices())
    meshes = meshes_of(devices)
    tried = 0
    for call in CALLS:
        for by, mesh in meshes.items() if call.rows else ():
            tried += 1
            for name in differences(call, by, mesh):
                print(f"{call.name}, {by} split: {name} differs")
    three_axes = Mesh(
        devices.reshape(2, 2, 2), ("a", "b", "c"), axis_types=(AxisType.Explicit,) * 3
    )
    for layout in layouts_that_differ(three_axes):
        print(f"{layout} differs")
    for name in eager_calls_that_differ(three_axes):
        print(f"{name} differs without jit")
    check_that_a_split_kernel_stays_where_it_is(meshes["rows"])
    print(f"tried {tried} on {len(devices)} devices")


if __name__ == "__main__":
    main()
