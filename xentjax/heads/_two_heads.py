"""Divergences of the softmaxes of two linear heads, on one device or on several."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import pvary_all
from xentjax.heads._arguments import join_rows, restore_rows
from xentjax.heads._explicit import Placement, placement_of
from xentjax.heads._statistics import pack_kept_rows
from xentjax.information.log_pmf import (
    divergence,
    divergence_terms,
    log_ratio,
    mixture,
    times_exp,
)
from xentjax.losses._formula import mask_rows, reduce_losses, reduce_total
from xentjax.ops import Rows, backend
from xentjax.ops.layer import with_logits
from xentjax.ops.linear.two_heads import (
    Divergence,
    Heads,
    Settings,
    Totals,
    paired_row_blocks,
    row_divergences,
    statistics_of_logits,
)
from xentjax.ops.linear.two_heads_sum import sum_of_divergences


def _kl_totals(log_p: Array, log_q: Array, weight: Any) -> Totals:
    del weight
    return (divergence(log_p, log_q),)


def _kl_slopes(log_p: Array, log_q: Array, totals: Totals, weight: Any) -> tuple[Array, Array]:
    """Compute p (log(p / q) - KL) and q - p."""
    del weight
    relative = log_ratio(log_p, log_q) - totals[0][:, None]
    return times_exp(relative, log_p), jnp.exp(log_q) - jnp.exp(log_p)


KL = Divergence(
    totals=_kl_totals,
    value=lambda totals, weight: totals[0],
    slopes=_kl_slopes,
    arrays=5,
)
"""KL(p || q)."""


def _js_totals(log_p: Array, log_q: Array, weight: Array) -> Totals:
    """Compute KL(p || m) and KL(q || m) for the mixture m = w p + (1 - w) q."""
    log_m, p_ratio, q_ratio = mixture(log_p, log_q, weight)
    p_terms = divergence_terms(-p_ratio, log_p, log_m)
    q_terms = divergence_terms(-q_ratio, log_q, log_m)
    return p_terms.sum(-1), q_terms.sum(-1)


def _js_value(totals: Totals, weight: Array) -> Array:
    p_total, q_total = totals
    share = jnp.broadcast_to(weight, p_total.shape)
    return multiply_no_nan(p_total, share) + multiply_no_nan(q_total, 1 - share)


def _js_slopes(log_p: Array, log_q: Array, totals: Totals, weight: Array) -> tuple[Array, Array]:
    """Compute w p (log(p / m) - KL(p || m)), and the same for q with 1 - w."""
    _, p_ratio, q_ratio = mixture(log_p, log_q, weight)
    p_total, q_total = (total[:, None] for total in totals)
    share = jnp.broadcast_to(weight, log_p.shape)
    p_slope = times_exp(-p_ratio - p_total, log_p)
    q_slope = times_exp(-q_ratio - q_total, log_q)
    return multiply_no_nan(p_slope, share), multiply_no_nan(q_slope, 1 - share)


JS = Divergence(
    totals=_js_totals,
    value=_js_value,
    slopes=_js_slopes,
    arrays=7,
)
"""w KL(p || m) + (1 - w) KL(q || m)."""


def divergence_of_heads(heads: Heads, settings: Settings, reduction: str) -> Float[Array, "..."]:
    """Compute the divergence of each row, or their sum or mean; rows may have several axes."""
    if settings.axis_name is not None:
        return _divergence(heads, settings, reduction)
    return _jitted_divergence(heads, settings, reduction)


def _divergence(heads: Heads, settings: Settings, reduction: str) -> Float[Array, "..."]:
    (p, q, weight), kept = heads, heads.q.mask.rows
    placement = Placement()
    if settings.axis_name is None:
        placement = placement_of(p, q)
        settings = settings._replace(axis_name=placement.classes)
    stored = backend(settings.implementation).stores_logits

    if reduction == "none" or stored or settings.axis_name is not None:

        def losses_of_part(rows: tuple[Rows, Rows], _: Any, weight: Array | None) -> Array:
            return _losses(Heads(*rows, weight), settings)

        out_specs = P(*placement.rows)
        losses = placement.over_devices(losses_of_part, (p, q), weight, out_specs=out_specs)
        return reduce_losses(losses, reduction, None, kept)

    def sum_of_part(rows: tuple[Rows, Rows], _: Any, weight: Array | None) -> Array:
        return placement.sum_over_rows(_total(Heads(*rows, weight), settings))

    total = placement.over_devices(sum_of_part, (p, q), weight, out_specs=P())
    return reduce_total(total, reduction, q.logits.shape[:-1], None, kept)


_jitted_divergence = partial(jax.jit, static_argnums=(1, 2))(_divergence)


def _losses(heads: Heads, settings: Settings) -> Float[Array, "..."]:
    """Compute the divergence of each row on this device, with the leading axes of x."""
    row_shape = heads.q.logits.shape[:-1]
    joined = Heads(join_rows(heads.p), join_rows(heads.q), heads.weight)
    if backend(settings.implementation).stores_logits and settings.axis_name is None:
        rows = with_logits(joined.p), with_logits(joined.q)
        totals = statistics_of_logits(*rows, heads.weight, settings).totals
        losses = settings.divergence.value(totals, heads.weight)
    else:
        (p, q), unpack = _packed(joined)
        losses = unpack(row_divergences(Heads(p, q, heads.weight), settings))
    return restore_rows(mask_rows(losses, joined.q), row_shape)


def _total(heads: Heads, settings: Settings) -> Float[Array, ""]:
    """Compute the sum of the divergences on this device."""
    joined = Heads(join_rows(heads.p), join_rows(heads.q), heads.weight)
    (p, q), _ = _packed(joined)
    packed = pvary_all(Heads(p, q, heads.weight))
    if paired_row_blocks(packed, settings) is not None:
        return sum_of_divergences(packed, settings)
    return jnp.sum(mask_rows(row_divergences(packed, settings), packed.q))


def _packed(heads: Heads) -> tuple[tuple[Rows, Rows], Any]:
    """Return both heads with masked rows at the end, and the way back."""
    p, q = pvary_all(heads[:2])
    (p, _, unpack), (q, *_) = pack_kept_rows(p), pack_kept_rows(q)
    return (p, q), unpack
