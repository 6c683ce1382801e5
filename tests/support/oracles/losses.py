"""The losses beside cross-entropy in NumPy float64, each one written from its definition."""

from collections.abc import Callable
from typing import Any

import numpy as np


def along(function: Callable[[Any], Any], x: Any, direction: Any, step: float = 1e-3) -> Any:
    """The derivative of `function` at x along `direction`: five points, error ~ step^4."""
    x = np.asarray(x, np.float64)
    near, far = (
        function(x + s * direction) - function(x - s * direction) for s in (step, 2 * step)
    )
    return (8 * near - far) / (12 * step)


def numerical_gradient(function: Callable[[Any], Any], x: Any, step: float = 1e-3) -> np.ndarray:
    """d sum(function(x)) / dx, one element after the other."""
    gradient = np.empty(np.shape(x))
    for i in np.ndindex(gradient.shape):
        e = np.zeros_like(gradient)
        e[i] = 1
        gradient[i] = np.sum(along(function, x, e, step))
    return gradient


def rows_of(x: Any, shape: tuple[int, ...], axis: int | tuple[int, ...]) -> np.ndarray:
    """`x` broadcast to `shape`, with the class axes last and joined."""
    axes = tuple(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    others = [i for i in range(len(shape)) if i not in axes]
    moved = np.broadcast_to(x, shape).transpose(*others, *axes)
    return moved.reshape(*(shape[i] for i in others), -1)


def masks(
    logits: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The classes that `where` keeps, classes last, and the rows it keeps."""
    shape = np.shape(logits)
    mask = rows_of(True, shape, axis)
    keep = np.ones(mask.shape[:-1], bool)
    if where is not None and np.ndim(where) == len(shape):
        mask = rows_of(where, shape, axis)
        keep = np.asarray(np.any(mask, -1))
    elif where is not None:
        keep = np.broadcast_to(where, keep.shape)
    return mask, keep


def log_softmax(
    logits: Any, axis: int | tuple[int, ...] = -1, where: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities of the classes that `where` keeps, classes last, and the rows it keeps."""
    logits = np.asarray(logits, np.float64)
    mask, keep = masks(logits, axis, where)
    a = np.where(mask, rows_of(logits, logits.shape, axis), -np.inf)
    a = np.where(keep[..., None], a, 0)
    z = a - a.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True)), keep


def targets_of(logits: Any, labels: Any, axis: int | tuple[int, ...]) -> np.ndarray:
    """One-hot rows of integer labels, or the soft ones, with the classes last."""
    shape, labels = np.shape(logits), np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer):
        return rows_of(labels.astype(np.float64), shape, axis)
    n_classes = rows_of(np.zeros(shape), shape, axis).shape[-1]
    return 1.0 * (np.arange(n_classes) == labels[..., None])


def poly_loss(logits, labels, axis=-1, where=None, *, epsilon=2.0, class_weights=1.0):
    log_p, keep = log_softmax(logits, axis, where)
    mask, _ = masks(logits, axis, where)
    t = np.where(mask, targets_of(logits, labels, axis), 0) * class_weights
    terms = t * (-np.where(t != 0, log_p, 0) + epsilon * (1 - np.exp(log_p)))
    return np.where(keep, terms.sum(-1), 0)


def softmax_focal_loss(
    logits, labels, axis=-1, where=None, *, gamma=2.0, ignore_index=None, class_weights=1.0
):
    log_p, keep = log_softmax(logits, axis, where)
    t = targets_of(logits, labels, axis)
    weight = (t * class_weights).sum(-1)
    log_p = np.where(weight != 0, np.where(t == 1, log_p, 0).sum(-1), 0)
    loss = weight * (-np.expm1(log_p)) ** gamma * -log_p
    return np.where(keep & (labels != ignore_index), loss, 0)


def nll_loss(log_probs, labels, axis=-1, where=None, *, ignore_index=None, class_weights=1.0):
    log_probs = np.asarray(log_probs, np.float64)
    t = targets_of(log_probs, labels, axis) * class_weights
    mask, keep = masks(log_probs, axis, where)
    kept = np.where(mask, rows_of(log_probs, log_probs.shape, axis), -np.inf)
    loss = -(t * np.where(t != 0, kept, 0)).sum(-1)
    return np.where(keep & (labels != ignore_index), loss, 0)


def brier_score(logits, labels, axis=-1, where=None, *, ignore_index=None):
    log_p, keep = log_softmax(logits, axis, where)
    t = targets_of(logits, labels, axis)
    if np.issubdtype(np.asarray(labels).dtype, np.integer):
        keep = keep & (labels != ignore_index)
    else:
        t = np.where(masks(logits, axis, where)[0], t, 0)
    return np.where(keep, ((np.exp(log_p) - t) ** 2).sum(-1), 0)


def kl_divergence_with_logits(target_logits, logits, temperature=1.0, *, axis=-1, where=None):
    (log_p, keep), (log_q, _) = (
        log_softmax(np.asarray(x, np.float64) / temperature, axis, where)
        for x in (target_logits, logits)
    )
    p = np.exp(log_p)
    terms = np.where(p > 0, p * (np.where(p > 0, log_p, 0) - np.where(p > 0, log_q, 0)), 0)
    return np.where(keep, terms.sum(-1), 0)


def sigmoid_binary_cross_entropy(logits, labels, *, pos_weight=1.0, where=True):
    a, t = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    loss = pos_weight * t * np.logaddexp(0, -a) + (1 - t) * np.logaddexp(0, a)
    return np.where(where, loss, 0)


def sigmoid_focal_loss(logits, labels, *, alpha=None, gamma=2.0, where=True):
    a, t = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    wrong = (1 - t) * np.exp(-np.logaddexp(0, -a)) + t * np.exp(-np.logaddexp(0, a))
    alpha_t = 1.0 if alpha is None else alpha * t + (1 - alpha) * (1 - t)
    return alpha_t * wrong**gamma * sigmoid_binary_cross_entropy(a, t, where=where)
