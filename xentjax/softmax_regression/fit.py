"""Softmax regression: a die whose probabilities depend on features, fitted by convex descent."""

import warnings
from collections.abc import Sequence
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_floating,
    check_index,
    check_num_steps,
    check_scalar,
    concrete,
    native,
    native_array,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype
from xentjax._core.labels import check_row_labels, parse_row_labels
from xentjax.categorical.two_way import encode as encode_labels
from xentjax.softmax_regression.arrays import Array
from xentjax.softmax_regression.descent import by_newton
from xentjax.softmax_regression.names import (
    Names,
    label_name,
    names_of_classes,
    names_of_features,
)
from xentjax.softmax_regression.result import (
    Data,
    SoftmaxRegressionFit,
    order_of_classes,
    rounding_of,
)
from xentjax.softmax_regression.solution import Solution, solve_regression


def fit_softmax_regression(
    x: Any,
    labels: Any,
    num_classes: SupportsIndex | None = None,
    *,
    l2: ArrayLike = 0.0,
    sample_weight: ArrayLike | None = None,
    baseline: SupportsIndex = 0,
    feature_names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    max_steps: int = 1000,
    tol: ArrayLike = 1e-6,
) -> SoftmaxRegressionFit:
    """Fit a softmax regression (multinomial logistic regression) by maximum likelihood.

        minimise  F = sum_n w_n H(y_n, softmax(x_n kernel + bias)) + (l2 / 2) ||kernel||^2

    The bias is not penalised. F is convex. The minimisation starts from the pmf of the labels,
    which is the best fit without features, and standardises the features internally, which changes
    neither the optimum nor the penalty. Up to 1000 coefficients p = (K-1)(D+1) the steps are
    Newton's. With more, L-BFGS is used, because the p^2 numbers of the Hessian would cost more than
    all of its steps. The length of a step needs no values of F: along a direction of derivative -a
    and curvature v that spreads the logits of a row by at most R, the length log(1 + R a / v) / R
    is guaranteed to lower F.

    Adding a constant to the coefficients of all classes changes no probability. Coefficients
    therefore sum to 0 over the classes, which is also the optimum with l2 > 0.

    The fit has standard errors, z, p-values, confidence intervals, odds ratios, a likelihood-ratio
    test, information criteria, marginal effects and a `summary()`. `covariance` is the inverse of
    the Fisher information, the Hessian of F, so that standard errors are the square roots of its
    diagonal. With l2 > 0 the Hessian includes the penalty: the covariance is then that of the
    normal approximation to the posterior under the prior kernel ~ Normal(0, 1 / l2), not that of
    the biased estimate. If the features and the constant are linearly dependent to within rounding,
    many kernels fit equally well and give the same probabilities for the rows of `x`. One of them
    is returned, `identified` is False and the covariance is NaN. To make the optimum unique, use
    l2 > 0 or leave out a feature.

    If a hyperplane separates the classes, completely or with some rows on it, the likelihood has no
    maximum. A Newton step that changes no difference of a row's logits by 1 proves that there is a
    maximum. Data are reported as `separated` if the steps are still longer than 0.5 when F could
    fall by no more than 1e-10 nats (float32: 4e-5). Coefficients and log-likelihood are then those
    of the last step, near the supremum, and the covariance is NaN. This has three limits: data that
    overlap by less than that count as separated, a search that ends at `max_steps` may miss the
    separation, and with L-BFGS, whose steps prove nothing, the test is a heuristic. The optimum is
    finite with l2 > 0. A class that never occurs has bias -inf, kernel 0 and covariance NaN for
    every l2.

    Arrays of NumPy, and those of jax on a CPU, are fitted on the host in float64, without compiling
    anything, and the results are rounded to jax's dtype. From 65,536 rows on, the search starts
    from the fit to a part of the rows. Under transformations of jax, on other devices, on several
    devices and with more than 1000 coefficients, the fit is a compiled program that computes in the
    dtype of the features.

    Derivatives with respect to `x` and `l2`, forward and reverse, are those of the optimum by the
    implicit function theorem, H d_beta = -d(gradient of F); those of `gradient_norm` are 0.

    Args:
        x: features [N, D], floating, without a constant. Half precision is computed in float32.
        labels: [N]; integers 0..K-1, or labels of any kind if `num_classes` is None.
        num_classes: K. If it is None, `encode` turns the labels into integers, and K is the number
            of its names.
        l2: strength of the penalty, >= 0, relative to the sum of the losses. It equals 1 / C of
            scikit-learn, and 2 / C for two classes: scikit-learn then penalises the difference of
            their coefficients, whose square is twice the sum of both squares.
        sample_weight: frequency weights [N], finite and >= 0: a row of weight w counts as w rows,
            also in N. They are not the weights of a survey's sampling, for which the standard
            errors would be wrong.
        baseline: index of the class to which the coefficients, `covariance` and all that follows
            from them are relative.
        feature_names: D names; by default the columns of a table, or x1, x2, ...
        class_names: K names; by default those of `encode`, or the indices.
        max_steps: largest number of steps, >= 1.
        tol: one more step is the last when the quadratic model of F promises to fall by no more
            than this, in nats. It is absolute, as the statistical error is: 1e-6 nats are a
            thousandth of a standard error.

    Returns:
        The fit. It warns of separated data, of linearly dependent features, of classes that never
        occur and of an optimum that was not reached. Under jit, where values are unknown, it does
        not warn, and a label outside 0..K-1 makes the fit NaN.

    Raises:
        ValueError: for a concrete label outside 0..K-1, concrete features that are not finite, no
            rows, shapes that do not fit, l2 < 0, tol < 0, max_steps < 1, fewer than 1 class,
            weights that are negative, not finite or all 0, a baseline outside 0..K-1, a wrong
            number of names, or a `num_classes` of None if labels are unknown or one is missing.
        TypeError: for features that are not floating, or labels, num_classes, baseline or max_steps
            that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x = jnp.array([[0.0], [1.0], [2.0], [3.0], [4.0], [5.0]])
        >>> labels = jnp.array([0, 0, 1, 0, 1, 1])
        >>> fit = xentjax.fit_softmax_regression(x, labels, num_classes=2)
        >>> print(fit.log_likelihood.round(4), fit.converged, fit.separated)
        -2.478 True False
        >>> print(fit.predict_proba(jnp.array([2.5])).round(4))
        [0.5 0.5]
        >>> print(f"{fit.coefficients[0, 0]:.3f} +- {fit.standard_errors[0, 0]:.3f}")
        1.214 +- 0.913

    Source: A. Agresti, Categorical Data Analysis (2013), section 8.1; the steps: F. Bach,
    "Self-concordant analysis for logistic regression" (2010).
    """
    rows, d = _parse_features(x)
    codes, given = labels, class_names
    if num_classes is None:
        codes, names = _encode(labels)
        k, given = len(names), names if given is None else given
    else:
        k = check_index("num_classes", num_classes)
        if k < 1:
            raise_value_error("num_classes", "an integer >= 1", repr(num_classes))
    indices = parse_row_labels(codes, len(rows), "x")
    check_row_labels(codes, indices, k)
    first = check_index("baseline", baseline)
    if not 0 <= first < k:
        raise_value_error("baseline", f"an integer 0..{k - 1}", repr(baseline))
    names = Names(
        names_of_features(x, feature_names, d),
        names_of_classes(given, k),
        label_name(labels),
        first,
    )
    dtype = compute_dtype(jax.dtypes.canonicalize_dtype(rows.dtype))
    weights = None if sample_weight is None else _parse_weights(sample_weight, len(rows), dtype)
    check_num_steps("max_steps", max_steps)
    largest = float(jnp.finfo(dtype).max)
    check_scalar("l2", l2, "a finite number >= 0", lambda value: 0 <= value <= largest)
    check_scalar("tol", tol, "a number >= 0", lambda value: value >= 0)
    known = concrete(rows)
    if known is not None and not (finite := np.isfinite(known)).all():
        raise_value_error("x", "finite numbers", known[~finite][0])

    # Labels that are given on the host stay there, whatever jax's default device is.
    stays = isinstance(native("labels", codes), np.ndarray) and concrete(indices) is not None
    kept = np.asarray(indices) if stays else indices
    data = Data(rows, kept, weights)
    order = order_of_classes(k, first)
    found = solve_regression(
        dtype,
        *(*data, order, np.argsort(order).astype(np.int32)),
        *(_float(l2, dtype), np.int32(max_steps), _float(tol, dtype), rounding_of(rows)),
        host=by_newton(d, k),
    )
    _warn(found)
    fields = found._asdict()
    del fields["counts"]
    return SoftmaxRegressionFit(**fields, l2=jnp.asarray(l2, dtype), data=data, names=names)


def _parse_features(x: Any) -> tuple[Array | np.ndarray, int]:
    array = native_array("x", x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        array = check_floating("x", array)  # raises the error
    if array.ndim != 2 or array.shape[0] == 0:
        raise_value_error("x", "shape [N, D] with N >= 1", f"shape {array.shape}")
    return array, array.shape[1]


def _encode(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(labels, jax.Array) and concrete(labels) is None:
        expected = "an integer where labels are unknown (under jit)"
        raise_value_error("num_classes", expected, "None")
    return encode_labels(labels)


def _parse_weights(weights: ArrayLike, n: int, dtype: Any) -> Array | np.ndarray:
    array = native_array("sample_weight", weights)
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise TypeError(f"sample_weight: expected numbers, got {array.dtype}")
    if array.shape != (n,):
        expected = f"shape {(n,)}, one for each row of x"
        raise_value_error("sample_weight", expected, f"shape {array.shape}")
    known = concrete(array)
    if known is not None:
        good = np.isfinite(known) & (known >= 0)
        if not good.all():
            raise_value_error("sample_weight", "finite numbers >= 0", known[~good][0])
        if not known.any():
            raise_value_error("sample_weight", "some weight > 0", "all 0")
    return array.astype(dtype if isinstance(array, jax.Array) else np.float64)


def _float(value: Any, dtype: Any) -> Array | np.float64:
    return value.astype(dtype) if isinstance(value, jax.Array) else np.float64(value)


def _warn(found: Solution) -> None:
    """Warn of problems with the fit, as far as its values are known."""
    counts, converged = concrete(found.counts), concrete(found.converged)
    if counts is not None and not counts.all():
        absent = np.flatnonzero(counts == 0)[0]
        warnings.warn(f"labels: class {absent} never occurs, its bias is -inf", stacklevel=3)
    separated = concrete(found.separated)
    identified = None if found.identified is None else concrete(found.identified)
    if separated is not None and separated:
        warnings.warn(
            "labels: separated by a hyperplane, so the likelihood has no maximum; l2 > 0 gives one",
            stacklevel=3,
        )
    elif identified is not None and not identified:
        warnings.warn(
            "x: the features, with the constant, are linearly dependent, so many kernels fit "
            "equally well and the covariance is NaN; l2 > 0 leaves one",
            stacklevel=3,
        )
    if converged is not None and not (converged or separated):
        warnings.warn(f"max_steps: {found.steps} steps did not reach the optimum", stacklevel=3)
