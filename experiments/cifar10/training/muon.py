"""Muon: momentum whose matrices are nearly orthogonalised before they are applied.

Source: K. Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, as in
airbench94_muon.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.cifar10.backend import DATA

# a x + b x^3 + c x^5, which quickly takes singular values in (0, 1] to about 1
QUINTIC = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3


class MuonState(NamedTuple):
    """The number of steps taken, and the momentum of each kernel."""

    step: Array
    momentum: Any


def muon(rate: optax.Schedule, momentum: float, mesh: Mesh) -> optax.GradientTransformation:
    """Make Muon for kernels [H, W, C, D], as matrices [H W C, D] with a column per output channel.

        m <- momentum m + g,   p <- p sqrt(D) / |p| - rate orthogonal(g + momentum m)

    Each kernel is rescaled to a norm of 1 per output channel, instead of weight decay. The devices
    of `mesh` share the rows of a matrix if their number divides the number of rows.
    """
    whole, split = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(DATA)))

    def init(params: Any) -> MuonState:
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(updates: Any, state: Any, params: Any | None = None) -> tuple[Any, MuonState]:
        assert params is not None, "expected the kernels, which are rescaled"
        buffers = jax.tree.map(lambda m, g: momentum * m + g, state.momentum, updates)
        current = rate(state.step)

        def step(p: Array, g: Array, m: Array) -> Array:
            matrix = (g + momentum * m).reshape(-1, p.shape[-1])
            if matrix.shape[0] % mesh.size == 0:
                matrix = lax.with_sharding_constraint(matrix, split)
            direction = lax.with_sharding_constraint(orthogonal(matrix), whole)
            rescaled = p * (p.shape[-1] ** 0.5 / jnp.linalg.norm(p.ravel()))
            return rescaled - p - current * direction.reshape(p.shape)

        steps = jax.tree.map(step, params, updates, buffers)
        return steps, MuonState(state.step + 1, buffers)

    return optax.GradientTransformation(init, update)


def orthogonal(x: Array) -> Array:
    """Approximate U V^T of x = U S V^T by the Newton-Schulz iteration, without an SVD.

        x <- x p(x^T x),   p(s) = a I + b s + c s^2

    All p(x^T x) are polynomials of the first x^T x, so only two products involve the whole x.
    Three iterations bring singular values of at least |x| / 50, for the Frobenius norm |x|, to
    between 0.68 and 1.21, which is close enough. Smaller ones, as in square and ill-conditioned
    matrices, become at most a^3 / |x| = 41 / |x| times as large.
    """
    if x.shape[0] < x.shape[1]:  # to compute the smaller of the two products
        return orthogonal(x.T).T
    a, b, c = QUINTIC
    x = x / (jnp.linalg.norm(x) + 1e-7)
    product = partial(jnp.matmul, precision=lax.Precision.HIGHEST)
    identity, square = jnp.eye(x.shape[1], dtype=x.dtype), product(x.T, x)

    def polynomial(square: Array) -> Array:
        return a * identity + b * square + c * product(square, square)

    factors = polynomial(square)
    for _ in range(ITERATIONS - 1):
        factors = product(factors, polynomial(product(factors, product(square, factors))))
    return product(x, factors)
