"""Divergences between the softmaxes of two linear heads, for distillation without stored logits."""

from typing import SupportsIndex

from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_whole
from xentjax._core.checks import check_choice, check_flag
from xentjax._core.choices import Reduction
from xentjax.heads._arguments import (
    check_max_bytes,
    check_without_kernel,
    layer_rows,
    target_rows,
    with_scalars,
)
from xentjax.heads._two_heads import JS, KL, divergence_of_heads
from xentjax.losses._keywords import Scalar, scalar_keywords
from xentjax.ops import Implementation
from xentjax.ops.linear.two_heads import Divergence, Heads, Settings

_WEIGHT = Scalar("weight", "a number in [0, 1]", lambda w: 0 <= w <= 1, None)


def linear_kl_divergence(
    target_x: ArrayLike,
    target_kernel: ArrayLike,
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    target_bias: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reverse: bool = False,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """KL divergence of the softmax of a linear head from that of a target head, in nats.

        loss = sum_k p_k log(p_k / q_k),    or with `reverse`    sum_k q_k log(q_k / p_k),

        p = softmax(target_x @ target_kernel + target_bias),    q = softmax(x @ kernel + bias)

    The logits of both heads exist a tile at a time; they are never stored whole. With the reduction
    "sum" or "mean" a gradient is made while its tile is there, so that no logits are computed
    twice, unless the classes are split or so many that `max_bytes` holds too few rows. Nothing is
    computed for the gradient of a head that is not differentiated: `jax.lax.stop_gradient` freezes
    the target. All modes and orders of differentiation work.

    Exactly 0 for equal heads, never negative, and where they are close as accurate as the rounding
    of their logits allows. This is the divergence itself, without a factor T^2.

    A class whose logit is -inf on both sides contributes nothing; +inf where p_k > 0 = q_k.

    Args:
        target_x: features of the target head, [..., D'], floating. D' and the dtype may differ from
            those of `x`.
        target_kernel: [D', K], floating.
        x: features, [..., D], floating, with the leading axes of `target_x`. Half precision is
            multiplied in half precision and accumulated in float32.
        kernel: [D, K], floating.
        target_bias: [K], floating, or None for no bias.
        bias: [K], floating, or None for no bias.
        where: bool. [..., K] masks classes (a masked class leaves both pmfs), [...] masks rows. A
            masked row, or one with no class left, has loss 0, leaves the mean and costs no products
            on one device.
        logit_soft_cap: c > 0, replaces each logit a of both heads by c tanh(a / c).
        temperature: T > 0, divides the logits of both after the cap.
        reverse: whether the roles of p and q are exchanged.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`: each passes its slice of both kernels, both biases and
            `where`, which masks the padding of the last slices. None if each has the whole kernels.
        max_bytes: bound on the logits of both heads that are in memory at a time; None is 16 MiB to
            256 MiB.
        implementation: "xla" or "reference", which stores the logits; None is XLA.

    Returns:
        The divergence, float32 (float64 if an `x` or kernel is): one per row, [...], or a scalar.
        NaN in a row with a NaN logit, or whose logits are all -inf on one side.

    Raises:
        TypeError: an array of the wrong dtype, or `reverse` other than True or False.
        NotImplementedError: the name of a kernel.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> target_x, target_kernel = jnp.ones((1, 1)), jnp.log(jnp.array([[0.5, 0.5]]))
        >>> x, kernel = jnp.ones((1, 2)), jnp.log(jnp.array([[0.25, 0.75], [1.0, 1.0]]))
        >>> print(xentjax.linear_kl_divergence(target_x, target_kernel, x, kernel))
        [0.1438...]

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015),
    arXiv:1503.02531.
    """
    check_flag("reverse", reverse)
    heads, settings = _parse(
        KL, None, target_x, target_kernel, x, kernel, target_bias, bias, where, logit_soft_cap,
        temperature, reduction, axis_name, max_bytes, implementation,
    )  # fmt: skip
    if reverse:
        heads = Heads(heads.q, heads.p)
    return divergence_of_heads(heads, settings, reduction)


def linear_js_divergence(
    target_x: ArrayLike,
    target_kernel: ArrayLike,
    x: ArrayLike,
    kernel: ArrayLike,
    *,
    target_bias: ArrayLike | None = None,
    bias: ArrayLike | None = None,
    where: ArrayLike | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    weight: ArrayLike = 0.5,
    reduction: Reduction = "none",
    axis_name: AxisName | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Jensen-Shannon divergence of the softmaxes of two linear heads, in nats.

        loss = w KL(p || m) + (1 - w) KL(q || m),    m = w p + (1 - w) q,

        p = softmax(target_x @ target_kernel + target_bias),    q = softmax(x @ kernel + bias)

    It is exactly 0 for equal heads, and at most the entropy of (w, 1 - w), log 2 at w = 1/2, also
    where the supports differ. Divided by w (1 - w) it goes to KL(p || q) as w goes to 0 and to
    KL(q || p) as w goes to 1, so w leads from one to the other. Memory, derivatives and the
    arguments that are not listed are those of `linear_kl_divergence`.

    Args:
        target_x: features of the target head, [..., D'], floating.
        target_kernel: [D', K], floating.
        x: features, [..., D], floating, with the leading axes of `target_x`.
        kernel: [D, K], floating.
        target_bias: [K], floating, or None for no bias.
        bias: [K], floating, or None for no bias.
        where: bool. [..., K] masks classes, [...] masks rows.
        logit_soft_cap: c > 0, replaces each logit a of both heads by c tanh(a / c).
        temperature: T > 0, divides the logits of both after the cap.
        weight: w of the target's pmf in [0, 1]; 0 and 1 give 0. Differentiable.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        axis_name: the mesh axis (or axes) over which the classes are split.
        max_bytes: bound on the logits of both heads that are in memory at a time.
        implementation: "xla" or "reference", which stores the logits; None is XLA.

    Returns:
        The divergence, float32 (float64 if an `x` or kernel is): one per row, [...], or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: the name of a kernel.
        ValueError: as in `linear_kl_divergence`.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x, kernel = jnp.ones((1, 1)), jnp.array([[100.0, 0.0]])
        >>> print(xentjax.linear_js_divergence(x, kernel, -x, kernel))
        [0.6931...]

    Source: J. Lin, "Divergence measures based on the Shannon entropy", IEEE Transactions on
    Information Theory 37 (1991); for distillation, Agarwal et al., On-Policy Distillation of
    Language Models (2024), arXiv:2306.13649.
    """
    heads, settings = _parse(
        JS, weight, target_x, target_kernel, x, kernel, target_bias, bias, where, logit_soft_cap,
        temperature, reduction, axis_name, max_bytes, implementation,
    )  # fmt: skip
    return divergence_of_heads(heads, settings, reduction)


def _parse(
    divergence: Divergence,
    weight: ArrayLike | None,
    target_x: ArrayLike,
    target_kernel: ArrayLike,
    x: ArrayLike,
    kernel: ArrayLike,
    target_bias: ArrayLike | None,
    bias: ArrayLike | None,
    where: ArrayLike | None,
    logit_soft_cap: ArrayLike | None,
    temperature: ArrayLike,
    reduction: str,
    axis_name: AxisName | None,
    max_bytes: SupportsIndex | None,
    implementation: str | None,
) -> tuple[Heads, Settings]:
    """Check the arguments once."""
    check_choice("reduction", reduction, Reduction)
    check_without_kernel(implementation)
    max_bytes = check_max_bytes(max_bytes)
    rows, split = layer_rows(x, kernel, bias, where, axis_name, None)
    target, rows = target_rows(rows, split, target_x, target_kernel, target_bias)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    target = target._replace(scalars=rows.scalars)
    parsed = None
    if divergence is JS:
        (parsed,) = scalar_keywords(rows.logits.dtype, (_WEIGHT, weight))
    if split is not None:
        axis_name = split.axis_name
        check_whole(axis_name, weight=parsed)
    settings = Settings(divergence, implementation, axis_name, max_bytes)
    return Heads(target, rows, parsed), settings
