"""Merging of row statistics: those of whole rows from those of shards of the classes.

(m, s) of the shards merge to M = max_i m_i and S = sum_i s_i exp(m_i - M), and every other
statistic is a sum over classes once it is taken relative to M.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from xentjax.ops.rows import (
    InnerProduct,
    Rows,
    RowStatistics,
    label_in_range,
    over_temperature,
)


class ClassShard(NamedTuple):
    """Some of the classes of each row, such as one device's."""

    rows: Rows
    """Labels count from this shard's first class. For labels on another shard the value is
    arbitrary; labels of no class are -1 on every shard."""
    first_class: Integer[Array, ""]
    owns_label: Bool[Array, "*rows"] | None
    """False where another shard owns the label."""
    first_own: Integer[Array, ""] | None = None
    """The first class that no earlier shard holds too; `first_class` if None."""


class Combine(NamedTuple):
    """The reductions over shards."""

    max: Callable[[Array], Array]
    min: Callable[[Array], Array]
    sum: Callable[[Any], Any]
    """Sum every array of a tree; all have one shape and dtype."""


ACROSS_FIRST_AXIS = Combine(
    max=partial(jnp.max, axis=0, keepdims=True),
    min=partial(jnp.min, axis=0, keepdims=True),
    sum=partial(jax.tree.map, partial(jnp.sum, axis=0, keepdims=True)),
)
"""Reductions over shards along the first axis of every array, which keeps size 1."""


def class_shard(
    rows: Rows,
    first_class: Integer[Array, ""],
    num_classes: int,
    first_own: Integer[Array, ""] | None = None,
) -> ClassShard:
    """Make the shard of the logits of `rows`, whose labels count all `num_classes` classes.

    Exactly one shard owns each label: the one whose classes from `first_own` on include it.
    """
    labels = rows.target.labels
    if labels is None:
        return ClassShard(rows, first_class, None, first_own)
    valid = label_in_range(labels, num_classes)
    label = jnp.where(valid, labels, 0).astype(jnp.int32)
    local = label - first_class
    owned = label_in_range(local, rows.logits.shape[-1])
    if first_own is not None:
        owned &= label >= first_own
    # A bad label is bad on every shard, so that the gradient of each is NaN.
    local = jnp.where(valid, jnp.where(owned, local, 0), -1)
    rows = rows._replace(target=rows.target._replace(labels=local))
    return ClassShard(rows, first_class, owned | ~valid, first_own)


def merge(
    stats: RowStatistics,
    first_class: Integer[Array, "..."],
    owns_label: Bool[Array, "*rows"] | None,
    combine: Combine,
    temperature: Float[Array, ""] | None,
) -> RowStatistics:
    """Merge the shards' statistics to those of whole rows: a max, a sum, a min if requested."""
    # In a shard without a finite maximum, log s is -inf, +inf or NaN and replaces the maximum.
    shard_max = jnp.where(jnp.isfinite(stats.log_sum), stats.shift, stats.log_sum)
    shard_max = jnp.where(jnp.isnan(shard_max), jnp.inf, shard_max)
    row_max = combine.max(shard_max)
    shift = jnp.where(jnp.isfinite(row_max), row_max, 0)
    shift_delta = over_temperature(stats.shift - shift, temperature)
    sum_exp = jnp.exp(stats.log_sum + shift_delta)

    label = mean = None
    if stats.label_logit is not None:
        assert owns_label is not None
        label = jnp.where(owns_label, stats.label_logit + shift_delta, 0)
    if stats.mean_logit is not None:
        mean = jnp.where(sum_exp == 0, 0, sum_exp * (stats.mean_logit + shift_delta))
    sums = {
        "sum_exp": sum_exp,
        "label": label,
        "target": _relative_to(shift_delta, stats.target),
        "uniform": _relative_to(shift_delta, stats.uniform),
        "mean": mean,
    }
    sums = combine.sum(sums)
    predicted = None
    if stats.predicted is not None:
        here = first_class + stats.predicted.astype(jnp.int32)
        none = jnp.iinfo(jnp.int32).max
        predicted = combine.min(jnp.where(shard_max == row_max, here, none))
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
    d_stats: RowStatistics, owns_label: Bool[Array, "*rows"] | None, combine: Combine
) -> RowStatistics:
    """Sum the contributions of the shards to the derivative of the merged statistics."""
    assert owns_label is not None or d_stats.label_logit is None
    added = drop_unowned_label(d_stats, owns_label)
    summed = combine.sum(added._replace(shift=None, predicted=None))
    return summed._replace(shift=d_stats.shift, predicted=d_stats.predicted)


def drop_unowned_label(
    d_stats: RowStatistics, owns_label: Bool[Array, "*rows"] | None
) -> RowStatistics:
    """Zero the label term where another shard owns the label; None means this shard owns all."""
    if d_stats.label_logit is None or owns_label is None:
        return d_stats
    return d_stats._replace(label_logit=jnp.where(owns_label, d_stats.label_logit, 0))


def _relative_to(shift_delta: Float[Array, "*rows"], t: InnerProduct | None) -> InnerProduct | None:
    """Return <t, a - M> from <t, a - m> and m - M."""
    return None if t is None else InnerProduct(t.dot + t.total * shift_delta, t.total)
