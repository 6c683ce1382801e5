"""Linear layers whose arrays are split over Explicit mesh axes.

Loops over blocks of rows and classes know no sharding. They run in `jax.shard_map` over the axes
that split the rows or the classes, where each device has a block of both.
"""

from collections.abc import Callable
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
    """The Explicit mesh axes over which a layer is split."""

    mesh: AbstractMesh
    rows: tuple[Names, ...]
    """Mesh axes of each leading axis of x."""
    classes: Names
    num_classes: int

    def axis_names(self) -> tuple[str, ...]:
        """Return the names of all these mesh axes."""
        return _names(self.rows, self.classes)

    def over_devices(
        self,
        function: Callable[..., T],
        rows: Any,
        *others: Any,
        by_row: Any = (),
        out_specs: Any,
    ) -> T:
        """Return `function(rows, *by_row, *others)` from each device's part of what has rows.

        `rows` is one of `Rows`, or a tuple of several.
        """
        specs = jax.tree.map(self._specs, rows, is_leaf=lambda r: isinstance(r, Rows))
        placed = jax.tree.map(self._place, specs, rows, is_leaf=lambda s: isinstance(s, P))
        by_row = jax.tree.map(lambda x: self._place(P(*self.rows), x), by_row)
        if not self.axis_names():  # features were split, and are no more
            return function(placed, *by_row, *others)
        mapped = jax.shard_map(
            function,
            mesh=self.mesh,
            in_specs=(specs, *(P(*self.rows) for _ in by_row), *(P() for _ in others)),
            out_specs=out_specs,
            axis_names=set(self.axis_names()),
        )
        return mapped(placed, *by_row, *others)

    def sum_over_rows(self, total: Array) -> Array:
        """Return the sum of what the devices have of a total over rows."""
        axes = _names(self.rows)
        return lax.psum(total, axes) if axes else total

    def own_classes(self, rows: Rows) -> SplitClasses | None:
        """Return which classes this device has, where they are split."""
        if self.classes is None:
            return None
        first = lax.axis_index(self.classes) * rows.logits.shape[-1]
        k = self.num_classes
        return SplitClasses(self.classes, k, k, first.astype(jnp.int32), None)

    def _specs(self, rows: Rows) -> Rows:
        spec: Any = P  # specs stand where arrays do
        by_row, by_class = self.rows, self.classes
        mask = rows.mask.classes
        shared = () if mask is None else mask.shape[:-1]  # a size of 1 serves all rows
        by_mask = (None if n == 1 else name for n, name in zip(shared, by_row, strict=False))
        return Rows(
            Layer(spec(*by_row, None), spec(None, by_class), spec(by_class)),
            Target(spec(*by_row), spec(*by_row, by_class)),
            Mask(spec(*by_row), spec(*by_mask, by_class)),
            spec(),
            Scalars(spec(), spec()),
        )

    def _place(self, spec: P, x: Any) -> Any:
        return None if x is None else reshard(x, NamedSharding(self.mesh, spec))


def placement_of(*heads: Rows, by_row: Any = ()) -> Placement | None:
    """Return how Explicit mesh axes split the rows and classes of layers; None if none does.

    Several layers have the same rows and classes; `by_row` are further arrays with the leading axes
    of x.
    """
    layers, targets, masks, *_ = zip(*heads, strict=True)
    split = [x for x in jax.tree.leaves((heads, by_row)) if any(explicit_spec(x))]
    if not split:
        return None
    leading, num_classes = layers[0].ndim - 1, layers[0].shape[-1]

    def first_split(arrays: list[Any], axis: int) -> Names:
        specs = (explicit_spec(x) for x in arrays if x is not None)
        return next((spec[axis] for spec in specs if spec and spec[axis] is not None), None)

    of_rows = [
        *(layer.x for layer in layers),
        *(x for target in targets for x in target),
        *(mask.rows for mask in masks),
        *jax.tree.leaves(by_row),
    ]
    by_row = tuple(first_split(of_rows, axis) for axis in range(leading))
    of_classes = [
        *(target.pmf for target in targets),
        *(mask.classes for mask in masks),
        *(x for layer in layers for x in (layer.bias, layer.kernel)),
    ]
    by_class = first_split(of_classes, -1)
    if set(_names(by_row)) & set(_names(by_class)):  # such a kernel is gathered
        by_class = None
    return Placement(jax.typeof(split[0]).sharding.mesh, by_row, by_class, num_classes)


def _names(*axes: Any) -> tuple[str, ...]:
    return tuple(jax.tree.leaves(axes))
