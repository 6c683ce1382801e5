"""Row statistics of a linear head and their gradients in NumPy float64, from the definitions."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Head:
    """Statistics of each row; 0 where the row is masked."""

    log_p: np.ndarray
    """Log-probabilities of the classes, [..., K]; in masked rows, those of features 0."""
    log_normalizer: np.ndarray
    label_log_prob: np.ndarray
    entropy: np.ndarray
    predicted: np.ndarray
    keep: np.ndarray
    """Rows that are not masked."""
    size: np.ndarray
    """Size of the terms that each row's largest logit is a sum of, over the temperature."""
    slopes: dict[str, np.ndarray]
    """The derivative of each statistic in the logits as the softmax takes them, [..., K]."""
    terms: dict[str, np.ndarray]
    """Sizes of the terms that each of those is a sum of."""
    chain: dict[str, np.ndarray]
    """The derivative of those logits in x @ kernel + bias and in the scalars."""
    chain_terms: dict[str, np.ndarray]
    x: np.ndarray
    kernel: np.ndarray

    def gradients(self, **cotangents: Any) -> dict[str, np.ndarray]:
        """Gradients of sum_n <cotangent_n, statistic_n>, over the statistics that are named."""
        slope = sum(np.asarray(c)[..., None] * self.slopes[name] for name, c in cotangents.items())
        return self.pulled_back(slope)

    def gradient_sizes(self, **cotangents: Any) -> dict[str, np.ndarray]:
        """Sizes of the terms that those gradients are sums of."""
        slope = sum(
            np.abs(np.asarray(c))[..., None] * self.terms[name] for name, c in cotangents.items()
        )
        return self.sizes_of(slope)

    def sizes_of(self, slope: Any) -> dict[str, np.ndarray]:
        """Sizes of the terms of `pulled_back`, from those of the derivative in the logits."""
        absolute = Head(**{**vars(self), "x": np.abs(self.x), "kernel": np.abs(self.kernel)})
        return Head(**{**vars(absolute), "chain": self.chain_terms}).pulled_back(slope)

    def pulled_back(self, slope: Any) -> dict[str, np.ndarray]:
        """Gradients in the arguments from that in the logits as the softmax takes them."""
        d_logits = slope * self.chain["logits"]
        k = d_logits.shape[-1]
        flat, x = d_logits.reshape(-1, k), self.x.reshape(-1, self.x.shape[-1])
        scalars = {
            name: (slope * self.chain[name]).sum() for name in ("temperature", "logit_soft_cap")
        }
        return {
            "x": d_logits @ self.kernel.T,
            "kernel": x.T @ flat,
            "bias": flat.sum(0),
            **scalars,
        }


def head(
    x: Any,
    kernel: Any,
    labels: Any,
    bias: Any = None,
    *,
    where: Any = None,
    ignore_index: int | None = None,
    logit_soft_cap: float | None = None,
    temperature: float = 1.0,
) -> Head:
    """The statistics of softmax(x @ kernel + bias) and of each row's label."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    labels = np.asarray(labels)
    k = kernel.shape[1]
    bias = np.zeros(k) if bias is None else np.asarray(bias, np.float64)
    keep: Any = np.ones(labels.shape, bool)
    classes = np.ones((*labels.shape, k), bool)
    if where is not None and np.ndim(where) == x.ndim:
        classes = np.broadcast_to(where, classes.shape)
        keep = classes.any(-1)
    elif where is not None:
        keep = np.broadcast_to(where, keep.shape)
    if ignore_index is not None:
        keep = keep & (labels != ignore_index)
    x = np.where(keep[..., None], x, 0)
    finite = np.where(np.isfinite(bias), np.abs(bias), 0)
    size = ((np.abs(x) @ np.abs(kernel) + finite) * classes).max(-1) / temperature

    raw = x @ kernel + bias
    capped, slope = raw, np.ones_like(raw)
    d_cap = cap_terms = np.zeros_like(raw)
    with np.errstate(all="ignore"):
        if logit_soft_cap is not None:
            c, impossible = logit_soft_cap, raw == -np.inf
            z = np.where(impossible, 0, raw) / c
            capped, slope = np.where(impossible, -np.inf, c * np.tanh(z)), 1 / np.cosh(z) ** 2
            d_cap = np.tanh(z) - z * slope
            cap_terms = np.where(classes, (np.abs(np.tanh(z)) + np.abs(z)) / temperature, 0)
        a = np.where(classes, capped / temperature, -np.inf)
        m = a.max(-1, keepdims=True)
        log_s = np.log(np.exp(a - m).sum(-1, keepdims=True))
        log_p = a - m - log_s
        p = np.exp(log_p)
        entropy = np.where(p > 0, -p * log_p, 0).sum(-1, keepdims=True)
        is_label = np.arange(k) == labels[..., None]
        bad = keep & ((labels < 0) | (labels >= k))
        label_log_prob = np.where(is_label, log_p, 0).sum(-1)
        nan = np.where(bad, np.nan, 0)[..., None]
        slopes = {
            "log_normalizer": p + nan,
            "label_log_prob": is_label * classes - p + nan,
            "entropy": -np.where(p > 0, p * (log_p + entropy), 0) + nan,
        }
        minus_log_p = np.where(p > 0, -log_p, 0)
        terms = {
            "log_normalizer": p,
            "label_log_prob": is_label * classes + p,
            "entropy": p * (1 + minus_log_p + entropy),
        }
        kept = keep[..., None]
        slopes, terms = (
            {n: np.where(kept, s, 0) for n, s in each.items()} for each in (slopes, terms)
        )
        moved = np.where(np.isfinite(a), a, 0)
        chain = {
            "logits": np.where(classes, slope / temperature, 0),
            "temperature": -moved / temperature,
            "logit_soft_cap": np.where(classes, d_cap / temperature, 0),
        }
    return Head(
        log_p=log_p,
        log_normalizer=np.where(keep, (m + log_s)[..., 0], 0),
        label_log_prob=np.where(keep, np.where(bad, np.nan, label_log_prob), 0),
        entropy=np.where(keep, entropy[..., 0], 0),
        predicted=np.where(keep, a.argmax(-1), 0),
        keep=keep,
        size=size,
        slopes=slopes,
        terms=terms,
        chain=chain,
        chain_terms={**{n: np.abs(c) for n, c in chain.items()}, "logit_soft_cap": cap_terms},
        x=x,
        kernel=kernel,
    )
