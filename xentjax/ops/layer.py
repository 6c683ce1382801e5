"""Operations on the rows of a linear layer: their logits, blocks of rows and blocks of classes."""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int32

from xentjax.ops.blocks import Blocks
from xentjax.ops.rows import Layer, Rows, map_rows

LinearRows = Rows
"""`Rows` whose logits are a `Layer`."""


def with_logits(linear: LinearRows) -> Rows:
    """Compute the logits as an array, in float32 or 64; masked rows are computed with x = 0."""
    layer = linear.logits
    logits = matmul(zero_masked_rows(layer.x, linear), layer.kernel, layer)
    if layer.bias is not None:
        logits += layer.bias.astype(logits.dtype)[None]
    return linear._replace(logits=logits)


def logits_tangent(linear: LinearRows, d_layer: Layer) -> Float[Array, "n k"] | None:
    """Compute the derivative of the logits along the parts of `d_layer` that are not None."""
    layer, terms = linear.logits, []
    if d_layer.x is not None:
        terms.append(matmul(zero_masked_rows(d_layer.x, linear), layer.kernel, layer))
    if d_layer.kernel is not None:
        terms.append(matmul(zero_masked_rows(layer.x, linear), d_layer.kernel, layer))
    if d_layer.bias is not None:
        terms.append(jnp.broadcast_to(d_layer.bias.astype(layer.dtype), layer.shape))
    return sum(terms[1:], terms[0]) if terms else None


def zero_masked_rows(x: Float[Array, "n d"], linear: LinearRows) -> Float[Array, "n d"]:
    """Set masked rows of x to zero, so that no NaN in them reaches a product."""
    return x if linear.mask.rows is None else jnp.where(linear.mask.rows[:, None], x, 0)


_HALF_PRECISION = {
    jnp.dtype(jnp.bfloat16): lax.DotAlgorithmPreset.BF16_BF16_F32,
    jnp.dtype(jnp.float16): lax.DotAlgorithmPreset.F16_F16_F32,
}


def matmul(a: Array, b: Array, layer: Layer) -> Array:
    """Compute a @ b, accumulated and returned in float32 or 64.

    If x and kernel have half precision, they are multiplied in it. So are their float32 tangents
    and the cotangent of the result, through the name of an algorithm instead of a cast.
    """
    dtype, half = layer.dtype, layer.x.dtype
    if a.dtype == b.dtype and a.dtype != dtype:
        return jnp.matmul(a, b, preferred_element_type=dtype)
    a, b = a.astype(dtype), b.astype(dtype)
    if half != layer.kernel.dtype or half not in _HALF_PRECISION:
        return jnp.matmul(a, b)
    # The CPU always multiplies in float32 and does not accept every name.
    named = partial(jnp.matmul, precision=_HALF_PRECISION[half])
    return lax.platform_dependent(a, b, cpu=jnp.matmul, default=named)


def slice_rows(rows: Rows, parts: Blocks, i: Int32[Array, ""]) -> Rows:
    """Return block i of the rows; an array of one row, such as a mask of classes, is shared."""
    return map_rows(lambda x: x if x.shape[0] == 1 else parts.slice(x, i, 0), rows)


def slice_classes(linear: LinearRows, parts: Blocks, j: Int32[Array, ""]) -> LinearRows:
    """Return block j of the classes."""
    x, *by_class = linear.logits
    given = by_class, linear.target.pmf, linear.mask.classes, linear.class_weights
    (kernel, bias), pmf, classes, class_weights = jax.tree.map(
        lambda x: parts.slice(x, j, x.ndim - 1), given
    )
    return linear._replace(
        logits=Layer(x, kernel, bias),
        target=linear.target._replace(pmf=pmf),
        mask=linear.mask._replace(classes=classes),
        class_weights=class_weights,
    )
