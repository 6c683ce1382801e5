"""Losses of independent yes-or-no outcomes: every logit is the log-odds of its own label."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    broadcasts,
    check_array,
    check_bool,
    check_floating,
    concrete,
    native,
    raise_value_error,
    to_jax,
)
from xentjax._core.choices import Reduction
from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import sharded_alike
from xentjax.losses._formula import reduce_losses, weighted
from xentjax.losses._keywords import check_names
from xentjax.losses._limit_product import limit_product


def sigmoid_binary_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    pos_weight: ArrayLike | None = None,
    where: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    """Cross-entropy of each probability t of "yes" and p = sigmoid(logits), in nats.

        loss = -w t log p - (1 - t) log(1 - p),    w = pos_weight

    Every element is a separate question; for exclusive classes use `softmax_cross_entropy`. A term
    whose log is infinite costs 0 if its factor t or 1 - t is 0, and +inf otherwise. An integer
    label other than 0 and 1 makes the loss and gradient of its element NaN and affects no other
    element.

    Args:
        logits: real array of any shape. Half precision is computed in float32.
        labels: t, of the logits' shape or one that broadcasts to it: probabilities of "yes", or
            integers or booleans 0 and 1. Probabilities are used as they are.
        pos_weight: w >= 0, the cost of missing a "yes", broadcast to the logits (a number, or one
            for each question); 1 if None.
        where: bool, broadcast to the logits; where it is False, the loss is 0 and is left out of
            the mean.
        reduction: "none", "sum", or "mean" over the elements kept (0 if there is none).

    Returns:
        The loss, float32 (float64 for float64 logits): of the logits' shape, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known value outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits, labels = jnp.array([0.0, 100.0, -100.0]), jnp.array([1, 1, 1])
        >>> print(xentjax.sigmoid_binary_cross_entropy(logits, labels))
        [  0.69314...   0.         100.        ]

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), section 6.2.2.2.
    """
    logits, labels, where = _elements(logits, labels, where)
    if pos_weight is not None:
        pos_weight = _factor("pos_weight", pos_weight, logits, "finite numbers >= 0")
    check_names(reduction)
    return _binary_loss(logits, labels, where, pos_weight, reduction=reduction)


def sigmoid_focal_loss(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    alpha: ArrayLike | None = None,
    gamma: ArrayLike = 2.0,
    where: ArrayLike | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    """Binary cross-entropy with less weight on elements already predicted well, in nats.

    With p = sigmoid(logits) and the probability p_t = t p + (1 - t) (1 - p) of the right answer::

        loss = alpha_t (1 - p_t)^gamma (-t log p - (1 - t) log(1 - p))
        alpha_t = t alpha + (1 - t) (1 - alpha)

    For labels 0 and 1 this is alpha_t (1 - p_t)^gamma (-log p_t). 1 - p_t is computed from its
    logarithm, so that the loss and its derivatives of any order are right for every gamma and
    logit. Labels and infinities are treated as in `sigmoid_binary_cross_entropy`. At an infinite
    logit the derivative in t is its limit, +-inf; if t puts no mass on the wrong side, it is the
    limit of the difference quotient.

    Args:
        logits: real array of any shape. Half precision is computed in float32.
        labels: t, of the logits' shape or one that broadcasts to it: probabilities of "yes", or
            integers or booleans 0 and 1.
        alpha: weight in [0, 1] of "yes" against "no", broadcast to the logits; None for no weights.
        gamma: exponent >= 0, broadcast to the logits; 0 is the cross-entropy.
        where: bool, broadcast to the logits; where it is False, the loss is 0 and is left out of
            the mean.
        reduction: "none", "sum", or "mean" over the elements kept (0 if there is none).

    Returns:
        The loss, float32 (float64 for float64 logits): of the logits' shape, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        ValueError: a shape, name or known value outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.sigmoid_focal_loss(jnp.array([0.0, 4.0]), jnp.array([1, 1]), alpha=0.25))
        [4.3321...e-02 1.4678...e-06]

    Source: Lin et al., Focal Loss for Dense Object Detection (2017), arXiv:1708.02002.
    """
    logits, labels, where = _elements(logits, labels, where)
    if alpha is not None:
        alpha = _factor("alpha", alpha, logits, "numbers in [0, 1]", 1.0)
    gamma = _factor("gamma", gamma, logits, "finite numbers >= 0")
    check_names(reduction)
    return _binary_loss(logits, labels, where, alpha=alpha, gamma=gamma, reduction=reduction)


def _elements(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Float[Array, "..."], Shaped[Array, "..."], Bool[Array, "..."] | None]:
    """Return the checked arguments; labels and `where` must broadcast to the logits."""
    logits = check_floating("logits", logits)
    labels = check_array("labels", labels)
    if jnp.issubdtype(labels.dtype, jnp.complexfloating):
        raise TypeError(f"labels: expected probabilities of a real dtype, got {labels.dtype}")
    _check_shape("labels", labels, logits)
    if where is not None:
        where = check_bool("where", where)
        _check_shape("where", where, logits)
    return logits, labels, where


def _check_shape(name: str, x: Array, logits: Array) -> None:
    if not broadcasts(x.shape, logits.shape):
        raise_value_error(name, f"a shape that broadcasts to the logits' {logits.shape}", x.shape)


def _factor(
    name: str, value: ArrayLike, logits: Array, expected: str, largest: float = np.inf
) -> Float[Array, "..."]:
    """Return factors in the compute dtype; check that they are in [0, largest] and broadcast."""
    with np.errstate(over="ignore"):
        array = to_jax(name, given := native(name, value))
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"{name}: expected {expected}, got {array.dtype}")
    array = array.astype(compute_dtype(logits.dtype))  # may overflow to inf
    known = concrete(array)
    if known is not None:
        good = np.isfinite(known) & (known >= 0) & (known <= largest)
        if not good.all():
            raise_value_error(name, expected, np.asarray(given)[~good].flat[0])
    _check_shape(name, array, logits)
    return array


@partial(jax.jit, static_argnames="reduction")
def _binary_loss(
    logits: Array,
    labels: Array,
    where: Array | None,
    pos_weight: Array | None = None,
    alpha: Array | None = None,
    gamma: Array | None = None,
    *,
    reduction: str,
) -> Float[Array, "..."]:
    """Compute the loss of each element, focal if `gamma` is not None, and reduce it."""
    where = None if where is None else jnp.broadcast_to(where, logits.shape)
    loss = _element_losses(logits, labels, where, pos_weight, alpha, gamma)
    return reduce_losses(loss, reduction, None, where)


@partial(jax.checkpoint, prevent_cse=False)  # the backward pass recomputes its many factors
def _element_losses(
    logits: Float[Array, "*s"],
    labels: Shaped[Array, "..."],
    where: Bool[Array, "*s"] | None,
    *factors: Float[Array, "..."] | None,
) -> Float[Array, "*s"]:
    a = logits.astype(compute_dtype(logits.dtype))
    t = jnp.broadcast_to(labels.astype(a.dtype), a.shape)
    full = (None if x is None else jnp.broadcast_to(x, a.shape) for x in factors)
    a, t, where, pos_weight, alpha, gamma = sharded_alike(a, t, where, *full)
    if not jnp.issubdtype(labels.dtype, jnp.floating):
        t += nan_unless((t == 0) | (t == 1), t.dtype)
    if where is not None:  # masked elements may be NaN or infinite
        a, t = jnp.where(where, a, 0), jnp.where(where, t, 0)
    if gamma is None:
        loss = _cross_entropy(a, t, pos_weight)
    else:
        infinite = jnp.isinf(a)
        limit = weighted(jnp.abs(a), _tail(t, alpha, gamma, a > 0))
        loss = jnp.where(infinite, limit, _focal(jnp.where(infinite, 0, a), t, alpha, gamma))
    return loss if where is None else jnp.where(where, loss, 0)


def _cross_entropy(a: Array, t: Array, pos_weight: Array | None = None) -> Float[Array, "*s"]:
    missed = _softplus(-a) if pos_weight is None else weighted(_softplus(-a), pos_weight)
    return weighted(missed, t) + weighted(_softplus(a), 1 - t)


def _focal(a: Array, t: Array, alpha: Array | None, gamma: Array) -> Float[Array, "*s"]:
    """Return the focal loss of finite logits."""
    loss = _cross_entropy(a, t) * jnp.exp(gamma * _log_wrong(a, t))
    return loss if alpha is None else loss * _alpha_t(t, alpha)


def _alpha_t(t: Array, alpha: Array) -> Float[Array, "*s"]:
    return alpha * t + (1 - alpha) * (1 - t)


def _tail_formula(
    t: Array, alpha: Array | None, gamma: Array, above: Bool[Array, "*s"]
) -> Float[Array, "*s"]:
    """Return the limit of focal loss / |logit| at a logit of +inf (`above`) or -inf."""
    wrong = jnp.where(above, 1 - t, t)
    none = wrong == 0
    tail = jnp.power(jnp.where(none, 1, wrong), gamma + 1)
    if alpha is not None:
        tail *= _alpha_t(t, alpha)
    # Without mass on the wrong side the loss is 0, but any change of t from there costs +inf.
    return jnp.where(none, wrong, tail)


_tail = jax.custom_jvp(_tail_formula)


@_tail.defjvp
def _(primals, tangents) -> tuple[Array, Array]:
    """Compute each derivative as one number: its terms at an infinite logit would be inf - inf."""
    t, alpha, gamma, above = primals
    formulas = (
        lambda t: _tail_formula(t, alpha, gamma, above),
        lambda alpha: _tail_formula(t, alpha, gamma, above),
        lambda gamma: _tail_formula(t, alpha, gamma, above),
    )
    dot = jnp.zeros_like(t)
    for formula, x, dx in zip(formulas, primals[:3], tangents[:3], strict=True):
        if x is not None:
            derivative = jax.jvp(formula, (x,), (jnp.ones_like(x),))[1]
            # In reverse mode this multiplies an infinite cotangent.
            dot += limit_product(derivative, dx)
    return _tail_formula(*primals), dot


@jax.custom_jvp
def _sigmoid(a: Array) -> Float[Array, "*s"]:
    """Return 1 / (1 + e^-a); its derivative p sigmoid(-a) keeps the digits that 1 - p loses."""
    return jax.nn.sigmoid(a)


_sigmoid.defjvps(lambda da, p, a: p * _sigmoid(-a) * da)


@jax.custom_jvp
def _softplus(a: Array) -> Float[Array, "*s"]:
    """Return log(1 + e^a) = -log sigmoid(-a), with the sigmoid itself as its derivative."""
    return jax.nn.softplus(a)


_softplus.defjvps(lambda da, _, a: _sigmoid(a) * da)


@jax.custom_jvp
def _log_wrong(a: Array, t: Array) -> Float[Array, "*s"]:
    """Return log(1 - p_t) = log((1 - t) sigmoid(a) + t sigmoid(-a)) of finite a."""
    return jnp.logaddexp(jnp.log(1 - t) - _softplus(-a), jnp.log(t) - _softplus(a))


@_log_wrong.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    """Compute ratios to the mixture from logarithms: they neither underflow nor become 0 / 0."""
    (a, t), (da, dt) = primals, tangents
    result = _log_wrong(a, t)
    # At a label of 0 or 1 the ratio of the other side may be huge; 0 times a finite ratio is 0.
    limit = jnp.log(jnp.finfo(a.dtype).max) - 1
    no_ratio = jnp.exp(jnp.minimum(-_softplus(-a) - result, limit))
    yes_ratio = jnp.exp(jnp.minimum(-_softplus(a) - result, limit))
    derivative = (1 - t) * no_ratio * _sigmoid(-a) - t * yes_ratio * _sigmoid(a)
    return result, derivative * da + (yes_ratio - no_ratio) * dt
