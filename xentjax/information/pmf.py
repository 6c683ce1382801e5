"""Measures of information in nats, with the right limits and derivatives at probability 0.

`x log x` is 0 at 0 and its derivative there is `-inf`. Ordinary differentiation multiplies that
derivative by tangents and cotangents that are 0 (a probability held fixed, a term that is masked
out), and `inf * 0` is NaN. Here `multiply_no_nan` multiplies every derivative by its tangent, so
that 0 wins. Every derivative is again a function of this module, so that this holds at all orders
and in both modes.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array

from xentjax._core.dtypes import compute_dtype
from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax._core.varying import sharded_alike


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def times_power(x: Array, y: Array, n: int) -> Array:
    """Compute `x * y**n` for an integer `n`; 0 where `x` is 0."""
    return x * jax.lax.integer_pow(jnp.where(x == 0, jnp.ones_like(y), y), n)


@times_power.defjvp
def _(n, primals, tangents):
    x, y = primals
    x_derivative = times_power(jnp.ones_like(y), y, n)
    y_derivative = n * times_power(x, y, n - 1)
    dot = multiply_no_nan(x_derivative, tangents[0]) + multiply_no_nan(y_derivative, tangents[1])
    return times_power(x, y, n), dot


def _reciprocal(x: Array) -> Array:
    return times_power(jnp.ones_like(x), x, -1)


@jax.custom_jvp
def log(x: Array) -> Array:
    """Compute `log x`; -inf at 0."""
    return jnp.log(x)


log.defjvps(lambda t, _, x: multiply_no_nan(_reciprocal(x), t))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_ratio(x: Array, y: Array, both_zero: float) -> Array:
    """Compute `log(x / y)`: -inf at x = 0 < y, +inf at x > 0 = y, `both_zero` where both are 0.

    At x = y = 0 the limit depends on the path, so the caller chooses the value. There it is a
    constant, with derivatives 0.
    """
    zero = (x == 0) & (y == 0)
    ratio = jnp.where(zero, jnp.ones_like(x), x) / jnp.where(zero, jnp.ones_like(y), y)
    return jnp.where(zero, jnp.full_like(x, both_zero), jnp.log(ratio))


@log_ratio.defjvp
def _(both_zero, primals, tangents):
    x, y = primals
    zero = (x == 0) & (y == 0)
    x_derivative, y_derivative = (
        jnp.where(zero, jnp.zeros_like(v), _reciprocal(v)) for v in (x, y)
    )
    dot = multiply_no_nan(x_derivative, tangents[0]) - multiply_no_nan(y_derivative, tangents[1])
    return log_ratio(x, y, both_zero), dot


@jax.custom_jvp
def x_log_x(x: Array) -> Array:
    """Compute `x log x`: 0 at 0, where the derivative is -inf."""
    x_is_0 = x == 0
    return jnp.where(x_is_0, jnp.zeros_like(x), x * jnp.log(jnp.where(x_is_0, jnp.ones_like(x), x)))


x_log_x.defjvps(lambda t, _, x: multiply_no_nan(log(x) + 1, t))


@jax.custom_jvp
def x_log_y(x: Array, y: Array) -> Array:
    """Compute `x log y`: 0 at x = 0 for any y, -inf at x > 0 = y."""
    x_is_0 = x == 0
    return jnp.where(x_is_0, jnp.zeros_like(x), x * jnp.log(jnp.where(x_is_0, jnp.ones_like(y), y)))


x_log_y.defjvps(
    lambda t, _, x, y: multiply_no_nan(log(y), t),
    lambda t, _, x, y: multiply_no_nan(times_power(x, y, -1), t),
)


def divergence_term(x: Array, y: Array) -> Array:
    """Compute `x log(x / y) - x + y` >= 0 with full relative precision, even for x near y.

    The limits are y at x = 0 and +inf at x > 0 = y. Near x = y, with v = (x - y) / (x + y), the
    term is (x - y) v + 2 x (v^3 / 3 + v^5 / 5 + ...), where nothing cancels; elsewhere the formula
    itself is precise. It is for values only: callers define the derivatives that they need.

    Source: C. Loader, "Fast and accurate computation of binomial probabilities" (2000), where it is
    the deviance part of a binomial probability.
    """
    both_zero = (x == 0) & (y == 0)
    # Arguments are selected as well as values. So no NaN is computed where a selection leaves it
    # out, and XLA on CPU makes one loop instead of three with arrays in between.
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    v = jnp.where(both_zero, zero, (x - y) / jnp.where(both_zero, one, x + y))
    # At |v| < 0.3 the omitted terms are below the precision of the dtype.
    series = jnp.zeros_like(v)
    for k in range(31 if v.dtype == jnp.float64 else 13, 1, -2):
        series = series * v**2 + 1 / k
    near = (x - y) * v + 2 * x * v**3 * series
    x_is_0 = x == 0
    ratio = jnp.where(x_is_0, one, x / jnp.where(x_is_0, one, y))
    far = jnp.where(x_is_0, y, x * jnp.log(ratio) - x + y)
    return jnp.where(jnp.abs(v) < 0.3, near, far)


# Measures over the last axis or axes; jitted, so that an eager call is one pass over the data.


@jax.jit
def entropy(p: Array) -> Array:
    return 0 - x_log_x(p).sum(-1)  # -x would be -0.0 for a certain outcome


@jax.jit
def cross_entropy(p: Array, q: Array) -> Array:
    return (-x_log_y(p, q)).sum(-1)


def sum_tolerance(dtype: DTypeLike, number: int, *, logarithms: bool = False) -> float:
    """Return how far from 1 rounding leaves the sum of `number` normalised probabilities.

        max((64 + K / 8) eps_c, (5 / 4) eps) + K eps tiny / 2

    for K numbers kept in `dtype`, of rounding unit eps and smallest normal number tiny, computed in
    float32 or better, of unit eps_c. The whole package uses this number to tell a pmf from anything
    else.

    - 64 eps_c: exp(a_k - log sum exp a) is off by eps_c |log sum exp a| / 2 and a few units more,
      the same for all k. Measured for logits around 100: 36 units. A softmax needs fewer than 9.
    - K eps_c / 8: K weights added one at a time, as NumPy sums columns, all round the same way if
      they are equal. The last half of them meets a sum whose spacing is eps_c times half of the
      total, and is off by at most half a spacing each. Measured for equal weights: 0.124 K eps_c;
      for logits from a normal law of deviation 5: 0.01 K eps_c. Sums in pairs or blocks need only
      log K.
    - (5 / 4) eps: half a unit from rounding each p_k, which is systematic where they are equal, and
      another from rounding the sum they are divided by. Measured for bfloat16: 1.02 units.
    - K eps tiny / 2: rounding of probabilities below tiny, whose spacing is constant, 6e-8 in
      float16.

    So a float32 pmf of 131,072 classes may be off by 0.2 %, one of ten by 8e-6, one of bfloat16 by
    1 %. A pmf that was normalised in half precision (a log of 10 is off by 3 % in bfloat16) is not
    one: normalise in float32 and round then.

    With `logarithms` it is log p_k that is kept, and rounding moves p_k by eps |log p_k| / 2, on
    average at most eps log(K) / 2, and as much again where the normaliser was rounded too: 5 / 4
    becomes 5 / 4 + log K.

    Source: N. J. Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed. (2002), chapter 4.
    """
    kept, computed = jnp.finfo(dtype), jnp.finfo(compute_dtype(dtype))
    units = 1.25 + (math.log(number) if logarithms else 0)
    computing = (64 + number / 8) * float(computed.eps)
    spacing = float(kept.eps) * float(kept.tiny)
    return max(computing, units * float(kept.eps)) + number * spacing / 2


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def sum_difference(p: Array, q: Array, rounding: float) -> Array:
    """Compute sum_k (p_k - q_k), or 0 if rounding explains it; its derivatives are 1 and -1.

    `rounding` is relative to sum_k (p_k + q_k).
    """
    # XLA would store p - q or p + q, since `divergence_term` uses them too.
    difference, total = -(q - p).sum(-1), p.sum(-1) + q.sum(-1)
    rounded = jnp.abs(difference) <= rounding * total
    return jnp.where(rounded, jnp.zeros_like(difference), difference)


@sum_difference.defjvp
def _(rounding, primals, tangents):
    return sum_difference(*primals, rounding), (tangents[0] - tangents[1]).sum(-1)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
@partial(jax.jit, static_argnums=2)
def kl_divergence(p: Array, q: Array, rounding: float) -> Array:
    result = divergence_term(p, q).sum(-1)
    if rounding == math.inf:  # any difference of the sums is ignored
        return result
    return result + sum_difference(p, q, rounding)


@kl_divergence.defjvp
def _(rounding, primals, tangents):
    p, q = primals
    p_dot = multiply_no_nan(log_ratio(p, q, math.inf) + 1, tangents[0])
    q_dot = multiply_no_nan(-times_power(p, q, -1), tangents[1])
    return kl_divergence(p, q, rounding), (p_dot + q_dot).sum(-1)


@jax.custom_jvp
@jax.jit
def js_divergence(p: Array, q: Array, weight: Array) -> Array:
    weight = jnp.broadcast_to(weight, p.shape)
    middle = _mixture(p, q, weight)
    terms = [
        # Where m underflows, so does each part of it; a part of weight 0 is left out.
        multiply_no_nan(jnp.where(middle == 0, jnp.zeros_like(v), divergence_term(v, middle)), w)
        for v, w in ((p, weight), (q, 1 - weight))
    ]
    return (terms[0] + terms[1]).sum(-1)


@js_divergence.defjvp
def _(primals, tangents):
    p, q, weight = primals
    each_weight = jnp.full_like(p, weight)
    middle = _mixture(p, q, each_weight)
    both_zero = (p == 0) & (q == 0)
    dots = []
    for v, w, t in ((p, each_weight, tangents[0]), (q, 1 - each_weight, tangents[1])):
        # At p = q = 0 a step in p alone is 1 / w times the step of the mixture.
        derivative = log_ratio(v, middle, 0.0) - log(jnp.where(both_zero, w, jnp.ones_like(w)))
        dots.append(multiply_no_nan(multiply_no_nan(derivative, w), t))
    # The sums of p and q do not contribute to the derivative in w, but to its derivatives.
    weight_derivative = kl_divergence(p, middle, math.inf) - kl_divergence(q, middle, math.inf)
    weight_derivative -= sum_difference(p, q, math.inf)
    weight_dot = jnp.broadcast_to(tangents[2], weight_derivative.shape)
    dot = (dots[0] + dots[1]).sum(-1) + multiply_no_nan(weight_derivative, weight_dot)
    return js_divergence(p, q, weight), dot


@jax.custom_jvp
def _mixture(p: Array, q: Array, weight: Array) -> Array:
    """Compute w p + (1 - w) q, exactly p where q equals p."""
    mean = weight * p + (1 - weight) * q
    return jnp.clip(mean, jnp.minimum(p, q), jnp.maximum(p, q))


_mixture.defjvps(
    lambda t, _, p, q, weight: weight * t,
    lambda t, _, p, q, weight: (1 - weight) * t,
    lambda t, _, p, q, weight: (p - q) * t,
)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
@partial(jax.jit, static_argnums=1)
def mutual_information(joint: Array, rounding: float) -> Array:
    """Compute E_x KL(p(y | x) || p(y)); p(y | x) does not underflow as p(x) p(y) may."""
    x, y = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
    y_given_x = joint / jnp.where(x == 0, jnp.ones_like(x), x)
    pair = sharded_alike(y_given_x, jnp.broadcast_to(y, joint.shape))
    divergences = kl_divergence(*pair, rounding)
    return (x[..., 0] * divergences).sum(-1)


@mutual_information.defjvp
def _(rounding, primals, tangents):
    (joint,) = primals
    x, y = (jnp.broadcast_to(joint.sum(axis, keepdims=True), joint.shape) for axis in (-1, -2))
    joint, x, y = sharded_alike(joint, x, y)
    # Where a marginal is 0, it moves with p(x, y), so that their ratio stays 1.
    y_is_0 = y == 0
    ratio = log_ratio(joint, x, 0.0) - log(jnp.where(y_is_0, jnp.ones_like(y), y))
    derivative = jnp.where(y_is_0, -log(x), ratio)
    return mutual_information(joint, rounding), multiply_no_nan(derivative - 1, tangents[0]).sum(
        (-2, -1)
    )


@jax.custom_jvp
@jax.jit
def conditional_entropy(joint: Array) -> Array:
    x = jnp.broadcast_to(joint.sum(-1, keepdims=True), joint.shape)
    joint, x = sharded_alike(joint, x)
    one = jnp.ones_like(joint)
    y_given_x = jnp.where(joint == 0, one, joint) / jnp.where(joint == 0, one, x)
    return 0 - (joint * jnp.log(y_given_x)).sum((-2, -1))


@conditional_entropy.defjvp
def _(primals, tangents):
    (joint,) = primals
    x = jnp.broadcast_to(joint.sum(-1, keepdims=True), joint.shape)
    joint, x = sharded_alike(joint, x)
    # At p(x) = 0, p(x) moves with p(x, y), so that their ratio stays 1.
    derivative = -log_ratio(joint, x, 0.0)
    return conditional_entropy(joint), multiply_no_nan(derivative, tangents[0]).sum((-2, -1))
