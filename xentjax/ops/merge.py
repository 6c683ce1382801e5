"""Row statistics merged from those of parts of the classes, on several devices or one by one.

(m, s) of the parts merge to M = max_i m_i and S = sum_i s_i exp(m_i - M), and every other statistic
is a sum over classes once it is taken relative to M. So a few numbers a row cross between devices
and no logit does. Derivatives are sums over classes as well: each device applies the rule of its
own part to the merged statistics, which holds where a whole part is -inf and has no softmax itself.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from xentjax.ops.statistics import (
    InnerProduct,
    Rows,
    RowStatistics,
    Wanted,
    label_in_range,
    over_temperature,
    row_statistics,
    statistics_tangents,
)

AxisName = str | tuple[str, ...]
T = TypeVar("T")


class Part(NamedTuple):
    """Some of the classes of each row, such as one device's."""

    rows: Rows
    """Labels count from this part's first class. A label on another part is any class of this one,
    a label of no class is -1 on every part."""
    first_class: Integer[Array, ""]
    counts_label: Bool[Array, "*rows"] | None
    """False where another part holds the label."""


class Over(NamedTuple):
    """How to reduce over parts."""

    max: Callable[[Array], Array]
    min: Callable[[Array], Array]
    sum: Callable[[Any], Any]
    """Of every array of a tree; all have one shape and dtype."""


def over_devices(axis_name: AxisName) -> Over:
    """Parts on the devices of a mesh axis."""
    return Over(
        max=partial(lax.pmax, axis_name=axis_name),
        min=partial(lax.pmin, axis_name=axis_name),
        sum=partial(_sum_over_devices, axis_name=axis_name),
    )


def _sum_over_devices(tree: T, axis_name: AxisName) -> T:
    arrays, structure = jax.tree.flatten(tree)
    summed = lax.psum(jnp.stack(arrays), axis_name)  # one collective
    return jax.tree.unflatten(structure, jnp.unstack(summed))


OVER_FIRST_AXIS = Over(
    max=partial(jnp.max, axis=0, keepdims=True),
    min=partial(jnp.min, axis=0, keepdims=True),
    sum=partial(jax.tree.map, partial(jnp.sum, axis=0, keepdims=True)),
)
"""Parts along the first axis of every array, which the result keeps with size 1."""


def part_of(
    rows: Rows,
    first_class: Integer[Array, ""],
    num_classes: int,
    first_own: Integer[Array, ""] | None = None,
) -> Part:
    """The part whose logits `rows` hold, from labels that count all `num_classes` classes.

    Exactly one part counts each label: the one that holds it, from the class `first_own` on.
    """
    if rows.labels is None:
        return Part(rows, first_class, None)
    valid = label_in_range(rows.labels, num_classes)
    label = jnp.where(valid, rows.labels, 0).astype(jnp.int32)
    local = label - first_class
    held = label_in_range(local, rows.logits.shape[-1])
    if first_own is not None:
        held &= label >= first_own
    # A bad label is bad on every part, for the gradient of each to be NaN.
    local = jnp.where(valid, jnp.where(held, local, 0), -1)
    return Part(rows._replace(labels=local), first_class, held | ~valid)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def merged_statistics(part: Part, axis_name: AxisName, wanted: Wanted) -> RowStatistics:
    """The statistics of whole rows, the same on every device of the axis.

    They differentiate as `row_statistics` does: in every floating input, in all modes and orders.
    """
    stats = row_statistics(part.rows, **wanted.of_part()._asdict())
    over = over_devices(axis_name)
    return merge(stats, part.first_class, part.counts_label, over, part.rows.temperature)


def merge(
    stats: RowStatistics,
    first_class: Integer[Array, "..."],
    counts_label: Bool[Array, "*rows"] | None,
    over: Over,
    temperature: Float[Array, ""] | None,
) -> RowStatistics:
    """The statistics of whole rows from those of every part: one max, one sum, one min if asked."""
    # A part without a finite maximum has log s = -inf, +inf or NaN, and that in place of it.
    top = jnp.where(jnp.isfinite(stats.log_sum), stats.shift, stats.log_sum)
    top = jnp.where(jnp.isnan(top), jnp.inf, top)
    highest = over.max(top)
    shift = jnp.where(jnp.isfinite(highest), highest, 0)
    above = over_temperature(stats.shift - shift, temperature)
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
    sums = over.sum(sums)
    predicted = None
    if stats.predicted is not None:
        here = first_class + stats.predicted.astype(jnp.int32)
        none = jnp.iinfo(jnp.int32).max
        predicted = over.min(jnp.where(top == highest, here, none))
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
    d_stats: RowStatistics, counts_label: Bool[Array, "*rows"] | None, over: Over
) -> RowStatistics:
    """The derivative of the merged statistics from what each part's classes add to it."""
    assert counts_label is not None or d_stats.label_logit is None
    added = added_by_part(d_stats, counts_label)
    summed = over.sum(added._replace(shift=None, predicted=None))
    return summed._replace(shift=d_stats.shift, predicted=d_stats.predicted)


def added_by_part(
    d_stats: RowStatistics, counts_label: Bool[Array, "*rows"] | None
) -> RowStatistics:
    """A part's derivative without that of a label which another part counts; None: it has all."""
    if d_stats.label_logit is None or counts_label is None:
        return d_stats
    return d_stats._replace(label_logit=jnp.where(counts_label, d_stats.label_logit, 0))


@partial(merged_statistics.defjvp, symbolic_zeros=True)
def _merged_statistics_jvp(
    axis_name: AxisName, wanted: Wanted, primals: tuple[Part], tangents: tuple[Part]
) -> tuple[RowStatistics, RowStatistics]:
    (part,), (d_part,) = primals, tangents
    stats = merged_statistics(part, axis_name, wanted)
    d_stats = statistics_tangents(part.rows, stats, d_part.rows)
    return stats, merge_tangents(d_stats, part.counts_label, over_devices(axis_name))


def _relative_to(above: Float[Array, "*rows"], t: InnerProduct | None) -> InnerProduct | None:
    """<t, a - M> from <t, a - m> and m - M."""
    return None if t is None else InnerProduct(t.dot + t.total * above, t.total)
