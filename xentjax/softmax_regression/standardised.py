"""Standardised features, so that steps and rounding do not depend on units."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from xentjax.softmax_regression.arrays import Array, namespace

# Largest number of elements standardised at a time on the host, to fit in the cache.
_HOST_BLOCK = 2**17


class Standardised(NamedTuple):
    """Features minus their mean, divided by the larger of standard deviation and sqrt(l2 / n)."""

    features: Float[Array, "d1 n"]
    """The last row is 1, for the bias."""
    scale: Float[Array, " d"]
    """The scale of each feature; its derivatives are 0, since it changes no result."""
    offset: Float[Array, " d"]
    """The means, divided by the scale."""


def standardise(x: Array, weights: Array | None, total: Array, l2: Array) -> Standardised:
    """Standardise the rows x [N, D]; `weights` are frequency weights, whose sum is `total`."""
    xp, (n, d) = namespace(x), x.shape
    if xp is not np:
        features, scale, offset = _standardise(x.T, weights, total, l2)
        ones = xp.ones_like(features, shape=(1, n))
        return Standardised(xp.concatenate([features, ones]), scale, offset)
    features = np.empty((d + 1, n))
    features[-1] = 1
    scale, offset = np.empty((2, d))
    rows = max(1, _HOST_BLOCK // max(d, 1))
    for start in range(0, n, rows):
        features[:-1, start : start + rows] = x[start : start + rows].T
    step = max(1, _HOST_BLOCK // n)
    for start in range(0, d, step):
        some = slice(start, min(start + step, d))
        features[some], scale[some], offset[some] = _standardise(features[some], weights, total, l2)
    return Standardised(features, scale, offset)


def _standardise(
    x: Array, weights: Array | None, total: Array, l2: Array
) -> tuple[Array, Array, Array]:
    xp = namespace(x)
    # Squares of features of 1e-20 or 1e20 do not fit in float32. Powers of 2 are exact factors.
    largest = xp.finfo(x.dtype).maxexp - 3
    exponent = xp.frexp(abs(x).max(1))[1].clip(-largest, largest)
    one = xp.ones(len(x), x.dtype)
    x = x * xp.ldexp(one, -exponent)[:, None]

    def mean(values: Array) -> Array:
        return (values if weights is None else values * weights[None]).sum(1) / total

    # Subtracting the first row makes constant features exactly 0 and removes large offsets without
    # loss of digits.
    first = x[:, :1]
    shifted = x - first
    middle = mean(shifted)[:, None]
    centred = shifted - middle
    deviation = xp.ldexp(xp.sqrt(mean(xp.square(centred))), exponent)
    # If the penalty outweighs a feature, the penalty sets its scale: divided by the feature's own
    # deviation, the penalty could be infinite. The root has an infinite derivative at l2 = 0, so
    # the scale has none.
    scale = xp.maximum(deviation, xp.sqrt(l2 / total))
    scale = xp.where(scale > 0, scale, 1)
    if xp is not np:
        scale = jax.lax.stop_gradient(scale)
    to_features = (xp.ldexp(one, exponent) / scale)[:, None]
    return centred * to_features, scale, ((first + middle) * to_features)[:, 0]
