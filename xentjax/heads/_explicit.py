"""Linear layers whose arrays are split over Explicit mesh axes.

The loops over blocks of rows and classes do not know of shardings. They run in `jax.shard_map` over
the axes that split the rows or the classes, so that each device sees only its own part.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec as P, reshard
from jaxtyping import Array

from xentjax._core.varying import explicit_spec
from xentjax.losses._split import SplitClasses
from xentjax.ops import Layer, Mask, Rows, Scalars, Target

T = TypeVar("T")
Names = str | tuple[str, ...] | None


class Placement(NamedTuple):
    """The Explicit mesh axes that split a layer; none by default."""

    mesh: AbstractMesh | None = None
    """The mesh; None if no array is split."""
    rows: tuple[Names, ...] = ()
    """Mesh axes of each leading axis of x."""
    classes: Names = None
    num_classes: int = 0
    split: SplitClasses | None = None
    """The part of the classes that this device has, if the caller has split them."""

    def over_devices(
        self,
        function: Callable[..., T],
        rows: Any,
        *others: Any,
        by_row: tuple[Any, ...] = (),
        out_specs: Any,
    ) -> T:
        """Call `function(rows, split, *by_row, *others)` on each device's part of the rows.

        `rows` is a `Rows` or a tuple of several; `split` says which classes the device has, None
        for all of them.
        """
        if self.mesh is None:
            return function(rows, self.split, *by_row, *others)
        specs = jax.tree.map(self._specs, rows, is_leaf=lambda r: isinstance(r, Rows))
        place = partial(_place, self.mesh)
        placed = jax.tree.map(place, specs, rows, is_leaf=lambda s: isinstance(s, P))
        by_row = jax.tree.map(partial(place, P(*self.rows)), by_row)
        axes = _names(self.rows, self.classes)
        if not axes:  # undo a split of the features
            return function(placed, None, *by_row, *others)
        mapped = jax.shard_map(
            lambda rows, *arrays: function(rows, self._own_classes(), *arrays),
            mesh=self.mesh,
            in_specs=(specs, *(P(*self.rows) for _ in by_row), *(P() for _ in others)),
            out_specs=out_specs,
            axis_names=set(axes),
        )
        return mapped(placed, *by_row, *others)

    def sum_over_rows(self, total: Array) -> Array:
        """Add up the devices' totals over their rows."""
        axes = _names(self.rows)
        return lax.psum(total, axes) if axes else total

    def _own_classes(self) -> SplitClasses | None:
        """Return which classes this device has, if they are split."""
        if self.classes is None:
            return None
        k = self.num_classes
        first = lax.axis_index(self.classes) * (k // lax.axis_size(self.classes))
        return SplitClasses(self.classes, k, k, first.astype(jnp.int32), None)

    def _specs(self, rows: Rows) -> Rows:
        spec: Any = P  # one spec for each array
        by_row, by_class = self.rows, self.classes
        mask = rows.mask.classes
        shared = () if mask is None else mask.shape[:-1]  # an axis of size 1 serves all rows
        by_mask = (None if n == 1 else name for n, name in zip(shared, by_row, strict=False))
        return Rows(
            Layer(spec(*by_row, None), spec(None, by_class), spec(by_class)),
            Target(spec(*by_row), spec(*by_row, by_class)),
            Mask(spec(*by_row), spec(*by_mask, by_class)),
            spec(),
            Scalars(spec(), spec()),
        )


def placement_of(*heads: Rows, by_row: Any = (), split: SplitClasses | None = None) -> Placement:
    """Find out how Explicit mesh axes, or else the caller, split rows and classes.

    All layers must have the same rows and classes. `by_row` are further arrays with the leading
    axes of x.
    """
    if split is not None:
        return Placement(split=split)
    layers, targets, masks, *_ = zip(*heads, strict=True)
    placed = [x for x in jax.tree.leaves((heads, by_row)) if any(explicit_spec(x))]
    if not placed:
        return Placement()
    leading, num_classes = layers[0].ndim - 1, layers[0].shape[-1]

    def first_split(arrays: list[Any], axis: int) -> Names:
        specs = (explicit_spec(x) for x in arrays if x is not None)
        return next((spec[axis] for spec in specs if spec and spec[axis] is not None), None)

    with_rows = [
        *(layer.x for layer in layers),
        *(x for target in targets for x in target),
        *(mask.rows for mask in masks),
        *jax.tree.leaves(by_row),
    ]
    by_row = tuple(first_split(with_rows, axis) for axis in range(leading))
    with_classes = [
        *(target.pmf for target in targets),
        *(mask.classes for mask in masks),
        *(x for layer in layers for x in (layer.bias, layer.kernel)),
    ]
    by_class = first_split(with_classes, -1)
    if set(_names(by_row)) & set(_names(by_class)):  # gather such a kernel
        by_class = None
    return Placement(jax.typeof(placed[0]).sharding.mesh, by_row, by_class, num_classes)


def _place(mesh: AbstractMesh, spec: P, x: Any) -> Any:
    return None if x is None else reshard(x, NamedSharding(mesh, spec))


def _names(*axes: Any) -> tuple[str, ...]:
    return tuple(jax.tree.leaves(axes))
