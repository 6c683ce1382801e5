"""A product in which 0 wins over infinity and NaN, linear in one factor: for derivative rules.

And NaN for what is not valid, made where it is needed and nowhere else.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xentjax._core.varying import pvary_all, sharded_alike


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
    return _multiply_no_nan_p.bind(*sharded_alike(*pvary_all((derivative, tangent))))


def _product(derivative: Array, tangent: Array) -> Array:
    zero = jnp.zeros_like(derivative)
    # The outer selection changes no value: on CPU, XLA's loop is twice as fast with it.
    return jnp.where(tangent == 0, zero, jnp.where(tangent == 0, zero, derivative) * tangent)


def _jvp(primals, tangents):
    derivative, tangent = primals
    derivative_dot, tangent_dot = tangents
    dots = []
    if not isinstance(tangent_dot, ad.Zero):
        dots.append(_multiply_no_nan_p.bind(derivative, tangent_dot))
    if not isinstance(derivative_dot, ad.Zero):
        # Still the tangent that decides: the derivative of a derivative may be infinite too.
        dots.append(_multiply_no_nan_p.bind(derivative_dot, tangent))
    return _multiply_no_nan_p.bind(derivative, tangent), sum(dots[1:], start=dots[0])


def _transpose(cotangent, derivative, tangent):
    if ad.is_undefined_primal(tangent):
        return None, _multiply_no_nan_p.bind(derivative, cotangent)
    return _multiply_no_nan_p.bind(cotangent, tangent), None


def _batch(args, axes):
    size = next(x.shape[d] for x, d in zip(args, axes, strict=True) if d is not None)
    args = [batching.bdim_at_front(x, d, size) for x, d in zip(args, axes, strict=True)]
    return _multiply_no_nan_p.bind(*args), 0


_multiply_no_nan_p = Primitive("multiply_no_nan")
_multiply_no_nan_p.def_impl(jax.jit(_product))
_multiply_no_nan_p.def_abstract_eval(lambda derivative, tangent: tangent)
ad.primitive_jvps[_multiply_no_nan_p] = _jvp
ad.primitive_transposes[_multiply_no_nan_p] = _transpose
batching.primitive_batchers[_multiply_no_nan_p] = _batch
mlir.register_lowering(_multiply_no_nan_p, mlir.lower_fun(_product, multiple_results=False))


def nan_unless(valid: Bool[Array, "*s"], dtype: DTypeLike) -> Float[Array, "*s"]:
    """Return 0 where `valid`, else NaN.

    It is 0 / 0 there, so that no NaN is made where all is valid: `jax_debug_nans` stops at one,
    also at a constant that a `where` leaves out.
    """
    return jnp.zeros(valid.shape, dtype) / valid.astype(dtype)
