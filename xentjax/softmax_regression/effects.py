"""Average marginal effects: how much features change the probabilities, averaged over the rows."""

from typing import Any, NamedTuple

from jaxtyping import Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import check_alpha
from xentjax.softmax_regression import inference
from xentjax.softmax_regression.arrays import Array, host_or_compiled, namespace, sum_over_rows
from xentjax.softmax_regression.fitted import Fitted, problem_at
from xentjax.softmax_regression.linear_systems import inverse
from xentjax.softmax_regression.objective import hessian, logits_of, softmax


class MarginalEffects(NamedTuple):
    """Average marginal effects of D features on the probabilities of K classes.

    Attributes:
        effects: Mean over the rows of the derivative of a class's probability in a feature. Each
            row sums to 0.
        standard_errors: Standard errors by the delta method; None where the fit has no covariance.
    """

    effects: Float[Array, "d k"]
    standard_errors: Float[Array, "d k"] | None

    @property
    def z(self) -> Float[Array, "d k"]:
        """Effects divided by their standard errors."""
        return inference.ratios(self.effects, self.standard_errors)

    @property
    def p_values(self) -> Float[Array, "d k"]:
        """Probability of at least this |z| if there is no effect (Wald's test)."""
        return inference.p_values(self.effects, self.standard_errors)

    def confidence_intervals(self, alpha: ArrayLike = 0.05) -> Float[Array, "d k 2"]:
        """Wald intervals of level 1 - alpha, one effect at a time.

        Args:
            alpha: probability outside of an interval, in (0, 1).

        Returns:
            [D, K, 2], lower and upper end.

        Raises:
            ValueError: for an alpha outside (0, 1).
        """
        alpha = check_alpha(alpha)
        return inference.intervals(self.effects, self.standard_errors, alpha)


@host_or_compiled
def marginal_effects(fitted: Fitted, valid: Array, rounding: Array) -> tuple[Array, Array]:
    """Return the effects and their standard errors, which are NaN unless `valid`.

    With coefficients b [D, K], probabilities p and the mean s_d = sum_j b_dj p_j of a row,

        effect_dk = mean_n p_k (b_dk - s_d)
        d effect_dk / d b_ej = mean_n z_e ([k = j] p_k (b_dk - s_d) - p_k p_j (b_dk + b_dj - 2 s_d))
                               + [e = d] mean_n p_j ([j = k] - p_k)
    """
    problem, scale, _ = problem_at(fitted)
    xp, k, d1 = namespace(fitted.x), len(fitted.rank), len(problem.features)
    b = xp.where(problem.occurs, problem.start[:-1], 0)

    def of_rows(features: Array, weights: Array | None) -> tuple[Any, ...]:
        n = features.shape[1]
        p = softmax(logits_of(features, problem.start))
        pairs = (p[:, None] * p[None]).reshape(k * k, n)
        pairs = pairs if weights is None else pairs * weights[None]
        means = xp.concatenate([xp.ones_like(p[:1]), b @ p])
        products = (means[:, None] * features[None]).reshape(-1, n)
        return (pairs @ products.T,)

    rows = problem.features, problem.weights
    (sums,) = sum_over_rows(of_rows, rows, max(k * k, d1 * d1))
    sums = (sums / sums[:, d1 - 1].sum()).reshape(k, k, d1, d1)
    of_pairs, with_means = sums[:, :, 0], sums[:, :, 1:]  # [k, j, e] and [k, j, d, e]
    unit = xp.eye(k, dtype=b.dtype)
    spread = unit * of_pairs[..., -1].sum(1)[:, None] - of_pairs[..., -1]
    # [k, j, d, e]
    of_class = of_pairs.sum(1)[:, None] * b.T[:, :, None] - with_means.sum(1)
    both = (b.T[:, None] + b.T[None])[..., None]
    slopes = unit[:, :, None, None] * of_class[:, None] - of_pairs[:, :, None] * both
    own = xp.eye(d1 - 1, d1, dtype=b.dtype)[None, None]
    slopes = slopes + 2 * with_means + spread[:, :, None, None] * own
    slopes = slopes[:, 1:].transpose(2, 0, 1, 3).reshape((d1 - 1) * k, (k - 1) * d1)
    covariance, independent = inverse(hessian(problem, xp.zeros_like(problem.start)), rounding)
    variance = ((slopes @ covariance) * slopes).sum(-1).reshape(d1 - 1, k)
    known = (independent & valid).astype(b.dtype)
    errors = xp.sqrt(variance) + xp.zeros_like(known) / known
    to_unit = 1 / scale[:, None]
    return (b @ spread)[:, fitted.rank] * to_unit, errors[:, fitted.rank] * to_unit
