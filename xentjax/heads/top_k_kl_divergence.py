"""KL divergence of a linear head from the stored top-k log-probabilities of a teacher."""

from functools import partial
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_whole
from xentjax._core.checks import (
    check_choice,
    check_flag,
    check_floating,
    concrete,
    raise_value_error,
)
from xentjax._core.choices import Reduction
from xentjax._core.dtypes import compute_dtype, to_signed
from xentjax._core.labels import parse_indices
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import sharded_alike
from xentjax.heads._arguments import (
    check_max_bytes,
    check_without_kernel,
    layer_rows,
    with_scalars,
)
from xentjax.heads._chosen import head_choice
from xentjax.heads.top_k import TopK
from xentjax.information.log_pmf import divergence, log_softmax
from xentjax.losses._formula import reduce_losses
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Rows
from xentjax.ops.linear.given import Given


def linear_top_k_kl_divergence(
    target: TopK,
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reverse: bool = False,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """KL divergence of softmax(x @ kernel + bias) from a pmf with k known classes, in nats.

    The known classes c_1..c_k of a row, with probabilities p = exp(target.log_probs), and all other
    classes together are k + 1 outcomes::

        loss = sum_j p_j log(p_j / q_j) + p_rest log(p_rest / q_rest),
        p_rest = 1 - sum_j p_j,    q_j = softmax(a)_(c_j),    q_rest = sum_(other k) softmax(a)_k

    It is a KL divergence: never negative, 0 only where all k + 1 probabilities are equal, and never
    above the KL divergence over all K classes, of which it is a lower bound that is exact for
    k = K - 1. (A sum over the k classes alone is none of these.) q_rest is summed over its own
    classes, so it keeps its digits where the k classes have nearly all probability. Only a tile of
    the logits is in memory at a time; every derivative mode and order is there, in `target` too.

    p_rest is known to the rounding of the stored log-probabilities. Where the other classes cannot
    occur (k = K, or all their logits are -inf), so much of it costs nothing. With `reverse` the
    loss is +inf where the head leaves something to the rest and the target leaves nothing. The
    derivative in `target` through p_rest = 0 is left out.

    This is the divergence itself, without a factor T^2.

    Args:
        target: `TopK(log_probs, indices)`, floating and integers, each [..., k], as `linear_top_k`
            of a teacher returns them, at the same temperature. Index -1 with log-probability -inf
            is no class. The order does not matter.
        x: features, floating [..., D].
        kernel: floating [D, K].
        bias: floating [K], or None for no bias.
        where: bool. [..., K] masks classes of the head, [...] masks rows. A masked row, or one with
            no class left, has loss 0, leaves the mean and costs no products on one device.
        logit_soft_cap: c > 0 for the head's logits, or None for no cap.
        temperature: > 0, divides the head's logits after the soft cap.
        reverse: whether the roles of p and q are exchanged.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`: each passes its slice of kernel, bias and `where`, which
            masks the padding of the last slices. Indices count all classes. Devices exchange k and
            a few more numbers per row.
        max_bytes: about how many bytes tiles may take. None takes a tenth of the logits, a quarter
            for gradients, but 16 MiB to 256 MiB.
        implementation: "xla" or "reference" (which stores the logits); None is "xla".

    Returns:
        The divergence, float32 (float64 if `target.log_probs`, x or kernel is): one a row, or a
        scalar. +inf where p_j > 0 = q_j. NaN in a row with a NaN logit, or whose logits are all
        -inf, and in one whose target is none: an index twice or outside 0..K-1, or probabilities
        that sum to more than 1.

    Raises:
        TypeError: an array of the wrong dtype, a target that is no pair of arrays, or `reverse`
            other than True or False.
        NotImplementedError: the name of a kernel.
        ValueError: a shape, name or known scalar outside what is listed above, a known target that
            is none, or `axis_name` outside of `shard_map`, or an array split over it that should
            not be, or the reverse.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> target = xentjax.TopK(jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[3, 0]]))
        >>> x, kernel = jnp.ones((1, 1)), jnp.zeros((1, 4))
        >>> print(xentjax.linear_top_k_kl_divergence(target, x, kernel))  # (1/2, 1/4, rest 1/4)
        [0.1732...]

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015),
    arXiv:1503.02531; the bound is the log-sum inequality, Cover and Thomas, Elements of Information
    Theory (2006), section 2.7.
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, None)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    target = _checked_target(target, rows, split)
    check_flag("reverse", reverse)
    check_choice("reduction", reduction, Reduction)
    check_without_kernel(implementation)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        return _divergence(target, rows, split, reverse, reduction, implementation, max_bytes)
    return _jitted_divergence(target, rows, None, reverse, reduction, implementation, max_bytes)


def _checked_target(target: TopK, rows: Rows, split: SplitClasses | None) -> TopK:
    """Return the target's log-probabilities and indices, of known values ones that make a pmf."""
    if not isinstance(target, tuple | list) or len(target) != 2:
        raise TypeError(f"target: expected TopK(log_probs, indices), got {type(target).__name__}")
    log_probs = check_floating("target.log_probs", target[0])
    # -1 stands for no class, which an index that is too large does not.
    indices = to_signed(parse_indices("target.indices", target[1], bad=-2))
    row_shape, k = rows.logits.shape[:-1], log_probs.shape[-1:]
    if log_probs.shape[:-1] != row_shape or log_probs.ndim == 0 or k == (0,):
        expected = f"shape {row_shape} of the rows by at least one class"
        raise_value_error("target.log_probs", expected, f"shape {log_probs.shape}")
    if indices.shape != log_probs.shape:
        expected = f"the shape of target.log_probs, {log_probs.shape}"
        raise_value_error("target.indices", expected, f"shape {indices.shape}")
    num_classes = rows.logits.shape[-1] if split is None else split.num_classes
    if split is not None:
        arrays = {"target.log_probs": log_probs, "target.indices": indices}
        check_whole(split.axis_name, **arrays)
    values, classes, kept = concrete(log_probs), concrete(indices), rows.mask.rows
    kept = True if kept is None else concrete(kept)
    if values is not None and classes is not None and kept is not None:
        bad_classes, bad_sum = (kept & x for x in _faults(values, classes, num_classes, np))
        if bad_classes.any():
            row = tuple(map(int, np.argwhere(bad_classes)[0]))
            expected = f"in each row different classes in 0..{num_classes - 1}"
            got = f"{classes[row].tolist()} in row {row}"
            raise_value_error("target.indices", expected, got)
        if bad_sum.any():
            row = tuple(map(int, np.argwhere(bad_sum)[0]))
            total = np.exp(values[row].astype(np.float64)).sum()
            expected = "log-probabilities whose exponentials sum to at most 1"
            raise_value_error("target.log_probs", expected, f"the sum {total:.6g} in row {row}")
    return TopK(log_probs, indices)


def _faults(log_probs: Any, indices: Any, num_classes: int, numpy: Any = jnp) -> tuple[Any, Any]:
    """Which rows have indices that are not different classes, and which a sum above 1.

    Both for arrays of jax and, as `numpy`, for those of NumPy.
    """
    tolerance = 1e-4 + 4 * float(jnp.finfo(log_probs.dtype).eps)
    log_probs = log_probs.astype(compute_dtype(log_probs.dtype))
    classes = (indices >= 0) & (indices < num_classes)
    none = (indices == -1) & (log_probs == -numpy.inf)
    ordered = numpy.sort(indices, -1)
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    bad_classes = ~(classes | none).all(-1) | twice.any(-1)
    return bad_classes, numpy.exp(log_probs).sum(-1) > 1 + tolerance


def _divergence(
    target: TopK,
    rows: Rows,
    split: SplitClasses | None,
    reverse: bool,
    reduction: str,
    implementation: str | None,
    max_bytes: int | None,
) -> Float[Array, "..."]:
    num_classes = rows.logits.shape[-1] if split is None else split.num_classes
    kept, dtype = rows.mask.rows, compute_dtype(target.log_probs.dtype, rows.logits.dtype)
    if kept is not None:  # a masked row has no classes, and all of both pmfs is the rest
        each = jnp.broadcast_to(kept[..., None], target.indices.shape)
        each, log_probs, indices = sharded_alike(each, *target)
        target = TopK(jnp.where(each, log_probs, -jnp.inf), jnp.where(each, indices, -1))
    faults = _faults(*target, num_classes)
    indices = target.indices.astype(jnp.int32)
    head = head_choice(rows, split, (indices,), (), Given(), implementation, max_bytes)

    logits = jnp.concatenate([head.logits, head.log_sum[..., None]], -1).astype(dtype)
    bad_classes, bad_sum, valid = sharded_alike(*faults, jnp.any(logits > -jnp.inf, -1))
    invalid = nan_unless(valid & ~(bad_classes | bad_sum), dtype)
    log_q = log_softmax(logits + invalid[..., None])
    log_p, _ = sharded_alike(target.log_probs.astype(dtype), head.logits)
    eps = float(jnp.finfo(target.log_probs.dtype).eps)
    log_p_rest = _log_rest(log_p, eps, log_q[..., -1] == -jnp.inf)
    log_p = jnp.concatenate([log_p, log_p_rest[..., None]], -1)
    loss = divergence(log_q, log_p) if reverse else divergence(log_p, log_q)
    return reduce_losses(loss, reduction, None, kept)


_jitted_divergence = partial(jax.jit, static_argnums=(2, 3, 4, 5, 6))(_divergence)


def _log_rest(
    log_probs: Float[Array, "... k"], eps: float, impossible: Bool[Array, "..."]
) -> Float[Array, "..."]:
    """log(1 - sum_j p_j), -inf where it is not above 0, or where it is impossible, its rounding.

    1 - p of the largest is exact to its own size, and keeps what a sum near 1 has lost.
    """
    places = jax.lax.broadcasted_iota(jnp.int32, log_probs.shape, log_probs.ndim - 1)
    is_largest = places == jnp.argmax(log_probs, -1, keepdims=True).astype(jnp.int32)
    largest = jnp.sum(jnp.where(is_largest, log_probs, 0), -1)
    p = jnp.exp(log_probs)
    rest = -jnp.expm1(largest) - jnp.sum(jnp.where(is_largest, 0, p), -1)
    size = jnp.sum(p * (1 + jnp.where(p > 0, jnp.abs(log_probs), 0)), -1)
    impossible, least = sharded_alike(impossible, 4 * eps * size)
    some = rest > jnp.where(impossible, least, 0)
    return jnp.where(some, jnp.log(jnp.where(some, rest, 1)), -jnp.inf)
