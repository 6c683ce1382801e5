"""Mesh axes: those that arrays vary over inside `shard_map`, and Explicit ones that split them."""

from typing import Any, TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax.typing import ArrayLike
from jaxtyping import Array

T = TypeVar("T")


def varying_axes(x: ArrayLike) -> frozenset[str]:
    """Return the mesh axes over which x differs from device to device, as `shard_map` knows."""
    return jax.typeof(x).manual_axis_type.varying


def pvary_all(tree: T) -> T:
    """Return the tree, each array varying over all mesh axes that any of them varies over.

    The cotangent of what devices share is then summed over them once, not in every tile.
    """
    every = frozenset().union(
        *(jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(tree))
    )
    return jax.tree.map(lambda x: _pvary(x, every), tree) if every else tree


def pvary_like(tree: T, like: T) -> T:
    """Return the tree, each array varying over the mesh axes of its counterpart too."""
    return jax.tree.map(lambda x, y: _pvary(x, varying_axes(y)), tree, like)


def explicit_spec(x: ArrayLike) -> tuple[Any, ...]:
    """Return how Explicit mesh axes split the axes of an array; () where there are none."""
    sharding = jax.typeof(x).sharding
    return tuple(sharding.spec) if AxisType.Explicit in sharding.mesh.axis_types else ()


def sharded_alike(*arrays: Array | None) -> tuple[Any, ...]:
    """Return arrays of one shape, each split over the Explicit axes that any is split over.

    A `where` of several demands it; arithmetic does it by itself.
    """
    shardings = [jax.typeof(x).sharding for x in arrays if x is not None]
    explicit = [s.mesh for s in shardings if AxisType.Explicit in s.mesh.axis_types]
    if not explicit or all(s == shardings[0] for s in shardings):
        return arrays
    by_axis = zip(*(s.spec for s in shardings), strict=True)
    spec = P(*(next((name for name in names if name is not None), None) for names in by_axis))
    alike = NamedSharding(explicit[0], spec)
    return tuple(None if x is None else jax.sharding.reshard(x, alike) for x in arrays)


def _pvary(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x
