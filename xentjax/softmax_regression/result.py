"""A fitted softmax regression: estimates, inference and predictions."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_alpha,
    check_flag,
    check_floating,
    concrete,
    in_one_line,
    native,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype, in_float64
from xentjax.categorical.tests_of_fit import TestResult
from xentjax.softmax_regression import inference
from xentjax.softmax_regression.arrays import Array, in_jax
from xentjax.softmax_regression.effects import MarginalEffects, marginal_effects
from xentjax.softmax_regression.fitted import Fitted
from xentjax.softmax_regression.names import Names
from xentjax.softmax_regression.nested import check_nested
from xentjax.softmax_regression.robust import robust_covariance
from xentjax.softmax_regression.summary import summary


class Data(NamedTuple):
    """Arrays that were fitted, as they were given."""

    x: Float[Array, "n d"]
    """Features."""
    labels: Int[Array, " n"]
    """Indices of classes."""
    sample_weight: ArrayLike | None
    """Frequency weights, [N]."""


class OddsRatios(NamedTuple):
    """Factors by which a feature that is larger by 1 multiplies the odds against the baseline.

    Attributes:
        ratios: exp of the coefficients; of the constant, the odds where all features are 0.
        intervals: exp of the ends of the coefficients' confidence intervals.
    """

    ratios: Float[Array, "d1 others"]
    intervals: Float[Array, "d1 others 2"]


class SoftmaxRegressionFit(NamedTuple):
    """A fitted softmax regression; its logits are `x @ kernel + bias`.

    Coefficients, and the statistics that follow from them, are relative to the baseline class:
    [D+1, K-1], with a row for each feature, a last row for the constant, and a column for each
    other class. Whatever is computed from a fit has its dtype; the computation is in float64 where
    values are known.

    Attributes:
        kernel: Each row sums to 0 over the classes that occur, since only differences between
            classes matter.
        bias: Sums to 0 over the classes that occur; -inf for a class that never does.
        log_likelihood: Sum over the rows in nats, without the penalty.
        covariance: Covariance of the p = (K-1)(D+1) coefficients relative to the baseline: class by
            class, the constant last in each. None where p > 1000.
        gradient_norm: Largest derivative of objective / N in a bias, or in the coefficient of a
            feature that is divided by the larger of its standard deviation and sqrt(l2 / N); 0 at
            the optimum.
        steps: Number of steps taken.
        converged: Whether the objective can fall by no more than `tol` nats, and an optimum exists.
        separated: Whether the classes are separated, so that the likelihood rises for ever as the
            coefficients grow.
        identified: Whether the optimum is a single point. It is not if the data are separated, or
            if the features and the constant are linearly dependent; the covariance is then NaN.
            None where the covariance is None.
        null_log_likelihood: Log-likelihood of intercepts alone, sum_k n_k log(n_k / N), in nats.
        likelihood_ratio: 2 (log_likelihood - null_log_likelihood), more precise than their
            difference.
        l2: Strength of the penalty.
        data: The arrays that were fitted, not copied; a batch of fits has a batch of them.
        names: Names of features and classes, and the baseline.
    """

    kernel: Float[Array, "d k"]
    bias: Float[Array, " k"]
    log_likelihood: Float[Array, ""]
    covariance: Float[Array, "p p"] | None
    gradient_norm: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]
    separated: Bool[Array, ""]
    identified: Bool[Array, ""] | None
    null_log_likelihood: Float[Array, ""]
    likelihood_ratio: Float[Array, ""]
    l2: Float[Array, ""]
    data: Data
    names: Names

    @property
    def coefficients(self) -> Float[Array, "d1 others"]:
        """Coefficients relative to the baseline."""
        return inference.relative(self.kernel, self.bias, self._order)

    @property
    def standard_errors(self) -> Float[Array, "d1 others"]:
        """Square roots of the diagonal of the covariance.

        They are NaN for separated data and dependent features. With l2 > 0 they are the standard
        deviations of a posterior (see `fit_softmax_regression`), not of the estimates. A warning
        says so here and in z, p_values, confidence intervals and odds ratios.
        """
        return self._errors("standard_errors")

    @property
    def z(self) -> Float[Array, "d1 others"]:
        """Coefficients divided by their standard errors."""
        return inference.ratios(self.coefficients, self._errors("z"))

    @property
    def p_values(self) -> Float[Array, "d1 others"]:
        """Probability of at least this |z| if the coefficient is 0 (Wald's test), [D+1, K-1]."""
        return inference.p_values(self.coefficients, self._errors("p_values"))

    def confidence_intervals(self, alpha: ArrayLike = 0.05) -> Float[Array, "d1 others 2"]:
        """Wald intervals of level 1 - alpha, one coefficient at a time.

            coefficient -+ z_{1 - alpha/2} standard error

        Args:
            alpha: probability outside of an interval, in (0, 1).

        Returns:
            [D+1, K-1, 2], lower and upper end.

        Raises:
            ValueError: for an alpha outside (0, 1), or more coefficients than 1000.
            TypeError: for an alpha that is not a number.
        """
        alpha = check_alpha(alpha)
        errors = self._errors("confidence_intervals")
        return inference.intervals(self.coefficients, errors, alpha)

    def odds_ratios(self, alpha: ArrayLike = 0.05) -> OddsRatios:
        """Exponentials of the coefficients and of their confidence intervals.

        Args:
            alpha: probability outside of an interval, in (0, 1).

        Returns:
            Ratios [D+1, K-1] and intervals [D+1, K-1, 2].

        Raises:
            ValueError: for an alpha outside (0, 1), or more coefficients than 1000.
            TypeError: for an alpha that is not a number.
        """
        alpha = check_alpha(alpha)
        coefficients = self.coefficients
        ends = inference.intervals(coefficients, self._errors("odds_ratios"), alpha)
        return OddsRatios(inference.exponentials(coefficients), inference.exponentials(ends))

    @property
    def num_samples(self) -> Float[Array, ""] | int:
        """Number of rows, or the sum of their weights."""
        weights = self.data.sample_weight
        return np.shape(self.data.labels)[-1] if weights is None else inference.total(weights)

    @property
    def dof(self) -> Int[Array, ""]:
        """Number of estimated coefficients, (K-1)(D+1) for the K classes that occur."""
        return inference.number_of_coefficients(self.bias, self.kernel.shape[0] + 1)

    @property
    def aic(self) -> Float[Array, ""]:
        """Akaike's criterion, 2 dof - 2 log_likelihood."""
        return inference.aic(self.log_likelihood, self.dof)

    @property
    def bic(self) -> Float[Array, ""]:
        """Schwarz's criterion, dof log(num_samples) - 2 log_likelihood."""
        return inference.bic(self.log_likelihood, self.dof, self.num_samples)

    @property
    def mcfadden_r2(self) -> Float[Array, ""]:
        """McFadden's pseudo R^2, 1 - log_likelihood / null_log_likelihood."""
        return inference.mcfadden_r2(self.likelihood_ratio, self.null_log_likelihood)

    def likelihood_ratio_test(self, other: "SoftmaxRegressionFit | None" = None) -> TestResult:
        """Likelihood-ratio test of this fit against one with fewer features.

            G = 2 (log_likelihood - other.log_likelihood)

        If the smaller model is right, G is asymptotically chi-squared (Wilks); its degrees of
        freedom are the number of coefficients that the smaller model lacks.

        Args:
            other: a fit of the same labels and weights to some of these features, or to linear
                combinations of them. None: the model of intercepts alone.

        Returns:
            Statistic, p-value and degrees of freedom. The p-value is NaN where Wilks' theorem does
            not apply: with a penalty, and for linearly dependent features.

        Raises:
            ValueError: for a fit of other labels, weights or classes, or of features that are not
                linear combinations of these, if values are known.
            TypeError: for an `other` that is not a fit.

        Source: S. S. Wilks, "The large-sample distribution of the likelihood ratio for testing
        composite hypotheses" (1938).
        """
        statistic, dof, valid = self.likelihood_ratio, self.dof, self._obeys_wilks
        if other is None:
            dof = dof - inference.number_of_coefficients(self.bias, 1)
        else:
            if not isinstance(other, SoftmaxRegressionFit):
                raise TypeError(f"other: expected a fit or None, got {in_one_line(other)}")
            check_nested(self.data, other.data, len(self.bias), len(other.bias))
            statistic, dof = statistic - other.likelihood_ratio, dof - other.dof
            valid = valid * other._obeys_wilks
        statistic = inference.at_least_0(statistic)
        p_value = inference.likelihood_ratio_p_value(*in_jax(statistic, dof, valid))
        return TestResult(statistic, p_value, dof)

    @property
    def robust_covariance(self) -> Float[Array, "p p"] | None:
        """Sandwich covariance of the coefficients, in the order of `covariance` (White's HC0).

            H^-1 (sum_n w_n s_n s_n^T) H^-1,    s_n the score of row n

        It estimates the covariance of the estimates in repeated samples even if the model is wrong.
        Each call passes over the data. It is NaN or None where `covariance` is.

        Source: H. White, "Maximum likelihood estimation of misspecified models" (1982).
        """
        if self.covariance is None:
            return None
        return robust_covariance(self.kernel.dtype, *self._at_fit)

    def average_marginal_effects(self) -> MarginalEffects:
        """Average over the rows the derivatives of the probabilities in the features.

            effect_dk = mean_n d p_k(x_n) / d x_nd = mean_n p_nk (b_dk - sum_j p_nj b_dj)

        The delta method gives their standard errors from the covariance, for fixed rows. Each call
        passes over the data.

        Returns:
            Effects and standard errors [D, K], for all classes, with z, p_values and
            `confidence_intervals`.

        Source: W. H. Greene, "Econometric Analysis" (2012), section 18.2.
        """
        effects, errors = marginal_effects(self.kernel.dtype, *self._at_fit)
        return MarginalEffects(effects, None if self.covariance is None else errors)

    def predict_proba(self, x: Any) -> Float[Array, "*n k"]:
        """Predict the probabilities of the classes, softmax(x @ kernel + bias).

        Args:
            x: features [..., D], floating; a table with the columns that were fitted.

        Returns:
            [..., K].

        Raises:
            ValueError: for another number of features, or a table with other columns.
            TypeError: for features that are not floating.
        """
        return _probabilities(*in_jax(self._features(x), self.kernel, self.bias))

    def predict(self, x: Any) -> Int[Array, "*n"]:
        """Predict the most probable class, an index into `names.classes`; of equal ones, the first.

        Args:
            x: features [..., D], floating; a table with the columns that were fitted.

        Returns:
            [...], int32.

        Raises:
            ValueError: for another number of features, or a table with other columns.
            TypeError: for features that are not floating.
        """
        return self.predict_proba(x).argmax(-1).astype(jnp.int32)

    def summary(self, alpha: float = 0.05, *, markdown: bool = False) -> str:
        """Format the fit as a table, with a part for each class except the baseline.

        Numbers look like statsmodels'. Notes below the table warn of a penalty, separated data,
        dependent features and an optimum that was not reached.

        Args:
            alpha: probability outside of a confidence interval, in (0, 1).
            markdown: format as Markdown rather than as plain text.

        Returns:
            The text.

        Raises:
            ValueError: for an alpha outside (0, 1).
            TypeError: for a fit whose values are unknown, as under jit, or a `markdown` that is
                neither True nor False.
        """
        alpha = float(np.asarray(check_alpha(alpha)))
        check_flag("markdown", markdown)
        if any(concrete(x) is None for x in jax.tree.leaves(self)):
            raise TypeError("summary: expected a fit whose values are known, got a traced one")
        return summary(self, alpha, markdown=markdown)

    @property
    def _order(self) -> np.ndarray:
        """Classes, with the baseline first."""
        return order_of_classes(len(self.names.classes), self.names.baseline)

    @property
    def _obeys_wilks(self) -> Array:
        identified = ~self.separated if self.identified is None else self.identified
        return inference.obeys_wilks(self.l2, identified, self.separated)

    @property
    def _at_fit(self) -> tuple[Fitted, Array, Array]:
        order = self._order
        rank = np.argsort(order).astype(np.int32)
        fitted = Fitted(*self.data, self.kernel, self.bias, order, rank, self.l2)
        return fitted, ~self.separated, rounding_of(self.data.x)

    def _errors(self, name: str) -> Array:
        if self.covariance is None:
            raise_value_error(name, "at most 1000 coefficients", self.coefficients.size)
        known = concrete(self.l2)
        if known is not None and known.any():
            warnings.warn(
                f"{name}: the fit has a penalty, l2 = {known}, so that standard errors are the "
                "deviations of a posterior, not of the estimates",
                stacklevel=3,
            )
        return inference.standard_errors(self.covariance, self.coefficients)

    def _features(self, x: Any) -> Array | np.ndarray:
        d, names = self.kernel.shape[0], self.names.features
        columns = getattr(x, "columns", None)
        given = names != tuple(f"x{i + 1}" for i in range(d))
        if columns is not None and given and tuple(map(str, columns)) != names:
            raise_value_error("x", f"columns {list(names)}", list(columns))
        array = native("x", x)
        if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.floating):
            array = check_floating("x", array)
        if array.ndim == 0 or array.shape[-1] != d:
            raise_value_error("x", f"shape [..., {d}]", f"shape {array.shape}")
        return array


def order_of_classes(k: int, baseline: int) -> np.ndarray:
    """Return the classes, with the baseline first."""
    order = np.arange(k, dtype=np.int32)
    return np.concatenate([order[baseline : baseline + 1], np.delete(order, baseline)])


def rounding_of(x: Any) -> np.float64:
    """Return the relative rounding of numbers computed from features."""
    return np.float64(jnp.finfo(compute_dtype(x.dtype)).eps)


@in_float64
def _probabilities(x: Array, kernel: Array, bias: Array) -> Array:
    logits = x @ kernel + jnp.expand_dims(bias, range(x.ndim - 1))
    return jax.nn.softmax(logits, -1)
