"""Softmax cross-entropy of a linear layer whose logits are never stored whole."""

from typing import Literal, SupportsIndex, overload

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName
from xentjax._core.checks import check_choice, check_flag, raise_value_error
from xentjax._core.choices import Reduction, ScalarReduction
from xentjax.heads._arguments import check_max_bytes, layer_rows, with_labels
from xentjax.heads._cross_entropy import jitted_loss_of_head, loss_of_head, loss_with_gradients
from xentjax.losses._keywords import with_keywords
from xentjax.losses.cross_entropy import Loss, LossAndStats
from xentjax.ops import Implementation


# fmt: off
@overload
def linear_softmax_cross_entropy(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    class_weights: ArrayLike | None = None, label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0, logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[False] = False,
    max_bytes: SupportsIndex | None = None, gradients_in_forward: bool = False,
    axis_name: AxisName | None = None, num_classes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss: ...
@overload
def linear_softmax_cross_entropy(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    class_weights: ArrayLike | None = None, label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0, logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: Reduction = "none", return_stats: Literal[True],
    max_bytes: SupportsIndex | None = None, gradients_in_forward: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, implementation: Implementation | None = None,
) -> LossAndStats: ...
# fmt: on
def linear_softmax_cross_entropy(
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    class_weights: ArrayLike | None = None,
    label_smoothing: ArrayLike = 0.0,
    z_loss: ArrayLike = 0.0,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: Reduction = "none",
    return_stats: bool = False,
    max_bytes: SupportsIndex | None = None,
    gradients_in_forward: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss | LossAndStats:
    """Cross-entropy of labels and softmax(x @ kernel + bias), in nats, tile by tile of the logits.

    The value and the keywords are those of `softmax_cross_entropy_with_integer_labels` (class
    indices) and `softmax_cross_entropy` (probabilities) of the logits x @ kernel + bias. Only a
    tile of them is in memory at a time; the tiles of a row merge by the monoid of (m, s)::

        m = max(m1, m2),    s = s1 exp(m1 - m) + s2 exp(m2 - m)

    A gradient computes the tiles a second time: 8 N D K floating-point operations instead of the
    6 N D K of stored logits, in every derivative mode and order. With `gradients_in_forward` the
    gradients are made while the forward pass has the tile: 6 N D K operations, the same values,
    but no forward mode (gradients of gradients are there). Half-precision products accumulate in
    float32.

    Masked rows (`where`, `ignore_index`) are put last and cost no matrix products, on one device
    and unless labels or masks of the logits' shape tie the rows to their places. A label
    outside 0..K-1 that is not `ignore_index` makes its row's loss and gradient NaN. A column of
    the kernel that holds NaN makes the gradient of x NaN even where its class is masked.

    With `axis_name` devices exchange a few numbers per row, as in `softmax_cross_entropy`, and each
    gets the whole loss. The gradient of x, which they share, is a sum over them: one all-reduce of
    its size. A gradient taken inside of `shard_map` needs its default `check_vma=True`.

    Args:
        x: features, floating [..., D].
        kernel: floating [D, K].
        labels: class indices in 0..K-1, integers [...], or target probabilities [..., K].
        bias: floating [K], or None for no bias.
        where: bool. [..., K] masks classes, [...] masks rows.
        ignore_index: a label whose rows have loss 0 and leave the mean; None for no such label.
        class_weights: w, floating [K]; 1 if None.
        label_smoothing: e in [0, 1], spread over the K classes that `where` keeps.
        z_loss: weight of the squared log normaliser, >= 0.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "none", "sum" or "mean": for class indices the sum divided by the kept rows' sum
            of w_y, for probabilities by the number of kept rows.
        return_stats: also return the `SoftmaxStats` of each row.
        max_bytes: about how many bytes tiles may take; arrays of the size of x, kernel and their
            gradients come on top where rows are reordered or gradients of half precision add up in
            float32. None takes a tenth of the logits in the forward pass, a quarter or a sixth for
            gradients, but 16 MiB to 256 MiB. Gradients under vmap take as much for each member of
            the batch.
        gradients_in_forward: make gradients in the forward pass; for "sum" and "mean". With
            `return_stats` the statistics then have no derivative. Where `max_bytes` is less than
            64 rows of logits, where Explicit mesh axes split the classes, and with "reference",
            gradients are computed as without it.
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`, None if each has the whole kernel. Device i passes its
            slice, the classes from i K_local on, of kernel, bias, `where` and probabilities; class
            indices and class weights count all K classes. Not with `gradients_in_forward`; there
            "reference" too goes tile by tile.
        num_classes: K, if the last slices are padded to K_local: from K on, columns are no classes
            and may hold any finite number. None is K_local times the size of the axis.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference" (which stores the logits);
            None is XLA on every platform so far. In the forward pass "mosaic_tpu", and
            on Hopper "mosaic_gpu" for x and kernel of one half-precision dtype, make logits on the
            chip alone, whatever `max_bytes`; their gradients are those of "xla". The GPU's takes
            12 to 24 bytes for each row and 256 classes, and copies a kernel whose D or K is no
            multiple of 64. With `gradients_in_forward`, "mosaic_gpu" reads blocks of logits that
            XLA makes, and kernels of "mosaic_tpu" make the gradients of x, kernel and bias in the
            backward pass, in 10 N D K operations; the statistics keep their derivatives then.

    Returns:
        The loss, float32 (float64 if x or kernel is): one per row, or a scalar. With `return_stats`
        the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype, or forward mode with `gradients_in_forward`.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> print(xentjax.linear_softmax_cross_entropy(x, kernel, jnp.array([0, 2])).round(4))
        [0.6931 0.6931]

        A kernel whose classes are split over the devices of a mesh:

        >>> from jax.sharding import Mesh, PartitionSpec as P
        >>> mesh = Mesh(jax.devices()[:1], ("classes",))
        >>> split_loss = jax.shard_map(
        ...     lambda *arrays: xentjax.linear_softmax_cross_entropy(*arrays, axis_name="classes"),
        ...     mesh=mesh,
        ...     in_specs=(P(), P(None, "classes"), P()),
        ...     out_specs=P(),
        ... )
        >>> print(jax.jit(split_loss)(x, kernel, jnp.array([0, 2])).round(4))
        [0.6931 0.6931]

    Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models (2025),
    arXiv:2411.09009; gradients in the forward pass: Hsu et al., Liger Kernel (2024),
    arXiv:2410.10989; split classes: Shoeybi et al., Megatron-LM (2019), arXiv:1909.08053.
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, num_classes)
    rows = with_labels(rows, split, labels, ignore_index)
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
    check_flag("gradients_in_forward", gradients_in_forward)
    if gradients_in_forward:
        check_choice("reduction (with gradients_in_forward)", reduction, ScalarReduction)
        if split is not None:
            raise_value_error("gradients_in_forward", "False with axis_name", True)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        return loss_of_head(rows, keywords, split, max_bytes)
    if gradients_in_forward:
        return loss_with_gradients(rows, keywords, max_bytes)
    return jitted_loss_of_head(rows, keywords, None, max_bytes)
