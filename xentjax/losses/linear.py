"""Softmax cross-entropy of a linear layer whose logits are never stored whole."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, SupportsIndex, TypeVar, Unpack, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._checks import (
    check_bool,
    check_choice,
    check_flag,
    check_floating,
    check_index,
    fail,
)
from xentjax._varying import pvary_all
from xentjax.losses._arguments import (
    Classes,
    adjusted,
    are_indices,
    check_labels,
    check_names,
    class_weight_vector,
    integer_labels,
    masks,
    optional_scalar,
    soft_labels,
)
from xentjax.losses._expression import SoftmaxStats, reduce_total
from xentjax.losses.cross_entropy import (
    IntegerKeywords,
    Loss,
    LossAndStats,
    cross_entropy_from,
    cross_entropy_of_rows,
)
from xentjax.ops import Layer, Requested, Rows, RowStatistics, Target, backend
from xentjax.ops.blocks import flat_mask
from xentjax.ops.layer import LinearRows, with_logits
from xentjax.ops.linear.in_forward import fitting_row_blocks, sum_of_losses
from xentjax.ops.linear.reverse_mode import reverse_mode_statistics
from xentjax.ops.linear.statistics import linear_row_statistics
from xentjax.ops.rows import map_rows

T = TypeVar("T")


class _Keywords(IntegerKeywords, total=False):
    """The keywords that do not change what is returned; for the overloads only."""

    where: ArrayLike | None
    max_bytes: SupportsIndex | None
    gradients_in_forward: bool


@overload
def linear_softmax_cross_entropy(
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_stats: Literal[False] = False,
    **keywords: Unpack[_Keywords],
) -> Loss: ...
@overload
def linear_softmax_cross_entropy(
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    return_stats: Literal[True],
    **keywords: Unpack[_Keywords],
) -> LossAndStats: ...
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
    reduction: str = "none",
    return_stats: bool = False,
    max_bytes: SupportsIndex | None = None,
    gradients_in_forward: bool = False,
    implementation: str | None = None,
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

    Rows that do not count (`where`, `ignore_index`) are put last and cost no products, on one
    device and unless labels or masks of the logits' shape tie the rows to their places. A label
    outside 0..K-1 that is not `ignore_index` makes its row's loss and gradient NaN. A column of
    the kernel that holds NaN makes the gradient of x NaN even where its class is masked.

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
            64 rows of logits, and with "reference", gradients are computed as without it.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference" (which stores the logits);
            None takes the best one measured for the backend. In the forward pass "mosaic_tpu", and
            on Hopper "mosaic_gpu" for x and kernel of one half-precision dtype, make logits on the
            chip alone, whatever `max_bytes`; their gradients are those of "xla". The GPU's takes
            12 to 24 bytes for each row and 256 classes, and copies a kernel whose D or K is no
            multiple of 64. With `gradients_in_forward`, "mosaic_gpu" reads blocks of logits that
            XLA makes, and kernels of "mosaic_tpu" make the gradients of x, kernel and bias in the
            backward pass, in 10 N D K operations; the statistics keep their derivatives then.

    Returns:
        The loss, float32 (float64 if x or kernel is): one a row, or a scalar. With `return_stats`
        the pair (loss, SoftmaxStats).

    Raises:
        TypeError: an array of the wrong dtype, or forward mode with `gradients_in_forward`.
        NotImplementedError: a kernel's name on another backend, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> print(linear_softmax_cross_entropy(x, kernel, jnp.array([0, 2])).round(4))
        [0.6931 0.6931]

    Source: Wijmans et al., Cut Your Losses in Large-Vocabulary Language Models (2025),
    arXiv:2411.09009; gradients in the forward pass: Hsu et al., Liger Kernel (2024),
    arXiv:2410.10989.
    """
    linear, row_shape = linear_rows(x, kernel, bias, where)
    linear = with_labels(linear, row_shape, labels, ignore_index)
    linear = adjusted(linear, logit_soft_cap, temperature)
    _, num_classes = linear.logits.shape
    dtype = linear.logits.dtype
    linear = linear._replace(class_weights=class_weight_vector(class_weights, num_classes))
    smoothing = optional_scalar("label_smoothing", label_smoothing, 0.0, dtype)
    z_weight = optional_scalar("z_loss", z_loss, 0.0, dtype)
    check_names(reduction, implementation)
    check_flag("return_stats", return_stats)
    check_flag("gradients_in_forward", gradients_in_forward)
    if gradients_in_forward:
        check_choice("reduction (with gradients_in_forward)", reduction, ("sum", "mean"))
    try:
        result = _cross_entropy(
            linear,
            smoothing,
            z_weight,
            reduction=reduction,
            return_stats=return_stats,
            max_bytes=check_max_bytes(max_bytes),
            gradients_in_forward=gradients_in_forward,
            implementation=implementation,
        )
    except TypeError as error:
        if "forward-mode" not in str(error):
            raise
        raise TypeError(
            "gradients_in_forward: expected False in forward mode (jvp, jacfwd), got True"
        ) from None
    return in_shape(result, row_shape)


def linear_rows(
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None,
    where: ArrayLike | None,
    names: tuple[str, str] = ("kernel", "bias"),
) -> tuple[LinearRows, tuple[int, ...]]:
    """The checked layer under its masks, all leading axes joined, and the shape of those."""
    x, kernel = check_floating("x", x), check_floating(names[0], kernel)
    if x.ndim == 0:
        fail("x", "at least one axis, that of the features", "shape ()")
    if kernel.ndim != 2 or kernel.shape[0] != x.shape[-1] or kernel.shape[1] == 0:
        expected = f"shape ({x.shape[-1]}, K), the features of x by at least one class"
        fail(names[0], expected, f"shape {kernel.shape}")
    row_shape, num_classes = x.shape[:-1], kernel.shape[1]
    if bias is not None:
        bias = check_floating(names[1], bias)
        if bias.shape != (num_classes,):
            fail(names[1], f"one number a class, shape {(num_classes,)}", f"shape {bias.shape}")
    shape = (*row_shape, num_classes)
    if where is not None:
        where = check_bool("where", where)
        if where.ndim == len(shape) and where.shape[-1] == 1:  # all classes of a row or none
            where = where[..., 0]
    mask = masks(where, shape, (len(row_shape),))
    if mask.rows is not None:
        mask = mask._replace(rows=mask.rows.reshape(-1))
    if mask.classes is not None:
        mask = mask._replace(classes=flat_mask(mask.classes, shape))
    layer = Layer(x.reshape(math.prod(row_shape), x.shape[-1]), kernel, bias)
    return Rows(layer, mask=mask), row_shape


def with_labels(
    linear: LinearRows, row_shape: tuple[int, ...], labels: ArrayLike, ignore_index: int | None
) -> LinearRows:
    """The layer with class indices (rows to be ignored are masked) or with a target pmf a row."""
    _, num_classes = linear.logits.shape
    row_mask = linear.mask.rows
    labels = check_labels(labels, ignore_index)
    if are_indices(labels, row_shape, num_classes, ignore_index):
        row_mask = None if row_mask is None else row_mask.reshape(row_shape)
        labels, row_mask = integer_labels(labels, row_shape, row_mask, ignore_index)
        row_mask = None if row_mask is None else row_mask.reshape(-1)
        mask = linear.mask._replace(rows=row_mask)
        return linear._replace(target=Target(labels=labels.reshape(-1)), mask=mask)
    classes = Classes((*row_shape, num_classes), (len(row_shape),))
    pmf = soft_labels(labels, classes, linear.logits.x.dtype)
    return linear._replace(target=Target(pmf=pmf.reshape(-1, num_classes)))


def check_max_bytes(max_bytes: SupportsIndex | None) -> int | None:
    if max_bytes is not None and (max_bytes := check_index("max_bytes", max_bytes)) < 1:
        fail("max_bytes", "an integer >= 1 or None", max_bytes)
    return max_bytes


def in_shape(result: T, row_shape: tuple[int, ...]) -> T:
    """Losses and statistics with the leading axes that x came with."""
    return jax.tree.map(lambda a: a.reshape(row_shape) if a.ndim else a, result)


@partial(
    jax.jit,
    static_argnames=(
        "reduction",
        "return_stats",
        "max_bytes",
        "gradients_in_forward",
        "implementation",
    ),
)
def _cross_entropy(
    linear: LinearRows,
    label_smoothing: Float[Array, ""] | None,
    z_loss: Float[Array, ""] | None,
    *,
    reduction: str,
    return_stats: bool,
    max_bytes: int | None,
    gradients_in_forward: bool,
    implementation: str | None,
) -> Loss | LossAndStats:
    offers = backend(implementation)
    if offers.stores_logits:
        return cross_entropy_of_rows(
            with_logits(linear),
            label_smoothing,
            z_loss,
            reduction=reduction,
            return_stats=return_stats,
            implementation=implementation,
        )
    rows = linear
    linear, label_smoothing, z_loss = pvary_all((linear, label_smoothing, z_loss))
    linear, in_place = kept_first(linear)
    by_kernel = gradients_in_forward and offers.layer_gradients is not None
    in_forward = gradients_in_forward and not by_kernel
    if in_forward and fitting_row_blocks(linear, max_bytes) is not None:
        losses = partial(_losses_of_rows, return_stats=return_stats, implementation=implementation)
        result: Any = sum_of_losses(linear, (label_smoothing, z_loss), losses, max_bytes)
        total, stats = result
        loss = reduce_total(total, rows, reduction)
        return (loss, in_place(stats)) if return_stats else loss

    def statistics(requested: Requested) -> RowStatistics:
        statistics_of = reverse_mode_statistics if by_kernel else linear_row_statistics
        return in_place(statistics_of(linear, requested, implementation, max_bytes))

    return cross_entropy_from(
        statistics, rows, label_smoothing, z_loss, reduction=reduction, return_stats=return_stats
    )


def _losses_of_rows(
    rows: Rows, scalars: tuple[Any, Any], *, return_stats: bool, implementation: str | None
) -> tuple[Loss, SoftmaxStats | None]:
    result = cross_entropy_of_rows(
        rows,
        *scalars,
        reduction="none",
        return_stats=return_stats,
        implementation=implementation,
    )
    return result if isinstance(result, tuple) else (result, None)


def kept_first(linear: LinearRows) -> tuple[LinearRows, Callable[[Any], Any]]:
    """The rows that count before all others, whose blocks cost nothing; and what undoes it.

    Rows with arrays of the logits' size keep their places: moving those costs what it would save.
    """
    mask = linear.mask
    one_mask = mask.classes is None or mask.classes.shape[0] == 1
    apart = jax.device_count() > 1  # to sort rows that devices share is to gather them
    if mask.rows is None or linear.target.labels is None or not one_mask or apart:
        return linear, lambda tree: tree
    order = jnp.argsort(~mask.rows, stable=True)
    places = jnp.argsort(order)
    ordered = map_rows(lambda a: a if a.shape[0] == 1 else a[order], linear)
    return ordered, lambda tree: jax.tree.map(lambda a: a[places], tree)
