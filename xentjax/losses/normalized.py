"""log_softmax, softmax and logsumexp: the normalised forms of logits, over row statistics."""

import importlib
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax.losses._arguments import Axis, logits_rows
from xentjax.losses._expression import log_probabilities
from xentjax.ops import Rows, row_statistics


def logsumexp(
    logits: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """log sum_k exp(a_k): the log normaliser of the softmax.

    Args:
        logits: a, real array, K classes along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows (by its number of dimensions).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The logits' shape without `axis`, in their dtype; computed in float32 or better. -inf where
        every logit is -inf or masked.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.

    Example:
        >>> import jax.numpy as jnp
        >>> print(logsumexp(jnp.array([1000.0, 1000.0])) - 1000)
        0.6931...

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    rows, _ = logits_rows(logits, axis, where)
    return _logsumexp(rows, implementation=implementation)


def log_softmax(
    logits: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """log softmax(a)_k = (a_k - m) - log sum_j exp(a_j - m), m = max_j a_j.

    Args:
        logits: a, real array, K classes along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows (by its number of dimensions).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The logits' shape and dtype; computed in float32 or better. -inf at masked classes.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.

    Example:
        >>> import jax.numpy as jnp
        >>> print(log_softmax(jnp.array([1e5, 1e5])))
        [-0.6931... -0.6931...]

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    rows, axes = logits_rows(logits, axis, where)
    return _log_softmax(rows, axes, jnp.shape(logits), implementation=implementation)


def softmax(
    logits: ArrayLike,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    *,
    implementation: str | None = None,
) -> Float[Array, "..."]:
    """softmax(a)_k = exp(a_k - m) / sum_j exp(a_j - m), m = max_j a_j.

    Args:
        logits: a, real array, K classes along `axis`.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, masks classes or whole rows (by its number of dimensions).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None takes the best one
            measured for the backend.

    Returns:
        The logits' shape and dtype; computed in float32 or better. 0 at masked classes.

    Raises:
        TypeError, ValueError: a wrong dtype, shape or name.

    Example:
        >>> import jax.numpy as jnp
        >>> print(softmax(jnp.log(jnp.array([1.0, 3.0]))))
        [0.25 0.75]

    Source: Blanchard, Higham and Higham (2021), IMA J. Numer. Anal. 41, 2311.
    """
    rows, axes = logits_rows(logits, axis, where)
    return _softmax(rows, axes, jnp.shape(logits), implementation=implementation)


@partial(jax.jit, static_argnames="implementation")
def _logsumexp(rows: Rows, *, implementation: str | None) -> Float[Array, "..."]:
    stats = row_statistics(rows, normalizer=True, implementation=implementation)
    result = stats.shift + stats.log_sum
    if rows.row_mask is not None:  # a sum without terms
        result = jnp.where(rows.row_mask, result, -jnp.inf)
    return result.astype(rows.logits.dtype)


def _normalized(rows: Rows, log: bool, implementation: str | None) -> Float[Array, "*rows K"]:
    """log softmax of each row, or softmax; that of no class at what is masked."""
    if implementation == "mosaic_tpu":
        return _normalized_by_kernel(rows, log)
    stats = row_statistics(rows, normalizer=True, implementation=implementation)
    log_p = _masked(log_probabilities(rows, stats), rows, log=True)
    return (log_p if log else jnp.exp(log_p)).astype(rows.logits.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalized_by_kernel(rows: Rows, log: bool) -> Float[Array, "*rows K"]:
    """The same by one kernel, which has no statistics in between."""
    logits = rows.logits
    if rows.class_mask is not None:
        logits = jnp.where(rows.class_mask, logits, -jnp.inf)
    kernel = importlib.import_module("xentjax.ops.normalized_mosaic_tpu")
    return _masked(kernel.normalized(logits, log), rows, log)


@_normalized_by_kernel.defjvp
def _normalized_by_kernel_jvp(
    log: bool, primals: tuple[Rows], tangents: tuple[Rows]
) -> tuple[Array, Array]:
    _, tangent = jax.jvp(lambda rows: _normalized(rows, log, "xla"), primals, tangents)
    return _normalized_by_kernel(*primals, log), tangent


def _masked(x: Float[Array, "*rows K"], rows: Rows, log: bool) -> Float[Array, "*rows K"]:
    """Probability 0, or its logarithm, at what is masked."""
    for mask in (rows.class_mask, None if rows.row_mask is None else rows.row_mask[..., None]):
        if mask is not None:
            x = jnp.where(mask, x, -jnp.inf if log else 0)
    return x


def _classes_back(x: Array, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """The class axes of `shape` back in their places."""
    x = x.reshape(*x.shape[:-1], *(shape[a] for a in axes))
    return jnp.moveaxis(x, range(-len(axes), 0), axes)


@partial(jax.jit, static_argnums=(1, 2), static_argnames="implementation")
def _log_softmax(
    rows: Rows, axes: tuple[int, ...], shape: tuple[int, ...], *, implementation: str | None
) -> Float[Array, "..."]:
    return _classes_back(_normalized(rows, True, implementation), axes, shape)


@partial(jax.jit, static_argnums=(1, 2), static_argnames="implementation")
def _softmax(
    rows: Rows, axes: tuple[int, ...], shape: tuple[int, ...], *, implementation: str | None
) -> Float[Array, "..."]:
    return _classes_back(_normalized(rows, False, implementation), axes, shape)
