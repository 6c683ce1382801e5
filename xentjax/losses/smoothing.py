"""Label smoothing of target probabilities."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    broadcasts,
    check_bool,
    check_floating,
    check_scalar,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype
from xentjax.losses._arguments import Axis, class_axes


def smooth_labels(
    labels: ArrayLike,
    alpha: ArrayLike,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
) -> Float[Array, "..."]:
    """Mix the targets with the uniform distribution.

        smoothed_k = (1 - alpha) t_k + alpha / K

    The keyword `label_smoothing` of the cross-entropies does the same without another array.

    Args:
        labels: t, one-hot rows or probabilities, K classes along `axis`.
        alpha: the share in [0, 1].
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool, with the labels' number of dimensions: the classes that take part. K is their
            number; the others get 0.

    Returns:
        The targets, of the labels' shape and dtype; computed in float32 or better.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.smooth_labels(jnp.array([1.0, 0.0, 0.0, 0.0]), 0.2))
        [0.85 0.05 0.05 0.05]

    Source: Szegedy et al. (2016), arXiv:1512.00567.
    """
    labels = check_floating("labels", labels)
    axes = class_axes(axis, labels.ndim)
    alpha = check_scalar("alpha", alpha, "a number in [0, 1]", lambda x: 0 <= x <= 1)
    share = jnp.asarray(alpha, compute_dtype(labels.dtype))
    if where is not None:
        where = check_bool("where", where)
        if where.ndim != labels.ndim or not broadcasts(where.shape, labels.shape):
            raise_value_error(
                "where", f"a shape that broadcasts to the labels' {labels.shape}", where.shape
            )
        where = jnp.broadcast_to(where, labels.shape)
    return _smooth_labels(labels, share, where, axes)


@partial(jax.jit, static_argnums=3)
def _smooth_labels(
    labels: Array, alpha: Float[Array, ""], where: Array | None, axes: tuple[int, ...]
) -> Float[Array, "..."]:
    t = labels.astype(alpha.dtype)
    if where is None:
        where = jnp.ones_like(t, dtype=jnp.bool_)
    num_classes = jnp.sum(where, axes, keepdims=True, dtype=t.dtype)
    smoothed = (1 - alpha) * t + alpha / jnp.maximum(num_classes, 1)
    return jnp.where(where, smoothed, 0).astype(labels.dtype)
