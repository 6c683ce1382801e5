"""The sum of divergences of two linear layers, whose gradients are made while the logits are there.

Making both layers' logits again for a backward pass would cost half as many products once more. The
rule of the sum therefore computes the gradients in whatever moves beside the value; its tangent is
their inner product with the tangents, which is linear: reverse mode scales the gradients.
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

# The fewest classes at a time that keep matrix products what they are.
_FEWEST_CLASSES = 512


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def sum_of_divergences(heads: Heads, settings: Settings) -> Float[Array, ""]:
    """The sum over the rows that are kept, differentiable in all modes.

    It needs `paired_row_blocks`.
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
    """The sum and its gradients in what is not None in `moving`, in float32 or 64."""
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
    """Second derivatives are those of the rows' rule, which keeps no gradient."""

    def by_rows(moving: Heads, heads: Heads) -> tuple[Float[Array, ""], Heads]:
        def kept_sum(moving: Heads) -> Float[Array, ""]:
            losses = row_divergences(with_moving(heads, moving), settings)
            return jnp.sum(_kept(losses, heads.q))

        total, gradients = jax.value_and_grad(kept_sum)(moving)
        return total, jax.tree.map(lambda g: g.astype(heads.q.logits.dtype), gradients)

    moved = jax.jvp(by_rows, primals, tangents)[1]
    return _sum_and_gradients(*primals, settings), moved


def _with_moving_logits(moving: LinearRows, values: Rows) -> Rows:
    """The moving parts of a block's rows: its logits if any part of the layer moves."""
    moves = bool(jax.tree.leaves(moving.logits))
    return moving._replace(logits=values.logits if moves else None)


def _sum_of_logits(heads: Heads, settings: Settings) -> Float[Array, ""]:
    """The sum over kept rows, of logits in memory."""
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
    """The divergence of each row, which shifted logits have, from its statistics."""
    del z_p, z_q
    return settings.divergence.value(stats.totals, weight)


@partial(_shifted_divergences.defjvp, symbolic_zeros=True)
def _(settings: Settings, primals: Any, tangents: Any) -> tuple[Array, Array]:
    z_p, z_q, weight, stats = primals
    dz_p, dz_q, d_weight, _ = moving_inputs(tangents)
    # Behind a barrier XLA computes log-probabilities anew, and keeps no array of what the totals
    # were computed from.
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
    """Blocks of classes for the products: of the logits and thrice the wider kernel.

    They take as much memory as the arrays of the logits' size did that the divergence is made of.
    """
    d, k = max(head.logits.x.shape[-1] for head in heads[:2]), heads.q.logits.shape[-1]
    numbers = settings.divergence.arrays * rows.size * k
    return blocks(k, max(numbers // (rows.size + 3 * d), _FEWEST_CLASSES))
