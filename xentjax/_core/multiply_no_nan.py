"""Tools for rules of derivatives: a product in which 0 * inf is 0, and NaN only where needed."""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xentjax._core.bilinear import bilinear


def multiply_no_nan(
    derivative: Float[Array, "*s"], tangent: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Multiply `derivative * tangent`; a tangent of 0 gives 0 whatever the derivative is.

    It is for rules of `jax.custom_jvp`. A `jnp.where` on the tangent has the same value but is not
    linear, so reverse mode could not transpose it. This primitive is declared linear in `tangent`,
    and its transpose applies the same rule to the cotangent.

    Args:
        derivative: may be infinite or NaN.
        tangent: of the same shape and dtype.
    """
    if derivative.dtype != tangent.dtype:
        raise TypeError(
            f"tangent: expected the derivative's dtype {derivative.dtype}, got {tangent.dtype}"
        )
    return _multiply(derivative, tangent)


def _product(derivative: Array, tangent: Array) -> Array:
    zero = jnp.zeros_like(derivative)
    # The outer selection changes no value, but makes XLA's loop on CPU twice as fast.
    return jnp.where(tangent == 0, zero, jnp.where(tangent == 0, zero, derivative) * tangent)


_multiply = bilinear("multiply_no_nan", _product)


def nan_unless(valid: Bool[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 0 where `valid`, else NaN.

    The NaN is computed as 0 / 0, so that none is made if everything is valid: `jax_debug_nans`
    stops even at a constant NaN that a `where` does not select.
    """
    return jnp.zeros(valid.shape, dtype) / valid.astype(dtype)
