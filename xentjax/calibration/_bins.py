"""Bins of confidences: their edges, and the sums over the rows of each."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.sums import accurate_segment_sum


class BinSums(NamedTuple):
    """Totals over the rows of each bin."""

    edges: Float[Array, "*batch b1"]
    counts: Int[Array, "*batch b"]
    hits: Int[Array, "*batch b"]
    confidence: Float[Array, "*batch b"]


def bin_sums(
    confidence: Float[Array, " n"],
    hit: Bool[Array, " n"],
    keep: Bool[Array, " n"],
    bad: Bool[Array, " n"],
    num_bins: int,
    binning: str,
) -> BinSums:
    """Sum the kept rows by bin: (lo, hi] for each bin, and [0, hi] for the first.

    A bad row makes its bin's sum of confidences NaN.
    """
    known = jnp.where(keep & ~jnp.isnan(confidence), confidence, 0)
    edges = (
        equal_width(num_bins, known) if binning == "width" else equal_mass(num_bins, known, keep)
    )
    index = jnp.searchsorted(edges[1:-1], jax.lax.stop_gradient(known)).astype(jnp.int32)
    index = jnp.where(keep, index, num_bins)  # the index of no bin
    return BinSums(
        edges=edges,
        counts=jax.ops.segment_sum(keep.astype(jnp.int32), index, num_bins),
        hits=jax.ops.segment_sum(hit.astype(jnp.int32), index, num_bins),
        confidence=accurate_segment_sum(known + nan_unless(~bad, known.dtype), index, num_bins),
    )


def equal_width(num_bins: int, like: Float[Array, " n"]) -> Float[Array, " b1"]:
    """Return 0, 1/B, ..., 1, each rounded once to the dtype."""
    return jnp.asarray(np.arange(num_bins + 1) / num_bins, like.dtype)


def equal_mass(
    num_bins: int, confidence: Float[Array, " n"], keep: Bool[Array, " n"]
) -> Float[Array, " b1"]:
    """Return 0, the ceil(j N / B)-th smallest confidence for j = 1..B-1, and 1.

    With observed confidences as edges, equal confidences share a bin in any order of the rows.
    """
    ascending = jnp.sort(jnp.where(keep, jax.lax.stop_gradient(confidence), jnp.inf))
    with jax.enable_x64(True):  # j N may not fit in 32 bits, nor the square of the number of bins
        j = jnp.arange(1, num_bins, dtype=jnp.int64)
        rank = (j * keep.sum(dtype=jnp.int64) + num_bins - 1) // num_bins
        rank = rank.astype(jnp.int32)
    inner = ascending.at[jnp.maximum(rank - 1, 0)].get(mode="clip")
    ends = jnp.asarray([0, 1], confidence.dtype)
    return jnp.concatenate([ends[:1], inner, ends[1:]])
