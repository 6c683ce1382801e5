"""Programs as users' XLA flags compile them, of logits whose rows XLA sees to be alike.

    python -m tests.programs.repeated_rows

prints each loss whose value or gradient is wrong, then how many were tried. The suite compiles
without optimisations, where jaxlib 0.10.2's CPU compiler is right (see `ops.rows.recompute_after`).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

import xentjax
from tests.support.tolerances import LOSS_GRADIENT, VALUE

SIZES = [(4096, 2), (4096, 10), (10_001, 10)]


def rows_of(kind: str, n: int, k: int, rng: np.random.Generator):
    """Return a function that makes logits [n, k] of its argument, and that argument."""
    few = 8 if n % 8 == 0 else 1
    return {
        "broadcast": (lambda a: jnp.broadcast_to(a, (n, k)), rng.standard_normal(k)),
        "tiled": (lambda a: jnp.tile(a, (n // few, 1)), rng.standard_normal((few, k))),
        "repeated": (lambda a: jnp.repeat(a, n // few, 0), rng.standard_normal((few, k))),
        "one column": (lambda a: jnp.broadcast_to(a[:, None], (n, k)), rng.standard_normal(n)),
        "constant": (lambda a: jnp.broadcast_to(a, (n, k)), rng.standard_normal()),
    }[kind]


def log_softmax(a: np.ndarray) -> np.ndarray:
    z = a - a.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def losses(k: int, target: np.ndarray, label: int):
    """Losses of rows, and (value, gradient in the logits) of each row in float64."""
    one_hot = np.eye(k)[label]

    def expected(t: np.ndarray, temperature: float = 1.0):
        def value_and_gradient(a: np.ndarray):
            log_p = log_softmax(a / temperature)
            return -(t * log_p).sum(-1), (t.sum() * np.exp(log_p) - t) / temperature

        return value_and_gradient

    def lse(a: np.ndarray):
        log_p = log_softmax(a)
        return (a - log_p)[..., 0], np.exp(log_p)

    targets = jnp.asarray(target, jnp.float32)

    def labels(a: jax.Array) -> jax.Array:
        return jnp.full(a.shape[:1], label)

    integer = xentjax.softmax_cross_entropy_with_integer_labels
    smoothed = 0.9 * one_hot + 0.1 / k
    return {
        "logsumexp": (lambda a: xentjax.logsumexp(a, -1), lse),
        "integer": (lambda a: integer(a, labels(a)), expected(one_hot)),
        "smoothed at T": (
            lambda a: integer(a, labels(a), label_smoothing=0.1, temperature=2.0),
            expected(smoothed, 2.0),
        ),
        "soft": (lambda a: xentjax.softmax_cross_entropy(a, targets), expected(target)),
        "stats": (
            lambda a: -integer(a, labels(a), return_stats=True)[1].label_log_prob,
            expected(one_hot),
        ),
    }


def main() -> None:
    tried = 0
    kinds = ("broadcast", "tiled", "repeated", "one column", "constant")
    for (n, k), kind in itertools.product(SIZES, kinds):
        rng = np.random.default_rng(n + k)
        target = rng.dirichlet(np.ones(k))
        make, argument = rows_of(kind, n, k, rng)
        argument = jnp.asarray(argument, jnp.float32)
        logits, to_argument = jax.vjp(make, argument)
        for name, (loss, expected) in losses(k, target, label=1).items():
            tried += 1

            def of_argument(a: jax.Array, loss=loss, make=make) -> jax.Array:
                return loss(make(a))

            values, slopes = expected(np.asarray(logits, np.float64))
            (slope,) = to_argument(jnp.asarray(slopes / n, jnp.float32))
            value = jax.jit(of_argument)(argument)
            gradient = jax.jit(jax.grad(lambda a, f=of_argument: f(a).mean()))(argument)
            tolerance = VALUE["float32"]
            if not np.allclose(value, values, rtol=tolerance, atol=tolerance):
                print(f"{n} x {k}, {kind}, {name}: {value[0]}, expected {values[0]}")
            if not np.allclose(gradient, slope, rtol=1e-4, atol=LOSS_GRADIENT):
                print(f"{n} x {k}, {kind}, {name}: slope {gradient}, expected {slope}")
    print(f"tried {tried}")


if __name__ == "__main__":
    main()
