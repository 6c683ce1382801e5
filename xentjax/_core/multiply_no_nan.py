"""A product in which 0 wins over infinity and NaN, linear in one factor: for derivative rules.

And NaN for what is not valid, made where it is needed and nowhere else.
"""

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xentjax._core.bilinear import bilinear


def multiply_no_nan(
    derivative: Float[Array, "*s"], tangent: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """`derivative * tangent`, where a tangent of 0 gives 0 whatever the derivative.

    To be used in `jax.custom_jvp` rules. A `jnp.where` would say the same, but it is not linear in
    the tangent, so reverse mode could not transpose it. This is a primitive of its own, declared
    linear in `tangent`: its transpose applies the same rule to the cotangent.

    Args:
        derivative: maybe infinite.
        tangent: of the same shape and dtype.
    """
    if derivative.dtype != tangent.dtype:
        raise TypeError(
            f"tangent: expected the derivative's dtype {derivative.dtype}, got {tangent.dtype}"
        )
    return _multiply(derivative, tangent)


def _product(derivative: Array, tangent: Array) -> Array:
    zero = jnp.zeros_like(derivative)
    # The outer selection changes no value: on CPU, XLA's loop is twice as fast with it.
    return jnp.where(tangent == 0, zero, jnp.where(tangent == 0, zero, derivative) * tangent)


_multiply = bilinear("multiply_no_nan", _product)


def nan_unless(valid: Bool[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 0 where `valid`, else NaN.

    It is 0 / 0 there, so that no NaN is made where all is valid: `jax_debug_nans` stops at one,
    also at a constant that a `where` leaves out.
    """
    return jnp.zeros(valid.shape, dtype) / valid.astype(dtype)
