"""Linear systems with the Hessian: the minimum of the quadratic model, and the inverse."""

import jax
import numpy as np

from xentjax.softmax_regression.arrays import Array, namespace


def solve(hessian: Array, gradient: Array, occurs: Array) -> Array:
    """Return minus the step to the minimum of the quadratic model."""
    xp = namespace(hessian)
    scaled, scale = _unit_diagonal(hessian)
    # It keeps the solution finite if features are linearly dependent or data are separated.
    ridge = 8 * len(hessian) * float(xp.finfo(hessian.dtype).eps)
    matrix = scaled + ridge * xp.eye(len(hessian), dtype=hessian.dtype)
    by_class = gradient[:, 1:].T
    right = scale * by_class.ravel()
    if xp is np:
        solution = scale * np.linalg.solve(matrix, right)
    else:
        factor = jax.scipy.linalg.cho_factor(matrix, lower=True)
        solution = scale * jax.scipy.linalg.cho_solve(factor, right)
    relative = solution.reshape(by_class.shape).T
    return centre(xp.concatenate([xp.zeros_like(gradient[:, :1]), relative], 1), occurs)


def centre(coefficients: Array, occurs: Array) -> Array:
    """Make coefficients sum to 0 over the classes that occur; 0 for the other classes."""
    xp = namespace(coefficients)
    kept = xp.broadcast_to(occurs, coefficients.shape)
    mean = coefficients.mean(-1, keepdims=True, where=kept)
    return xp.where(kept, coefficients - mean, 0)


def inverse(hessian: Array, rounding: Array) -> tuple[Array, Array]:
    """Return the inverse, and whether it exists to within the features' relative `rounding`."""
    xp = namespace(hessian)
    scaled, scale = _unit_diagonal(hessian)
    lower = _cholesky(scaled)
    # Part of a coefficient's information that those before it do not explain; some is rounding.
    left = xp.square(xp.diagonal(lower)).min(initial=1)
    invertible = left > len(hessian) * rounding
    if xp is np:
        unit = np.linalg.inv(scaled) if invertible else np.full_like(scaled, np.nan)
        return scale[:, None] * unit * scale[None], invertible
    half = jax.scipy.linalg.cho_solve((lower, True), xp.diag(scale))
    return half * scale[:, None], invertible


def in_features(matrix: Array, to_unit: Array, offset: Array, known: Array) -> Array:
    """Transform a covariance from standardised features to the given ones.

    Args:
        matrix: covariance [(K-1) D1, (K-1) D1], class by class.
        to_unit: factor of each feature in its standardisation.
        offset: number subtracted from each feature after that.
        known: whether the coefficients of each class are known.

    Returns:
        A covariance of the same shape, NaN for coefficients that are not known.
    """
    xp, d1, others = namespace(matrix), len(to_unit) + 1, len(known)
    ones = xp.ones_like(to_unit, shape=1)
    last = xp.concatenate([-offset, ones])[None]
    above = xp.diag(xp.concatenate([to_unit, ones]))[:-1]
    transform = xp.concatenate([above, last])
    blocks = matrix.reshape(others, d1, others, d1)
    blocks = xp.einsum("ad,kdle,be->kalb", transform, blocks, transform)
    both = (known[:, None] & known[None])[:, None, :, None].astype(blocks.dtype)
    # 0 / 0 makes NaN only where needed. At a constant NaN, `jax_debug_nans` would always stop.
    return (blocks + xp.zeros_like(both) / both).reshape(matrix.shape)


def _cholesky(matrix: Array) -> Array:
    xp = namespace(matrix)
    try:
        return xp.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:  # JAX returns NaN instead
        return xp.full_like(matrix, xp.nan)


def _unit_diagonal(matrix: Array) -> tuple[Array, Array]:
    """Return `scale[:, None] * matrix * scale`, and the scale that makes its diagonal 1."""
    xp = namespace(matrix)
    diagonal = xp.diagonal(matrix)
    scale = xp.where(diagonal > 0, 1 / xp.sqrt(xp.where(diagonal > 0, diagonal, 1)), 1)
    return scale[:, None] * matrix * scale[None], scale
