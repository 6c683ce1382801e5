"""The measures of `pmf` for pmfs given by their logarithms, in nats.

log p can hold what p cannot: a probability of e^-200, or the distance of 1 - e^-30 from 1.
Derivatives are taken in log p. They are p times those in p, so at log p = -inf every term and every
derivative is 0, whatever it is multiplied by.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import sharded_alike
from xentjax.information.pmf import sum_difference


@jax.custom_jvp
def times_exp(x: Float[Array, "*s"], log_p: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Compute x e^log_p; where e^log_p is 0 it is 0 for any x, and so are all derivatives."""
    return multiply_no_nan(x, jnp.exp(log_p))


times_exp.defjvps(
    lambda dot, _, x, log_p: jnp.exp(log_p) * dot,
    lambda dot, result, x, log_p: multiply_no_nan(result, dot),
)


@jax.custom_jvp
@jax.jit
def log_softmax(x: Float[Array, "*s K"]) -> Float[Array, "*s K"]:
    """Compute x - log sum_k e^x_k; -inf where all x are -inf, as if a mask keeps nothing."""
    top, rest = _log_sum_parts(x)
    return (x - top[..., None]) - rest[..., None]


@log_softmax.defjvp
def _(primals, tangents):
    log_p = log_softmax(*primals)
    (dot,) = tangents
    return log_p, dot - (jnp.exp(log_p) * dot).sum(-1, keepdims=True)


@jax.custom_jvp
def log_sum_exp(x: Float[Array, "*s K"]) -> Float[Array, "*s"]:
    """Compute log sum_k e^x_k; -inf where all x are -inf."""
    top, rest = _log_sum_parts(x)
    return jnp.where((x == -jnp.inf).all(-1), -jnp.inf, top + rest)


@log_sum_exp.defjvp
def _(primals, tangents):
    (x,), (dot,) = primals, tangents
    return log_sum_exp(x), (jnp.exp(log_softmax(x)) * dot).sum(-1)


def _log_sum_parts(x: Array) -> tuple[Array, Array]:
    """Return the largest x and log sum_k e^(x_k - largest), which is 0 where all x are -inf."""
    top = jnp.max(x, -1, keepdims=True)
    top = jnp.where(top == -jnp.inf, 0, top)
    # Leave out the largest term, 1, so that the others keep their digits next to a nearly certain
    # outcome. It is subtracted, not masked: XLA's CPU reductions are slow where they select.
    largest = (x >= top).astype(x.dtype)
    ties = jnp.maximum(largest.sum(-1), 1) - 1
    others = ties + (jnp.exp(x - top) - largest).sum(-1)
    return top[..., 0], jnp.log1p(others)


def divergence(log_p: Float[Array, "*s K"], log_q: Float[Array, "*s K"]) -> Float[Array, "*s"]:
    """Compute sum_k (p_k log(p_k / q_k) - p_k + q_k) >= 0, which is KL if both sum to 1."""
    return divergence_terms(log_ratio(log_p, log_q), log_p, log_q).sum(-1)


def log_ratio(log_p: Array, log_q: Array) -> Array:
    """Compute log(p / q); 0 where both are 0."""
    both_zero = (log_p == -jnp.inf) & (log_q == -jnp.inf)
    return jnp.where(both_zero, 0, log_p) - jnp.where(both_zero, 0, log_q)


def divergence_terms(
    d: Float[Array, "*s"], log_p: Float[Array, "*s"], log_q: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Compute the terms p d - p + q >= 0, with d = log(p / q)."""
    near = jnp.abs(d) < 1
    # Near d = 0 the three terms cancel, and far from it p e^-d would overflow.
    near_terms = jnp.exp(log_p) * _exponential_excess(jnp.where(near, d, 0))
    far_terms = times_exp(d, log_p) - jnp.exp(log_p) + jnp.exp(log_q)
    return jnp.where(near, near_terms, far_terms)


def _exponential_excess(d: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """Compute e^-d - 1 + d for |d| < 1 by its series."""
    order = 19 if d.dtype == jnp.float64 else 11
    series = jnp.zeros_like(d)
    for n in range(order, 1, -1):
        series = series * -d + 1 / math.factorial(n)
    return d * d * series


_IMPOSSIBLE = -1e4  # finite, but its exponential is 0 in every dtype

# Measures over the last axis or axes; jitted, so that an eager call is one pass over the data.


@jax.jit
def entropy(log_p: Array) -> Array:
    finite = jnp.maximum(log_p, _IMPOSSIBLE)  # 0 log 0 = 0 without a slow selection
    return 0 - (finite * jnp.exp(log_p)).sum(-1)  # -x would be -0.0 for a certain outcome


@jax.jit
def cross_entropy(log_p: Array, log_q: Array) -> Array:
    return 0 - times_exp(log_q, log_p).sum(-1) + _unreachable(log_p, log_q)


@partial(jax.jit, static_argnums=2)
def kl_divergence(log_p: Array, log_q: Array, rounding: float) -> Array:
    result = divergence(log_p, log_q) + _unreachable(log_p, log_q)
    if rounding == math.inf:  # both sums are equal, and so are their derivatives
        return result
    return result + sum_difference(jnp.exp(log_p), jnp.exp(log_q), rounding)


def _unreachable(log_p: Array, log_q: Array) -> Array:
    """Return +inf where p > 0 = q, even if e^log_p underflows; else 0."""
    return jnp.where(((log_p > -jnp.inf) & (log_q == -jnp.inf)).any(-1), jnp.inf, 0)


@jax.custom_jvp
@jax.jit
def js_divergence(log_p: Array, log_q: Array, weight: Array) -> Array:
    log_m, p_ratio, q_ratio = mixture(log_p, log_q, weight)
    weight = jnp.broadcast_to(weight, log_p.shape)
    p_terms = multiply_no_nan(divergence_terms(-p_ratio, log_p, log_m), weight)
    return (p_terms + multiply_no_nan(divergence_terms(-q_ratio, log_q, log_m), 1 - weight)).sum(-1)


@js_divergence.defjvp
def _(primals, tangents):
    log_p, log_q, weight = primals
    log_m, p_ratio, q_ratio = mixture(*primals)
    each_weight = jnp.broadcast_to(weight, log_p.shape)
    p_derivative = multiply_no_nan(times_exp(-p_ratio, log_p), each_weight)
    q_derivative = multiply_no_nan(times_exp(-q_ratio, log_q), 1 - each_weight)
    weight_derivative = divergence(log_p, log_m) - divergence(log_q, log_m)
    dot = (
        multiply_no_nan(p_derivative, tangents[0]) + multiply_no_nan(q_derivative, tangents[1])
    ).sum(-1)
    weight_dot = jnp.broadcast_to(tangents[2], dot.shape)
    return js_divergence(*primals), dot + multiply_no_nan(weight_derivative, weight_dot)


def mixture(log_p: Array, log_q: Array, weight: Array) -> tuple[Array, Array, Array]:
    """Compute log m, log(m / p) and log(m / q) for m = w p + (1 - w) q."""
    step = log_ratio(log_q, log_p)
    p_ratio, q_ratio = _log_mean(step, weight), _log_mean(-step, 1 - weight)
    return jnp.where(step > 0, log_q + q_ratio, log_p + p_ratio), p_ratio, q_ratio


@jax.custom_jvp
def _log_mean(x: Array, weight: Array) -> Array:
    """Compute log(w + (1 - w) e^x), with full relative precision near x = 0 too."""
    near = jnp.abs(x) < 1
    close = jnp.log1p((1 - weight) * jnp.expm1(jnp.where(near, x, 0)))
    return jnp.where(near, close, jnp.logaddexp(jnp.log(weight), jnp.log1p(-weight) + x))


@_log_mean.defjvp
def _(primals, tangents):
    x, weight = primals
    smaller = jnp.exp(-jnp.abs(x))  # relative to the larger of 1 and e^x, as the mean is
    mean = jnp.where(x > 0, weight * smaller + (1 - weight), weight + (1 - weight) * smaller)
    mean = jnp.maximum(mean, jnp.finfo(x.dtype).tiny)  # 0 where the larger has no weight
    x_derivative = (1 - weight) * jnp.exp(jnp.minimum(x, 0)) / mean
    weight_derivative = jnp.sign(x) * jnp.expm1(-jnp.abs(x)) / mean
    return _log_mean(x, weight), x_derivative * tangents[0] + weight_derivative * tangents[1]


@partial(jax.jit, static_argnums=1)
def mutual_information(log_joint: Array, rounding: float) -> Array:
    log_x, log_y = log_sum_exp(log_joint), log_sum_exp(jnp.swapaxes(log_joint, -1, -2))
    log_y_given_x = log_softmax(log_joint)
    log_y = jnp.broadcast_to(log_y[..., None, :], log_joint.shape)
    pair = sharded_alike(log_y_given_x, log_y)
    return times_exp(kl_divergence(*pair, rounding), log_x).sum(-1)


@jax.jit
def conditional_entropy(log_joint: Array) -> Array:
    return 0 - times_exp(log_softmax(log_joint), log_joint).sum((-2, -1))
