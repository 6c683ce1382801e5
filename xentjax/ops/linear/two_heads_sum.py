"""Sum of divergences of two linear layers, with gradients computed while the logits are in memory.

Computing both layers' logits again in a backward pass would add half as many products as the
gradients need. The derivative rule of the sum therefore computes the gradients in all moving inputs
together with the value. The tangent of the sum is the inner product of these gradients and the
inputs' tangents. It is linear in the tangents, and reverse mode only scales the gradients.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from xentjax.ops.blocks import Blocks, blocks
from xentjax.ops.derivative import moving_inputs, with_moving
from xentjax.ops.layer import LinearRows, with_logits
from xentjax.ops.linear.in_forward import add_products, row_block
from xentjax.ops.linear.statistics import add_kept_rows
from xentjax.ops.linear.two_heads import (
    Heads,
    HeadStatistics,
    Settings,
    paired_row_blocks,
    row_divergences,
    statistics_of_logits,
    value_and_weight_tangent,
)
from xentjax.ops.rows import Rows, adjusted_logits, shifted

# Fewest classes in a block: with fewer, matrix products would be inefficient.
_FEWEST_CLASSES = 512


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def sum_of_divergences(heads: Heads, settings: Settings) -> Float[Array, ""]:
    """Compute the sum over the kept rows, differentiable in all modes.

    `paired_row_blocks` must not be None for these inputs.
    """
    return jnp.sum(_kept(row_divergences(heads, settings), heads.q))


@partial(sum_of_divergences.defjvp, symbolic_zeros=True)
def _(
    settings: Settings, primals: tuple[Heads], tangents: tuple[Heads]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    (heads,), d_heads = primals, moving_inputs(tangents[0])
    moving = jax.tree.map(
        lambda t, x: None if t is None else x, d_heads, heads, is_leaf=lambda t: t is None
    )
    total, gradients = _sum_and_gradients(moving, heads, settings)
    dots = jax.tree.map(lambda g, t: jnp.sum(g * t.astype(g.dtype)), gradients, d_heads)
    return total, sum(jax.tree.leaves(dots), start=jnp.zeros_like(total))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _sum_and_gradients(
    moving: Heads, heads: Heads, settings: Settings
) -> tuple[Float[Array, ""], Heads]:
    """Return the sum and its gradients in the inputs that `moving` holds, in float32 or 64."""
    rows = paired_row_blocks(heads, settings)
    assert rows is not None
    classes = _class_blocks(heads, rows, settings)

    def add_rows(
        total: tuple[Array, Heads], i: Int32[Array, ""]
    ) -> tuple[tuple[Array, Heads], tuple[()]]:
        here = Heads(row_block(heads.p, rows, i), row_block(heads.q, rows, i), heads.weight)
        values = here._replace(p=with_logits(here.p), q=with_logits(here.q))
        moving_here = moving._replace(
            p=_with_moving_logits(moving.p, values.p), q=_with_moving_logits(moving.q, values.q)
        )
        new, d_here = jax.value_and_grad(
            lambda moving: _sum_of_logits(with_moving(values, moving), settings)
        )(moving_here)
        p, q = (
            _add_head(sums, head, d_head, rows, classes, i)
            for sums, head, d_head in zip(total[1][:2], here[:2], d_here[:2], strict=True)
        )
        weight = None if d_here.weight is None else total[1].weight + d_here.weight
        return (total[0] + new, Heads(p, q, weight)), ()

    zeros = jax.tree.map(lambda x: jnp.zeros_like(x, heads.q.logits.dtype), moving)
    start = jnp.sum(jnp.zeros_like(heads.q.logits.x, heads.q.logits.dtype))
    return add_kept_rows(add_rows, (start, zeros), heads.q, rows)[0]


@_sum_and_gradients.defjvp
def _(settings: Settings, primals: tuple[Heads, Heads], tangents: tuple[Heads, Heads]) -> Any:
    """Differentiate the rule of `row_divergences`, which keeps no gradients."""

    def by_rows(moving: Heads, heads: Heads) -> tuple[Float[Array, ""], Heads]:
        def kept_sum(moving: Heads) -> Float[Array, ""]:
            losses = row_divergences(with_moving(heads, moving), settings)
            return jnp.sum(_kept(losses, heads.q))

        total, gradients = jax.value_and_grad(kept_sum)(moving)
        return total, jax.tree.map(lambda g: g.astype(heads.q.logits.dtype), gradients)

    moved = jax.jvp(by_rows, primals, tangents)[1]
    return _sum_and_gradients(*primals, settings), moved


def _with_moving_logits(moving: LinearRows, values: Rows) -> Rows:
    """Return the moving parts of a block of rows: its logits if any part of the layer moves."""
    moves = bool(jax.tree.leaves(moving.logits))
    return moving._replace(logits=values.logits if moves else None)


def _sum_of_logits(heads: Heads, settings: Settings) -> Float[Array, ""]:
    """Compute the sum over the kept rows from logits that are in memory."""
    p, q, weight = jax.lax.stop_gradient(heads)
    stats = statistics_of_logits(p, q, weight, settings)
    z = [
        shifted(adjusted_logits(rows), here.shift, rows.scalars.temperature)
        for rows, here in zip(heads[:2], stats[:2], strict=True)
    ]
    return jnp.sum(_kept(_shifted_divergences(*z, heads.weight, stats, settings), heads.q))


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _shifted_divergences(
    z_p: Float[Array, "n k"],
    z_q: Float[Array, "n k"],
    weight: Float[Array, ""] | None,
    stats: HeadStatistics,
    settings: Settings,
) -> Float[Array, " n"]:
    """Return the divergence of each row as a function of shifted logits, using its statistics."""
    del z_p, z_q
    return settings.divergence.value(stats.totals, weight)


@partial(_shifted_divergences.defjvp, symbolic_zeros=True)
def _(settings: Settings, primals: Any, tangents: Any) -> tuple[Array, Array]:
    z_p, z_q, weight, stats = primals
    dz_p, dz_q, d_weight, _ = moving_inputs(tangents)
    # Behind the barrier XLA computes log-probabilities again, and does not keep the arrays from
    # which the totals were computed.
    zero = lax.optimization_barrier(jnp.zeros((), z_p.dtype))
    log_p, log_q = (
        z - (here.log_sum + zero)[:, None] for z, here in zip((z_p, z_q), stats[:2], strict=True)
    )
    slopes = settings.divergence.slopes(log_p, log_q, stats.totals, weight)
    value, dot = value_and_weight_tangent(stats.totals, weight, d_weight, settings)
    for slope, dz in zip(slopes, (dz_p, dz_q), strict=True):
        if dz is not None:
            dot += jnp.sum(slope * dz, -1)
    return value, dot


def _kept(losses: Float[Array, " n"], rows: Rows) -> Float[Array, " n"]:
    return losses if rows.mask.rows is None else jnp.where(rows.mask.rows, losses, 0)


def _add_head(
    total: LinearRows,
    here: LinearRows,
    d_here: Rows,
    rows: Blocks,
    classes: Blocks,
    i: Int32[Array, ""],
) -> LinearRows:
    """Add the gradients of one layer and its scalars from block i of the rows."""
    scalars = jax.tree.map(jnp.add, total.scalars, d_here.scalars)
    if d_here.logits is not None:
        layer = add_products(total.logits, here, d_here.logits, rows, classes, i)
        total = total._replace(logits=layer)
    return total._replace(scalars=scalars)


def _class_blocks(heads: Heads, rows: Blocks, settings: Settings) -> Blocks:
    """Return blocks of classes for the products: a slice of logits, three of the wider kernel.

    They may take as much memory as the divergence's arrays of the logits' size took.
    """
    d, k = max(head.logits.x.shape[-1] for head in heads[:2]), heads.q.logits.shape[-1]
    numbers = settings.divergence.arrays * rows.size * k
    return blocks(k, max(numbers // (rows.size + 3 * d), _FEWEST_CLASSES))
