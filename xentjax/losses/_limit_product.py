"""A product for derivatives at a limit, where 0 wins over infinity and NaN over both."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.bilinear import bilinear


def limit_product(x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return x * y, but 0 for 0 * inf; linear in each of them, so reverse mode has the same rule.

    `multiply_no_nan` lets one zero win over everything, a NaN too.
    """
    return _multiply(x, y)


def _product(x: Array, y: Array) -> Array:
    limit = ((x == 0) & jnp.isinf(y)) | (jnp.isinf(x) & (y == 0))
    return jnp.where(limit, jnp.zeros_like(x), x) * jnp.where(limit, jnp.zeros_like(y), y)


_multiply = bilinear("limit_product", _product)
