"""Row statistics of classes that lie on several devices, merged from those of each device's part.

(m, s) of the parts merge to M = max_i m_i and S = sum_i s_i exp(m_i - M), and every other statistic
is a sum over classes once it is taken relative to M. So a few numbers a row cross between devices
and no logit does. Derivatives are sums over classes as well: each device applies the rule of its
own part to the merged statistics, which holds where a whole part is -inf and has no softmax itself.
"""

from functools import partial
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from xentjax.ops.statistics import (
    InnerProduct,
    Rows,
    RowStatistics,
    Wanted,
    row_statistics,
    statistics_tangents,
)

AxisName = str | tuple[str, ...]
T = TypeVar("T")


class Part(NamedTuple):
    """One device's classes of each row."""

    rows: Rows
    """Labels count from this part's first class. A label on another part is any class of this one,
    a label of no class is -1 on every part."""
    first_class: Integer[Array, ""]
    counts_label: Bool[Array, "*rows"] | None
    """False where another part holds the label."""


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def merged_statistics(part: Part, axis_name: AxisName, wanted: Wanted) -> RowStatistics:
    """The statistics of whole rows, the same on every device of the axis.

    They differentiate as `row_statistics` does: in every floating input, in all modes and orders.
    """
    # A part is merged by its maximum, whoever reads the normaliser.
    stats = row_statistics(part.rows, **wanted._replace(normalizer=True)._asdict())
    return merge(stats, part.first_class, part.counts_label, axis_name)


def merge(
    stats: RowStatistics,
    first_class: Integer[Array, ""],
    counts_label: Bool[Array, "*rows"] | None,
    axis_name: AxisName,
) -> RowStatistics:
    """The statistics of whole rows from those of every part: one max, one sum, one min if asked."""
    # A part without a finite maximum has log s = -inf, +inf or NaN, and that in place of it.
    top = jnp.where(jnp.isfinite(stats.log_sum), stats.shift, stats.log_sum)
    top = jnp.where(jnp.isnan(top), jnp.inf, top)
    highest = lax.pmax(top, axis_name)
    shift = jnp.where(jnp.isfinite(highest), highest, 0)
    above = stats.shift - shift
    sum_exp = jnp.exp(stats.log_sum + above)

    label = mean = None
    if stats.label_logit is not None:
        assert counts_label is not None
        label = jnp.where(counts_label, stats.label_logit + above, 0)
    if stats.mean_logit is not None:
        mean = jnp.where(sum_exp == 0, 0, sum_exp * (stats.mean_logit + above))
    sums = {
        "sum_exp": sum_exp,
        "label": label,
        "target": _relative_to(above, stats.target),
        "uniform": _relative_to(above, stats.uniform),
        "mean": mean,
    }
    sums = _sum_over_parts(sums, axis_name)
    predicted = None
    if stats.predicted is not None:
        here = first_class + stats.predicted.astype(jnp.int32)
        none = jnp.iinfo(jnp.int32).max
        predicted = lax.pmin(jnp.where(top == highest, here, none), axis_name)
    return RowStatistics(
        shift=shift,
        log_sum=jnp.log(sums["sum_exp"]),
        label_logit=sums["label"],
        target=sums["target"],
        uniform=sums["uniform"],
        mean_logit=None if mean is None else sums["mean"] / sums["sum_exp"],
        predicted=predicted,
    )


def merge_tangents(
    d_stats: RowStatistics, counts_label: Bool[Array, "*rows"] | None, axis_name: AxisName
) -> RowStatistics:
    """The derivative of the merged statistics from what each part's classes add to it."""
    d_label = d_stats.label_logit
    if d_label is not None:
        assert counts_label is not None
        d_label = jnp.where(counts_label, d_label, 0)
    summed = _sum_over_parts(
        d_stats._replace(shift=None, label_logit=d_label, predicted=None), axis_name
    )
    return summed._replace(shift=d_stats.shift, predicted=d_stats.predicted)


@partial(merged_statistics.defjvp, symbolic_zeros=True)
def _merged_statistics_jvp(
    axis_name: AxisName, wanted: Wanted, primals: tuple[Part], tangents: tuple[Part]
) -> tuple[RowStatistics, RowStatistics]:
    (part,), (d_part,) = primals, tangents
    stats = merged_statistics(part, axis_name, wanted)
    d_stats = statistics_tangents(part.rows, stats, d_part.rows)
    return stats, merge_tangents(d_stats, part.counts_label, axis_name)


def _relative_to(above: Float[Array, "*rows"], t: InnerProduct | None) -> InnerProduct | None:
    """<t, a - M> from <t, a - m> and m - M."""
    return None if t is None else InnerProduct(t.dot + t.total * above, t.total)


def _sum_over_parts(tree: T, axis_name: AxisName) -> T:
    """The sum over devices of every array, all of one shape and dtype, in one collective."""
    arrays, structure = jax.tree.flatten(tree)
    summed = lax.psum(jnp.stack(arrays), axis_name)
    return jax.tree.unflatten(structure, jnp.unstack(summed))
