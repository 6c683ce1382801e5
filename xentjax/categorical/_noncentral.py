"""Tails of the noncentral chi-squared distribution, to the precision of the dtype at any size.

The usual formula, a mixture of chi-squared tails with Poisson weights, needs more terms as the
noncentrality grows and loses digits with them. Inverting the moment generating function avoids
both. With a = dof / 2, x = c / 2 and y = noncentrality / 2,

    P(X > c) = 1 / (2 pi i) int exp(phi(t)) dt / (1 - t),
    phi(t) = y (1 / t - 1) - a log t + x (t - 1),

over a path around 0 that crosses the real axis between 0 and 1. If it crosses beyond 1, the
integral is minus the lower tail. The path of steepest descent from the saddle is t = r exp(i theta)
with

    r = (a w + sqrt(a^2 w^2 + 4 x y)) / (2 x),    w = theta / sin theta,

and phi is real on it, so nothing cancels. (A path from another point of the axis is the one of the
x that has its saddle there.) Gauss-Legendre quadrature over the window where the integrand is not
negligible gives both tails and, from the same nodes, their derivatives in x and y.

Source: A. Gil, J. Segura and N. M. Temme, "Computation of the Marcum Q-function" (2014), section 5.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from xentjax._core.multiply_no_nan import multiply_no_nan
from xentjax.information.pmf import divergence_term

_FALL = 40.0
_NODES = {"float32": 32, "float64": 64}
_NEWTON_STEPS = 60


class NoncentralTails(NamedTuple):
    """Both tails of a noncentral chi-squared distribution, and the slopes of the upper one."""

    upper: Array
    lower: Array
    x_slope: Array
    y_slope: Array


@jax.custom_jvp
def noncentral_survival(
    a: Float[Array, "*s"], x: Float[Array, "*s"], y: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Compute P(X > 2 x) at 2 a degrees of freedom and noncentrality 2 y.

    Differentiable in x and y. `a` and x are positive and finite; y may be 0 or infinite.
    """
    return _finite_tails(a, x, y).upper


@noncentral_survival.defjvp
def _(primals, tangents):
    tails = _finite_tails(*primals)
    slopes = zip((tails.x_slope, tails.y_slope), tangents[1:], strict=True)
    # Where a slope is 0 the product is 0, even if the noncentrality's derivative is infinite.
    dots = [multiply_no_nan(s, jnp.where(s == 0, 0, t)) for s, t in slopes]
    return noncentral_survival(*primals), dots[0] + dots[1]


def least_number(
    a: Float[Array, "*s"],
    alpha: Float[Array, "*s"],
    power: Float[Array, "*s"],
    divergence: Float[Array, "*s"],
) -> Float[Array, "*s"]:
    """Return the least n >= 1 at which a test of size `alpha` has the power; y = n divergence.

    One loop runs three searches in turn, so that the tails are compiled once: Newton's method for
    the x with mass `alpha` above it at y = 0, Newton's method for the y with mass `power` above x,
    then steps of 1 from y / divergence, which may be rounded, to the least n.

    Newton's method works on the logarithm of the smaller tail, which is concave in log x and in y.
    It starts from a bound on the side from which no step passes the root.
    """
    central, shifted = _Target(alpha), _Target(power)
    # B. Laurent and P. Massart (2000), lemma 1.
    above = a + jnp.sqrt(-2 * a * central.log_mass) - central.log_mass
    x = jnp.where(central.upper, above, a)

    def advance(state: _Search) -> _Search:
        stage, steps, x, y, n = state
        tails = noncentral_tails(a, x, y)
        new_x = x * jnp.exp(central.step(tails, tails.x_slope) / x)
        new_y = jnp.maximum(y + shifted.step(tails, tails.y_slope), 0)
        old, new = jnp.where(stage == 0, x, y), jnp.where(stage == 0, new_x, new_y)
        moving = jnp.abs(new - old) > 4 * float(jnp.finfo(x.dtype).eps) * new
        fewer = jnp.maximum(jnp.ceil(new_y / divergence) - 1, 1)
        too_few = shifted.exceeds(tails)
        ends = jnp.where(stage < 2, ~(moving & (steps < _NEWTON_STEPS)), ~too_few).all()
        new_n = jnp.where(stage == 1, fewer, n + too_few.astype(n.dtype))
        if_ends = jnp.where(stage == 0, shifted.start(a, new_x), new_n * divergence)
        if_not = jnp.where(stage == 0, 0, jnp.where(stage == 1, new_y, new_n * divergence))
        return _Search(
            stage=stage + ends.astype(stage.dtype),
            steps=jnp.where(ends, 0, steps + 1),
            x=jnp.where(stage == 0, new_x, x),
            y=jnp.where(ends, if_ends, if_not),
            n=new_n,
        )

    zero = jnp.zeros((), jnp.int32)
    start = _Search(zero, zero, x, jnp.zeros_like(x), jnp.ones_like(x))
    return jax.lax.while_loop(lambda state: state.stage < 3, advance, start).n


@jax.custom_jvp
def noncentrality(
    a: Float[Array, "*s"], x: Float[Array, "*s"], mass: Float[Array, "*s"]
) -> Float[Array, "*s"]:
    """Return the y at which `noncentral_survival` is `mass`; 0 if it exceeds `mass` at y = 0.

    Differentiable in x and the mass.
    """
    target = _Target(mass)

    def advance(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        steps, y, _ = state
        tails = noncentral_tails(a, x, y)
        new = jnp.maximum(y + target.step(tails, tails.y_slope), 0)
        return steps + 1, new, jnp.abs(new - y) > 4 * float(jnp.finfo(x.dtype).eps) * new

    start = jnp.zeros((), jnp.int32), target.start(a, x), x > 0
    return jax.lax.while_loop(
        lambda state: state[2].any() & (state[0] < _NEWTON_STEPS), advance, start
    )[1]


@noncentrality.defjvp
def _(primals, tangents):
    a, x, _ = primals
    y = noncentrality(*primals)
    tails = noncentral_tails(a, x, y)
    dot = (tangents[2] - tails.x_slope * tangents[1]) / tails.y_slope
    return y, jnp.where(y > 0, dot, 0)


class _Search(NamedTuple):
    stage: Array
    steps: Array
    x: Array
    y: Array
    n: Array


class _Target:
    """A mass of the upper tail to reach, kept as the logarithm of the smaller tail."""

    def __init__(self, mass: Array):
        self.mass, self.upper = mass, mass < 0.5
        self.log_mass = jnp.where(self.upper, jnp.log(mass), jnp.log1p(-mass))

    def start(self, a: Array, x: Array) -> Array:
        """Return a y from which no `step` passes the y with this mass above x."""
        # L. Birge (2001), lemma 8.1.
        u = -self.log_mass
        above = jnp.sqrt(jnp.maximum(4 * x - 2 * a, 0)) - 2 * jnp.sqrt(u)
        below = 2 * jnp.sqrt(u) + jnp.sqrt(jnp.maximum(4 * (x + u) - 2 * a, 0))
        root = jnp.where(self.upper, jnp.maximum(above, 0), below)
        return jnp.maximum(root**2 - 2 * a, 0) / 4

    def exceeds(self, tails: NoncentralTails) -> Array:
        """Whether the target is above the mass of the upper tail."""
        return jnp.where(self.upper, tails.upper < self.mass, tails.lower > 1 - self.mass)

    def step(self, tails: NoncentralTails, slope: Array) -> Array:
        """Return Newton's step to the target, given the slope of the upper tail."""
        tail = jnp.where(self.upper, tails.upper, -tails.lower)
        return (self.log_mass - jnp.log(jnp.abs(tail))) * tail / slope


def _finite_tails(a: Array, x: Array, y: Array) -> NoncentralTails:
    infinite = y == math.inf
    tails = noncentral_tails(a, x, jnp.where(infinite, 0, y))
    limits = (1, 0, 0, 0)
    return NoncentralTails(
        *(jnp.where(infinite, limit, v) for limit, v in zip(limits, tails, strict=True))
    )


@jax.jit
def noncentral_tails(
    a: Float[Array, "*s"], x: Float[Array, "*s"], y: Float[Array, "*s"]
) -> NoncentralTails:
    root = jnp.sqrt(a * a + 4 * x * y)
    saddle = (a + root) / (2 * x)
    # Within half a standard deviation of the pole at 1 the path keeps that distance from it.
    distance = 1 / (1 + 2 * jnp.sqrt(a + 2 * y))
    near = (saddle > 1 - distance) & (saddle * (1 - distance) < 1)
    start = jnp.where(near, 1 - distance, saddle)
    from_pole = jnp.where(near, -distance, (a + y - x) / (x * (1 + 2 * y / (a + root))))
    steepest = jnp.where(near, (a + y / start) / start, x)  # the x that has its saddle there
    at_start = from_pole * (x - steepest) - from_pole**2 / start * (a + y / start)
    at_start += a * divergence_term(jnp.ones_like(start), start)

    sine = jnp.sqrt(_FALL / 2 / (a + 2 * y / start))
    window = 2 * jnp.arcsin(jnp.minimum(sine, 1))[..., None]
    legendre = np.polynomial.legendre.leggauss(_NODES[x.dtype.name])
    nodes, weights = (
        jnp.asarray(v / 2, x.dtype).reshape(*(1 for _ in x.shape), -1)
        for v in (1 + legendre[0], legendre[1])
    )
    theta = window * nodes
    a, x, y, start, steepest = (v[..., None] for v in (a, x, y, start, steepest))
    sin, cos, versine = jnp.sin(theta), jnp.cos(theta), 2 * jnp.sin(theta / 2) ** 2
    excess = (theta - sin) / sin  # w - 1
    root, root_of_start = jnp.hypot(a * (1 + excess), jnp.sqrt(4 * steepest * y)), a + 2 * y / start
    rise = a * (excess + a * excess * (2 + excess) / (root + root_of_start)) / (2 * steepest)
    r = start + rise
    r_slope = a * (sin - theta * cos) / sin**2 * r / root

    fall = y * (versine / r + rise / (r * start)) + a * jnp.log1p(rise / start)
    fall -= x * (rise * cos - start * versine)
    size = jnp.exp(at_start[..., None] - fall) * weights * window / math.pi
    angle = (x - steepest) * r * sin
    # dt / (i (1 - t)), dt / (i t) and dt / i, the first with the denominator |1 - t|^2.
    beyond_1 = from_pole[..., None] + rise  # r - 1
    gap, left = beyond_1**2 + 2 * r * versine, -(beyond_1 + versine)
    real, imaginary = r * left + r_slope * sin, r * sin - r_slope * left
    tail = (size * (jnp.cos(angle) * real - jnp.sin(angle) * imaginary) / gap).sum(-1)
    y_slope = (size * (jnp.cos(angle) + jnp.sin(angle) * r_slope / r)).sum(-1)
    x_slope = -(size * (jnp.cos(angle + theta) * r + jnp.sin(angle + theta) * r_slope)).sum(-1)
    beyond = start[..., 0] > 1
    return NoncentralTails(
        upper=jnp.where(beyond, 1 + tail, tail),
        lower=jnp.where(beyond, -tail, 1 - tail),
        x_slope=x_slope,
        y_slope=y_slope,
    )
