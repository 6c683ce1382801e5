"""Softmax regression: the die whose probabilities depend on features, fitted by convex descent."""

import math
import operator
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int, Integer

from xentjax._checks import (
    check_floating,
    check_index,
    check_integer,
    check_scalar,
    concrete,
    fail,
)
from xentjax._dtypes import compute_dtype, without_wrapping
from xentjax.categorical.counts import counts
from xentjax.losses import softmax, softmax_cross_entropy_with_integer_labels


class SoftmaxRegressionFit(NamedTuple):
    """A fitted softmax regression; its logits are `x @ kernel + bias`."""

    kernel: Float[Array, "d k"]
    """Each row sums to 0 over the classes that occur: only differences between classes matter."""
    bias: Float[Array, " k"]
    """Sums to 0 over the classes that occur; -inf for a class that never does."""
    log_likelihood: Float[Array, ""]
    """Sum over the rows in nats, without the penalty."""
    covariance: Float[Array, "p p"] | None
    """Of the coefficients relative to class 0, p = (K-1)(D+1) of them: class by class, the bias
    last in each. None where p > 1000."""
    gradient_norm: Float[Array, ""]
    """Largest derivative of the objective over N in a bias or in a coefficient of a standardised
    feature; 0 at the optimum."""
    steps: Int[Array, ""]
    """Steps taken."""
    converged: Bool[Array, ""]
    """Whether the objective can fall by no more than `tol` nats, and an optimum exists."""
    separated: Bool[Array, ""]
    """Whether no optimum exists: the likelihood rises for ever as coefficients grow."""


def fit_softmax_regression(
    x: ArrayLike,
    labels: ArrayLike,
    num_classes: SupportsIndex,
    *,
    l2: ArrayLike = 0.0,
    max_steps: int = 1000,
    tol: ArrayLike = 1e-6,
) -> SoftmaxRegressionFit:
    """The softmax regression (multinomial logistic regression) of most likelihood.

        minimise  F = sum_n H(y_n, softmax(x_n kernel + bias)) + (l2 / 2) ||kernel||^2

    The bias is free of penalty. F is convex and is minimised from the pmf of the labels (the best
    fit without features) in features that are standardised internally, which moves neither the
    optimum nor the penalty. Up to 1000 coefficients p = (K-1)(D+1) the steps are Newton's; beyond,
    where the p^2 numbers of the Hessian cost more than all steps without it, L-BFGS's. Their length
    needs no values of F: along a direction of slope -a and curvature v that spreads the logits of a
    row by at most R, the length log(1 + R a / v) / R lowers F for certain.

    A constant added to all classes' coefficients changes no probability; their sums over the
    classes are therefore 0, which with l2 > 0 is the optimum itself.

    `covariance` is the inverse of the Fisher information, which is the Hessian of F, so that
    standard errors are the roots of its diagonal. With l2 > 0 the penalty is a part of the Hessian:
    the covariance is then that of the normal approximation to the posterior under the prior
    kernel ~ Normal(0, 1 / l2), not that of the biased estimate. NaN where the features (with the
    constant) are linearly dependent to within rounding, so that many kernels fit equally well, one
    of which is returned.

    Where a hyperplane separates classes, wholly or with rows on it, the likelihood has no maximum.
    A Newton step that changes no row's differences of logits by 1 proves that there is one; data
    are said to be `separated` if steps are still longer than 0.5 when F could fall by no more than
    1e-10 nats (float32: 4e-5). Coefficients and log-likelihood are then those of the last step,
    near the supremum, and the covariance is NaN. So data that overlap by no more than this count
    as separated, an end by `max_steps` may hide it, and with L-BFGS, whose steps prove nothing, it
    is a heuristic. l2 > 0 makes the optimum finite. A class that never occurs has bias -inf, kernel
    0 and covariance NaN, whatever l2 is.

    Args:
        x: features [N, D], floating. Half precision is computed in float32.
        labels: integers 0..K-1, [N].
        num_classes: K.
        l2: strength of the penalty, >= 0, against the sum of the losses (1 / C of scikit-learn).
        max_steps: most steps taken, >= 1.
        tol: fall of F in nats, by its quadratic model, at which one more step is the last. Of
            F's total, as the statistical error is: 1e-6 nats are a thousandth of a standard error.

    Returns:
        The fit. It warns of separated data and of classes that never occur, but under jit, where
        values are unknown; there a label outside 0..K-1 makes the fit NaN.

    Raises:
        ValueError: for a concrete label outside 0..K-1, concrete features that are not finite, no
            rows, shapes that do not fit, l2 < 0, tol < 0, max_steps < 1, or fewer than 1 class.
        TypeError: for features that are not floating or labels that are not integers.

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
        fail("x", "shape [N, D] with N >= 1", f"shape {x.shape}")
    k = check_index("num_classes", num_classes)
    if k < 1:
        fail("num_classes", "an integer >= 1", k)
    indices = check_integer("labels", without_wrapping(labels, bad=-1))
    if indices.shape != x.shape[:1]:
        fail("labels", f"shape {x.shape[:1]}, one for each row of x", f"shape {indices.shape}")
    if isinstance(max_steps, bool) or not isinstance(max_steps, int) or max_steps < 1:
        fail("max_steps", "an integer >= 1", repr(max_steps))
    check_scalar("l2", l2, "a finite number >= 0", lambda value: 0 <= value < math.inf)
    check_scalar("tol", tol, "a number >= 0", lambda value: value >= 0)
    known = concrete(x)
    if known is not None and not (finite := np.isfinite(known)).all():
        fail("x", "finite numbers", known[~finite][0])
    known = concrete(indices)
    if known is not None and (outside := (known < 0) | (known >= k)).any():
        fail("labels", f"integers 0..{k - 1}", np.asarray(labels)[outside][0])

    dtype = compute_dtype(x.dtype)
    class_counts = counts(indices, k)
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
    known = concrete(fit.separated)
    if known is not None and known:
        warnings.warn(
            "labels: separated by a hyperplane, so no coefficients are the most likely; l2 > 0 "
            "makes them finite",
            stacklevel=2,
        )
    return fit


# Beyond, ten Hessians cost more than the gradients of L-BFGS, and their memory grows as p^2.
_MAX_COEFFICIENTS = 1000
# Numbers in the largest array of a chunk of rows.
_CHUNK = 2**19


class _Problem(NamedTuple):
    """The coefficients, kernel and then bias, are `start` plus the point that is sought."""

    features: Float[Array, "n d1"]
    """Standardised, and a column of ones for the bias."""
    labels: Integer[Array, " n"]
    start: Float[Array, "d1 k"]
    occurs: Bool[Array, " k"]
    penalty: Float[Array, " d1"]
    """l2 in the scale of the standardised features."""


class _Descent(NamedTuple):
    point: Float[Array, "d1 k"]
    gradient: Float[Array, "d1 k"]
    hessian: Float[Array, "p p"] | None
    memory: Any
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]
    finished: Bool[Array, ""]


class _Search(NamedTuple):
    """Along a direction; a reach is how far a move spreads the logits of a row."""

    length: Float[Array, ""]
    last_reach: Float[Array, ""]
    slope: Float[Array, ""]
    tries: Int[Array, ""]
    first_slope: Float[Array, ""]
    gap: Float[Array, ""]
    """Fall of the objective to the minimum of its quadratic model where the search began."""
    reach: Float[Array, ""]
    """Of the move to that minimum."""


@jax.jit
@jax.default_matmul_precision("highest")
def _fit(
    x: Array, labels: Array, counts: Array, l2: Array, max_steps: Array, tol: Array
) -> SoftmaxRegressionFit:
    n, d = x.shape
    # Relative to a row first: constant features become 0 exactly, and large offsets lose nothing.
    shifted = x - x[:1]
    mean = shifted.mean(0, keepdims=True)
    centred = shifted - mean
    scale = jnp.sqrt(jnp.square(centred).mean(0))
    # A label that was not counted names no class.
    scale = jnp.where(counts.sum() == n, jnp.where(scale > 0, scale, 1), jnp.nan)
    log_pmf = jnp.where(counts.sum() == n, jnp.log(counts.astype(x.dtype) / n), jnp.nan)
    occurs = counts > 0
    problem = _Problem(
        features=jnp.concatenate([centred / scale[None], jnp.ones_like(x, shape=(n, 1))], 1),
        labels=labels,
        start=jnp.zeros_like(x, shape=(d + 1, counts.size)).at[-1].set(log_pmf),
        occurs=occurs,
        penalty=jnp.concatenate([l2 / jnp.square(scale), jnp.zeros_like(x, shape=1)]),
    )
    end = _descend(problem, max_steps, tol)
    separated = end.separated & (l2 == 0)

    offset = (x[:1] + mean)[0]
    kernel = _centre(end.point[:-1] / scale[:, None], occurs)
    bias = end.point[-1] + jnp.where(occurs, log_pmf, 0) - offset @ kernel
    bias = jnp.where(occurs, _centre(bias[None], occurs)[0], -jnp.inf)
    covariance = None
    if end.hessian is not None:
        to_original = jnp.diag(jnp.concatenate([1 / scale, jnp.ones_like(x, shape=1)]))
        to_original = to_original.at[-1, :-1].set(-offset / scale)
        covariance = _covariance(end.hessian, to_original, occurs)
        covariance = jnp.where(separated, jnp.nan, covariance)
    return SoftmaxRegressionFit(
        kernel=kernel,
        bias=bias,
        log_likelihood=_log_likelihood(problem, end.point),
        covariance=covariance,
        gradient_norm=jnp.abs(end.gradient).max() / n,
        steps=end.steps,
        converged=end.converged,
        separated=separated,
    )


def _descend(problem: _Problem, max_steps: Array, tol: Array) -> _Descent:
    start = jnp.zeros_like(problem.start)
    d1, k = start.shape
    p = (k - 1) * d1
    newton = p <= _MAX_COEFFICIENTS
    lbfgs = optax.scale_by_lbfgs()
    rounding = max(1e-10, 300 * float(jnp.finfo(start.dtype).eps))

    def body(state: _Descent) -> _Descent:
        point, hessian, memory = state.point, None, state.memory
        gradient = _gradient(problem, point)
        if newton:
            hessian = _hessian(problem, point)
            uphill = _solve(hessian, gradient, problem.occurs)
        else:
            with jax.numpy_dtype_promotion("standard"):  # as in optax's Adam, "strict" fails
                uphill, memory = lbfgs.update(gradient, memory, point)
        search = _line_search(problem, point, -jnp.asarray(uphill, point.dtype))
        # Newton's reach below 1 proves that an optimum exists: p - H u z, for z the features and u
        # the step, are then positive probabilities whose residuals balance exactly. For separated
        # data it tends to 1 or more instead, and only rounding makes it small at last.
        small = search.reach < 0.5
        separated = ~small & (search.gap <= rounding) & ~state.converged
        finished = state.converged | separated | (state.steps == max_steps) | ~(search.gap >= 0)
        move = jnp.where(finished, 0, search.length) * -jnp.asarray(uphill, point.dtype)
        return _Descent(
            point=point + move,
            gradient=gradient,
            hessian=hessian,
            memory=memory,
            steps=state.steps + jnp.where(finished, 0, 1),
            converged=state.converged | (small & (search.gap <= tol)),
            separated=separated,
            finished=finished,
        )

    no = jnp.zeros((), bool)
    initial = _Descent(
        point=start,
        gradient=start,
        hessian=jnp.zeros_like(start, shape=(p, p)) if newton else None,
        memory=None if newton else lbfgs.init(start),
        steps=jnp.zeros((), jnp.int32),
        converged=no,
        separated=no,
        finished=no,
    )
    return jax.lax.while_loop(lambda state: ~state.finished, body, initial)


def _line_search(problem: _Problem, point: Array, direction: Array) -> _Search:
    """Steps that are certain to lower the objective, until most of the slope is gone."""

    def body(state: _Search) -> _Search:
        slope, curvature, spread = _along(problem, point + state.length * direction, direction)
        # Where nothing moves any more all three are 0.
        newton = -slope / jnp.where(curvature > 0, curvature, 1)
        reach = spread * jnp.abs(newton)
        # Short steps are safe in full, and then converge quadratically.
        shrink = jnp.where(reach < 0.5, 1, jnp.log1p(reach) / jnp.maximum(reach, 0.5))
        first = state.tries == 0
        return _Search(
            length=state.length + shrink * newton,
            last_reach=shrink * reach,
            slope=slope,
            tries=state.tries + 1,
            first_slope=jnp.where(first, slope, state.first_slope),
            gap=jnp.where(first, -slope * newton / 2, state.gap),
            reach=jnp.where(first, reach, state.reach),
        )

    def unfinished(state: _Search) -> Array:
        steep = (state.tries < 2) | (jnp.abs(state.slope) > 0.1 * jnp.abs(state.first_slope))
        return steep & (state.last_reach > 0.3) & (state.tries < 20)

    zero = jnp.zeros_like(point, shape=())
    start = _Search(zero, zero + jnp.inf, zero, jnp.zeros((), jnp.int32), zero, zero, zero)
    return jax.lax.while_loop(unfinished, body, start)


def _logits(features: Array, coefficients: Array) -> Array:
    # The bias may be -inf, which a product with the ones could turn into NaN.
    return features[:, :-1] @ coefficients[:-1] + coefficients[-1:]


def _gradient(problem: _Problem, point: Array) -> Array:
    def of_rows(features: Array, labels: Array) -> Array:
        others, is_label = _other_probabilities(features, labels, problem.start + point)
        # p_y - 1 would cancel where p_y is near 1, and separated data would seem at rest.
        residual = others - is_label * others.sum(-1, keepdims=True)
        return features.T @ residual

    return _sum_over_rows(of_rows, problem) + problem.penalty[:, None] * point


def _other_probabilities(
    features: Array, labels: Array, coefficients: Array
) -> tuple[Array, Array]:
    """The probability of each class but the label, whose own is 0 here, and where the label is."""
    is_label = jax.nn.one_hot(labels, coefficients.shape[-1], dtype=features.dtype)
    return softmax(_logits(features, coefficients)) * (1 - is_label), is_label


def _hessian(problem: _Problem, point: Array) -> Array:
    """In the coefficients relative to class 0, class by class."""
    d1, k = problem.start.shape
    diagonal = jnp.arange(k - 1)

    def of_rows(features: Array, labels: Array) -> Array:
        del labels
        p = softmax(_logits(features, problem.start + point))
        # 1 - p would cancel where p is near 1, and the matrix would lose its sign.
        variance = (p * (p @ (1 - jnp.eye(k, dtype=p.dtype))))[:, 1:, None] * features[:, None]
        weighted = p[:, 1:, None] * features[:, None]
        flat = weighted.reshape(features.shape[0], (k - 1) * d1)
        products = (flat.T @ flat).reshape(k - 1, d1, k - 1, d1)
        blocks = jnp.einsum("nkd,ne->kde", variance, features)
        return (-products).at[diagonal, :, diagonal, :].set(blocks)

    hessian = _sum_over_rows(of_rows, problem)
    # Of the squared norm after each row is centred over the classes.
    occurs = problem.occurs.astype(point.dtype)
    centring = jnp.diag(occurs) - jnp.outer(occurs, occurs) / occurs.sum()
    penalty = jnp.kron(centring[1:, 1:], jnp.diag(problem.penalty))
    # Makes the coefficients of a class that never occurs stay where they are.
    absent = jnp.diag(jnp.repeat(1 - occurs[1:], d1))
    return hessian.reshape(penalty.shape) + penalty + absent


def _along(problem: _Problem, point: Array, direction: Array) -> tuple[Array, Array, Array]:
    """Slope and curvature of the objective, and the largest spread of a row's logits' change."""

    def of_rows(features: Array, labels: Array) -> tuple[Array, Array, Array]:
        others, is_label = _other_probabilities(features, labels, problem.start + point)
        change = features @ direction
        change -= (is_label * change).sum(-1, keepdims=True)
        mean = (others * change).sum(-1, keepdims=True)
        of_label = 1 - others.sum(-1, keepdims=True)
        curvature = (others * jnp.square(change - mean)).sum() + (of_label * mean**2).sum()
        spread = (change.max(-1) - change.min(-1)).max(initial=0)
        return mean.sum(), curvature, spread

    slope, curvature, spread = _sum_over_rows(
        of_rows, problem, lambda a, b: (a[0] + b[0], a[1] + b[1], jnp.maximum(a[2], b[2]))
    )
    penalised = problem.penalty[:, None] * direction
    return slope + (penalised * point).sum(), curvature + (penalised * direction).sum(), spread


def _log_likelihood(problem: _Problem, point: Array) -> Array:
    def of_rows(features: Array, labels: Array) -> Array:
        logits = _logits(features, problem.start + point)
        return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="sum")

    return -_sum_over_rows(of_rows, problem)


def _sum_over_rows(
    function: Callable[[Array, Array], Any],
    problem: _Problem,
    add: Callable[[Any, Any], Any] = operator.add,
) -> Any:
    """`function(features, labels)` of all rows, by chunks that bound its memory and rounding."""
    n, d1 = problem.features.shape
    k = problem.start.shape[-1]
    p = (k - 1) * d1
    chunk = max(1, _CHUNK // (max(p, 1) if p <= _MAX_COEFFICIENTS else k + d1))
    full, rest = divmod(n, chunk)

    def of_chunk(i: Array, total: Any) -> Any:
        rows = [
            jax.lax.dynamic_slice_in_dim(array, rest + i * chunk, chunk)
            for array in (problem.features, problem.labels)
        ]
        return add(total, function(*rows))

    first = function(problem.features[:rest], problem.labels[:rest])
    return jax.lax.fori_loop(0, full, of_chunk, first) if full else first


def _centre(coefficients: Array, occurs: Array) -> Array:
    """0 for a class that never occurs, and sums 0 over the others."""
    kept = jnp.broadcast_to(occurs, coefficients.shape)
    return jnp.where(kept, coefficients - coefficients.mean(-1, keepdims=True, where=kept), 0)


def _solve(hessian: Array, gradient: Array, occurs: Array) -> Array:
    """The direction that leads to the minimum of the quadratic model, by its negative."""
    scaled, scale = _unit_diagonal(hessian)
    # Where features are linearly dependent, or data separated, it keeps the factor finite.
    ridge = 8 * hessian.shape[0] * float(jnp.finfo(hessian.dtype).eps)
    ridge *= jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    factor = jax.scipy.linalg.cho_factor(scaled + ridge, lower=True)
    by_class = gradient[:, 1:].T
    solution = scale * jax.scipy.linalg.cho_solve(factor, scale * by_class.ravel())
    relative = solution.reshape(by_class.shape).T
    return _centre(jnp.concatenate([jnp.zeros_like(gradient[:, :1]), relative], 1), occurs)


def _covariance(hessian: Array, to_original: Array, occurs: Array) -> Array:
    """The inverse of the Hessian in the coefficients of the features as they came."""
    d1, others = to_original.shape[0], occurs.size - 1
    scaled, scale = _unit_diagonal(hessian)
    lower = jnp.linalg.cholesky(scaled)
    # What the other coefficients leave of each one's information, of which rounding has its part.
    left = jnp.square(jnp.diag(lower)).min(initial=1)
    determined = left > hessian.shape[0] * jnp.finfo(hessian.dtype).eps
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.diag(scale)) * scale[:, None]
    blocks = inverse.reshape(others, d1, others, d1)
    blocks = jnp.einsum("ad,kdle,be->kalb", to_original, blocks, to_original)
    known = occurs[1:] & occurs[:1] & determined
    known = known[:, None] & known[None]
    return jnp.where(known[:, None, :, None], blocks, jnp.nan).reshape(hessian.shape)


def _unit_diagonal(matrix: Array) -> tuple[Array, Array]:
    """`scale[:, None] * matrix * scale`, and the scale that makes its diagonal 1."""
    diagonal = jnp.diag(matrix)
    scale = jnp.where(diagonal > 0, 1 / jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1)), 1)
    return scale[:, None] * matrix * scale[None], scale
