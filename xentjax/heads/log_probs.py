"""Log-probabilities of labels under a linear head, and the entropy of each row's softmax."""

from functools import partial
from typing import Literal, SupportsIndex, overload

import jax
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName
from xentjax._core.checks import check_flag
from xentjax.heads._arguments import (
    check_max_bytes,
    layer_rows,
    with_class_indices,
    with_scalars,
)
from xentjax.heads._statistics import head_statistics
from xentjax.losses._formula import mask_rows
from xentjax.losses._keywords import check_implementation
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Requested, Rows

LogProbs = Float[Array, "..."]


# fmt: off
@overload
def linear_log_probs(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    return_entropy: Literal[False] = False, axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> LogProbs: ...
@overload
def linear_log_probs(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    return_entropy: Literal[True], axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> tuple[LogProbs, LogProbs]: ...
# fmt: on
def linear_log_probs(
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    return_entropy: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> LogProbs | tuple[LogProbs, LogProbs]:
    """Log-probability of each row's label under softmax(x @ kernel + bias), tile by tile, in nats.

    With the logits a = x @ kernel + bias after soft cap and temperature, p = softmax(a)::

        log_prob = a_y - log sum_k exp(a_k),    entropy = -sum_k p_k log p_k

    Policy gradients, preference losses and perplexities are made of these two, and every derivative
    mode and order works. No log-probability is above 0, no entropy below 0. Only a tile of the
    logits is in memory at a time, and reverse mode keeps the inputs and a few numbers per row: it
    computes the tiles a second time, 8 N D K floating-point operations for value and gradient. A
    sum of losses of single rows takes 6 N D K with `linear_loss`. Half-precision products
    accumulate in float32.

    Masked rows cost no matrix products on one device, and devices that split the classes exchange a
    few numbers per row. Bad labels and logits do here what they do in
    `linear_softmax_cross_entropy`.

    Args:
        x: features, floating [..., D].
        kernel: floating [D, K].
        labels: class indices in 0..K-1, integers [...].
        bias: floating [K], or None for no bias.
        where: bool. [..., K] masks classes, [...] masks rows.
        ignore_index: a label whose rows are masked; None for no such label.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        return_entropy: also return the entropy of each row's softmax, which costs one more sum over
            each tile.
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`: each passes its slice of kernel, bias and `where`. None if
            each has the whole kernel.
        num_classes: K, if the last slices are padded; None is K_local times the size of the axis.
        max_bytes: about how many bytes tiles may take, as in `linear_softmax_cross_entropy`. None
            takes a tenth of the logits, a quarter for gradients, but 16 MiB to 256 MiB.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference" (which stores the logits);
            None is XLA on every platform so far. Gradients of the kernels are those of "xla".

    Returns:
        The log-probabilities, float32 [...] (float64 if x or kernel is), or with `return_entropy`
        the pair (log_probs, entropy); 0 in masked rows. A label outside 0..K-1 that is not
        `ignore_index` makes its log-probability NaN, and the gradient of its row.

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
        >>> labels = jnp.array([0, 1])
        >>> log_probs, entropy = xentjax.linear_log_probs(x, kernel, labels, return_entropy=True)
        >>> print(log_probs.round(4), entropy.round(4))
        [-0.6931 -1.3863] [1.0397 1.0397]

        The gradient of a policy of three actions, from the advantage of the one taken:

        >>> advantage = jnp.array([1.0, -2.0])
        >>> log_probs = lambda kernel: xentjax.linear_log_probs(x, kernel, labels)
        >>> policy = lambda kernel: -jnp.mean(advantage * log_probs(kernel))
        >>> print(jax.grad(policy)(kernel).round(2))
        [[-0.25  0.12  0.12]
         [-0.25  0.75 -0.5 ]]

    Source: Williams, Simple Statistical Gradient-Following Algorithms for Connectionist
    Reinforcement Learning, Machine Learning 8 (1992); tiles: Wijmans et al., Cut Your Losses in
    Large-Vocabulary Language Models (2025), arXiv:2411.09009.
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, num_classes)
    rows = with_class_indices(rows, split, labels, ignore_index)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    check_flag("return_entropy", return_entropy)
    check_implementation(implementation)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        return _log_probs(rows, split, return_entropy, implementation, max_bytes)
    return _jitted_log_probs(rows, None, return_entropy, implementation, max_bytes)


def _log_probs(
    rows: Rows,
    split: SplitClasses | None,
    return_entropy: bool,
    implementation: str | None,
    max_bytes: int | None,
) -> LogProbs | tuple[LogProbs, LogProbs]:
    requested = Requested(mean=return_entropy)
    stats = head_statistics(rows, split, requested, implementation, max_bytes)
    assert stats.label_logit is not None
    log_probs = mask_rows(stats.label_logit - stats.log_sum, rows)
    if stats.mean_logit is None:
        return log_probs
    return log_probs, mask_rows(stats.log_sum - stats.mean_logit, rows)


_jitted_log_probs = partial(jax.jit, static_argnums=(1, 2, 3, 4))(_log_probs)
