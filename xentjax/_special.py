"""Pieces of entropy with the right limits and the right one-sided derivatives at probability 0.

`x log x` is 0 at 0 and its slope there is `-inf`. Ordinary differentiation multiplies that slope
by tangents and cotangents that are 0 (a probability held fixed, a term that is masked out) and
`inf * 0` is NaN. Here every slope meets its tangent in `scale_tangent`, where 0 wins, and every
slope is again a function of this module, so that the same holds at all orders and in both modes.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float


def scale_tangent(slope: Float[Array, "*s"], tangent: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`slope * tangent`, except that a tangent of 0 gives 0 whatever the slope.

    To be used in `jax.custom_jvp` rules. A `jnp.where` would say the same, but it is not linear in
    the tangent, so reverse mode could not transpose it. This is a primitive of its own, declared
    linear in `tangent`: its transpose applies the same rule to the cotangent.

    Args:
        slope: the derivative, maybe infinite.
        tangent: of the same shape and dtype.
    """
    if slope.dtype != tangent.dtype:
        raise TypeError(f"tangent: expected the slope's dtype {slope.dtype}, got {tangent.dtype}")
    # Changes no value: inside `shard_map` it makes a replicated tangent vary with the slope.
    tangent = jnp.where(jnp.isnan(slope), tangent, tangent)
    return _scale_tangent_p.bind(slope, tangent)


def _scale(slope: Array, tangent: Array) -> Array:
    return jnp.where(tangent == 0, jnp.zeros_like(tangent), slope * tangent)


def _jvp(primals, tangents):
    slope, tangent = primals
    slope_dot, tangent_dot = tangents
    dots = []
    if not isinstance(tangent_dot, ad.Zero):
        dots.append(_scale_tangent_p.bind(slope, tangent_dot))
    if not isinstance(slope_dot, ad.Zero):
        # Still the tangent that decides: the slope of a slope may be infinite too.
        dots.append(_scale_tangent_p.bind(slope_dot, tangent))
    return _scale_tangent_p.bind(slope, tangent), sum(dots[1:], start=dots[0])


def _transpose(cotangent, slope, tangent):
    if ad.is_undefined_primal(tangent):
        return None, _scale_tangent_p.bind(slope, cotangent)
    return _scale_tangent_p.bind(cotangent, tangent), None


def _batch(args, axes):
    size = next(x.shape[d] for x, d in zip(args, axes, strict=True) if d is not None)
    args = [batching.bdim_at_front(x, d, size) for x, d in zip(args, axes, strict=True)]
    return _scale_tangent_p.bind(*args), 0


_scale_tangent_p = Primitive("scale_tangent")
_scale_tangent_p.def_impl(jax.jit(_scale))
_scale_tangent_p.def_abstract_eval(lambda slope, tangent: tangent)
ad.primitive_jvps[_scale_tangent_p] = _jvp
ad.primitive_transposes[_scale_tangent_p] = _transpose
batching.primitive_batchers[_scale_tangent_p] = _batch
mlir.register_lowering(_scale_tangent_p, mlir.lower_fun(_scale, multiple_results=False))
