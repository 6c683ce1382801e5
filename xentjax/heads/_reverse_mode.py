"""Clear one-line errors for derivatives that do not exist.

jax itself reports that a `custom_vjp` has no forward mode, but without naming an argument. Under
jit it does so only after the call has returned, when the function can no longer add anything.
"""

from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from xentjax.ops.derivative import differentiated, moving_inputs

T = TypeVar("T")


def reverse_mode_only(tree: T, message: str, *, second: str | None = None) -> T:
    """Return the arrays unchanged; differentiating them in forward mode is a TypeError.

    `second` is the message for derivatives of a gradient; None if these exist. All arguments are
    passed at once, since a gradient in one of them may be differentiated in another.
    """
    leaves, structure = jax.tree.flatten(tree)
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    guarded = _guard_p.bind(*(leaves[i] for i in floating), message=message, second=second)
    for i, x in zip(floating, guarded, strict=True):
        leaves[i] = x
    return jax.tree.unflatten(structure, leaves)


def without_derivative(tree: T, message: str) -> T:
    """Return the results unchanged; a gradient through them is a TypeError."""

    @jax.custom_vjp
    def identity(tree: T) -> T:
        return tree

    def forward(tree: Any) -> tuple[T, None]:
        return differentiated(tree)[0], None

    def backward(_: None, cotangents: T) -> tuple[None]:
        if jax.tree.leaves(moving_inputs(cotangents)):
            raise TypeError(message)
        return (None,)

    identity.defvjp(forward, backward, symbolic_zeros=True)
    return identity(tree)


def _refuse(*_: Any, message: str, **__: Any) -> NoReturn:
    raise TypeError(message)


def _guard_jvp(
    primals: tuple[Array, ...], tangents: tuple[Any, ...], *, message: str, second: str | None
) -> tuple[Any, Any]:
    """Raise in forward mode, which computes tangents; reverse mode only transposes them."""
    if second is not None:
        primals = _once_p.bind(*primals, message=second)
    return primals, [
        dx if isinstance(dx, ad.Zero) else _tangent_p.bind(dx, message=message) for dx in tangents
    ]


def _once_jvp(
    primals: tuple[Array, ...], tangents: tuple[Any, ...], *, message: str
) -> tuple[Any, Any]:
    """Raise in a second derivative, the only one that gives these numbers tangents."""
    if not all(isinstance(dx, ad.Zero) for dx in tangents):
        _refuse(message=message)
    return _once_p.bind(*primals, message=message), tangents


def _identity(name: str, jvp: Any) -> Primitive:
    """Make a primitive that returns its operands unchanged."""
    identity = Primitive(name)
    identity.multiple_results = True
    identity.def_impl(lambda *xs, **_: xs)
    identity.def_abstract_eval(lambda *xs, **_: xs)
    ad.primitive_jvps[identity] = jvp
    batching.primitive_batchers[identity] = lambda xs, axes, **kw: (identity.bind(*xs, **kw), axes)
    mlir.register_lowering(identity, lambda context, *xs, **_: xs)
    return identity


_guard_p = _identity("reverse_mode_only", _guard_jvp)
_once_p = _identity("reverse_mode_once", _once_jvp)

_tangent_p = Primitive("reverse_mode_only_tangent")
_tangent_p.def_impl(_refuse)
_tangent_p.def_abstract_eval(lambda dx, message: dx)
ad.deflinear2(_tangent_p, lambda cotangent, dx, message: [cotangent])
batching.primitive_batchers[_tangent_p] = _refuse
mlir.register_lowering(_tangent_p, _refuse)
