"""Mesh axes: those over which arrays vary in `shard_map`, and Explicit ones that split them."""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jaxtyping import Array

from xentjax._core.array_like import ArrayLike

T = TypeVar("T")


def varying_axes(tree: Any) -> frozenset[str]:
    """Return the mesh axes over which any of the arrays varies inside `shard_map`."""
    axes = frozenset()
    for x in jax.tree.leaves(tree):
        axes |= jax.typeof(x).manual_axis_type.varying
    return axes


def pvary_all(tree: T) -> T:
    """Make every array of the tree vary over all mesh axes over which any of them varies.

    The cotangent of an array that devices share is then summed over them once, not in every tile.
    """
    return pvary(tree, varying_axes(tree))


def pvary(tree: T, axes: frozenset[str]) -> T:
    """Make every array of the tree vary over these mesh axes too."""
    return jax.tree.map(lambda x: _pvary(x, axes), tree) if axes else tree


def pvary_like(tree: T, like: T) -> T:
    """Make every array of the tree vary over the mesh axes of its counterpart too."""
    return jax.tree.map(lambda x, y: _pvary(x, varying_axes(y)), tree, like)


def explicit_spec(x: ArrayLike) -> tuple[Any, ...]:
    """Return how Explicit mesh axes split an array's axes; () without such mesh axes."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()


def sharded_alike(*arrays: Array | None) -> tuple[Any, ...]:
    """Split arrays of one shape over all Explicit axes over which any of them is split.

    `jnp.where` requires this of its arguments; arithmetic does it by itself.
    """
    shardings = [jax.typeof(x).sharding for x in arrays if x is not None]
    explicit = [s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types]
    if not explicit or all(s == shardings[0] for s in shardings):
        return arrays
    spec: list[Any] = []
    for names in zip(*(s.spec for s in shardings), strict=True):
        free = (n for n in names if n is not None and not _axes(n) & _axes(*spec))
        spec.append(next(free, None))  # a mesh axis splits one axis of an array
    return _reshard(arrays, NamedSharding(explicit[0], P(*spec)))


def whole_classes(x: Array, axes: int = 1) -> Array:
    """Undo the split of an array's last axis or axes over Explicit mesh axes."""
    spec = explicit_spec(x)
    if not any(spec[-axes:]):
        return x
    whole = P(*spec[:-axes], *(None,) * axes)
    return _reshard(x, NamedSharding(jax.typeof(x).sharding.mesh, whole))


def on_auto_axes(function: Callable[..., T], rows: tuple[Any, ...] = ()) -> Callable[..., T]:
    """Make Explicit mesh axes Auto inside `function`, which is to be called under jit.

    This is for sorts, scatters and loops, whose shardings jax leaves to XLA. `rows` says how the
    leading axes of all results are split; by default they are not.
    """

    @wraps(function)
    def on_auto(*args: Any) -> T:
        split = [x for x in jax.tree.leaves(args) if any(explicit_spec(x))]
        if not split:
            return function(*args)
        mesh = jax.typeof(split[0]).sharding.mesh
        out = NamedSharding(mesh, P(*rows))
        run: Any = jax.sharding.auto_axes(function, axes=mesh.explicit_axes, out_sharding=out)
        return run(*args)

    return on_auto


@partial(jax.jit, static_argnums=1)  # knows the mesh even outside of `jax.set_mesh`
def _reshard(tree: T, sharding: NamedSharding) -> T:
    return jax.sharding.reshard(tree, sharding)


def _axes(*names: Any) -> set[str]:
    return set(jax.tree.leaves(names))


def _pvary(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x
