"""log_softmax, softmax and logsumexp over row statistics; they mean the same as in `jax.nn`."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import broadcasts, check_array, check_bool, check_flag, raise_value_error
from xentjax.losses._arguments import (
    Axis,
    class_axes,
    classes_last,
    masks,
)
from xentjax.losses._keywords import check_implementation
from xentjax.losses._limit_product import limit_product
from xentjax.ops import Implementation, Mask, Requested, Rows, backend, row_statistics
from xentjax.ops.rows import log_probabilities


def logsumexp(
    logits: ArrayLike,
    axis: Axis | None = None,
    *,
    where: ArrayLike | None = None,
    keepdims: bool = False,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Log normaliser of the softmax, log sum_k exp(a_k), as `jax.nn.logsumexp`.

    Args:
        logits: a, real array of any shape. Integers and booleans are taken as floats.
        axis: the axis or axes to sum over; None for all axes.
        where: bool, broadcast to the logits: the elements to sum over.
        keepdims: keep the axes summed over in the result, with size 1.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The logits' shape without `axis`, in their dtype; computed in float32 or better. -inf where
        all logits are -inf or masked, or where there are none.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.logsumexp(jnp.array([1000.0, 1000.0])) - 1000)
        0.6931...
        >>> print(xentjax.logsumexp(jnp.zeros((2, 3)), axis=-1, keepdims=True))
        [[1.0986...]
         [1.0986...]]

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    check_implementation(implementation)
    check_flag("keepdims", keepdims)
    rows, axes, _ = _rows_along(logits, axis, where)
    result = _logsumexp(rows, implementation=implementation)
    return jnp.expand_dims(result, axes) if keepdims else result


def log_softmax(
    logits: ArrayLike,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Logarithm of the softmax, as `jax.nn.log_softmax`.

        log softmax(a)_k = (a_k - m) - log sum_j exp(a_j - m),    m = max_j a_j

    Args:
        logits: a, real array of any shape. Integers and booleans are taken as floats.
        axis: the class axis, or axes that together hold the classes; None for all axes.
        where: bool, broadcast to the logits: the elements that take part.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The logits' shape and dtype; computed in float32 or better. -inf at masked elements.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.log_softmax(jnp.array([1e5, 1e5])))
        [-0.6931... -0.6931...]

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    check_implementation(implementation)
    rows, axes, shape = _rows_along(logits, axis, where)
    return _log_softmax(rows, axes, shape, implementation=implementation)


def softmax(
    logits: ArrayLike,
    axis: Axis | None = -1,
    where: ArrayLike | None = None,
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """Probabilities of the classes, as `jax.nn.softmax`.

        softmax(a)_k = exp(a_k - m) / sum_j exp(a_j - m),    m = max_j a_j

    Args:
        logits: a, real array of any shape. Integers and booleans are taken as floats.
        axis: the class axis, or axes that together hold the classes; None for all axes.
        where: bool, broadcast to the logits: the elements that take part.
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The logits' shape and dtype; computed in float32 or better. 0 at masked elements.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.softmax(jnp.log(jnp.array([1.0, 3.0]))))
        [0.25 0.75]

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    check_implementation(implementation)
    rows, axes, shape = _rows_along(logits, axis, where)
    return _softmax(rows, axes, shape, implementation=implementation)


def _rows_along(
    logits: ArrayLike, axis: Axis | None, where: ArrayLike | None
) -> tuple[Rows, tuple[int, ...], tuple[int, ...]]:
    """Return the logits with the class axes last, those axes and the logits' own shape."""
    x = check_array("logits", logits)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise TypeError(f"logits: expected a real dtype, got {x.dtype}")
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float64 if x.dtype.itemsize == 8 else jnp.float32)
    axis = range(x.ndim) if axis is None else axis
    axes = class_axes(axis, x.ndim, may_be_none=True)
    mask = Mask()
    if where is not None:
        where = check_bool("where", where)
        if not broadcasts(where.shape, x.shape):
            raise_value_error(
                "where", f"a shape that broadcasts to the logits' {x.shape}", where.shape
            )
        where = where.reshape((1,) * (x.ndim - where.ndim) + where.shape)
        mask = masks(where, x.shape, axes)
    return Rows(classes_last(x, axes), mask=mask), axes, x.shape


@partial(jax.jit, static_argnames="implementation")
def _logsumexp(rows: Rows, *, implementation: str | None) -> Float[Array, "..."]:
    *row_shape, k = rows.logits.shape
    if k == 0:
        return jnp.full(row_shape, -jnp.inf, rows.logits.dtype)
    stats = row_statistics(rows, Requested(normalizer=True), implementation)
    result = stats.shift + stats.log_sum
    if rows.mask.rows is not None:  # a sum without terms
        result = jnp.where(rows.mask.rows, result, -jnp.inf)
    return result.astype(rows.logits.dtype)


def normalized(rows: Rows, log: bool, implementation: str | None) -> Float[Array, "*rows K"]:
    """Return log-softmax or softmax of each row; masked classes get probability 0."""
    if rows.logits.shape[-1] == 0:
        return rows.logits
    if backend(implementation).softmax is not None:
        return _normalized_by_kernel(rows, log, implementation)
    stats = row_statistics(rows, Requested(normalizer=True), implementation)
    log_p = _masked(log_probabilities(rows, stats), rows, log=True)
    if log:
        return log_p.astype(rows.logits.dtype)
    return _at_limits(jnp.exp(log_p).astype(rows.logits.dtype))


@jax.custom_jvp
def _at_limits(p: Float[Array, "*rows K"]) -> Float[Array, "*rows K"]:
    """Return p; where it underflows, its derivative is 0, even with an infinite cotangent.

    The cotangent is infinite for the entropy at p = 0, for example. Forward mode follows the same
    rule.
    """
    return p


@_at_limits.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return primals[0], _tangent_at_limits(primals[0], tangents[0])


@partial(jax.checkpoint, prevent_cse=False)  # keeps only p
def _tangent_at_limits(p: Array, dp: Array) -> Array:
    return limit_product((p != 0).astype(dp.dtype), dp)


@partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _normalized_by_kernel(
    rows: Rows, log: bool, implementation: str | None
) -> Float[Array, "*rows K"]:
    """Compute the result of `normalized` by one kernel, without statistics in between."""
    logits = rows.logits
    if rows.mask.classes is not None:
        logits = jnp.where(rows.mask.classes, logits, -jnp.inf)
    by_kernel = backend(implementation).softmax
    assert by_kernel is not None
    return _masked(by_kernel(logits, log), rows, log)


@_normalized_by_kernel.defjvp
def _normalized_by_kernel_jvp(
    log: bool, implementation: str | None, primals: tuple[Rows], tangents: tuple[Rows]
) -> tuple[Array, Array]:
    _, tangent = jax.jvp(lambda rows: normalized(rows, log, None), primals, tangents)
    return _normalized_by_kernel(*primals, log, implementation), tangent


def _masked(x: Float[Array, "*rows K"], rows: Rows, log: bool) -> Float[Array, "*rows K"]:
    """Set masked rows and classes to probability 0, or to its logarithm."""
    for mask in (rows.mask.classes, None if rows.mask.rows is None else rows.mask.rows[..., None]):
        if mask is not None:
            x = jnp.where(mask, x, -jnp.inf if log else 0)
    return x


def _classes_back(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Move the class axes of `shape` back to their places."""
    x = x.reshape(*x.shape[:-1], *(shape[a] for a in axes))
    return jnp.moveaxis(x, range(-len(axes), 0), axes)


@partial(jax.jit, static_argnums=(1, 2), static_argnames="implementation")
def _log_softmax(
    rows: Rows, axes: tuple[int, ...], shape: tuple[int, ...], *, implementation: str | None
) -> Float[Array, "..."]:
    return _classes_back(normalized(rows, True, implementation), axes, shape)


@partial(jax.jit, static_argnums=(1, 2), static_argnames="implementation")
def _softmax(
    rows: Rows, axes: tuple[int, ...], shape: tuple[int, ...], *, implementation: str | None
) -> Float[Array, "..."]:
    return _classes_back(normalized(rows, False, implementation), axes, shape)
