"""The derivative rule of row statistics, written once for every back-end.

It recomputes softmax from (a, m, log s), so reverse mode keeps the inputs and a few numbers per
row, and no other array of the logits' size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero
from jaxtyping import Array, Float

from xentjax._core.multiply_no_nan import multiply_no_nan, nan_unless
from xentjax._core.varying import pvary_all, pvary_like
from xentjax.ops.rows import (
    InnerProduct,
    Rows,
    RowStatistics,
    adjusted_logits,
    label_in_range,
    recompute_after,
    shifted,
    sum_at_label,
    uniform_targets,
    weighted_targets,
)

T = TypeVar("T")


def statistics_tangents(rows: Rows, stats: RowStatistics, d_rows: Rows) -> RowStatistics:
    """Compute the derivative of each statistic along the tangents `d_rows`.

    Inputs whose tangent is a symbolic zero or None are constants and are left out of the rule.
    """
    # The rule always includes the logits.
    moving = moving_inputs(d_rows)
    if moving.logits is None:
        moving = moving._replace(logits=jnp.zeros_like(rows.logits))
    rows, moving = vary_alike(rows, moving)  # every statistic depends on both
    d_stats = _jitted_tangents(rows, stats, moving)
    # Zero tangents that were made here vary over no axis.
    d_stats = pvary_like(d_stats, stats._replace(predicted=None))
    return with_predicted(d_stats, stats)


def moving_inputs(tangents: T) -> T:
    """Replace tangents that are symbolic zeros by None."""
    return jax.tree.map(
        lambda t: None if isinstance(t, SymbolicZero) else t,
        tangents,
        is_leaf=lambda t: isinstance(t, SymbolicZero),
    )


def differentiated(arguments: T) -> tuple[T, T]:
    """Return the values of a `custom_vjp`'s arguments, and again with None for constants.

    The arguments are in the form in which `symbolic_zeros=True` passes them.
    """

    def is_primal(x: Any) -> bool:
        return isinstance(x, CustomVJPPrimal)

    values = jax.tree.map(lambda p: p.value, arguments, is_leaf=is_primal)
    moving = jax.tree.map(lambda p: p.value if p.perturbed else None, arguments, is_leaf=is_primal)
    return values, moving


def with_moving(values: T, moving: T) -> T:
    """Replace values by their counterparts in `moving`, except where those are None."""
    return jax.tree.map(
        lambda value, new: value if new is None else new,
        values,
        moving,
        is_leaf=lambda x: x is None,
    )


def vary_alike(rows: T, d_rows: T) -> tuple[T, T]:
    """Make the logits and scalars of rows (or of several) and tangents vary over the same axes.

    Their products can then be transposed.
    """

    def parts(tree: Any) -> Any:
        return jax.tree.map(lambda r: (r.logits, r.scalars), tree, is_leaf=_is_rows)

    def with_parts(tree: Any, new: Any) -> Any:
        return jax.tree.map(
            lambda r, x: r._replace(logits=x[0], scalars=x[1]), tree, new, is_leaf=_is_rows
        )

    new, d_new = pvary_all((parts(rows), parts(d_rows)))
    return with_parts(rows, new), with_parts(d_rows, d_new)


def _is_rows(x: Any) -> bool:
    return isinstance(x, Rows)


def log_probability_and_tangent(
    rows: Rows, d_rows: Rows, stats: RowStatistics
) -> tuple[Float[Array, "*rows K"], Float[Array, "*rows K"] | None]:
    """Recompute log-softmax, and compute the tangent of the adjusted logits it is taken of.

    The tangent is None if they are constant. It can stand for the tangent of log-softmax in a
    product with a derivative that sums to 0 over the classes.
    """
    rows, (shift, log_sum) = recompute_after(rows, (stats.shift, stats.log_sum))

    def z(rows: Rows) -> Float[Array, "*rows K"]:
        return shifted(adjusted_logits(rows), shift, rows.scalars.temperature)

    if not jax.tree.leaves((d_rows.logits, d_rows.scalars)):
        return z(rows) - log_sum[..., None], None
    value, dz = value_and_tangent(z, rows, d_rows)
    return value - log_sum[..., None], dz


def with_predicted(d_stats: RowStatistics, stats: RowStatistics) -> RowStatistics:
    """Fill in the float0 tangent of `predicted`, a class index."""
    if stats.predicted is None:
        return d_stats
    return d_stats._replace(predicted=SymbolicZero.from_primal_value(stats.predicted))


@jax.jit
@partial(jax.checkpoint, prevent_cse=False)  # the backward pass recomputes softmax
def _jitted_tangents(rows: Rows, stats: RowStatistics, d_rows: Rows) -> RowStatistics:
    """Compute the derivative of each statistic along `d_rows`, linearly in `d_rows`."""
    # Without recomputation, XLA would keep a and z as arrays for the backward pass.
    rows, shift = recompute_after(rows, stats.shift)
    z, dz = value_and_tangent(
        lambda rows: shifted(adjusted_logits(rows), shift, rows.scalars.temperature), rows, d_rows
    )
    log_sum, labels = stats.log_sum, rows.target.labels
    d_label = d_target = d_uniform = d_mean = None
    if labels is not None:
        # A bad label makes the row's derivative NaN, at the cost of one operation per row.
        bad = nan_unless(label_in_range(labels, z.shape[-1]), z.dtype)
        log_sum += bad
        d_label = sum_at_label(dz, labels)
        if rows.mask.classes is not None or rows.scalars.soft_cap is not None:
            # A mask, or the cap of a logit -inf, makes `dz` 0; the NaN of a bad label must remain.
            d_label += bad * jnp.sum(d_rows.logits.astype(dz.dtype), -1)
    p = jnp.exp(z - log_sum[..., None])
    if stats.target is not None:
        d_target = _inner_product_tangent(weighted_targets, rows, d_rows, z, dz)
    if stats.uniform is not None:
        d_uniform = _inner_product_tangent(uniform_targets, rows, d_rows, z, dz)
    if stats.mean_logit is not None:
        # Since 0 log 0 = 0, a class of probability 0 has derivative 0, whatever its logit.
        derivative = p * jnp.where(p > 0, 1 + z - stats.mean_logit[..., None], 0)
        d_mean = jnp.sum(derivative * dz, -1)
    return RowStatistics(
        shift=jnp.zeros_like(stats.shift),
        log_sum=jnp.sum(p * dz, -1),
        label_logit=d_label,
        target=d_target,
        uniform=d_uniform,
        mean_logit=d_mean,
        predicted=None,
    )


def value_and_tangent(
    function: Callable[[Rows], Array], rows: Rows, d_rows: Rows
) -> tuple[Array, Array]:
    """Return `function(rows)` and its derivative along the tangents that are not None."""
    primals = jax.tree.map(
        lambda d, x: None if d is None else x, d_rows, rows, is_leaf=lambda x: x is None
    )
    return jax.jvp(lambda moving: function(with_moving(rows, moving)), (primals,), (d_rows,))


def _inner_product_tangent(
    targets: Callable[[Rows], Float[Array, "*#rows K"]],
    rows: Rows,
    d_rows: Rows,
    z: Float[Array, "*rows K"],
    dz: Float[Array, "*rows K"],
) -> InnerProduct:
    """Compute the derivative of the inner product of z with `targets(rows)`."""
    if d_rows.target.pmf is None and d_rows.class_weights is None:
        dot = jnp.sum(targets(rows) * dz, -1)
        return InnerProduct(dot, jnp.zeros_like(dot))
    t, dt = value_and_tangent(targets, rows, d_rows)
    # A class of logit -inf has an infinite derivative; a target that stays 0 there adds nothing.
    product = t * dz + multiply_no_nan(z, jnp.broadcast_to(dt, z.shape))
    dot = jnp.sum(product, -1)
    return InnerProduct(dot, jnp.sum(dt, -1) + jnp.zeros_like(dot))
