"""What the GPU kernels keep of rows in registers: sums over the classes seen, moved with m."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental.pallas import mosaic_gpu as plgpu
from jaxtyping import Array, Float, Int32

from xentjax.ops.mosaic import divided
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    Scalars,
    adjusted_logits,
)

interpret = jax.make_user_context(None)
"""What `plgpu.kernel` takes by that name: `with interpret(InterpretGPUParams(...)):` runs the
kernel on any backend. Reads beyond an array have to be "uninitialized" there, not an error."""


class Sums(NamedTuple):
    """What is known of rows from the classes seen, a vector each, None if not requested."""

    top: Array
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
    """Of the class, in the block's part of the row."""
    exists: list[Array]
    classes_before: Array
    """How many of the part come before this tile."""


def no_sums(shape: tuple[int, ...], requested: Requested) -> Sums:
    """The sums over no class."""
    zeros = jnp.zeros(shape, jnp.float32)
    return Sums(
        top=jnp.full(shape, -jnp.inf, jnp.float32),
        sum_exp=zeros,
        uniform=zeros if requested.uniform else None,
        weighted=zeros if requested.mean else None,
        predicted=jnp.zeros(shape, jnp.int32) if requested.predicted else None,
    )


def finite(top: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """m: a row without a finite maximum keeps its infinities."""
    return jnp.where(jnp.abs(top) < jnp.inf, top, 0)  # Mosaic lowers no isfinite


def with_tile(seen: Sums, tile: Tile, temperature: Array | None, layout: Any) -> Sums:
    """The sums over the classes seen and those of a tile."""

    def along(x: Array) -> Array:
        return laid_out(lax.broadcast_in_dim(x, tile.logits[0].shape, (0,)), layout)

    def total(boxes: list[Array]) -> Array:
        return jnp.sum(functools.reduce(jnp.add, boxes), axis=1)

    # Boxes meet number by number, so that lanes exchange theirs once a tile.
    best = jnp.max(functools.reduce(jnp.maximum, tile.logits), axis=1)
    top = jnp.maximum(seen.top, best)
    shift = finite(top)
    above = divided(finite(seen.top) - shift, temperature)
    scale = jnp.where(seen.top == -jnp.inf, 0, jnp.exp(above))  # else 0 * inf after tiles of -inf
    z = [divided(a - along(shift), temperature) for a in tile.logits]
    exp_z = [jnp.exp(box) for box in z]

    uniform = weighted = predicted = None
    if seen.uniform is not None:
        there = [jnp.where(e, box, 0) for e, box in zip(tile.exists, z, strict=True)]
        uniform = seen.uniform + tile.classes_before * above + total(there)
    if seen.weighted is not None:
        weighted = jnp.where(scale == 0, 0, scale * (seen.weighted + seen.sum_exp * above))
        pairs = zip(exp_z, z, strict=True)
        weighted += total([jnp.where(e > 0, e * box, 0) for e, box in pairs])
    if seen.predicted is not None:
        none = jnp.iinfo(jnp.int32).max
        pairs = zip(tile.logits, tile.classes, strict=True)
        at = [jnp.where(a == along(best), index, none) for a, index in pairs]
        first = jnp.min(functools.reduce(jnp.minimum, at), axis=1)
        predicted = jnp.where(best > seen.top, first, seen.predicted)
    return Sums(top, scale * seen.sum_exp + total(exp_z), uniform, weighted, predicted)


def read_scalars(refs: tuple[Any, ...], tree: Any) -> tuple[Scalars, tuple[Any, ...]]:
    """Read the scalars of that tree structure from the first references; return the others too."""
    count = tree.num_leaves
    return jax.tree.unflatten(tree, [ref[0] for ref in refs[:count]]), refs[count:]


def capped(a: Float[Array, "n k"], scalars: Scalars) -> Float[Array, "n k"]:
    """`adjusted_logits` of a tile."""
    return adjusted_logits(Rows(a, scalars=scalars))


def laid_out(x: Array, layout: Any) -> Array:
    """A tile, or a number for each of its rows, in the registers where it belongs."""
    if interpret.value is not None:
        return x
    return plgpu.layout_cast(x, layout if x.ndim == 2 else layout.reduce(1))


def class_index(shape: tuple[int, int], layout: Any) -> Int32[Array, "n k"]:
    """The column of each number of a tile."""
    if interpret.value is not None:
        return lax.broadcasted_iota(jnp.int32, shape, 1)
    return plgpu.broadcasted_iota(jnp.int32, shape, 1, layout=layout)


def of_parts(sums: Sums, num_classes: Float[Array, "*#parts"]) -> RowStatistics:
    """The statistics of parts of rows, with so many classes each."""
    uniform = None
    if sums.uniform is not None:
        uniform = InnerProduct(sums.uniform, jnp.broadcast_to(num_classes, sums.uniform.shape))
    return RowStatistics(
        shift=finite(sums.top),
        log_sum=jnp.log(sums.sum_exp),
        label_logit=None,
        target=None,
        uniform=uniform,
        mean_logit=None if sums.weighted is None else sums.weighted / sums.sum_exp,
        predicted=sums.predicted,
    )
