"""Refuse forward-mode differentiation in one line, also where jax meets it after a call returned.

jax says by itself that a `custom_vjp` has no forward mode, but in words that name no argument, and
under jit it says so once the function that was called is no longer there to say it better.
"""

from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

T = TypeVar("T")


def reverse_mode_only(tree: T, message: str) -> T:
    """Return the arrays as they are, with a TypeError of that message in forward mode."""

    def guarded(x: Array) -> Array:
        return _guard_p.bind(x, message=message) if jnp.issubdtype(x.dtype, jnp.floating) else x

    return jax.tree.map(guarded, tree)


def _jvp(primals: tuple[Array], tangents: tuple[Any], *, message: str) -> tuple[Array, Any]:
    """Reverse mode transposes the tangent and never computes it; forward mode has to."""
    (x,), (dx,) = primals, tangents
    return x, dx if isinstance(dx, ad.Zero) else _tangent_p.bind(dx, message=message)


def _refuse(*_: Any, message: str, **__: Any) -> NoReturn:
    raise TypeError(message)


_guard_p = Primitive("reverse_mode_only")
_guard_p.def_impl(lambda x, message: x)
_guard_p.def_abstract_eval(lambda x, message: x)
ad.primitive_jvps[_guard_p] = _jvp
batching.defvectorized(_guard_p)
mlir.register_lowering(_guard_p, lambda context, x, message: [x])

_tangent_p = Primitive("reverse_mode_only_tangent")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda dx, message: dx)
ad.deflinear2(_tangent_p, lambda cotangent, dx, message: [cotangent])
batching.primitive_batchers[_tangent_p] = _refuse
mlir.register_lowering(_tangent_p, _refuse)
