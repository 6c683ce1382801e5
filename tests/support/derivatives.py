"""All derivatives of a loss by its logits, and what they have to be."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from tests.support.closeness import assert_close
from tests.support.oracles import losses as oracles
from tests.support.tolerances import GRADIENT, VALUE


def derivatives(call, implementation):
    """A loss, its gradient, its jvp along ones and two second-order products, compiled once."""

    def losses(x):
        return call(x, implementation=implementation)

    def total(x):
        return jnp.sum(losses(x))

    @jax.jit
    def everything(x):
        ones = jnp.ones_like(x)
        value, derivative = jax.jvp(losses, (x,), (ones,))
        gradient = jax.grad(total)(x)
        forward_over_reverse = jax.jvp(jax.grad(total), (x,), (ones,))[1]
        reverse_over_reverse = jax.grad(lambda x: jnp.sum(jax.grad(total)(x)))(x)
        return value, gradient, derivative, forward_over_reverse, reverse_over_reverse

    return lambda logits: [np.asarray(x) for x in everything(jnp.asarray(logits, jnp.float32))]


def check_derivatives(loss, oracle, logits, implementation):
    """Value, gradient, jvp and both second-order products against differences of the oracle."""
    direction = np.random.default_rng(1).standard_normal(logits.shape)
    v = direction.astype(np.float32)

    def losses(x):
        return loss(x, implementation=implementation)

    def total(x):
        return jnp.sum(losses(x))

    @jax.jit
    def everything(x):
        value, derivative = jax.jvp(losses, (x,), (v,))
        gradient, forward_over_reverse = jax.jvp(jax.grad(total), (x,), (v,))
        reverse_over_reverse = jax.grad(lambda x: jnp.vdot(jax.grad(total)(x), v))(x)
        return value, derivative, gradient, forward_over_reverse, reverse_over_reverse

    value, derivative, gradient, *second = everything(logits)
    assert value.dtype == jnp.float32
    assert_close(value, oracle(logits), VALUE["float32"])
    numerical_gradient = partial(oracles.numerical_gradient, oracle)
    assert_close(gradient, numerical_gradient(logits), GRADIENT["float32"])
    expected = oracles.along(oracle, logits, direction)
    assert_close(derivative, expected, GRADIENT["float32"])
    expected = oracles.along(numerical_gradient, logits, direction, 1e-2)
    for product in second:
        assert_close(product, expected, GRADIENT["float32"])


def check_along(total, gradient, arrays, rng):
    """Derivatives of a function of named arrays along a random direction.

    Forward mode and both second-order products, against the exact gradient at arrays of float64.
    """
    along = {n: np.asarray(rng.standard_normal(a.shape), np.float32) for n, a in arrays.items()}

    @jax.jit
    def derivatives(arrays, along):
        def overlap(arrays):
            return sum(jax.tree.leaves(jax.tree.map(jnp.vdot, jax.grad(total)(arrays), along)))

        slope = jax.jvp(total, (arrays,), (along,))[1]
        return slope, jax.jvp(jax.grad(total), (arrays,), (along,))[1], jax.grad(overlap)(arrays)

    def moved(step):
        return gradient({n: np.float64(a) + step * along[n] for n, a in arrays.items()})

    slope, *products = derivatives(arrays, along)
    exact = moved(0)
    assert_close(slope, sum(np.vdot(exact[n], a) for n, a in along.items()), GRADIENT["float32"])
    plus, minus = moved(1e-5), moved(-1e-5)
    for product in products:
        assert set(product) == set(arrays)
        for name, got in product.items():
            assert_close(got, (plus[name] - minus[name]) / 2e-5, GRADIENT["float32"])
