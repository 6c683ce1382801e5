"""Batching of functions of linear rows: a batch that shares one layer becomes more rows."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.custom_batching
import jax.numpy as jnp
from jaxtyping import Array

from xentjax.ops.rows import Rows, map_rows

T = TypeVar("T")
Heads = Any
"""Tree of one or more `LinearRows` with equal numbers of rows, and of arrays without rows."""


def batch_as_rows(function: Callable[..., T]) -> Callable[..., T]:
    """Make vmap over rows of one layer call `function(heads, *by_row)` once, with all rows.

    `by_row` are arrays, or trees of arrays, with an entry for each row or one entry for all rows;
    the results have an entry for each row.
    """

    @jax.custom_batching.custom_vmap
    def batched(heads: Heads, *by_row: Any) -> T:
        return function(heads, *by_row)

    @batched.def_vmap
    def _(axis_size: int, in_batched: list[Any], heads: Heads, *by_row: Any) -> tuple[T, Any]:
        if _only_rows(in_batched[0]):
            n = next(filter(_is_rows, jax.tree.leaves(heads, is_leaf=_is_rows))).logits.x.shape[-2]
            fold = partial(_fold, n=n, size=axis_size)
            by_row = jax.tree.map(fold, by_row, tuple(in_batched[1:]))
            result = batched(_map_rows(fold, heads, in_batched[0]), *by_row)
            result = jax.tree.map(lambda a: a.reshape(axis_size, n, *a.shape[1:]), result)
        else:
            axes = jax.tree.map(lambda batched: 0 if batched else None, tuple(in_batched))
            result = jax.vmap(function, axes)(heads, *by_row)
        return result, jax.tree.map(lambda _: True, result)

    return batched


def _map_rows(function: Callable[..., Any], *heads: Heads) -> Heads:
    """Apply `function` to every array with an entry for each row."""

    def apply(first: Any, *others: Any) -> Any:
        return map_rows(function, first, *others) if _is_rows(first) else first

    return jax.tree.map(apply, *heads, is_leaf=_is_rows)


def _fold(x: Array, is_batched: bool, *, n: int, size: int) -> Array:
    if not is_batched:
        if x.shape[0] != n:  # one entry for all rows
            return x
        x = x[None]
    return jnp.broadcast_to(x, (size, n, *x.shape[2:])).reshape(size * n, *x.shape[2:])


def _only_rows(batched: Any) -> bool:
    """Whether only arrays with an entry for each row are batched."""
    return not any(jax.tree.leaves(_map_rows(lambda _: False, batched)))


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)
