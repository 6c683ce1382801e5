"""Fisher information of rows about coefficients relative to class 0: one product per chunk.

It has a block for each pair of classes, sum_n w_n p_nj ([j = k] - p_nk) z_n z_n^T. With few
classes, the features are multiplied by the factor of each pair of classes and then by the features.
With many, the products of all pairs of features are formed once and multiplied by the factors.
"""

from functools import cache

import numpy as np

from xentjax.softmax_regression.arrays import Array, namespace

# Smallest number of pairs of classes for which products of pairs of features are faster.
_MANY = 8


def width_of_sums(d1: int, k: int) -> int:
    """Return the number of elements per row of the largest array in `information_sums`."""
    return d1 * (d1 + 1) // 2 if _many(k) else k * (k - 1) // 2 * d1


def information_sums(p: Array, features: Array, weights: Array | None) -> Array:
    """Return the sums over the rows from which `information` assembles the matrix.

    Args:
        p: probabilities [K, n].
        features: [D1, n].
        weights: of the rows, or None.
    """
    xp, k = namespace(p), len(p)
    own = np.arange(k - 1)
    # 1 - p would cancel where p is near 1, and the matrix could become indefinite.
    variance = (p * ((1 - xp.eye(k, dtype=p.dtype)) @ p))[1:]
    pairs = -_products(p[1:])
    places = _places(k - 1)[own, own]
    if xp is np:
        pairs[places] = variance
    else:
        pairs = pairs.at[places].set(variance)
    pairs = pairs if weights is None else pairs * weights[None]
    if _many(k):
        return pairs @ _products(features).T
    return (pairs[:, None] * features[None]).reshape(-1, features.shape[1]) @ features.T


def information(sums: Array, d1: int, k: int) -> Array:
    """Return the information [(K-1) D1, (K-1) D1], class by class, from the sums."""
    blocks = sums[:, _places(d1)] if _many(k) else sums.reshape(-1, d1, d1)
    p = (k - 1) * d1
    return blocks[_places(k - 1)].transpose(0, 2, 1, 3).reshape(p, p)


def _many(k: int) -> bool:
    return k * (k - 1) // 2 >= _MANY


@cache
def _places(m: int) -> np.ndarray:
    """Return, for each pair of m rows, the row of `_products` with their product."""
    places = np.zeros((m, m), np.int32)
    upper = np.triu_indices(m)
    places[upper] = np.arange(len(upper[0]))
    return np.maximum(places, places.T)


def _products(rows: Array) -> Array:
    """Return the products [m (m + 1) / 2, n] of all pairs of m rows."""
    m, n = rows.shape
    if namespace(rows) is not np:
        first, second = np.triu_indices(m)
        return rows[first] * rows[second]
    products, start = np.empty((m * (m + 1) // 2, n)), 0
    for i in range(m):
        np.multiply(rows[i], rows[i:], out=products[start : start + m - i])
        start += m - i
    return products
