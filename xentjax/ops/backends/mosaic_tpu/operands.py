"""Arrays in the shapes and dtypes in which a TPU kernel reads them."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from xentjax.ops.backends.contexts import interpret_for_tpu
from xentjax.ops.backends.pallas import check_sizes, only_on
from xentjax.ops.blocks import flat_mask
from xentjax.ops.rows import Mask, Rows, Scalars, Target, label_in_range


def logits_for_tpu(logits: Float[Array, "*rows k"]) -> Float[Array, "*rows k"]:
    """Return the logits; refuse dtypes that TPUs do not have and symbolic sizes."""
    check_sizes("logits", logits, "mosaic_tpu")
    if logits.dtype == jnp.float64:
        raise NotImplementedError("logits: expected at most 32 bits for 'mosaic_tpu', got float64")
    return for_tpu(logits)


def for_tpu(x: Array) -> Array:
    """Return x in programs for TPUs, and in the interpreter; other programs are refused."""
    if interpret_for_tpu.value:
        return x
    return only_on(x, "tpu", "implementation: expected a TPU for 'mosaic_tpu'")


def as_2d_float(x: Array | None, shape: tuple[int, int]) -> Any:
    """Reshape an array to two dimensions, in a float dtype that every TPU has."""
    if x is None:
        return None
    return (x if x.dtype == jnp.bfloat16 else x.astype(jnp.float32)).reshape(shape)


def operands(rows: Rows, shape: tuple[int, ...]) -> Rows:
    """Return the two-dimensional arrays that a kernel reads, for rows with logits of that shape."""
    n, k = math.prod(shape[:-1]), shape[-1]
    labels, classes = rows.target.labels, rows.mask.classes
    if labels is not None:  # a bad 64-bit label must not wrap around to a class
        labels = jnp.where(label_in_range(labels, k), labels, -1).astype(jnp.int32).reshape(1, n)
    if classes is not None:
        classes = flat_mask(classes, shape).astype(jnp.int8)
    return rows._replace(
        logits=as_2d_float(rows.logits, (n, k)),
        target=Target(labels, as_2d_float(rows.target.pmf, (n, k))),
        mask=Mask(rows=None, classes=classes),
        class_weights=as_2d_float(rows.class_weights, (1, k)),
        scalars=jax.tree.map(lambda x: as_2d_float(x, (1, 1)), rows.scalars),
    )


def _one_mask_serves_all(rows: Rows) -> bool:
    return rows.mask.classes is not None and rows.mask.classes.shape[0] == 1


def bytes_read(rows: Rows) -> int:
    """Return the bytes per logit of all arrays with an entry for each logit."""
    mask = None if _one_mask_serves_all(rows) else rows.mask.classes
    by_logit = rows.logits, rows.target.pmf, mask
    return sum(x.dtype.itemsize for x in by_logit if x is not None)


def tile_specs(rows: Rows, tile: tuple[int, int]) -> Rows:
    """Return the specs of the rows' arrays for a grid over blocks of rows and of classes."""
    bn, bk = tile
    by_logit: Any = pl.BlockSpec((bn, bk), lambda i, j: (i, j))
    by_row: Any = pl.BlockSpec((1, bn), lambda i, j: (0, i))
    by_class: Any = pl.BlockSpec((1, bk), lambda i, j: (0, j))
    scalar: Any = pl.BlockSpec((1, 1), lambda i, j: (0, 0))
    specs = Rows(
        logits=by_logit,
        target=Target(labels=by_row, pmf=by_logit),
        mask=Mask(classes=by_class if _one_mask_serves_all(rows) else by_logit),
        class_weights=by_class,
        scalars=Scalars(scalar, scalar),
    )
    there = partial(jax.tree.map, is_leaf=lambda x: x is None)
    return there(lambda x, spec: None if x is None else spec, rows, specs)
