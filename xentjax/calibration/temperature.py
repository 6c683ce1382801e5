"""Temperature scaling: the one parameter that rescales confidence and changes no prediction."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import concrete
from xentjax._core.multiply_no_nan import nan_unless
from xentjax._core.sums import accurate_sum
from xentjax._core.varying import on_auto_axes, pvary_all
from xentjax.calibration._predictions import Predictions, parse_logits
from xentjax.information.log_pmf import log_sum_exp

_MAX_STEPS = 100
# Largest change of log T in a step without a bracket.
_MAX_STRIDE = 2.0


class TemperatureFit(NamedTuple):
    """The maximum-likelihood temperature; probabilities are softmax(logits / temperature).

    Attributes:
        temperature: 0 or inf where the likelihood rises all the way there.
        nll: Mean negative log-likelihood (cross-entropy) at this temperature, in nats.
        nll_before: Mean negative log-likelihood at temperature 1.
        converged: Whether there is a best temperature other than 0 and inf, and it was found.
        steps: Newton steps taken.
    """

    temperature: Float[Array, ""]
    nll: Float[Array, ""]
    nll_before: Float[Array, ""]
    converged: Bool[Array, ""]
    steps: Int[Array, ""]


def fit_temperature(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> TemperatureFit:
    """Maximum-likelihood temperature on held-out rows (temperature scaling).

        minimise over T > 0    (1/N) sum_n H(y_n, softmax(a_n / T))

    The mean is convex in 1 / T, so it has one minimum: the root of sum_n E[a_n] - a_ny under
    softmax(a_n / T), which Newton's method finds in log T, within a bracket that always holds it.
    The temperature is above 1 for an over-confident network, below 1 for an under-confident one.
    The label's logit is subtracted before anything else: a common offset costs no digits.

    The minimum may not be attained. Where every label has the largest logit of its row, the
    likelihood increases for ever as T falls: temperature 0, nll the limit, 0 except with ties. If
    the logits carry no information, labels having at most the mean logit on average, no T beats the
    uniform pmf: temperature inf, nll log K. Then there are too few rows, or they are not the
    network's.

    The fit needs rows that the network was not trained on. A class with logit -inf is ignored.

    Args:
        logits: [N, K], floating. Half precision is computed in float32.
        labels: integers 0..K-1, [N].
        where: bool [N], the rows to fit; the others may hold anything. None fits all.

    Returns:
        The fit, float32 (float64 for float64 logits). Temperature and nll are differentiable in the
        logits, to any order, by the implicit function theorem (derivative 0 at the limits). It
        warns of the limits, except under jit, where values are unknown; there a label outside
        0..K-1, a logit NaN or +inf, a label's logit -inf, or no row to fit make it NaN.

    Raises:
        ValueError: for shapes that do not fit, no rows, and for concrete labels outside 0..K-1,
            logits NaN or +inf, or -inf at a label.
        TypeError: for arrays of the wrong dtype.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> logits = jnp.array([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [4.0, 0.0]])
        >>> fit = xentjax.fit_temperature(logits, jnp.array([0, 0, 0, 1]))  # right in 3 of 4 rows
        >>> print(f"{fit.temperature:.4f}", fit.converged)
        3.6410 True
        >>> print(jax.nn.softmax(logits[0] / fit.temperature).round(4))
        [0.75 0.25]
        >>> print(f"{fit.nll_before:.4f} {fit.nll:.4f}")
        1.0181 0.5623

    Source: C. Guo et al., "On calibration of modern neural networks" (2017).
    """
    fit = _fit(parse_logits(logits, labels, where))
    known = concrete(fit.temperature)
    if known is not None and known == 0:
        warnings.warn(
            "logits: every label has the largest logit of its row, so the likelihood rises for "
            "ever as the temperature falls to 0",
            stacklevel=2,
        )
    if known is not None and known == np.inf:
        warnings.warn(
            "logits: no better than equal probabilities, so the likelihood rises for ever as the "
            "temperature grows",
            stacklevel=2,
        )
    return fit


class _Search(NamedTuple):
    """Search for the root of the slope, in log(1 / T)."""

    point: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    last_slope: Float[Array, ""]
    steps: Int[Array, ""]
    converged: Bool[Array, ""]


@jax.jit
@on_auto_axes
def _fit(predictions: Predictions) -> TemperatureFit:
    logits, labels, keep = predictions
    of_label = jnp.take_along_axis(logits, labels[:, None], -1, mode="clip")
    valid = jnp.isfinite(of_label[:, 0]) & ~(logits == jnp.inf).any(-1)
    valid = ~(predictions.bad | (keep & ~valid)).any() & keep.any()
    # Where there is nothing to fit, zeros let the search end.
    used = (keep & valid)[:, None]
    margins = jnp.where(used, logits, 0) - jnp.where(used, of_label, 0)
    possible = margins > -jnp.inf

    finite = jnp.where(possible, margins, 0)
    scale = jax.lax.stop_gradient(jnp.abs(finite).max())
    scaled = finite / jnp.where(scale > 0, scale, 1)
    slope, curvature = _derivatives(scaled, possible, jnp.zeros_like(scale))
    useless = slope >= 0
    separable = ~useless & (scaled <= 0).all()
    limit = useless | separable

    def stationarity(point: Array) -> Array:
        return _derivatives(scaled, possible, jnp.exp(point))[0]

    def solve(_: Callable[[Array], Array], start: Array) -> tuple[Array, tuple[Array, Array]]:
        search = _search(scaled, possible, start, limit)
        # custom_root cannot take the tangents of integers.
        return search.point, (
            search.steps.astype(start.dtype),
            search.converged.astype(start.dtype),
        )

    def solve_tangent(linear: Callable[[Array], Array], rhs: Array) -> Array:
        rise = linear(jnp.ones_like(rhs))
        return jnp.where(limit, 0, rhs / jnp.where(limit, 1, rise))

    # Newton's first step from 1 / T = 0, whatever the scale of the logits.
    start = jnp.log(jnp.where(limit, 1, -slope / jnp.where(limit, 1, curvature)))
    point, (steps, converged) = jax.lax.custom_root(
        stationarity, jax.lax.stop_gradient(start), solve, solve_tangent, has_aux=True
    )
    inner = jnp.exp(-point) * scale

    def nll(temperature: Array) -> Array:
        # Less the label's logit, the normaliser is the loss.
        return _mean(log_sum_exp(jnp.where(possible, finite / temperature, -jnp.inf)), keep)

    alike = jnp.where(useless, possible, margins == 0).sum(-1).astype(logits.dtype)
    at_limit = _mean(jnp.log(alike), keep)
    ends = jnp.where(useless, jnp.inf, jnp.zeros_like(scale))
    nan = nan_unless(valid, scale.dtype)
    return TemperatureFit(
        temperature=jnp.where(limit, ends, inner) + nan,
        nll=jnp.where(limit, at_limit, nll(jnp.where(limit, 1, inner))) + nan,
        nll_before=nll(jnp.ones_like(scale)) + nan,
        converged=converged > 0,
        steps=steps.astype(jnp.int32),
    )


def _mean(loss: Array, keep: Array) -> Array:
    return accurate_sum(jnp.where(keep, loss, 0)) / keep.sum().astype(loss.dtype)


def _derivatives(
    margins: Float[Array, "n k"], possible: Bool[Array, "n k"], inverse: Float[Array, ""]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return slope and curvature of the sum over rows of log sum_k exp(inverse margin_k)."""
    scaled = jnp.where(possible, inverse * margins, -jnp.inf)
    p = jnp.exp(scaled - jax.lax.stop_gradient(scaled.max(-1, keepdims=True)))
    p = p / p.sum(-1, keepdims=True)
    mean = (p * margins).sum(-1)
    return accurate_sum(mean), accurate_sum((p * jnp.square(margins - mean[:, None])).sum(-1))


def _search(margins: Array, possible: Array, start: Array, limit: Array) -> _Search:
    """Take Newton's steps in a bracket; halve it where they leave it or gain little."""
    tol = float(jnp.finfo(margins.dtype).eps) ** (2 / 3)

    def body(state: _Search) -> _Search:
        inverse = jnp.exp(state.point)
        slope, curvature = _derivatives(margins, possible, inverse)
        low = jnp.where(slope < 0, state.point, state.low)
        high = jnp.where(slope < 0, state.high, state.point)
        rise = inverse * curvature
        newton = -slope / jnp.where(rise > 0, rise, jnp.finfo(rise.dtype).tiny)
        stride = jnp.clip(newton, -_MAX_STRIDE, _MAX_STRIDE)
        point = state.point + stride
        bounded = jnp.isfinite(low) & jnp.isfinite(high)
        outside = (point < low) | (point > high)
        slow = jnp.abs(slope) > 0.5 * jnp.abs(state.last_slope)
        close = jnp.abs(newton) <= tol
        halve = bounded & (outside | slow) & ~close
        point = jnp.where(halve, low + (high - low) / 2, point)
        return _Search(
            point=point,
            low=low,
            high=high,
            last_slope=slope,
            steps=state.steps + 1,
            converged=close | (high - low <= tol),
        )

    zero = jnp.zeros((), jnp.int32)
    infinity = jnp.full_like(start, jnp.inf)
    initial = _Search(start, -infinity, infinity, infinity, zero, jnp.zeros((), bool))
    initial, limit = pvary_all((initial, limit))  # constants vary over no mesh
    return jax.lax.while_loop(
        lambda state: ~(limit | state.converged | (state.steps == _MAX_STEPS)), body, initial
    )
