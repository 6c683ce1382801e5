"""Check that a fit is nested in another: the same rows, and features in the span of the other's."""

from typing import Any

import numpy as np

from xentjax._core.checks import concrete, raise_value_error


def check_nested(data: Any, other: Any, k: int, other_k: int) -> None:
    """Raise a ValueError unless the other fit is of the same data with fewer features.

    Args:
        data: features, labels and weights of the larger fit.
        other: features, labels and weights of the smaller fit.
        k: number of classes of the larger fit.
        other_k: number of classes of the smaller fit.
    """
    n, other_n = np.shape(data.labels)[-1], np.shape(other.labels)[-1]
    if n != other_n:
        raise_value_error("other", f"a fit of the same {n} rows", f"{other_n} rows")
    if k != other_k:
        raise_value_error("other", f"a fit of the same {k} classes", f"{other_k} classes")
    d, other_d = data.x.shape[-1], other.x.shape[-1]
    if other_d >= d:
        raise_value_error("other", f"a fit with fewer features than {d}", str(other_d))
    pairs = [(concrete(data.labels), concrete(other.labels), "labels")]
    ones = np.ones(n)
    pairs.append((_weights(data, ones), _weights(other, ones), "weights"))
    for ours, theirs, name in pairs:
        if ours is not None and theirs is not None and not np.array_equal(ours, theirs):
            raise_value_error("other", f"a fit of the same {name}", f"other {name}")
    x, other_x = concrete(data.x), concrete(other.x)
    if x is None or other_x is None:
        return
    outside = _outside(_unit(x), _unit(other_x))
    if outside.any():
        got = f"feature {int(outside.argmax())}, which is not"
        raise_value_error("other", "features that are combinations of this fit's", got)


def _weights(data: Any, ones: np.ndarray) -> np.ndarray | None:
    return ones if data.sample_weight is None else concrete(data.sample_weight)


def _unit(x: np.ndarray) -> np.ndarray:
    """Subtract the means of the features and scale them to length 1; constant ones become 0."""
    x = x.astype(np.float64)
    x = x / np.maximum(np.abs(x).max(0), np.finfo(np.float64).tiny)
    x = x - x[:1]
    x = x - x.mean(0)
    length = np.sqrt(np.square(x).sum(0))
    return x / np.where(length > 0, length, 1)


def _outside(x: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which features of `other` are not linear combinations of the features of `x`."""
    left = other - x @ np.linalg.lstsq(x, other, rcond=None)[0]
    return np.square(left).sum(0) > 1e-8
