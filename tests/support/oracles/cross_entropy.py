"""Softmax cross-entropy in NumPy float64, written from its definition and nothing of the package.

Every row becomes a dense target vector t (one-hot, soft, smoothed, weighted); then
loss = sum_k t_k (log sum_j exp a_j - a_k) and d loss / d a_k = T softmax(a)_k - t_k.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CrossEntropy:
    losses: np.ndarray
    """One a row, 0 where the row is masked."""
    denominator: float
    """Divisor of "mean"."""
    gradient: np.ndarray
    """d losses[row] / d logits, in the logits' own layout."""
    log_normalizer: np.ndarray
    label_log_prob: np.ndarray
    entropy: np.ndarray
    predicted: np.ndarray
    value_scale: np.ndarray
    """Size of the terms that a row's loss is a sum of: what their relative roundings refer to."""
    gradient_scale: np.ndarray
    """Size of the terms of a row's gradient."""

    @property
    def mean(self) -> float:
        return float(self.losses.sum() / self.denominator) if self.denominator else 0.0


def cross_entropy(
    logits: Any,
    labels: Any,
    axis: int | tuple[int, ...] = -1,
    where: Any = None,
    *,
    ignore_index: int | None = None,
    class_weights: Any = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    logit_soft_cap: float | None = None,
    temperature: float = 1.0,
) -> CrossEntropy:
    """Both public losses: integer labels where `labels` has an integer dtype, else soft ones."""
    a = np.asarray(logits, np.float64)
    shape = a.shape
    labels = np.asarray(labels)
    axes = tuple(x % a.ndim for x in (axis if isinstance(axis, tuple) else (axis,)))
    order = [i for i in range(a.ndim) if i not in axes] + list(axes)
    row_shape = tuple(a.shape[i] for i in order[: a.ndim - len(axes)])

    def rows_of(x):
        return np.broadcast_to(x, shape).transpose(order).reshape(*row_shape, -1)

    mask = np.ones(a.shape, bool)
    keep = np.ones(row_shape, bool)
    if where is not None and np.ndim(where) == a.ndim:
        mask = np.broadcast_to(where, a.shape)
    elif where is not None:
        keep = np.broadcast_to(where, row_shape)
    mask = rows_of(mask)
    keep = keep & mask.any(-1)
    a = rows_of(a)
    n_classes = a.shape[-1]
    w = np.ones(n_classes) if class_weights is None else np.asarray(class_weights, np.float64)

    if np.issubdtype(labels.dtype, np.integer):
        if ignore_index is not None:
            keep = keep & (labels != ignore_index)
        bad = keep & ((labels < 0) | (labels >= n_classes))
        safe = np.where(keep & ~bad, labels, 0)
        t = np.where(np.arange(n_classes) == safe[..., None], 1.0, 0.0)
        t_kept = t  # a masked label keeps its mass: its loss is inf
        denominator = float((w[safe] * keep).sum())
    else:
        bad = np.zeros(row_shape, bool)
        t = rows_of(labels.astype(np.float64))
        t_kept = np.where(mask, t, 0)
        denominator = float(keep.sum())

    slope = np.ones_like(a)
    with np.errstate(all="ignore"):
        if logit_soft_cap is not None:
            slope = 1 / np.cosh(a / logit_soft_cap) ** 2
            # No cap makes an impossible class possible.
            a = np.where(a == -np.inf, a, logit_soft_cap * np.tanh(a / logit_soft_cap))
        a, slope = a / temperature, slope / temperature
        a = np.where(mask, a, -np.inf)
        m = a.max(-1, keepdims=True)
        log_s = np.log(np.exp(a - m).sum(-1, keepdims=True))
        minus_log_p = log_s - (a - m)
        p = np.exp(-minus_log_p)
        smooth = np.where(mask, label_smoothing / np.maximum(mask.sum(-1, keepdims=True), 1), 0)
        target = w * ((1 - label_smoothing) * t_kept + smooth)
        lse = (m + log_s)[..., 0]
        losses = np.where(target != 0, target * minus_log_p, 0).sum(-1) + z_loss * lse**2
        gradient = target.sum(-1, keepdims=True) * p - target + 2 * z_loss * lse[..., None] * p
        gradient = np.where(mask, slope * gradient, 0)
        label_log_prob = -np.where(t_kept != 0, t_kept * minus_log_p, 0).sum(-1)
        entropy = np.where(p > 0, p * minus_log_p, 0).sum(-1)
        value_scale, gradient_scale = _scales(
            a, target, z_loss, temperature, logit_soft_cap is not None
        )
    losses = np.where(keep, np.where(bad, np.nan, losses), 0)
    gradient = np.where(keep[..., None], np.where(bad[..., None], np.nan, gradient), 0)
    label_log_prob = np.where(bad, np.nan, label_log_prob)
    inverse = np.argsort(order)
    full = gradient.reshape([shape[i] for i in order]).transpose(inverse)
    return CrossEntropy(
        losses=losses,
        denominator=denominator,
        gradient=full,
        log_normalizer=np.where(keep, lse, 0),
        label_log_prob=np.where(keep, label_log_prob, 0),
        entropy=np.where(keep, entropy, 0),
        predicted=np.where(keep, a.argmax(-1), 0),
        value_scale=np.where(keep, value_scale, 0),
        gradient_scale=np.where(keep, gradient_scale, 0),
    )


def _scales(
    a: np.ndarray, target: np.ndarray, z_loss: float, temperature: float, capped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sizes of the terms of each row's loss and gradient, at least those of logits of size 1.

    A loss near 0 is a difference of terms that are not: log s >= 0 is the logarithm of a number
    that holds its digits relative to 1, and a_k - m has those of its own size. Logits that a soft
    cap has changed were rounded at their full size, common offset included.
    """
    finite = np.isfinite(a)
    m = np.where(finite, a, -np.inf).max(-1, keepdims=True)
    size = np.where(finite, np.maximum(1, np.abs(a - m)), 1)
    largest = np.max(np.abs(a), -1, where=finite, initial=0.0)
    rounded = largest if capped else np.zeros_like(largest)
    mass = np.abs(target)
    normalizer = largest + 1 + np.log(a.shape[-1])
    value = (mass * (size + rounded[..., None])).sum(-1) + z_loss * normalizer**2
    gradient = (mass.sum(-1) + 2 * z_loss * normalizer) * (1 + rounded) / temperature
    return value, gradient
