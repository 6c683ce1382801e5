"""Products with a rule of their own for 0 * inf, as primitives linear in each factor."""

from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from xentjax._core.varying import pvary_all, sharded_alike


def bilinear(
    name: str, product: Callable[[Array, Array], Array]
) -> Callable[[Array, Array], Array]:
    """Return `product` of two arrays of one shape and dtype, declared linear in each of them.

    jax could not transpose the selections inside `product`. Derivatives and transposes follow the
    same rule.
    """
    primitive = Primitive(name)

    def jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Any]:
        (x, y), (dx, dy) = primals, tangents
        dots = [] if isinstance(dy, ad.Zero) else [primitive.bind(x, dy)]
        if not isinstance(dx, ad.Zero):
            dots.append(primitive.bind(dx, y))
        return primitive.bind(x, y), sum(dots[1:], start=dots[0])

    def transpose(cotangent: Array, x: Any, y: Any) -> tuple[Array | None, Array | None]:
        if ad.is_undefined_primal(y):
            return None, primitive.bind(x, cotangent)
        return primitive.bind(cotangent, y), None

    def batch(args: tuple[Any, Any], axes: tuple[int | None, int | None]) -> tuple[Array, int]:
        size = next(x.shape[d] for x, d in zip(args, axes, strict=True) if d is not None)
        x, y = (batching.bdim_at_front(x, d, size) for x, d in zip(args, axes, strict=True))
        return primitive.bind(x, y), 0

    primitive.def_impl(jax.jit(product))
    primitive.def_abstract_eval(lambda x, y: y)
    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose
    batching.primitive_batchers[primitive] = batch
    mlir.register_lowering(primitive, mlir.lower_fun(product, multiple_results=False))
    return lambda x, y: primitive.bind(*sharded_alike(*pvary_all((x, y))))
