"""Sum of losses of the logits x @ kernel + bias, with gradients computed in the forward pass.

The logits of a block of rows are computed once, for the loss and for both gradient products. That
is a quarter less work than computing them again in the backward pass, but rules out forward mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.export import is_symbolic_dim
from jaxtyping import Array, Float, Int32

from xentjax.ops.blocks import Blocks, blocks, row_blocks
from xentjax.ops.derivative import differentiated, with_moving
from xentjax.ops.layer import (
    LinearRows,
    matmul,
    slice_rows,
    with_logits,
    zero_masked_rows,
)
from xentjax.ops.linear.statistics import add_kept_rows, logits_budget, skip_if_masked
from xentjax.ops.rows import Layer, Rows

RowLosses = Callable[[Rows, Any, Any], tuple[Float[Array, " n"], Any]]
"""Function of rows, of inputs that all rows share and of inputs with an entry for each row. It
returns the loss of each row, and auxiliary results with an entry for each row."""

# Fewest rows in a block: each block reads and writes the whole gradient of the kernel.
_FEWEST_ROWS = 64
# Fewest classes in a block: with fewer, matrix products would be inefficient.
_FEWEST_CLASSES = 32
# Fewest classes in a block if `max_bytes` is not given: each block reads and writes its part of
# every row of the kernel and of the kernel's gradient, which slows down products of few classes
# (512 classes reach 0.85 times the GFLOP/s of 2048; 2 cores, float32).
_ENOUGH_CLASSES = 2048
# By default one logit in `_SHARE` is in memory.
_SHARE = 6


def fitting_row_blocks(
    linear: LinearRows, max_bytes: int | None, share: int = _SHARE
) -> Blocks | None:
    """Return blocks of rows whose logits fit in seven eighths of the memory; None if too few fit.

    A symbolic number of rows cannot be split into blocks; for it the result is None too.
    """
    n, k = linear.logits.shape
    if is_symbolic_dim(n):
        return None
    eighth = logits_budget(max_bytes, linear.logits, share) // 8
    size = min(7 * eighth // k, 8 * eighth // (k + _FEWEST_CLASSES))
    return None if size < min(n, _FEWEST_ROWS) else row_blocks(n, size)


def _class_blocks(linear: LinearRows, rows: Blocks, max_bytes: int | None) -> Blocks:
    """Return blocks of classes that fit the last eighth: a slice of logits, three of kernel."""
    d, k = linear.logits.kernel.shape
    eighth = logits_budget(max_bytes, linear.logits, _SHARE) // 8
    fewest = _ENOUGH_CLASSES if max_bytes is None else _FEWEST_CLASSES
    return blocks(k, max(eighth // (rows.size + 3 * d), fewest))


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def sum_of_losses(
    linear: LinearRows, shared: Any, by_row: Any, losses: RowLosses, max_bytes: int | None
) -> tuple[Float[Array, ""], Any]:
    """Return sum_n losses_n and the auxiliary results of each row, which have no derivative.

    `fitting_row_blocks` must not be None for these inputs. There is no forward mode.
    """
    rows = fitting_row_blocks(linear, max_bytes, share=10) or fitting_row_blocks(linear, max_bytes)
    assert rows is not None

    def sum_of_block(i: Int32[Array, ""]) -> tuple[Float[Array, ""], Any]:
        here = row_block(linear, rows, i)
        loss, aux = losses(with_logits(here), shared, _slice(by_row, rows, i))
        return jnp.sum(loss), aux

    blockwise = partial(skip_if_masked, sum_of_block, linear, rows)
    loss, aux = lax.map(blockwise, rows.indices())
    return jnp.sum(loss), jax.tree.map(rows.join, aux)


def _forward(
    linear: LinearRows, shared: Any, by_row: Any, losses: RowLosses, max_bytes: int | None
) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """Return the sum; keep the gradients in differentiated inputs, and the inputs' dtypes."""
    arguments, moving = differentiated((linear, shared, by_row))
    result, gradients = _sum_and_gradients(arguments, moving, losses, max_bytes)
    # Residuals have to be arrays: empty ones hold the dtypes that the cotangents must have.
    return result, (gradients, jax.tree.map(lambda x: jnp.zeros(0, x.dtype), moving))


def _backward(
    losses: RowLosses, max_bytes: int | None, residuals: Any, cotangents: tuple[Any, Any]
) -> tuple[LinearRows, Any, Any]:
    del losses, max_bytes
    scale, _ = cotangents
    return jax.tree.map(lambda g, like: (scale.astype(g.dtype) * g).astype(like.dtype), *residuals)


sum_of_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def _slice(by_row: Any, rows: Blocks, i: Int32[Array, ""]) -> Any:
    """Return block i of arrays with an entry for each row."""
    return jax.tree.map(lambda x: rows.slice(x, i, 0), by_row)


def _sum_and_gradients(
    arguments: tuple[LinearRows, Any, Any],
    moving: tuple[LinearRows, Any, Any],
    losses: RowLosses,
    max_bytes: int | None,
) -> tuple[tuple[Float[Array, ""], Any], tuple[LinearRows, Any, Any]]:
    """Return the sum and its gradients in the `moving` inputs, accumulated in float32 or 64."""
    (linear, shared, by_row), (moving_linear, moving_shared, moving_by_row) = arguments, moving
    rows = fitting_row_blocks(linear, max_bytes)
    assert rows is not None
    classes = _class_blocks(linear, rows, max_bytes)
    layer = linear.logits

    def add_rows(total: tuple[Array, LinearRows, Any], i: Int32[Array, ""]) -> tuple[Any, Any]:
        here = row_block(linear, rows, i)
        values, by_row_here = with_logits(here), _slice(by_row, rows, i)
        moving_here = slice_rows(moving_linear._replace(logits=None), rows, i)
        moving_here = moving_here._replace(logits=values.logits)

        def sum_of_block(*moving: Any) -> tuple[Array, Any]:
            loss, aux = losses(*map(with_moving, (values, shared, by_row_here), moving))
            return jnp.sum(loss), aux

        (new, aux), (d_here, d_shared, d_by_row) = jax.value_and_grad(
            sum_of_block, (0, 1, 2), has_aux=True
        )(moving_here, moving_shared, _slice(moving_by_row, rows, i))
        loss, gradient, shared_gradient = total
        d_layer = add_products(gradient.logits, here, d_here.logits, rows, classes, i)
        gradient = _add_others(gradient, d_here, rows, i)._replace(logits=d_layer)
        shared_gradient = jax.tree.map(
            lambda t, d: t + d.astype(t.dtype), shared_gradient, d_shared
        )
        return (loss + new, gradient, shared_gradient), (aux, d_by_row)

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, layer.dtype), (moving_linear, moving_shared))
    start = (jnp.sum(jnp.zeros_like(layer.x, layer.dtype)), *zeros)
    (loss, *gradients), by_row_results = add_kept_rows(add_rows, start, linear, rows)
    aux, d_by_row = jax.tree.map(rows.join, by_row_results)
    return (loss, aux), (*gradients, d_by_row)


def row_block(linear: LinearRows, rows: Blocks, i: Int32[Array, ""]) -> LinearRows:
    """Return block i of the rows, with rows masked that an earlier block contains too."""
    here, new = slice_rows(linear, rows, i), rows.is_new(i)
    if new is None:
        return here
    mask = new if here.mask.rows is None else here.mask.rows & new
    return here._replace(mask=here.mask._replace(rows=mask))


def add_products(
    total: Layer,
    here: LinearRows,
    d_logits: Float[Array, "n k"],
    rows: Blocks,
    classes: Blocks,
    i: Int32[Array, ""],
) -> Layer:
    """Add d_logits @ kernel^T to the gradient in x, and x^T @ d_logits to the gradient in kernel.

    The loop over blocks of classes avoids a second array of the kernel's size, and is faster than
    one contraction over long rows of d_logits.
    """
    layer = here.logits
    x = zero_masked_rows(layer.x, here)

    def add_classes(total: tuple[Any, Any], j: Int32[Array, ""]) -> tuple[tuple[Any, Any], None]:
        d_x, d_kernel = total
        d_tile, new = classes.slice(d_logits, j, 1), classes.is_new(j)
        if new is not None:
            d_tile = jnp.where(new[None], d_tile, 0)
        if d_x is not None:
            d_x += matmul(d_tile, classes.slice(layer.kernel, j, 1).T, layer)
        if d_kernel is not None:
            d_kernel = classes.add(d_kernel, matmul(x.T, d_tile, layer), j, 1)
        return (d_x, d_kernel), None

    d_x = None if total.x is None else jnp.zeros_like(x, d_logits.dtype)
    (d_x, d_kernel), _ = lax.scan(add_classes, (d_x, total.kernel), classes.indices())
    if d_x is not None:
        d_x = rows.add(total.x, zero_masked_rows(d_x, here), i, 0)
    d_bias = None if total.bias is None else total.bias + jnp.sum(d_logits, 0)
    return Layer(d_x, d_kernel, d_bias)  # pyright: ignore[reportArgumentType]: None if not requested


def _add_others(total: LinearRows, d_here: Rows, rows: Blocks, i: Int32[Array, ""]) -> LinearRows:
    """Add the gradients of everything but the layer."""
    target = jax.tree.map(
        lambda t, new: rows.add(t, new.astype(t.dtype), i, 0), total.target, d_here.target
    )
    class_weights, scalars = jax.tree.map(
        lambda t, new: t + new.astype(t.dtype),
        (total.class_weights, total.scalars),
        (d_here.class_weights, d_here.scalars),
    )
    return total._replace(target=target, class_weights=class_weights, scalars=scalars)
