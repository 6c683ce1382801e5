"""Row statistics of linear layers, with reverse-mode gradients by the kernels of a back-end."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from xentjax.ops.backends.interface import Wrt
from xentjax.ops.derivative import differentiated, with_moving
from xentjax.ops.layer import LinearRows
from xentjax.ops.linear.statistics import linear_row_statistics
from xentjax.ops.registry import backend
from xentjax.ops.rows import Layer, Requested, RowStatistics


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def statistics_with_kernel_gradients(
    linear: LinearRows, requested: Requested, implementation: str | None, max_bytes: int | None
) -> RowStatistics:
    """Compute `linear_row_statistics`, with gradients by the back-end and no forward mode."""
    return linear_row_statistics(linear, requested, implementation, max_bytes)


def _forward(
    linear: LinearRows, requested: Requested, implementation: str | None, max_bytes: int | None
) -> tuple[RowStatistics, Any]:
    linear, moving = differentiated(linear)
    stats = linear_row_statistics(linear, requested, implementation, max_bytes)
    return stats, (linear, stats, moving)


def _backward(
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
    residuals: Any,
    d_stats: RowStatistics,
) -> tuple[LinearRows]:
    linear, stats, moving = residuals
    # The shift and the predicted class have no derivative, so their cotangents are dropped.
    d_stats = jax.tree.map(_instantiate_zeros, d_stats, is_leaf=_is_zero)
    d_stats = d_stats._replace(shift=jnp.zeros_like(stats.shift), predicted=None)
    layer = moving.logits
    others = moving._replace(logits=Layer(None, None, None))  # pyright: ignore[reportArgumentType]
    gradients = others
    if jax.tree.leaves(others):
        gradients = _by_xla(linear, others, d_stats, requested, max_bytes)
    wrt: tuple[Wrt, ...] = () if layer.x is None else ("x",)
    if layer.kernel is not None or layer.bias is not None:
        wrt = (*wrt, "kernel")
    if wrt:
        d_layer = _layer_gradients(
            linear, stats, d_stats, wrt, requested, implementation, max_bytes
        )
        gradients = gradients._replace(logits=d_layer)
    return (gradients,)


statistics_with_kernel_gradients.defvjp(_forward, _backward, symbolic_zeros=True)


def _is_zero(x: Any) -> bool:
    return isinstance(x, SymbolicZero)


def _instantiate_zeros(x: Any) -> Array:
    return jnp.zeros(x.shape, x.dtype) if _is_zero(x) else x


def _by_xla(
    linear: LinearRows,
    moving: LinearRows,
    d_stats: RowStatistics,
    requested: Requested,
    max_bytes: int | None,
) -> LinearRows:
    """Compute the gradients in `moving` by the rule that all implementations share."""

    def statistics(moving: LinearRows) -> RowStatistics:
        stats = linear_row_statistics(with_moving(linear, moving), requested, None, max_bytes)
        return stats._replace(predicted=None)

    _, pullback = jax.vjp(statistics, moving)
    return pullback(d_stats)[0]


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def _layer_gradients(
    linear: LinearRows,
    stats: RowStatistics,
    d_stats: RowStatistics,
    wrt: tuple[Wrt, ...],
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
) -> Layer:
    """Pull `d_stats` back to x, to kernel and bias, or to all of them, with the kernels."""
    del requested, max_bytes
    if linear.logits.shape[0] == 0:
        return _asked(jax.tree.map(jnp.zeros_like, linear.logits), wrt)
    by_kernel = backend(implementation).layer_gradients
    assert by_kernel is not None
    return by_kernel(linear, stats, d_stats, wrt)


@_layer_gradients.defjvp
def _(
    wrt: tuple[Wrt, ...],
    requested: Requested,
    implementation: str | None,
    max_bytes: int | None,
    primals: Any,
    tangents: Any,
) -> tuple[Layer, Layer]:
    """Differentiate the shared rule, in which the statistics are functions of the layer."""

    def by_xla(linear: LinearRows, d_stats: RowStatistics) -> Layer:
        moving = jax.tree.map(lambda _: None, linear)._replace(logits=linear.logits)
        return _asked(_by_xla(linear, moving, d_stats, requested, max_bytes).logits, wrt)

    (linear, _, d_stats), (d_linear, _, dd_stats) = primals, tangents
    _, moved = jax.jvp(by_xla, (linear, d_stats), (d_linear, dd_stats))
    return _layer_gradients(*primals, wrt, requested, implementation, max_bytes), moved


def _asked(gradients: Layer, wrt: tuple[Wrt, ...]) -> Layer:
    """Return the gradients that `wrt` asks for, and None in place of the others."""
    x, kernel, bias = gradients
    given: Any = (x if "x" in wrt else None, *((kernel, bias) if "kernel" in wrt else (None, None)))
    return Layer(*given)
