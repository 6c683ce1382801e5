"""Softmax regression: the die whose probabilities depend on features, fitted by convex descent."""

import warnings
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.checks import (
    check_floating,
    check_index,
    check_num_steps,
    check_scalar,
    concrete,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype
from xentjax._core.labels import check_row_labels, parse_row_labels
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.varying import on_auto_axes
from xentjax.categorical.counts import count_indices
from xentjax.softmax_regression.descent import (
    Problem,
    at_optimum,
    centre,
    log_likelihood,
    minimise,
    unit_diagonal,
)


class SoftmaxRegressionFit(NamedTuple):
    """A fitted softmax regression; its logits are `x @ kernel + bias`."""

    kernel: Float[Array, "d k"]
    """Each row sums to 0 over the classes that occur: only differences between classes matter."""
    bias: Float[Array, " k"]
    """Sums to 0 over the classes that occur; -inf for a class that never does."""
    log_likelihood: Float[Array, ""]
    """Sum over the rows in nats, without the penalty."""
    covariance: Float[Array, "p p"] | None
    """Covariance of the p = (K-1)(D+1) coefficients relative to class 0: class by class, the bias
    last in each. None where p > 1000."""
    gradient_norm: Float[Array, ""]
    """Largest derivative of the objective over N in a bias or in a coefficient of a feature of
    deviation 1, or of the deviation over sqrt(l2 / N) where that is less; 0 at the optimum."""
    steps: Int[Array, ""]
    """Steps taken."""
    converged: Bool[Array, ""]
    """Whether the objective can fall by no more than `tol` nats, and an optimum exists."""
    separated: Bool[Array, ""]
    """Whether no optimum exists: the likelihood rises for ever as coefficients grow."""
    identified: Bool[Array, ""] | None
    """Whether the optimum is one point: not where data are separated or features, with the
    constant, linearly dependent. The covariance is NaN where it is not, and None where this is."""


def fit_softmax_regression(
    x: ArrayLike,
    labels: ArrayLike,
    num_classes: SupportsIndex,
    *,
    l2: ArrayLike = 0.0,
    max_steps: int = 1000,
    tol: ArrayLike = 1e-6,
) -> SoftmaxRegressionFit:
    """Maximum-likelihood softmax regression (multinomial logistic regression).

        minimise  F = sum_n H(y_n, softmax(x_n kernel + bias)) + (l2 / 2) ||kernel||^2

    The bias is free of penalty. F is convex and is minimised from the pmf of the labels (the best
    fit without features) in features that are standardised internally, which moves neither the
    optimum nor the penalty. Up to 1000 coefficients p = (K-1)(D+1) the steps are Newton's; beyond,
    where the p^2 numbers of the Hessian cost more than all steps without it, L-BFGS's. Their length
    needs no values of F: along a direction of derivative -a and curvature v that spreads the logits
    of a row by at most R, the length log(1 + R a / v) / R is guaranteed to lower F.

    A constant added to all classes' coefficients changes no probability; their sums over the
    classes are therefore 0, which with l2 > 0 is the optimum itself.

    `covariance` is the inverse of the Fisher information, which is the Hessian of F, so that
    standard errors are the roots of its diagonal. With l2 > 0 the penalty is a part of the Hessian:
    the covariance is then that of the normal approximation to the posterior under the prior
    kernel ~ Normal(0, 1 / l2), not that of the biased estimate. Where the features (with the
    constant) are linearly dependent to within rounding, many kernels fit equally well, with the
    same probabilities for the rows of `x`: one of them is returned, the covariance is NaN and
    `identified` False. l2 > 0, or a feature fewer, makes it one.

    Where a hyperplane separates classes, wholly or with rows on it, the likelihood has no maximum.
    A Newton step that changes no row's differences of logits by 1 proves that there is one; data
    are said to be `separated` if steps are still longer than 0.5 when F could fall by no more than
    1e-10 nats (float32: 4e-5). Coefficients and log-likelihood are then those of the last step,
    near the supremum, and the covariance is NaN. So data that overlap by no more than this count
    as separated, an end by `max_steps` may hide it, and with L-BFGS, whose steps prove nothing, it
    is a heuristic. l2 > 0 makes the optimum finite. A class that never occurs has bias -inf, kernel
    0 and covariance NaN, whatever l2 is.

    Derivatives in `x` and `l2`, forward and reverse, are those of the optimum by the implicit
    function theorem, H d_beta = -d(gradient of F); those of `gradient_norm` are 0.

    Args:
        x: features [N, D], floating. Half precision is computed in float32.
        labels: integers 0..K-1, [N].
        num_classes: K.
        l2: strength of the penalty, >= 0, against the sum of the losses. It is 1 / C of
            scikit-learn, and 2 / C for two classes, where scikit-learn's penalty is that of the
            difference between their coefficients, twice the square of both.
        max_steps: most steps taken, >= 1.
        tol: fall of F in nats, by its quadratic model, at which one more step is the last. Of
            F's total, as the statistical error is: 1e-6 nats are a thousandth of a standard error.

    Returns:
        The fit. It warns of separated data, of linearly dependent features, of classes that never
        occur and of an optimum that was not reached, except under jit, where values are unknown;
        there a label outside 0..K-1 makes the fit NaN.

    Raises:
        ValueError: for a concrete label outside 0..K-1, concrete features that are not finite, no
            rows, shapes that do not fit, l2 < 0, tol < 0, max_steps < 1, or fewer than 1 class.
        TypeError: for features that are not floating, or labels, num_classes or max_steps that are
            not integers.

    Example:
        >>> x = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
        >>> labels = jnp.array([0, 0, 1, 0, 1, 1])
        >>> fit = fit_softmax_regression(x, labels, num_classes=2)
        >>> print(fit.log_likelihood.round(4), fit.converged, fit.separated)
        -2.478 True False
        >>> logits = jnp.array([2.5]) @ fit.kernel + fit.bias
        >>> print(jax.nn.softmax(logits).round(4))
        [0.5 0.5]
        >>> relative_to_class_0 = fit.kernel[:, 1:] - fit.kernel[:, :1]
        >>> standard_errors = jnp.sqrt(jnp.diag(fit.covariance)).reshape(1, 2)  # [K-1, D+1]
        >>> print(f"{relative_to_class_0[0, 0]:.3f} +- {standard_errors[0, 0]:.3f}")
        1.214 +- 0.913

    Source: A. Agresti, Categorical Data Analysis (2013), section 8.1; the steps: F. Bach,
    "Self-concordant analysis for logistic regression" (2010).
    """
    x = check_floating("x", x)
    if x.ndim != 2 or x.shape[0] == 0:
        raise_value_error("x", "shape [N, D] with N >= 1", f"shape {x.shape}")
    k = check_index("num_classes", num_classes)
    if k < 1:
        raise_value_error("num_classes", "an integer >= 1", repr(num_classes))
    indices = parse_row_labels(labels, len(x), "x")
    check_num_steps("max_steps", max_steps)
    dtype = compute_dtype(x.dtype)
    largest = float(jnp.finfo(dtype).max)
    check_scalar("l2", l2, "a finite number >= 0", lambda value: 0 <= value <= largest)
    check_scalar("tol", tol, "a number >= 0", lambda value: value >= 0)
    known = concrete(x)
    if known is not None and not (finite := np.isfinite(known)).all():
        raise_value_error("x", "finite numbers", known[~finite][0])
    check_row_labels(labels, indices, k)

    class_counts = count_indices(indices, None, None, k)
    fit = _fit(
        x.astype(dtype),
        indices,
        class_counts,
        jnp.asarray(l2, dtype),
        jnp.asarray(max_steps, jnp.int32),
        jnp.asarray(tol, dtype),
    )
    known = concrete(class_counts)
    if known is not None and not known.all():
        absent = np.flatnonzero(known == 0)[0]
        warnings.warn(f"labels: class {absent} never occurs, its bias is -inf", stacklevel=2)
    separated, converged = concrete(fit.separated), concrete(fit.converged)
    identified = None if fit.identified is None else concrete(fit.identified)
    if separated is not None and separated:
        warnings.warn(
            "labels: separated by a hyperplane, so the likelihood has no maximum; l2 > 0 gives one",
            stacklevel=2,
        )
    elif identified is not None and not identified:
        warnings.warn(
            "x: the features, with the constant, are linearly dependent, so many kernels fit "
            "equally well and the covariance is NaN; l2 > 0 leaves one",
            stacklevel=2,
        )
    if converged is not None and not (converged or separated):
        warnings.warn(f"max_steps: {fit.steps} steps did not reach the optimum", stacklevel=2)
    return fit


@jax.jit
@jax.default_matmul_precision("highest")
@on_auto_axes
def _fit(
    x: Array, labels: Array, counts: Array, l2: Array, max_steps: Array, tol: Array
) -> SoftmaxRegressionFit:
    n, d = x.shape
    # Squares of features of 1e-20 or 1e20 have no place in float32. Powers of 2 round nothing.
    largest = jnp.finfo(x.dtype).maxexp - 3
    exponent = jnp.frexp(jnp.abs(x).max(0))[1].clip(-largest, largest)
    x = jnp.ldexp(x, -exponent[None])
    # Relative to a row first: constant features become 0 exactly, and large offsets lose nothing.
    shifted = x - x[:1]
    mean = shifted.mean(0, keepdims=True)
    centred = shifted - mean
    deviation = jnp.ldexp(jnp.sqrt(jnp.square(centred).mean(0)), exponent)
    # One that the penalty outweighs is scaled by that, which its own scale may make infinite.
    # It moves no result, and so has no derivative, which a root of l2 = 0 would make infinite.
    scale = jax.lax.stop_gradient(jnp.maximum(deviation, jnp.sqrt(l2 / n)))
    valid = counts.sum() == n  # a label that was not counted names no class
    nan = nan_unless(valid, x.dtype)
    scale = jnp.where(scale > 0, scale, 1) + nan
    log_pmf = jnp.log(counts.astype(x.dtype) / n) + nan
    occurs = (counts > 0) | ~valid
    to_unit = 1 / scale  # whose square may be infinite
    to_features = (jnp.ldexp(jnp.ones_like(scale), exponent) / scale)[None]
    problem = Problem(
        features=jnp.concatenate([centred * to_features, jnp.ones_like(x, shape=(n, 1))], 1),
        labels=labels,
        start=jnp.zeros_like(x, shape=(d + 1, counts.size)).at[-1].set(log_pmf),
        occurs=occurs,
        penalty=jnp.concatenate([l2 * to_unit * to_unit, jnp.zeros_like(x, shape=1)]),
    )
    end = minimise(*jax.lax.stop_gradient((problem, max_steps, tol)))
    point, hessian = at_optimum(problem, end.point, end.hessian)

    offset = ((x[:1] + mean) * to_features)[0]
    kernel = centre(point[:-1], occurs)
    bias = point[-1] + jnp.where(occurs, log_pmf, 0) - offset @ kernel
    bias = jnp.where(occurs, centre(bias[None], occurs)[0], -jnp.inf)
    covariance = identified = None
    if hessian is not None:
        to_original = jnp.diag(jnp.concatenate([to_unit, jnp.ones_like(x, shape=1)]))
        to_original = to_original.at[-1, :-1].set(-offset)
        covariance, independent = _covariance(hessian, to_original, occurs)
        covariance += nan_unless(~end.separated, x.dtype)
        identified = independent & ~end.separated
    return SoftmaxRegressionFit(
        kernel=kernel / scale[:, None],
        bias=bias,
        log_likelihood=log_likelihood(problem, point),
        covariance=covariance,
        gradient_norm=jnp.abs(end.gradient).max() / n,
        steps=end.steps,
        converged=end.converged,
        separated=end.separated,
        identified=identified,
    )


def _covariance(hessian: Array, to_original: Array, occurs: Array) -> tuple[Array, Array]:
    """Return the inverse Hessian in the coefficients of the original features, and if it exists."""
    d1, others = to_original.shape[0], occurs.size - 1
    scaled, scale = unit_diagonal(hessian)
    lower = jnp.linalg.cholesky(scaled)
    # What the other coefficients leave of each one's information, of which rounding has its part.
    left = jnp.square(jnp.diag(lower)).min(initial=1)
    invertible = left > hessian.shape[0] * jnp.finfo(hessian.dtype).eps
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.diag(scale)) * scale[:, None]
    blocks = inverse.reshape(others, d1, others, d1)
    blocks = jnp.einsum("ad,kdle,be->kalb", to_original, blocks, to_original)
    known = occurs[1:] & occurs[:1] & invertible
    known = known[:, None] & known[None]
    blocks += nan_unless(known[:, None, :, None], blocks.dtype)
    return blocks.reshape(hessian.shape), invertible
