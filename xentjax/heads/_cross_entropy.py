"""The cross-entropy of a linear head from its statistics, on one device or on several."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from xentjax._core.varying import pvary_all
from xentjax.heads._arguments import join_rows, restore_rows
from xentjax.heads._explicit import placement_of
from xentjax.heads._reverse_mode import reverse_mode_only, without_derivative
from xentjax.heads._statistics import head_statistics, pack_kept_rows, part_statistics
from xentjax.losses._formula import SoftmaxStats, cross_entropy_from, label_weights, reduce_total
from xentjax.losses._keywords import Keywords
from xentjax.losses._split import SplitClasses
from xentjax.losses.cross_entropy import Loss, LossAndStats, cross_entropy
from xentjax.ops import Requested, Rows, RowStatistics, backend
from xentjax.ops.linear.in_forward import fitting_row_blocks, sum_of_losses
from xentjax.ops.linear.kernel_gradients import statistics_with_kernel_gradients

Terms = tuple[Any, Any]
"""Label smoothing, and the weight of the z-loss."""


def loss_of_head(
    rows: Rows, keywords: Keywords, split: SplitClasses | None, max_bytes: int | None
) -> Loss | LossAndStats:
    def statistics(rows: Rows, requested: Requested, implementation: str | None) -> RowStatistics:
        return head_statistics(rows, split, requested, implementation, max_bytes)

    return cross_entropy_from(statistics, rows, keywords, None if split is None else split.kept)


jitted_loss_of_head = partial(jax.jit, static_argnums=(2, 3))(loss_of_head)


@partial(jax.jit, static_argnums=2)
def loss_with_gradients(
    rows: Rows, keywords: Keywords, max_bytes: int | None
) -> Loss | LossAndStats:
    """Compute a sum or mean, and its gradients before the backward pass."""
    placement = placement_of(rows)
    if placement.classes is not None:
        return loss_of_head(rows, keywords, None, max_bytes)
    terms = keywords.label_smoothing, keywords.z_loss
    static = _with_terms(keywords, (None, None), "none")

    def sum_of_part(rows: Rows, _: Any, terms: Terms) -> tuple[Loss, SoftmaxStats | None]:
        total, stats = _sum_with_gradients(rows, terms, static, max_bytes)
        return placement.sum_over_rows(total), stats

    out_specs = P(), P(*placement.rows)
    total, stats = placement.over_devices(sum_of_part, rows, terms, out_specs=out_specs)
    shape, weights = rows.logits.shape[:-1], label_weights(rows)
    loss = reduce_total(total, keywords.reduction, shape, weights, rows.mask.rows)
    return loss if stats is None else (loss, stats)


def _sum_with_gradients(
    rows: Rows, terms: Terms, keywords: Keywords, max_bytes: int | None
) -> tuple[Loss, SoftmaxStats | None]:
    """Return the sum of losses and, if requested, statistics; in blocks of rows if they fit."""
    offers, linear = backend(keywords.implementation), join_rows(rows)
    by_kernel = offers.layer_gradients is not None
    fits = not offers.stores_logits and fitting_row_blocks(linear, max_bytes) is not None
    if not (by_kernel or fits):

        def statistics(
            rows: Rows, requested: Requested, implementation: str | None
        ) -> RowStatistics:
            return part_statistics(rows, None, requested, implementation, max_bytes)

        return _pair(cross_entropy_from(statistics, rows, _with_terms(keywords, terms, "sum")))

    row_shape = rows.logits.shape[:-1]
    linear, terms = reverse_mode_only(pvary_all((linear, terms)), _NO_FORWARD_MODE)
    linear, _, unpack = pack_kept_rows(linear)
    if by_kernel:

        def statistics(
            rows: Rows, requested: Requested, implementation: str | None
        ) -> RowStatistics:
            # The returned statistics are those without class weights.
            weights = None if rows.class_weights is None else linear.class_weights
            packed = linear._replace(class_weights=weights)
            stats = statistics_with_kernel_gradients(packed, requested, implementation, max_bytes)
            return restore_rows(unpack(stats), row_shape)

        return _pair(cross_entropy_from(statistics, rows, _with_terms(keywords, terms, "sum")))

    def losses(rows: Rows, terms: Terms, _: Any) -> tuple[Loss, SoftmaxStats | None]:
        return _pair(cross_entropy(rows, _with_terms(keywords, terms, "none")))

    result: Any = sum_of_losses(linear, terms, (), losses, max_bytes)
    total, stats = result
    stats = without_derivative(stats, _NO_DERIVATIVE)
    return total, restore_rows(unpack(stats), row_shape)


_NO_DERIVATIVE = (
    "return_stats: expected no derivative of the statistics with gradients_in_forward=True"
)
_NO_FORWARD_MODE = "gradients_in_forward: expected False in forward mode (jvp, jacfwd), got True"


def _with_terms(keywords: Keywords, terms: Terms, reduction: str) -> Keywords:
    smoothing, z_loss = terms
    return replace(keywords, label_smoothing=smoothing, z_loss=z_loss, reduction=reduction)


def _pair(result: Loss | LossAndStats) -> tuple[Loss, SoftmaxStats | None]:
    return result if isinstance(result, tuple) else (result, None)
