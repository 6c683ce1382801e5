"""Functions of linear rows under vmap, where a batch of rows with one layer is more rows."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jaxtyping import Array

from xentjax.ops.layer import LinearRows
from xentjax.ops.rows import map_rows

T = TypeVar("T")


def batch_as_rows(function: Callable[[LinearRows, Any], T]) -> Callable[[LinearRows, Any], T]:
    """Return `function(linear, by_row)`, which gets a batch of rows with one layer as its rows.

    `by_row` is a tree of arrays with an entry for each row, or one for all of them; the results
    have an entry for each row.
    """

    @jax.custom_batching.custom_vmap
    def of_rows(linear: LinearRows, by_row: Any) -> T:
        return function(linear, by_row)

    @of_rows.def_vmap
    def _(axis_size: int, in_batched: list[Any], linear: LinearRows, by_row: Any) -> tuple[T, Any]:
        if _shares_layer(in_batched[0]):
            n = linear.logits.x.shape[-2]

            def fold(x: Array, is_batched: bool) -> Array:
                if not is_batched:
                    if x.shape[0] != n:  # one entry for all rows
                        return x
                    x = x[None]
                each = jnp.broadcast_to(x, (axis_size, n, *x.shape[2:]))
                return each.reshape(axis_size * n, *x.shape[2:])

            joined = map_rows(fold, linear, in_batched[0])
            result = of_rows(joined, jax.tree.map(fold, by_row, in_batched[1]))
            result = jax.tree.map(lambda a: a.reshape(axis_size, n, *a.shape[1:]), result)
        else:
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            result = jax.vmap(function, axes)(linear, by_row)
        return result, jax.tree.map(lambda _: True, result)

    return of_rows


def _shares_layer(batched: LinearRows) -> bool:
    """Whether only what belongs to rows is batched."""
    rest = map_rows(lambda _: False, batched)
    return not any(jax.tree.leaves(rest))
