"""Measures of information in nats, with the right limits and derivatives at probability 0.

`x log x` is 0 at 0 and its derivative there is `-inf`. Ordinary differentiation multiplies that
derivative by tangents and cotangents that are 0 (a probability held fixed, a term that is masked
out) and `inf * 0` is NaN. Here every derivative meets its tangent in `multiply_no_nan`, where 0
wins, and every derivative is again a function of this module, so that the same holds at all orders
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


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def times_power(x: Array, y: Array, n: int) -> Array:
    """`x * y**n` for an integer `n`, 0 where `x` is 0."""
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
    """`log x`, -inf at 0."""
    return jnp.log(x)


log.defjvps(lambda t, _, x: multiply_no_nan(_reciprocal(x), t))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def log_ratio(x: Array, y: Array, both_zero: float) -> Array:
    """`log(x / y)`: -inf at x = 0 < y, +inf at x > 0 = y, and `both_zero` where both are 0.

    At x = y = 0 the limit depends on the way there, so the caller names the one it is on; the value
    is then a constant of that way and its derivatives are 0.
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
    """`x log x`: 0 at 0, where the derivative is -inf."""
    x_is_0 = x == 0
    return jnp.where(x_is_0, jnp.zeros_like(x), x * jnp.log(jnp.where(x_is_0, jnp.ones_like(x), x)))


x_log_x.defjvps(lambda t, _, x: multiply_no_nan(log(x) + 1, t))


@jax.custom_jvp
def x_log_y(x: Array, y: Array) -> Array:
    """`x log y`: 0 at x = 0 whatever y, -inf at x > 0 = y."""
    x_is_0 = x == 0
    return jnp.where(x_is_0, jnp.zeros_like(x), x * jnp.log(jnp.where(x_is_0, jnp.ones_like(y), y)))


x_log_y.defjvps(
    lambda t, _, x, y: multiply_no_nan(log(y), t),
    lambda t, _, x, y: multiply_no_nan(times_power(x, y, -1), t),
)


def divergence_term(x: Array, y: Array) -> Array:
    """`x log(x / y) - x + y`, never negative, to full relative precision also where x is near y.

    The limits are y at x = 0 and +inf at x > 0 = y. With v = (x - y) / (x + y) the term is
    (x - y) v + 2 x (v^3 / 3 + v^5 / 5 + ...), which cancels nothing; far from x = y the formula
    itself is as good. For values only: who calls this states the derivative that it means.

    Source: C. Loader, "Fast and accurate computation of binomial probabilities" (2000), where it is
    the deviance part of a binomial probability.
    """
    both_zero = (x == 0) & (y == 0)
    # Each value is selected beside its argument: no NaN is made that a selection leaves out, and
    # on CPU, XLA's loop is one, not three with arrays in between.
    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    v = jnp.where(both_zero, zero, (x - y) / jnp.where(both_zero, one, x + y))
    # At |v| < 0.3 the terms left out are less than the dtype resolves.
    series = jnp.zeros_like(v)
    for k in range(31 if v.dtype == jnp.float64 else 13, 1, -2):
        series = series * v**2 + 1 / k
    near = (x - y) * v + 2 * x * v**3 * series
    x_is_0 = x == 0
    ratio = jnp.where(x_is_0, one, x / jnp.where(x_is_0, one, y))
    far = jnp.where(x_is_0, y, x * jnp.log(ratio) - x + y)
    return jnp.where(jnp.abs(v) < 0.3, near, far)


# Measures over the last axis or axes, jitted so that an eager call too is one pass over the data.


@jax.jit
def entropy(p: Array) -> Array:
    return 0 - x_log_x(p).sum(-1)  # minus would make -0.0 of a certain outcome's 0


@jax.jit
def cross_entropy(p: Array, q: Array) -> Array:
    return (-x_log_y(p, q)).sum(-1)


def sum_tolerance(dtype: DTypeLike, number: int, *, logarithms: bool = False) -> float:
    """Return how far from 1 rounding leaves the sum of `number` normalised probabilities.

        max((64 + K / 8) eps_c, (5 / 4) eps) + K eps tiny / 2

    for K numbers kept in `dtype`, of rounding unit eps and smallest normal number tiny, computed in
    float32 or better, of unit eps_c. Where this number is what separates a pmf from anything else,
    the whole package takes it from here.

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
    """sum_k (p_k - q_k), 0 where rounding explains it; its derivatives stay 1 and -1.

    `rounding` is relative to sum_k (p_k + q_k).
    """
    # XLA would keep in memory a p - q or p + q that `divergence_term` is made of too.
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
    if rounding == math.inf:  # no difference of the sums counts
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
        # Where m underflows its part of p or q does too; a part without weight is left out.
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
        # At p = q = 0 a step in one of them alone is 1 / w times the mixture's.
        derivative = log_ratio(v, middle, 0.0) - log(jnp.where(both_zero, w, jnp.ones_like(w)))
        dots.append(multiply_no_nan(multiply_no_nan(derivative, w), t))
    # The sums of p and q are no part of the derivative in w, but their derivatives are of its own.
    weight_derivative = kl_divergence(p, middle, math.inf) - kl_divergence(q, middle, math.inf)
    weight_derivative -= sum_difference(p, q, math.inf)
    weight_dot = jnp.broadcast_to(tangents[2], weight_derivative.shape)
    dot = (dots[0] + dots[1]).sum(-1) + multiply_no_nan(weight_derivative, weight_dot)
    return js_divergence(p, q, weight), dot


@jax.custom_jvp
def _mixture(p: Array, q: Array, weight: Array) -> Array:
    """w p + (1 - w) q, and p itself where q is the same."""
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
    """E_x KL(p(y | x) || p(y)): unlike p(x) p(y), p(y | x) does not underflow."""
    x, y = joint.sum(-1, keepdims=True), joint.sum(-2, keepdims=True)
    y_given_x = joint / jnp.where(x == 0, jnp.ones_like(x), x)
    divergences = kl_divergence(y_given_x, jnp.broadcast_to(y, joint.shape), rounding)
    return (x[..., 0] * divergences).sum(-1)


@mutual_information.defjvp
def _(rounding, primals, tangents):
    (joint,) = primals
    x, y = (jnp.broadcast_to(joint.sum(axis, keepdims=True), joint.shape) for axis in (-1, -2))
    # Where a marginal is 0, a step in p(x, y) moves it along and their ratio stays 1.
    y_is_0 = y == 0
    ratio = log_ratio(joint, x, 0.0) - log(jnp.where(y_is_0, jnp.ones_like(y), y))
    derivative = jnp.where(y_is_0, -log(x), ratio)
    return mutual_information(joint, rounding), multiply_no_nan(derivative - 1, tangents[0]).sum(
        (-2, -1)
    )


@jax.custom_jvp
@jax.jit
def conditional_entropy(joint: Array) -> Array:
    x = joint.sum(-1, keepdims=True)
    one = jnp.ones_like(joint)
    y_given_x = jnp.where(joint == 0, one, joint) / jnp.where(joint == 0, one, x)
    return 0 - (joint * jnp.log(y_given_x)).sum((-2, -1))


@conditional_entropy.defjvp
def _(primals, tangents):
    (joint,) = primals
    x = jnp.broadcast_to(joint.sum(-1, keepdims=True), joint.shape)
    # At p(x) = 0 a step in p(x, y) moves p(x) along and their ratio stays 1.
    derivative = -log_ratio(joint, x, 0.0)
    return conditional_entropy(joint), multiply_no_nan(derivative, tangents[0]).sum((-2, -1))
