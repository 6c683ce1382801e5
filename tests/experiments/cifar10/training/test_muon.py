"""Muon's directions against the singular value decomposition, its steps against a NumPy loop."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.cifar10.backend import data_mesh
from experiments.cifar10.training import muon as module
from experiments.cifar10.training.muon import muon
from tests.support.virtual_devices import run_module

A, B, C = 3.4445, -4.7750, 2.0315
MOMENTUM, STEPS = 0.6, 4
orthogonal = jax.jit(module.orthogonal)


def singular_values_after(values: np.ndarray) -> np.ndarray:
    """Apply three iterations of the quintic to the singular values of a matrix of norm 1."""
    for _ in range(3):
        values = A * values + B * values**3 + C * values**5
    return values


def decompose(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.linalg.svd(x.astype(np.float64), full_matrices=False)


def random_matrix(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


def matrix_of(values: Any, shape: tuple[int, int] = (6, 9)) -> np.ndarray:
    """A matrix of these singular values."""
    left, _, right = decompose(random_matrix(shape))
    return (left * np.asarray(values)) @ right


MATRICES = {
    "wide": random_matrix((6, 9)),
    "tall": random_matrix((40, 12)),
    "square": random_matrix((24, 24)),
    "one row": random_matrix((1, 9)),
    "large numbers": 1e6 * random_matrix((6, 9)),
    "small numbers": 1e-3 * random_matrix((6, 9)),
    "orthogonal": matrix_of(np.ones(6)),
    "ill-conditioned": matrix_of(np.logspace(-5, 0, 6)),
    "of rank 2": matrix_of([1, 0.5, 0, 0, 0, 0]),
}


@pytest.mark.parametrize("name", MATRICES)
def test_singular_vectors_stay_and_singular_values_go_through_the_quintic(name):
    x = MATRICES[name].astype(np.float32)
    left, values, right = decompose(x)
    # the division by norm + 1e-7 is felt by small numbers only
    after = singular_values_after(values / (np.linalg.norm(values) + 1e-7))
    actual = np.asarray(orthogonal(jnp.asarray(x)), np.float64)
    np.testing.assert_allclose(actual, (left * after) @ right, rtol=0, atol=5e-6)


def test_values_of_a_fiftieth_of_the_norm_end_near_1_and_smaller_ones_grow_41_fold_at_most():
    large, small = np.linspace(1 / 50, 1, 10**6), np.logspace(-9, np.log10(1 / 50), 1000)
    assert 0.68 < singular_values_after(large).min() < 0.69
    assert 1.20 < singular_values_after(large).max() < 1.21
    assert round(A**3) == 41
    growth = singular_values_after(small) / small
    assert (growth <= A**3).all()
    assert growth[0] == pytest.approx(A**3)


@pytest.mark.parametrize(
    ("shape", "low"),
    [((64, 216), 0.68), ((24, 24), 0.0)],
    ids=["of airbench", "square"],
)
def test_random_kernels_are_nearly_orthogonal_unless_they_are_square(shape, low):
    x = jnp.asarray(random_matrix(shape), jnp.float32)
    _, values, _ = decompose(np.asarray(orthogonal(x)))
    assert low < values.min()
    assert values.max() < 1.21
    if not low:
        assert values.min() < 0.3


def test_a_matrix_of_zeros_stays():
    np.testing.assert_array_equal(orthogonal(jnp.zeros((3, 4))), 0)


def rate(step: Any) -> jax.Array:
    return 0.5 / (1 + jnp.asarray(step, jnp.float32))


init, update = map(jax.jit, muon(rate, MOMENTUM, data_mesh(1, 1)))


def numpy_path(start: np.ndarray, gradients: list[np.ndarray]) -> list[np.ndarray]:
    """The kernel after each step, as a loop over the definition."""
    p, m, path = start.astype(np.float64), np.zeros(start.shape), []
    width = start.shape[-1]
    for step, gradient in enumerate(gradients):
        m = MOMENTUM * m + gradient
        rows = np.moveaxis(gradient + MOMENTUM * m, -1, 0).reshape(width, -1)
        left, values, right = decompose(rows)
        direction = (left * singular_values_after(values / np.linalg.norm(values))) @ right
        moved = np.moveaxis(direction.reshape(width, *start.shape[:-1]), 0, -1)
        p = p * np.sqrt(width) / np.linalg.norm(p) - 0.5 / (1 + step) * moved
        path.append(p)
    return path


def test_steps_are_those_of_a_loop_over_the_definition():
    rng = np.random.default_rng(1)
    starts = [rng.normal(size=shape) for shape in ((3, 3, 2, 5), (3, 3, 4, 3))]
    gradients = [[rng.normal(size=start.shape) for start in starts] for _ in range(STEPS)]

    @jax.jit
    def advance(kernels: Any, state: Any, gradient: Any) -> Any:
        updates, state = update(gradient, state, kernels)
        return optax.apply_updates(kernels, updates), state

    def tree(kernels: list[np.ndarray]) -> Any:
        return {f"conv{i}": jnp.asarray(k, jnp.float32) for i, k in enumerate(kernels)}

    kernels, actual = tree(starts), []
    state = init(kernels)
    for gradient in gradients:
        kernels, state = advance(kernels, state, tree(gradient))
        actual.append(kernels)
    for place, start in enumerate(starts):
        expected = numpy_path(start, [g[place] for g in gradients])
        for step in range(STEPS):
            np.testing.assert_allclose(
                actual[step][f"conv{place}"], expected[step], rtol=1e-4, atol=1e-5
            )


@pytest.mark.devices
def test_devices_that_share_the_rows_take_the_same_steps():
    assert run_module("tests.programs.muon_devices") == ""


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_without_a_gradient_a_kernel_only_gets_a_norm_of_1_per_output_channel(size):
    kernel = jnp.asarray(size * random_matrix((18, 5)).reshape(3, 3, 2, 5), jnp.float32)
    updates, _ = update(jnp.zeros_like(kernel), init(kernel), kernel)
    actual = np.asarray(kernel + updates, np.float64)
    expected = np.asarray(kernel, np.float64)
    expected *= np.sqrt(5) / np.linalg.norm(expected)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=2e-7 * size)
