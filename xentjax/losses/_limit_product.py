"""A product for derivatives at a limit, where 0 wins over infinity and NaN over both."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from xentjax._core.varying import pvary_all, sharded_alike


def limit_product(x: Float[Array, "*s"], y: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Return x * y, but 0 for 0 * inf; linear in each of them, so reverse mode has the same rule.

    `multiply_no_nan` lets one zero win over everything, a NaN too.
    """
    return _product_p.bind(*sharded_alike(*pvary_all((x, y))))


def _product(x: Array, y: Array) -> Array:
    limit = ((x == 0) & jnp.isinf(y)) | (jnp.isinf(x) & (y == 0))
    return jnp.where(limit, jnp.zeros_like(x), x) * jnp.where(limit, jnp.zeros_like(y), y)


def _jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
    (x, y), (dx, dy) = primals, tangents
    dots = [] if isinstance(dx, ad.Zero) else [_product_p.bind(dx, y)]
    if not isinstance(dy, ad.Zero):
        dots.append(_product_p.bind(x, dy))
    return _product_p.bind(x, y), sum(dots[1:], start=dots[0])


def _transpose(cotangent: Array, x: Any, y: Any) -> tuple[Array | None, Array | None]:
    if ad.is_undefined_primal(x):
        return _product_p.bind(cotangent, y), None
    return None, _product_p.bind(x, cotangent)


def _batch(args: tuple[Any, Any], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
    size = next(x.shape[d] for x, d in zip(args, axes, strict=True) if d is not None)
    x, y = (batching.bdim_at_front(x, d, size) for x, d in zip(args, axes, strict=True))
    return _product_p.bind(x, y), 0


_product_p = Primitive("limit_product")
_product_p.def_impl(jax.jit(_product))
_product_p.def_abstract_eval(lambda x, y: x)
ad.primitive_jvps[_product_p] = _jvp
ad.primitive_transposes[_product_p] = _transpose
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, mlir.lower_fun(_product, multiple_results=False))
