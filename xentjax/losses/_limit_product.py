"""A product for derivatives at a limit: 0 * inf is 0, and a NaN in a factor gives NaN."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.bilinear import bilinear


def limit_product(x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return x * y, but 0 for 0 * inf; it is linear in x and in y, so reverse mode does the same.

    `multiply_no_nan` instead returns 0 for a tangent of 0, even if the derivative is NaN.
    """
    return _multiply(x, y)


def _product(x: Array, y: Array) -> Array:
    limit = ((x == 0) & jnp.isinf(y)) | (jnp.isinf(x) & (y == 0))
    return jnp.where(limit, jnp.zeros_like(x), x) * jnp.where(limit, jnp.zeros_like(y), y)


_multiply = bilinear("limit_product", _product)
