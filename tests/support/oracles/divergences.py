"""Divergences of two linear heads and their gradients in NumPy float64, from the definitions."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tests.support.oracles.heads import Head, head


@dataclass(frozen=True)
class Pair:
    """Divergences of the rows of two heads; 0 where the row is masked."""

    target: Head
    prediction: Head
    value: np.ndarray
    slopes: tuple[np.ndarray, np.ndarray]
    """The derivative in the logits of each head as the softmax takes them, [..., K]."""
    terms: tuple[np.ndarray, np.ndarray]
    """Sizes of the terms that each of those is a sum of."""
    weight_slope: np.ndarray
    """The derivative in the weight of the Jensen-Shannon divergence."""

    def gradients(self, cotangent: Any) -> dict[str, np.ndarray]:
        """Gradients of sum_n <cotangent_n, divergence_n> in all arguments."""
        each = self._pull_back(np.asarray(cotangent), self.slopes, sizes=False)
        return {**each, "weight": np.sum(self.weight_slope * cotangent)}

    def gradient_sizes(self, cotangent: Any) -> dict[str, np.ndarray]:
        """Sizes of the terms that those gradients are sums of."""
        each = self._pull_back(np.abs(cotangent), self.terms, sizes=True)
        return {**each, "weight": np.sum(np.abs(self.weight_slope) * np.abs(cotangent))}

    def _pull_back(self, c: np.ndarray, slopes: Any, *, sizes: bool) -> dict[str, np.ndarray]:
        target, prediction = (
            (each.sizes_of if sizes else each.pulled_back)(c[..., None] * slope)
            for each, slope in zip((self.target, self.prediction), slopes, strict=True)
        )
        both = {n: target.pop(n) + prediction.pop(n) for n in ("temperature", "logit_soft_cap")}
        return {**{f"target_{n}": g for n, g in target.items()}, **prediction, **both}


def divergence(
    kind: str,
    target_x: Any,
    target_kernel: Any,
    x: Any,
    kernel: Any,
    *,
    target_bias: Any = None,
    bias: Any = None,
    weight: float = 0.5,
    **keywords: Any,
) -> Pair:
    """KL(p || q), "kl"; KL(q || p), "reverse"; or the Jensen-Shannon divergence, "js"."""
    labels = np.zeros(np.shape(x)[:-1], np.int32)
    target = head(target_x, target_kernel, labels, target_bias, **keywords)
    prediction = head(x, kernel, labels, bias, **keywords)
    if keywords.get("logit_soft_cap") is not None:
        target, prediction = map(_with_rounded_cap, (target, prediction))
    keep = target.keep
    with np.errstate(all="ignore"):
        if kind == "js":
            of_p, of_q, value, slope = _js(target.log_p, prediction.log_p, weight)
        elif kind == "kl":
            of_p, of_q, value, slope = _kl(target.log_p, prediction.log_p)
        else:
            of_q, of_p, value, slope = _kl(prediction.log_p, target.log_p)

    def kept(values: np.ndarray) -> np.ndarray:
        return np.where(keep.reshape(keep.shape + (1,) * (values.ndim - keep.ndim)), values, 0)

    (p_slope, p_terms), (q_slope, q_terms) = of_p, of_q
    return Pair(
        target=target,
        prediction=prediction,
        value=kept(value),
        slopes=(kept(p_slope), kept(q_slope)),
        terms=(kept(p_terms), kept(q_terms)),
        weight_slope=kept(slope),
    )


def _with_rounded_cap(each: Head) -> Head:
    """The slope of a saturated cap, 1 - tanh^2, is rounded in float32 relative to 1, not to it."""
    rounded = np.where(each.chain["logits"] == 0, 0, each.chain["logits"] + 0.01)
    return replace(each, chain_terms={**each.chain_terms, "logits": rounded})


def _log_ratio(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    both = (log_p == -np.inf) & (log_q == -np.inf)
    return np.where(both, 0, log_p - log_q)


def _times(p: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.where(p == 0, 0, p * x)


def _kl(log_p: np.ndarray, log_q: np.ndarray) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    d, p, q = _log_ratio(log_p, log_q), np.exp(log_p), np.exp(log_q)
    # Each term is >= 0: where pmfs are close, only the size of the sum is lost to rounding.
    value = (_times(p, d) - p + q).sum(-1)
    total = value[..., None]
    of_p = _times(p, d - total), _times(p, 1 + np.abs(d) + total)
    return of_p, (q - p, q + p), value, np.zeros_like(value)


def _js(
    log_p: np.ndarray, log_q: np.ndarray, weight: float
) -> tuple[Any, Any, np.ndarray, np.ndarray]:
    log_m = np.logaddexp(np.log(weight) + log_p, np.log1p(-weight) + log_q)
    (of_p, _, p_value, _), (of_q, _, q_value, _) = _kl(log_p, log_m), _kl(log_q, log_m)
    of_p, of_q = (tuple(w * x for x in each) for w, each in ((weight, of_p), (1 - weight, of_q)))
    return of_p, of_q, weight * p_value + (1 - weight) * q_value, p_value - q_value
