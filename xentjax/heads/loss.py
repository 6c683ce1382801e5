"""A caller's loss of the row statistics of a linear head, with gradients made in forward."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, SupportsIndex, overload

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_whole
from xentjax._core.checks import (
    check_array,
    check_choice,
    check_flag,
    in_one_line,
    raise_value_error,
)
from xentjax._core.choices import ScalarReduction
from xentjax._core.varying import pvary, pvary_all, varying_axes
from xentjax.heads._arguments import (
    check_max_bytes,
    join_leading,
    join_rows,
    layer_rows,
    restore_rows,
    with_labels,
    with_scalars,
)
from xentjax.heads._explicit import placement_of
from xentjax.heads._reverse_mode import reverse_mode_only, without_derivative
from xentjax.heads._row_function import RowFunction, row_function
from xentjax.heads._statistics import pack_kept_rows, part_statistics
from xentjax.losses._formula import reduce_total, softmax_stats
from xentjax.losses._keywords import check_implementation
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Rows, backend, row_statistics
from xentjax.ops.linear.in_forward import fitting_row_blocks, sum_of_losses
from xentjax.ops.linear.kernel_gradients import statistics_with_kernel_gradients

Loss = Float[Array, ""]
LossFunction = Callable[..., Any]


# fmt: off
@overload
def linear_loss(
    loss: LossFunction, x: ArrayLike, kernel: ArrayLike, labels: ArrayLike,
    bias: ArrayLike | None = None, *, inputs: Sequence[Any] = (), has_aux: Literal[False] = False,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: ScalarReduction = "mean", axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss: ...
@overload
def linear_loss(
    loss: LossFunction, x: ArrayLike, kernel: ArrayLike, labels: ArrayLike,
    bias: ArrayLike | None = None, *, inputs: Sequence[Any] = (), has_aux: Literal[True],
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    reduction: ScalarReduction = "mean", axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> tuple[Loss, Any]: ...
# fmt: on
def linear_loss(
    loss: LossFunction,
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    inputs: Sequence[Any] = (),
    has_aux: bool = False,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    reduction: ScalarReduction = "mean",
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Loss | tuple[Loss, Any]:
    """Sum or mean over rows of a loss of your own, with its gradients made in the forward pass.

    The loss of a row is any function of the statistics of softmax(x @ kernel + bias) and of further
    numbers of that row::

        sum_n loss(stats_n, inputs_n),    stats = SoftmaxStats(log_normalizer, label_log_prob,
                                                               entropy, predicted)

    Once a row's statistics are known, so are the derivatives of its loss in them, and the gradients
    of x and kernel are made while the tile of logits is in memory: 6 N D K floating-point
    operations where the same from `linear_log_probs` takes 8 N D K. Only the statistics that the
    function uses are computed. With `lambda stats: -stats.label_log_prob` value and gradients are
    those of `linear_softmax_cross_entropy` with `gradients_in_forward`, bit for bit.

    The price is reverse mode alone, and no gradient of a gradient: `linear_log_probs` and
    `linear_softmax_cross_entropy` have every derivative. Losses that first sum over a sequence,
    as preference losses do, are functions of `linear_log_probs`.

    The function is traced with arrays of one row, n = 1, and applied to each: it cannot mix rows.
    Arrays that it closes over are shared by all rows and have gradients too; a function that
    changes with every call is compiled with every call outside of `jax.jit`.

    Tiles are computed a second time for gradients (8 N D K, or 10 N D K by the kernels of
    "mosaic_tpu") where `max_bytes` is less than 64 rows of logits, where the classes are split, by
    `axis_name` or Explicit mesh axes, with "reference" (which stores them), and where devices share
    an array that the function closes over, but not the rows, inside `jax.shard_map`.

    Args:
        loss: loss(stats, *inputs) -> [n], or with `has_aux` ([n], aux), a function of the
            `SoftmaxStats` of n rows and their inputs; aux is an array [n, ...] or a tree of them.
        x: features, floating [..., D].
        kernel: floating [D, K].
        labels: class indices in 0..K-1, integers [...], or target probabilities [..., K].
        bias: floating [K], or None for no bias.
        inputs: a sequence of arrays [..., *any], or trees of them, whose leading axes are those of
            x: advantages, log-probabilities of a reference. Floating ones have gradients. What the
            tokens of a sequence share, a [B], is `jnp.broadcast_to(a[:, None], (B, T))`.
        has_aux: whether `loss` returns auxiliary results of each row, which have no derivative.
        where: bool. [..., K] masks classes, [...] masks rows.
        ignore_index: a label whose rows are masked; None for no such label.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        reduction: "mean" over the rows that are not masked, or "sum".
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`: each passes its slice of kernel, bias, `where` and
            probabilities. None if each has the whole kernel.
        num_classes: K, if the last slices are padded; None is K_local times the size of the axis.
        max_bytes: about how many bytes tiles may take, as in `linear_softmax_cross_entropy`. None
            takes a sixth of the logits, but 16 MiB to 256 MiB.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference" (which stores the logits);
            None is XLA on every platform so far.

    Returns:
        The loss, float32 (float64 if x or kernel is), 0 if no row is kept; with `has_aux` the pair
        (loss, aux), aux with the leading axes of x. Masked rows add nothing, cost no matrix
        products on one device, and their aux is 0. A label outside 0..K-1 that is not
        `ignore_index` makes the loss and its row's gradients NaN, whatever `loss` makes of it.

    Raises:
        TypeError: an array of the wrong dtype, forward mode, a gradient of a gradient or of aux, or
            a `loss` that returns something else.
        NotImplementedError: a kernel's name on another platform, a dtype that it does not take, or
            a `loss` that closes over arrays where Explicit mesh axes split x, kernel or labels.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        The clipped surrogate of proximal policy optimisation, with an entropy bonus:

        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> def surrogate(stats, advantage, old_log_prob):
        ...     ratio = jnp.exp(stats.label_log_prob - old_log_prob)
        ...     clipped = jnp.clip(ratio, 0.8, 1.2)
        ...     gain = jnp.minimum(ratio * advantage, clipped * advantage)
        ...     return -gain - 0.01 * stats.entropy, jnp.abs(ratio - clipped) > 0
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
        >>> actions, advantage = jnp.array([0, 1]), jnp.array([1.0, -2.0])
        >>> loss, was_clipped = xentjax.linear_loss(
        ...     surrogate,
        ...     x,
        ...     kernel,
        ...     actions,
        ...     inputs=(advantage, jnp.log(jnp.array([0.25, 0.25]))),
        ...     has_aux=True,
        ... )
        >>> print(loss.round(2), was_clipped)
        0.39 [ True False]

    Source: Schulman et al., Proximal Policy Optimization Algorithms (2017), arXiv:1707.06347;
    gradients in the forward pass: Hsu et al., Liger Kernel (2024), arXiv:2410.10989.
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, num_classes)
    rows = with_labels(rows, split, labels, ignore_index)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    inputs = _checked_inputs(inputs, rows.logits.shape[:-1], split)
    check_flag("has_aux", has_aux)
    check_choice("reduction", reduction, ScalarReduction)
    check_implementation(implementation)
    how = _How(has_aux, reduction, implementation, check_max_bytes(max_bytes))
    class_axes = frozenset() if split is None else frozenset(jax.tree.leaves(split.axis_name))
    trace = partial(
        row_function, loss, join_leading(inputs, rows.logits.shape[:-1]), rows.logits.dtype, has_aux
    )
    axes = varying_axes((rows, inputs)) - class_axes
    function, closed_over = trace(axes)
    if (
        more := varying_axes(closed_over) - axes - class_axes
    ):  # rows are shared where what it reads is not
        rows, inputs = pvary((rows, inputs), more)
        function, closed_over = trace(axes | more)
    if split is not None:
        return _loss(rows, closed_over, inputs, split, function, how)
    return _jitted_loss(rows, closed_over, inputs, None, function, how)


class _How(NamedTuple):
    has_aux: bool
    reduction: str
    implementation: str | None
    max_bytes: int | None


def _checked_inputs(
    inputs: Any, row_shape: tuple[int, ...], split: SplitClasses | None
) -> list[Any]:
    """Return the inputs as trees of arrays with the leading axes of the rows."""
    if not isinstance(inputs, tuple | list):
        raise TypeError(f"inputs: expected a tuple of arrays or trees, got {in_one_line(inputs)}")

    def checked(path: Any, x: Any) -> Array:
        name = f"inputs{jax.tree_util.keystr(path)}"
        x = check_array(name, x)
        if x.shape[: len(row_shape)] != row_shape:
            expected = f"an array whose leading axes are those of x, {row_shape}"
            raise_value_error(name, expected, f"shape {x.shape}")
        if split is not None:
            check_whole(split.axis_name, **{name: x})
        return x

    return jax.tree_util.tree_map_with_path(checked, list(inputs))


def _loss(
    rows: Rows,
    closed_over: list[Array],
    inputs: list[Any],
    split: SplitClasses | None,
    function: RowFunction,
    how: _How,
) -> Loss | tuple[Loss, Any]:
    guarded = reverse_mode_only((rows, closed_over, inputs), _NO_FORWARD_MODE, second=_NO_SECOND)
    rows, closed_over, inputs = guarded
    placement = placement_of(rows, by_row=inputs, split=split)
    if placement.mesh is not None:
        if function.loss is None:
            raise NotImplementedError(
                "loss: expected a function that closes over no array where Explicit mesh axes "
                f"split the head, got {len(closed_over)} (pass them as inputs, an entry a row)"
            )
        function = function.traced_anew()

    def sum_of_part(rows: Rows, own: SplitClasses | None, inputs: list[Any]) -> tuple[Loss, Any]:
        total, aux = _sum_of_part(rows, closed_over, inputs, own, function, how)
        return placement.sum_over_rows(total), aux

    out_specs = P(), P(*placement.rows)
    total, aux = placement.over_devices(sum_of_part, rows, by_row=(inputs,), out_specs=out_specs)
    loss = reduce_total(total, how.reduction, rows.logits.shape[:-1], None, rows.mask.rows)
    return (loss, without_derivative(aux, _NO_DERIVATIVE)) if how.has_aux else loss


_jitted_loss = partial(jax.jit, static_argnums=(3, 4, 5))(_loss)


def _sum_of_part(
    rows: Rows,
    closed_over: list[Array],
    inputs: list[Any],
    split: SplitClasses | None,
    function: RowFunction,
    how: _How,
) -> tuple[Loss, Any]:
    """Return the sum of losses, by blocks of rows if they fit, and auxiliary results."""
    implementation, max_bytes, requested = how.implementation, how.max_bytes, function.requested
    row_shape, linear = rows.logits.shape[:-1], join_rows(rows)
    offers, inputs = backend(implementation), join_leading(inputs, row_shape)
    by_kernel = split is None and offers.layer_gradients is not None
    apart = split is not None or offers.stores_logits or _devices_share(closed_over, rows, inputs)
    if not by_kernel and (apart or fitting_row_blocks(linear, max_bytes) is None):
        stats = part_statistics(linear, split, requested, implementation, max_bytes)
        public = softmax_stats(stats, linear)
        public, mask, inputs = pvary_all((public, linear.mask.rows, inputs))
        losses, aux = function(closed_over, public, mask, inputs)
        return jnp.sum(losses), restore_rows(aux, row_shape)

    linear, inputs = pvary_all((linear, inputs))
    linear, inputs, unpack = pack_kept_rows(linear, inputs)
    if by_kernel:
        stats: Any = statistics_with_kernel_gradients(linear, requested, implementation, max_bytes)
        public = softmax_stats(stats, linear)
        losses, aux = function(closed_over, public, linear.mask.rows, inputs)
        return jnp.sum(losses), restore_rows(unpack(aux), row_shape)

    def losses_of(rows: Rows, closed_over: list[Array], inputs: list[Any]) -> Any:
        stats = row_statistics(rows, requested, implementation)
        return function(closed_over, softmax_stats(stats, rows), rows.mask.rows, inputs)

    result: Any = sum_of_losses(linear, closed_over, inputs, losses_of, max_bytes)
    total, aux = result
    return total, restore_rows(unpack(aux), row_shape)


def _devices_share(closed_over: list[Array], *by_device: Any) -> bool:
    """Whether arrays are the same on devices, inside `shard_map`, that have rows of their own.

    Their gradient is a sum over devices, which weights of the devices' losses have to precede.
    """
    return any(varying_axes(by_device) - varying_axes(x) for x in closed_over)


_NO_FORWARD_MODE = (
    "linear_loss: expected reverse mode, got forward mode (jvp, jacfwd), which linear_log_probs "
    "and linear_softmax_cross_entropy have"
)
_NO_SECOND = (
    "linear_loss: expected one derivative, got a second one, which linear_log_probs and "
    "linear_softmax_cross_entropy have"
)
_NO_DERIVATIVE = "has_aux: expected no derivative of the auxiliary results, got one"
