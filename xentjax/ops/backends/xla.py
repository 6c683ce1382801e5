"""Row statistics by XLA: one or two passes over the logits, each one fused loop."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.custom_batching
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan, nan_unless
from xentjax._core.varying import pvary_all
from xentjax.ops.backends.contexts import one_cpu
from xentjax.ops.backends.interface import Backend
from xentjax.ops.blocks import blocks, flat_mask
from xentjax.ops.layer import slice_rows
from xentjax.ops.rows import (
    InnerProduct,
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
    at_label,
    label_in_range,
    map_rows,
    over_temperature,
    recompute_after,
    shifted,
    uniform_targets,
    weighted_targets,
)


def row_statistics(rows: Rows, requested: Requested) -> RowStatistics:
    """Make one pass on CPU if the label's logit can replace the maximum, otherwise two.

    The platform is known only when lowering, and may be that of another machine.
    """
    two_passes = partial(_jitted_two_passes, requested=requested)
    splits, serves = _cpu_splits(rows, requested), _one_pass_serves(rows, requested)
    if not (splits or serves):
        return two_passes(rows)
    if serves:
        rows = pvary_all(rows)  # both branches of a cond must vary over the same axes

    @jax.custom_batching.custom_vmap
    def one_pass(rows: Rows) -> RowStatistics:
        return _one_pass(rows, requested)

    @one_pass.def_vmap
    def _(axis_size: int, in_batched: list[Rows], rows: Rows) -> tuple[RowStatistics, Any]:
        """Use only the exact form, since under vmap a cond runs both branches."""
        del axis_size
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched[0])
        with one_cpu(splits):
            stats = jax.vmap(two_passes, (axes,))(rows)
        return stats, jax.tree.map(lambda _: True, stats)

    def on_cpu(rows: Rows) -> RowStatistics:
        with one_cpu(splits):
            return one_pass(rows) if serves else two_passes(rows)

    return lax.platform_dependent(rows, cpu=on_cpu, default=two_passes)


def _cpu_splits(rows: Rows, requested: Requested) -> bool:
    """Whether to split the logits on a CPU: if it is faster and all is on one device.

    XLA would gather sharded logits whose shards do not match the parts, and a traced array does not
    tell how it is sharded.
    """
    pays = rows.logits.shape[-1] >= 2 * _WINDOW or not _is_plain(rows, requested)
    sharded = jax.device_count() > 1 or any(jax.typeof(rows.logits).sharding.spec)
    return pays and not sharded


def _one_pass_serves(rows: Rows, requested: Requested) -> bool:
    """Whether the one-pass form is exact for this request, and faster.

    It takes 0.6 to 0.9 of the time of two passes, but more of it with a mask of classes, or with
    smoothing together with a cap and a mask of rows (benchmarks/measured/NOTES.md).
    """
    inexact = (
        requested.mean or requested.predicted or requested.normalizer or rows.target.labels is None
    )
    reads_twice = requested.uniform and (
        rows.scalars.soft_cap is not None or rows.mask.rows is not None
    )
    return not (inexact or reads_twice or rows.mask.classes is not None)


# How far the maximum may lie above the label, in nats: exp(a_k - a_y) is far from overflow, and
# a softmax computed from this shift has a relative error of 32 half-ulps, 2e-6.
_REACH = 32.0


def _one_pass(rows: Rows, requested: Requested) -> RowStatistics:
    """Shift by the label's logit, which a gather reads before the pass over the row.

    If the maximum of any row is too far above, or if the simple expressions here fail for a value
    (their sum is then NaN or inf), the exact form computes all rows.
    """
    in_range, label = _label_logit(rows)
    z = shifted(_simply_adjusted(rows), label, rows.scalars.temperature)
    # The sum contains the label's own 1. It is below 1 only if the cap is rounded differently in
    # its two computations.
    log_sum = jnp.maximum(jnp.log(_row_sum(jnp.exp(z))), 0)
    good = log_sum <= _REACH
    uniform = None
    if requested.uniform:
        # The barrier separates the sums: in one loop both would be slow.
        later, (label, log_sum) = recompute_after(rows, (label, log_sum))
        t = uniform_targets(rows)
        z_again = shifted(_simply_adjusted(later), label, later.scalars.temperature)
        dot = _row_sum(z_again * t)
        uniform = InnerProduct(dot, jnp.sum(t, -1) + jnp.zeros_like(dot))
        good &= ~jnp.isnan(uniform.dot)
    label_logit = nan_unless(in_range, label.dtype)  # relative to the label's own logit
    if rows.mask.rows is not None:
        # The logits of a masked row count as zeros.
        good |= ~rows.mask.rows
        log_sum = jnp.where(rows.mask.rows, log_sum, jnp.log(jnp.full_like(log_sum, z.shape[-1])))

    near = RowStatistics(label, log_sum, label_logit, None, uniform, None, None)
    exact = partial(_jitted_two_passes, rows, requested=requested)
    return lax.cond(jnp.all(good), lambda: near, exact)


def _simply_adjusted(rows: Rows) -> Float[Array, "*rows K"]:
    """Compute `adjusted_logits` without masks; logits that are not finite stay so, or become NaN.

    It avoids selects, since XLA's CPU compiler has no fast loops for them: one `where` on the
    logits makes a sum of exponentials five times slower (2 cores, float32, jax 0.10.2).
    """
    a, soft_cap = rows.logits.astype(compute_dtype(rows.logits.dtype)), rows.scalars.soft_cap
    if soft_cap is not None:
        a /= soft_cap
        # a - a is NaN if a is infinite, since its tanh would look like that of a finite logit.
        a = soft_cap * (jnp.tanh(a) + (a - a))
    return a


# Number of logits that the CPU adjusts at a time for the exact form, 1 MB. They stay in the cache
# for all reductions, which then need neither another tanh nor an array as large as the logits.
_CACHED = 2**18


def _two_passes(rows: Rows, requested: Requested) -> RowStatistics:
    """Take the maximum, then every sum of shifted logits; on CPU for a few rows at a time."""
    *row_shape, k = rows.logits.shape
    if not one_cpu.value or _is_plain(rows, requested):
        return _max_then_sums(rows, requested)
    parts = blocks(math.prod(row_shape), _CACHED // k)
    if parts.count == 1:
        return _max_then_sums(rows, requested)
    flat = map_rows(lambda x: x.reshape(-1, *x.shape[len(row_shape) :]), rows)
    if rows.mask.classes is not None:  # the mask may have axes of size 1
        classes = flat_mask(rows.mask.classes, rows.logits.shape)
        flat = flat._replace(mask=flat.mask._replace(classes=classes))
    stats = lax.map(
        lambda i: _max_then_sums(slice_rows(flat, parts, i), requested), parts.indices()
    )
    return jax.tree.map(lambda x: parts.join(x).reshape(row_shape), stats)


# One trace is enough wherever nothing is split.
_jitted_two_passes = jax.jit(_two_passes, static_argnames="requested", inline=True)


def _is_plain(rows: Rows, requested: Requested) -> bool:
    """Whether the logits are read as they are, for their maximum and one sum."""
    more = requested.uniform or requested.mean or requested.predicted or rows.target.pmf is not None
    return not (more or jax.tree.leaves((rows.mask, rows.scalars)))


def _max_then_sums(rows: Rows, requested: Requested) -> RowStatistics:
    a = adjusted_logits(rows)
    # Keep the adjusted logits as an array, which fits into the cache.
    keep = one_cpu.value and bool(jax.tree.leaves((rows.mask, rows.scalars)))
    if keep:
        a = lax.optimization_barrier(a)
    shift = _row_max(a)
    # A row without a finite maximum keeps its infinities: log s is then -inf, +inf or NaN.
    shift = jnp.where(jnp.isfinite(shift), shift, 0)
    if not keep:
        rows, shift = recompute_after(rows, shift)
        a = adjusted_logits(rows)
    temperature = rows.scalars.temperature
    z = shifted(a, shift, temperature)
    exp_z = jnp.exp(z)
    sum_exp = _row_sum(exp_z)

    label = target = uniform = mean = None
    if rows.target.labels is not None:
        in_range, label = _label_logit(rows)
        label = over_temperature(label - shift, temperature)
        label += nan_unless(in_range, label.dtype)
    if rows.target.pmf is not None:
        target = _inner_product(weighted_targets(rows), z)
    if requested.uniform:
        uniform = _inner_product(uniform_targets(rows), z)
    if requested.mean:
        mean = _row_sum(exp_z * jnp.where(exp_z > 0, z, 0)) / sum_exp
    return RowStatistics(
        shift=shift,
        log_sum=jnp.log(sum_exp),
        label_logit=label,
        target=target,
        uniform=uniform,
        mean_logit=mean,
        predicted=jnp.argmax(a, -1) if requested.predicted else None,
    )


def _label_logit(rows: Rows) -> tuple[Bool[Array, "*rows"], Float[Array, "*rows"]]:
    """Return whether the label is a class, and its adjusted logit: one element read per row."""
    logits, labels, classes = rows.logits, rows.target.labels, rows.mask.classes
    assert labels is not None
    in_range = label_in_range(labels, logits.shape[-1])
    if classes is not None:
        classes = at_label(jnp.broadcast_to(classes, logits.shape), labels, in_range)[..., None]
    of_label = rows._replace(
        logits=at_label(logits, labels, in_range)[..., None],
        mask=rows.mask._replace(classes=classes),
    )
    return in_range, adjusted_logits(of_label)[..., 0]


def _inner_product(t: Float[Array, "*#rows K"], z: Float[Array, "*rows K"]) -> InnerProduct:
    """Compute <t, z> with 0 * inf = 0, and sum_k t_k."""
    dot = _row_sum(multiply_no_nan(z, jnp.broadcast_to(t, z.shape)))
    # Adding zeros, unlike broadcasting, splits the total over Explicit axes as the rows are.
    return InnerProduct(dot, jnp.sum(t, -1) + jnp.zeros_like(dot))


# On CPU, XLA reduces long rows up to eight times slower than window by window; how much depends on
# N and K in no simple way (benchmarks/measured/NOTES.md). reduce_window pads inside its loop, while
# a reshape into windows would copy the logits if the window does not divide K.
_WINDOW = 4096


def _by_windows(
    reduce: Callable[..., Array],
    merge: Callable[[Array, Array], Array],
    neutral: float,
    x: Float[Array, "*rows K"],
) -> Float[Array, "*rows"]:
    """Reduce the last axis, by windows if that is faster."""
    if not one_cpu.value or x.shape[-1] < 2 * _WINDOW:
        return reduce(x, -1)
    window = (1,) * (x.ndim - 1) + (_WINDOW,)
    tail = [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % _WINDOW)]
    parts = lax.reduce_window(x, jnp.asarray(neutral, x.dtype), merge, window, window, tail)
    # Without the barrier XLA would merge both reductions into the slow one.
    return reduce(lax.optimization_barrier(parts), -1)


_row_max = partial(_by_windows, jnp.max, lax.max, -jnp.inf)
_row_sum = partial(_by_windows, jnp.sum, lax.add, 0.0)


BACKEND = Backend(row_statistics=row_statistics)
