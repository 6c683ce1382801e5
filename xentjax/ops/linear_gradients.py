"""The sum of losses over the logits x @ kernel + bias, with its gradients made on the way.

The logits of a block of rows are there once, for the loss and for both gradient products. That is
a quarter less work than computing them again for a backward pass, and gives up forward mode.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float, Int32

from xentjax.ops.blocks import Blocks, blocks, row_blocks, rows_of
from xentjax.ops.linear_xla import (
    LinearRows,
    accumulator_dtype,
    any_of_the_batch,
    kept,
    logits,
    matmul,
    numbers_in,
    rows_with,
    unless_masked,
)
from xentjax.ops.statistics import Rows

RowLosses = Callable[[Rows, Any], tuple[Float[Array, " n"], Any]]
"""The losses of rows and what else is known of each, from them and further inputs."""

# The fewest rows at a time that are worth it: the gradient of the kernel is read and written once
# for each block of rows.
_FEWEST_ROWS = 64
# The fewest classes at a time that keep matrix products what they are.
_FEWEST_CLASSES = 32
# Of the logits, the share in memory by default.
_SHARE = 6


def rows_that_fit(linear: LinearRows, max_bytes: int | None, share: int = _SHARE) -> Blocks | None:
    """Blocks of rows whose logits fit seven eighths of the memory; None if too few rows do."""
    n, k = linear.x.shape[0], linear.kernel.shape[1]
    eighth = numbers_in(max_bytes, linear, share) // 8
    size = min(7 * eighth // k, 8 * eighth // (k + _FEWEST_CLASSES))
    return None if size < min(n, _FEWEST_ROWS) else row_blocks(n, size)


def _class_blocks(linear: LinearRows, rows: Blocks, max_bytes: int | None) -> Blocks:
    """Blocks of classes that fit the last eighth: a slice of logits and three of the kernel."""
    d, k = linear.kernel.shape
    eighth = numbers_in(max_bytes, linear, _SHARE) // 8
    return blocks(k, max(eighth // (rows.size + 3 * d), _FEWEST_CLASSES))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def sum_of_losses(
    linear: LinearRows, inputs: Any, losses: RowLosses, max_bytes: int | None
) -> tuple[Float[Array, ""], Any]:
    """sum_n losses_n and what else is known of each row, which has no derivative.

    Where `rows_that_fit` are not None; reverse mode only.
    """
    rows = rows_that_fit(linear, max_bytes, share=10) or rows_that_fit(linear, max_bytes)
    assert rows is not None

    def sum_of_block(i: Int32[Array, ""]) -> tuple[Float[Array, ""], Any]:
        here = _block(linear, rows, i)
        loss, known = losses(rows_with(here, logits(here)), inputs)
        return jnp.sum(loss), known

    blockwise = partial(unless_masked, sum_of_block, linear, rows)
    loss, known = lax.map(blockwise, rows.indices())
    return jnp.sum(loss), jax.tree.map(rows.join, known)


def _forward(
    linear: LinearRows, inputs: Any, losses: RowLosses, max_bytes: int | None
) -> tuple[tuple[Float[Array, ""], Any], Any]:
    """The same; the gradient in every input that is differentiated, and the dtypes of those."""
    arguments = (linear, inputs)
    moving = jax.tree.map(lambda p: p.value if p.perturbed else None, arguments, is_leaf=_is_primal)
    arguments = jax.tree.map(lambda p: p.value, arguments, is_leaf=_is_primal)
    result, gradients = _sum_and_gradients(arguments, moving, losses, max_bytes)
    # An array without elements carries its dtype, which no residual can be.
    return result, (gradients, jax.tree.map(lambda x: jnp.zeros(0, x.dtype), moving))


def _backward(
    losses: RowLosses, max_bytes: int | None, residuals: Any, cotangents: tuple[Any, Any]
) -> tuple[LinearRows, Any]:
    del losses, max_bytes
    scale, of_known = cotangents
    if not all(isinstance(c, SymbolicZero) for c in jax.tree.leaves(of_known, is_leaf=_is_zero)):
        raise TypeError(
            "return_stats: expected no derivative of the statistics with gradients_in_forward=True"
        )
    return jax.tree.map(lambda g, like: (scale * g).astype(like.dtype), *residuals)


sum_of_losses.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_primal(x: Any) -> bool:
    return isinstance(x, CustomVJPPrimal)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _sum_and_gradients(
    arguments: tuple[LinearRows, Any],
    moving: tuple[LinearRows, Any],
    losses: RowLosses,
    max_bytes: int | None,
) -> tuple[tuple[Float[Array, ""], Any], tuple[LinearRows, Any]]:
    """The same, and the gradients in what is `moving`, accumulated in float32 or 64."""
    (linear, inputs), (moving_linear, moving_inputs) = arguments, moving
    rows = rows_that_fit(linear, max_bytes)
    assert rows is not None
    classes = _class_blocks(linear, rows, max_bytes)
    dtype = accumulator_dtype(linear)

    def add_rows(total: tuple[Array, LinearRows, Any], i: Int32[Array, ""]) -> tuple[Any, Any]:
        here = _block(linear, rows, i)
        moving_here = rows_of(moving_linear._replace(x=None, kernel=None, bias=None), rows, i)

        def sum_of_block(
            a: Array, moving_here: LinearRows, moving_inputs: Any
        ) -> tuple[Array, Any]:
            block = rows_with(_replaced(here, moving_here), a)
            loss, known = losses(block, _replaced(inputs, moving_inputs))
            return jnp.sum(loss), known

        (new, known), (d_logits, d_here, d_inputs) = jax.value_and_grad(
            sum_of_block, (0, 1, 2), has_aux=True
        )(logits(here), moving_here, moving_inputs)
        loss, gradient, input_gradient = total
        gradient = _add_products(gradient, here, d_logits, rows, classes, i)
        gradient = _add_others(gradient, d_here, d_logits, rows, i)
        return (loss + new, gradient, jax.tree.map(jnp.add, input_gradient, d_inputs)), known

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, dtype), moving)
    start = (jnp.sum(jnp.zeros_like(linear.x, dtype)), *zeros)

    def add_rows_that_count(total: Any, i: Int32[Array, ""]) -> tuple[Any, Any]:
        if linear.row_mask is None:
            return add_rows(total, i)
        known = jax.tree.map(jnp.zeros_like, jax.eval_shape(add_rows, total, i)[1])
        counts = any_of_the_batch(rows.slice(linear.row_mask, i, 0))
        return lax.cond(counts, add_rows, lambda total, i: (total, known), total, i)

    (loss, *gradients), known = lax.scan(add_rows_that_count, start, rows.indices())
    return (loss, jax.tree.map(rows.join, known)), tuple(gradients)


def _block(linear: LinearRows, rows: Blocks, i: Int32[Array, ""]) -> LinearRows:
    """Block i of the rows, where a row that an earlier block holds too does not count."""
    here, new = rows_of(linear, rows, i), rows.first_visit(i)
    if new is None:
        return here
    return here._replace(row_mask=new if here.row_mask is None else here.row_mask & new)


def _replaced(values: Any, moving: Any) -> Any:
    """The values with those that move in their place."""
    return jax.tree.map(
        lambda value, new: value if new is None else new,
        values,
        moving,
        is_leaf=lambda x: x is None,
    )


def _add_products(
    total: LinearRows,
    here: LinearRows,
    d_logits: Float[Array, "n k"],
    rows: Blocks,
    classes: Blocks,
    i: Int32[Array, ""],
) -> LinearRows:
    """Add d_logits @ kernel^T to the gradient of x and x^T @ d_logits to that of the kernel.

    Block after block of classes: a product of another array of the kernel's size is never formed,
    and the contraction over long rows of d_logits would be slower than its pieces.
    """
    x = kept(here.x, here)

    def add_classes(total: tuple[Any, Any], j: Int32[Array, ""]) -> tuple[tuple[Any, Any], None]:
        d_x, d_kernel = total
        d_tile, new = classes.slice(d_logits, j, 1), classes.first_visit(j)
        if new is not None:
            d_tile = jnp.where(new[None], d_tile, 0)
        if d_x is not None:
            d_x += matmul(d_tile, classes.slice(here.kernel, j, 1).T, here)
        if d_kernel is not None:
            d_kernel = classes.add(d_kernel, matmul(x.T, d_tile, here), j, 1)
        return (d_x, d_kernel), None

    d_x = None if total.x is None else jnp.zeros_like(x, d_logits.dtype)
    (d_x, d_kernel), _ = lax.scan(add_classes, (d_x, total.kernel), classes.indices())
    if d_x is not None:
        if here.row_mask is not None:
            d_x = jnp.where(here.row_mask[:, None], d_x, 0)
        d_x = rows.add(total.x, d_x, i, 0)
    return total._replace(x=d_x, kernel=d_kernel)


def _add_others(
    total: LinearRows,
    d_here: LinearRows,
    d_logits: Float[Array, "n k"],
    rows: Blocks,
    i: Int32[Array, ""],
) -> LinearRows:
    """Add the gradients of everything but x and kernel."""

    def plus(total: Array | None, new: Array | None) -> Array | None:
        return None if total is None or new is None else total + new.astype(total.dtype)

    targets = total.targets
    if targets is not None and d_here.targets is not None:
        targets = rows.add(targets, d_here.targets.astype(targets.dtype), i, 0)
    return total._replace(
        bias=None if total.bias is None else total.bias + jnp.sum(d_logits, 0),
        targets=targets,
        class_weights=plus(total.class_weights, d_here.class_weights),
        soft_cap=plus(total.soft_cap, d_here.soft_cap),
        temperature=plus(total.temperature, d_here.temperature),
    )
