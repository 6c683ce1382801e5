"""The mesh axes over which arrays vary from device to device inside `shard_map`."""

from typing import TypeVar

import jax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array

T = TypeVar("T")


def varying_axes(x: ArrayLike) -> frozenset[str]:
    """Return the mesh axes over which x differs from device to device, as `shard_map` knows."""
    return jax.typeof(x).manual_axis_type.varying


def varying_alike(tree: T) -> T:
    """Return the tree, each array varying over all mesh axes that any of them varies over.

    The cotangent of what devices share is then summed over them once, not in every tile.
    """
    every = frozenset().union(*map(varying_axes, jax.tree.leaves(tree)))
    return jax.tree.map(lambda x: _vary(x, every), tree)


def varying_as(tree: T, like: T) -> T:
    """Return the tree, each array varying over the mesh axes of its counterpart too."""
    return jax.tree.map(lambda x, y: _vary(x, varying_axes(y)), tree, like)


def _vary(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(axes - varying_axes(x))
    return lax.pcast(x, missing, to="varying") if missing else x
