"""Functions of linear rows under vmap, where a batch of rows with one layer is more rows."""

from collections.abc import Callable
from functools import partial
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
        if shares_layer(in_batched[0]):
            n = linear.logits.x.shape[-2]
            joined = fold_rows(linear, in_batched[0], axis_size)
            by_row = jax.tree.map(partial(_fold, n=n, size=axis_size), by_row, in_batched[1])
            result = of_rows(joined, by_row)
            result = jax.tree.map(lambda a: a.reshape(axis_size, n, *a.shape[1:]), result)
        else:
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            result = jax.vmap(function, axes)(linear, by_row)
        return result, jax.tree.map(lambda _: True, result)

    return of_rows


def fold_rows(linear: LinearRows, batched: LinearRows, size: int) -> LinearRows:
    """The batch of rows as one axis of rows."""
    return map_rows(partial(_fold, n=linear.logits.x.shape[-2], size=size), linear, batched)


def _fold(x: Array, is_batched: bool, *, n: int, size: int) -> Array:
    if not is_batched:
        if x.shape[0] != n:  # one entry for all rows
            return x
        x = x[None]
    return jnp.broadcast_to(x, (size, n, *x.shape[2:])).reshape(size * n, *x.shape[2:])


def shares_layer(batched: LinearRows) -> bool:
    """Whether only what belongs to rows is batched."""
    rest = map_rows(lambda _: False, batched)
    return not any(jax.tree.leaves(rest))
