"""Sums over a row that a GPU kernel accumulates in registers, relative to the running maximum."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from xentjax.ops.backends.mosaic_gpu.hardware import with_layout
from xentjax.ops.backends.pallas import divided, finite
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    Scalars,
    adjusted_logits,
)


class Accumulators(NamedTuple):
    """Vectors with one number per row, over the classes seen so far; None if not requested."""

    running_max: Array
    """max_k a_k T, with the temperature T; m is this over T, or 0 where this is not finite."""
    sum_exp: Array
    """sum_k exp(a_k - m)."""
    uniform: Array | None
    """sum_k (a_k - m)."""
    weighted: Array | None
    """sum_k exp(a_k - m) (a_k - m)."""
    predicted: Array | None


class Tile(NamedTuple):
    """Some classes of some rows, box by box."""

    logits: list[Array]
    """-inf where no class exists."""
    classes: list[Array]
    """The class, counted in the block's part of the row."""
    exists: list[Array]
    classes_before: Array
    """The number of classes of the part before this tile."""


def init(shape: tuple[int, ...], requested: Requested) -> Accumulators:
    """Return the accumulators before the first class."""
    zeros = jnp.zeros(shape, jnp.float32)
    return Accumulators(
        running_max=jnp.full(shape, -jnp.inf, jnp.float32),
        sum_exp=zeros,
        uniform=zeros if requested.uniform else None,
        weighted=zeros if requested.mean else None,
        predicted=jnp.zeros(shape, jnp.int32) if requested.predicted else None,
    )


def accumulate(
    acc: Accumulators, tile: Tile, temperature: Array | None, layout: Any
) -> Accumulators:
    """Add the classes of a tile."""

    def along(x: Array) -> Array:
        return with_layout(lax.broadcast_in_dim(x, tile.logits[0].shape, (0,)), layout)

    def total(boxes: list[Array]) -> Array:
        return jnp.sum(functools.reduce(jnp.add, boxes), axis=1)

    # Boxes are combined elementwise first, so that lanes exchange numbers only once per tile.
    tile_max = jnp.max(functools.reduce(jnp.maximum, tile.logits), axis=1)
    running_max = jnp.maximum(acc.running_max, tile_max)
    shift = finite(running_max)
    shift_delta = divided(finite(acc.running_max) - shift, temperature)
    # After tiles that are all -inf, the product below could be 0 * inf.
    scale = jnp.where(acc.running_max == -jnp.inf, 0, jnp.exp(shift_delta))
    z = [divided(a - along(shift), temperature) for a in tile.logits]
    exp_z = [jnp.exp(box) for box in z]

    uniform = weighted = predicted = None
    if acc.uniform is not None:
        there = [jnp.where(e, box, 0) for e, box in zip(tile.exists, z, strict=True)]
        uniform = acc.uniform + tile.classes_before * shift_delta + total(there)
    if acc.weighted is not None:
        weighted = jnp.where(scale == 0, 0, scale * (acc.weighted + acc.sum_exp * shift_delta))
        pairs = zip(exp_z, z, strict=True)
        weighted += total([e * jnp.where(e > 0, box, 0) for e, box in pairs])
    if acc.predicted is not None:
        none = jnp.iinfo(jnp.int32).max
        pairs = zip(tile.logits, tile.classes, strict=True)
        at = [jnp.where(a == along(tile_max), index, none) for a, index in pairs]
        first = jnp.min(functools.reduce(jnp.minimum, at), axis=1)
        predicted = jnp.where(tile_max > acc.running_max, first, acc.predicted)
    sum_exp = scale * acc.sum_exp + total(exp_z)
    return Accumulators(running_max, sum_exp, uniform, weighted, predicted)


def capped_logits(a: Float[Array, "n k"], scalars: Scalars) -> Float[Array, "n k"]:
    """Return `adjusted_logits` of a tile."""
    return adjusted_logits(Rows(a, scalars=scalars))


def finalize_parts(acc: Accumulators, num_classes: Float[Array, "*#parts"]) -> RowStatistics:
    """Compute the statistics of parts of rows, which have `num_classes` classes each."""
    uniform = None
    if acc.uniform is not None:
        uniform = InnerProduct(acc.uniform, jnp.broadcast_to(num_classes, acc.uniform.shape))
    return RowStatistics(
        shift=finite(acc.running_max),
        log_sum=jnp.log(acc.sum_exp),
        label_logit=None,
        target=None,
        uniform=uniform,
        mean_logit=None if acc.weighted is None else acc.weighted / acc.sum_exp,
        predicted=acc.predicted,
    )
