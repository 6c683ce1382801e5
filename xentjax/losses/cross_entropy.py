"""Softmax cross-entropy of logits against class indices or probabilities."""

from typing import Literal, SupportsIndex, overload

import jax
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_whole
from xentjax._core.checks import check_array
from xentjax._core.choices import Reduction
from xentjax.losses._arguments import (
    Axis,
    check_labels,
    logits_rows,
    with_indices,
    with_targets,
)
from xentjax.losses._formula import SoftmaxStats as SoftmaxStats, cross_entropy_from
from xentjax.losses._keywords import Keywords, with_keywords
from xentjax.losses._split import SplitClasses, own_shard, split_classes
from xentjax.ops import Implementation, Requested, Rows, RowStatistics, row_statistics
from xentjax.ops.sharded import merged_statistics

Loss = Float[Array, "..."]
LossAndStats = tuple[Float[Array, "..."], SoftmaxStats]


# fmt: off
@overload
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None, *,
    class_weights: ArrayLike | None = None, label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0, logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[False] = False,
    axis_name: AxisName | None = None, num_classes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss: ...
@overload
def softmax_cross_entropy(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None, *,
    class_weights: ArrayLike | None = None, label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0, logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[True], axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, implementation: Implementation | None = None,
) -> LossAndStats: ...
# fmt: on
def softmax_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: Reduction = "none",
    return_stats: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss | LossAndStats:
    """Cross-entropy of target probabilities t and softmax(logits), in nats.

    With a = c tanh(logits / c) / temperature (a soft cap c), p = softmax(a) and smoothing e::

        loss = sum_k w_k ((1-e) t_k + e/K) (-log p_k) + z_loss (log sum_k exp a_k)^2

    The targets are used as they are: nothing is normalised. A class whose -log p_k is infinite
    costs 0 without target mass and +inf with it. The loss is differentiable in logits, labels,
    class weights and scalars, in every mode and to every order.

    With `axis_name`, devices exchange a few numbers per row, never logits, and each gets the whole
    loss. Gradients are right whether `jax.grad` is called outside of `shard_map` or inside (inside,
    `shard_map` needs its default `check_vma=True`). A "sum" or "mean" is over the rows of the
    device: if another mesh axis splits the rows, use "none" and reduce outside.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: target probabilities (or one-hot rows of any dtype) of the logits' shape; they may
            broadcast over rows.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class is left
            out of the softmax and its target mass is dropped), with the rows' number of dimensions
            it masks rows. A masked row, or one with no class left, has loss 0 and is left out of
            the mean.
        class_weights: w, shape [K]; 1 if None.
        label_smoothing: e in [0, 1], spread over the K classes that `where` keeps.
        z_loss: weight of the squared log normaliser, >= 0.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        return_stats: also return the `SoftmaxStats` of each row.
        axis_name: the mesh axis (or axes, the last one fastest) over which the classes are split
            inside `jax.shard_map`; None if every device has whole rows. Device i passes its slice
            of logits, `where` and labels, which starts at class i K_local; class weights are those
            of all K classes.
        num_classes: K, if the last slices are padded to K_local: columns from K on are no classes
            and may hold anything. None means K_local times the size of the axis.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The loss, float32 (float64 for float64 logits): one per row, or a scalar. With
        `return_stats` the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> labels = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
        >>> print(xentjax.softmax_cross_entropy(logits, labels).round(4))
        [0.6931 0.9486]

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.3; smoothing:
    Szegedy et al. (2016), arXiv:1512.00567; split classes: Shoeybi et al., Megatron-LM (2019),
    arXiv:1909.08053, section 3.
    """
    rows, classes = logits_rows(logits, axis, where)
    labels = check_array("labels", labels)
    rows, split = split_classes(rows, axis_name, num_classes, logits=rows.logits, labels=labels)
    rows = with_targets(rows, classes, labels)
    rows, keywords = with_keywords(
        rows,
        split,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_soft_cap=logit_soft_cap,
        temperature=temperature,
        reduction=reduction,
        return_stats=return_stats,
        implementation=implementation,
    )
    return cross_entropy(rows, keywords, split)


# optax has a second function, for logits of -inf; the function above handles them itself.
safe_softmax_cross_entropy = softmax_cross_entropy


# fmt: off
@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None, *,
    ignore_index: int | None = None, class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0, z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[False] = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, implementation: Implementation | None = None,
) -> Loss: ...
@overload
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike, labels: ArrayLike, axis: Axis = -1, where: ArrayLike | None = None, *,
    ignore_index: int | None = None, class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0, z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[True], axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, implementation: Implementation | None = None,
) -> LossAndStats: ...
# fmt: on
def softmax_cross_entropy_with_integer_labels(
    logits: ArrayLike,
    labels: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: Reduction = "none",
    return_stats: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss | LossAndStats:
    """Cross-entropy of class indices y and softmax(logits), in nats.

    With a = c tanh(logits / c) / temperature (a soft cap c), p = softmax(a) and smoothing e::

        loss = (1-e) w_y (-log p_y) + (e/K) sum_k w_k (-log p_k) + z_loss (log sum_k exp a_k)^2

    A label outside 0..K-1, negative or not, that is not `ignore_index` makes the loss and gradient
    of its row NaN and affects no other row. A label on a masked class costs +inf.

    With `axis_name`, devices exchange a few numbers per row, never logits, and each gets the whole
    loss. Gradients are right whether `jax.grad` is called outside of `shard_map` or inside (inside,
    `shard_map` needs its default `check_vma=True`). A "sum" or "mean" is over the rows of the
    device: if another mesh axis splits the rows, use "none" and reduce outside.

    Args:
        logits: real array, K classes along `axis`. Half precision is computed in float32.
        labels: integers in 0..K-1, the logits' shape without `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes; a label then counts
            through them in the order given, the last one fastest.
        where: bool. With the logits' number of dimensions it masks classes (a masked class is left
            out of the softmax), with the rows' number of dimensions it masks rows. A masked row, or
            one with no class left, has loss 0 and is left out of the mean.
        ignore_index: a label whose rows have loss 0 and are left out of the mean; None for no such
            label.
        class_weights: w, shape [K]; 1 if None.
        label_smoothing: e in [0, 1], spread over the K classes that `where` keeps.
        z_loss: weight of the squared log normaliser, >= 0.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "none", "sum", or "mean": the sum divided by the kept rows' sum of w_y (0 if
            that is 0).
        return_stats: also return the `SoftmaxStats` of each row.
        axis_name: the mesh axis (or axes, the last one fastest) over which the classes are split
            inside `jax.shard_map`; None if every device has whole rows. Device i passes its slice
            of logits and `where`, which starts at class i K_local; class weights and labels refer
            to all K classes.
        num_classes: K, if the last slices are padded to K_local: columns from K on are no classes
            and may hold anything. None means K_local times the size of the axis.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The loss, float32 (float64 for float64 logits): one per row, or a scalar. With
        `return_stats` the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> labels = jnp.array([0, -100])
        >>> print(xentjax.softmax_cross_entropy_with_integer_labels(logits, labels).round(4))
        [0.6931    nan]
        >>> loss = xentjax.softmax_cross_entropy_with_integer_labels(
        ...     logits, labels, ignore_index=-100, reduction="mean"
        ... )
        >>> print(loss.round(4))
        0.6931

        Classes split over the devices of a mesh:

        >>> from jax.sharding import Mesh, PartitionSpec as P
        >>> mesh = Mesh(jax.devices()[:1], ("classes",))
        >>> loss = xentjax.softmax_cross_entropy_with_integer_labels
        >>> split_loss = jax.shard_map(
        ...     lambda x, y: loss(x, y, axis_name="classes"),
        ...     mesh=mesh,
        ...     in_specs=(P(None, "classes"), P()),
        ...     out_specs=P(),
        ... )
        >>> print(jax.jit(split_loss)(logits, jnp.array([0, 2])).round(4))
        [0.6931 0.6931]

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.3; smoothing:
    Szegedy et al. (2016), arXiv:1512.00567; split classes: Shoeybi et al., Megatron-LM (2019),
    arXiv:1909.08053, section 3.
    """
    rows, _ = logits_rows(logits, axis, where)
    rows, split = split_classes(rows, axis_name, num_classes, logits=rows.logits)
    labels, ignore_index = check_labels(labels, ignore_index)
    if split is not None:
        check_whole(split.axis_name, labels=labels)
    rows = with_indices(rows, labels, ignore_index)
    rows, keywords = with_keywords(
        rows,
        split,
        class_weights=class_weights,
        label_smoothing=label_smoothing,
        z_loss=z_loss,
        logit_soft_cap=logit_soft_cap,
        temperature=temperature,
        reduction=reduction,
        return_stats=return_stats,
        implementation=implementation,
    )
    return cross_entropy(rows, keywords, split)


def cross_entropy(
    rows: Rows, keywords: Keywords, split: SplitClasses | None = None
) -> Loss | LossAndStats:
    """Compute the loss of rows with class indices or target pmfs, from checked arguments."""
    if split is None:
        return _whole_rows_loss(rows, keywords)

    def statistics(rows: Rows, requested: Requested, implementation: str | None) -> RowStatistics:
        return merged_statistics(own_shard(rows, split), requested, split.axis_name, implementation)

    return cross_entropy_from(statistics, rows, keywords, split.kept)


@jax.jit
def _whole_rows_loss(rows: Rows, keywords: Keywords) -> Loss | LossAndStats:
    return cross_entropy_from(row_statistics, rows, keywords)
