"""Checks that every kernel of row statistics passes, by the name of its implementation."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.problems import Problem, loss_of
from tests.support.tolerances import GRADIENT, LOSS_GRADIENT, VALUE
from xentjax.ops.registry import Implementation

try:
    from jax.experimental.pallas.mosaic_gpu import (
        InterpretGPUParams,  # pyright: ignore[reportAttributeAccessIssue]
    )
except ImportError:  # jax 0.10 has it, but not there
    from jax._src.pallas.mosaic_gpu.interpret.params import InterpretGPUParams

INF, NAN = np.inf, np.nan
Arguments = tuple[np.ndarray, np.ndarray, dict[str, Any]]
integer_loss = xentjax.softmax_cross_entropy_with_integer_labels

IGNORED = -100
# label, classes, and the logit that they get; of 300 classes
BAD_VALUES: list[tuple[int, Any, float]] = [
    (290, slice(0, 128), -INF),  # nothing finite in the first tile
    (290, slice(0, 290), -INF),  # nor in the second, or in the first block
    (5, slice(10, None), -INF),
    (140, 140, -INF),
    (140, slice(None), -INF),
    (140, 200, NAN),
    (140, 299, NAN),
    (IGNORED, slice(None), NAN),
    (IGNORED, slice(None), -INF),
    (-1, 0, 0.0),
    (300, 0, 0.0),
    (383, 0, 0.0),  # a column of the last tile that is no class
    (2**31 - 1, 0, 0.0),
    (-(2**31), 0, 0.0),
    (299, 0, 0.0),
    (0, 0, 3e38),
]


def gpu_interpreter() -> Any:
    """Make an interpreter that reads NaN beyond an array, where the hardware reads 0.

    It looks for races if it can.
    """
    races: dict[str, Any] = {"detect_races": True} if jax.__version_info__ >= (0, 11) else {}
    return InterpretGPUParams(out_of_bounds_reads="uninitialized", **races)


def check_value_and_gradient(implementation: Implementation, problem: Problem) -> None:
    logits, labels, keywords = problem.arguments()
    expected = oracles.cross_entropy(logits, labels, **keywords)

    @jax.jit
    def value_and_gradient(x):
        def losses(x):
            return loss_of(labels)(x, labels, implementation=implementation, **keywords)

        value, pullback = jax.vjp(losses, x)
        return value, pullback(jnp.ones_like(value))[0]

    value, gradient = value_and_gradient(logits)
    assert value.dtype == jnp.float32
    assert_close(value, expected.losses, VALUE["float32"])
    assert_close(gradient, expected.gradient, LOSS_GRADIENT)


def check_statistics(
    implementation: Implementation, logits: np.ndarray, labels: np.ndarray, **keywords: Any
) -> None:
    """The losses and every statistic."""
    expected = oracles.cross_entropy(logits, labels, **keywords)
    losses, stats = jax.jit(
        lambda x: loss_of(labels)(
            x, labels, return_stats=True, implementation=implementation, **keywords
        )
    )(logits)
    assert_close(losses, expected.losses, VALUE["float32"])
    for name in ("log_normalizer", "label_log_prob", "entropy"):
        assert_close(getattr(stats, name), getattr(expected, name), VALUE["float32"])
    np.testing.assert_array_equal(stats.predicted, expected.predicted)


def check_size(implementation: Implementation, shape: tuple[int, int]) -> None:
    """Check a size with small logits, so that a class that does not exist would show."""
    rng = np.random.default_rng(shape)
    logits = (0.02 * rng.standard_normal(shape)).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0]).astype(np.int32)
    labels[-1] = shape[1] - 1
    check_statistics(implementation, logits, labels, label_smoothing=0.1)


def check_no_rows(implementation: Implementation) -> None:
    losses, stats = integer_loss(
        jnp.zeros((0, 5)),
        jnp.zeros(0, jnp.int32),
        return_stats=True,
        implementation=implementation,
    )
    assert {x.shape for x in (losses, *stats)} == {(0,)}


def check_bad_values(implementation: Implementation) -> None:
    """Check the table of bad values row by row, in the loss and in its gradient."""
    rows = len(BAD_VALUES)
    logits = np.random.default_rng(6).standard_normal((rows, 300)).astype(np.float32)
    labels = np.array([label for label, *_ in BAD_VALUES], np.int32)
    for row, (_, classes, value) in zip(logits, BAD_VALUES, strict=True):
        row[classes] = value
    expected = oracles.cross_entropy(logits, labels, ignore_index=IGNORED)

    @jax.jit
    def evaluate(x):
        def losses(x):
            return integer_loss(x, labels, ignore_index=IGNORED, implementation=implementation)

        value, pullback = jax.vjp(losses, x)
        return value, pullback(jnp.ones_like(value))[0]

    value, gradient = map(np.asarray, evaluate(logits))
    np.testing.assert_allclose(value, expected.losses, rtol=VALUE["float32"])
    assert value[3] == INF
    # The gradient of a row without any possible class is not promised.
    known = [i for i in range(rows) if i != 4]
    np.testing.assert_allclose(gradient[known], expected.gradient[known], atol=LOSS_GRADIENT)


def check_half_precision(implementation: Implementation, arguments: Arguments, dtype: str) -> None:
    logits, labels, keywords = arguments
    half = jnp.asarray(logits, dtype)
    expected = oracles.cross_entropy(half, labels, **keywords)

    def total(x):
        return jnp.sum(integer_loss(x, labels, implementation=implementation, **keywords))

    value, gradient = jax.jit(jax.value_and_grad(total))(half)
    assert (value.dtype, gradient.dtype) == (jnp.float32, dtype)
    assert_close(value, expected.losses.sum(), VALUE[dtype])
    assert_close(gradient, expected.gradient, GRADIENT[dtype])


def check_forward_mode_and_second_order(
    implementation: Implementation, arguments: Arguments
) -> None:
    logits, labels, keywords = arguments
    direction = np.random.default_rng(2).standard_normal(logits.shape)
    step = 1e-5
    plus, minus = (
        oracles.cross_entropy(logits + s * step * direction, labels, **keywords).gradient
        for s in (1, -1)
    )

    def total(x):
        return jnp.sum(integer_loss(x, labels, implementation=implementation, **keywords))

    @jax.jit
    def products(x, v):
        slope, curvature = jax.jvp(lambda x: jax.jvp(total, (x,), (v,))[1], (x,), (v,))
        return slope, curvature, jax.jvp(jax.grad(total), (x,), (v,))[1]

    slope, curvature, product = products(logits, direction.astype(np.float32))
    expected = (plus - minus) / (2 * step)
    gradient = oracles.cross_entropy(logits, labels, **keywords).gradient
    assert_close(slope, np.vdot(gradient, direction), GRADIENT["float32"])
    assert_close(curvature, np.vdot(expected, direction), GRADIENT["float32"])
    assert_close(product, expected, GRADIENT["float32"])


def check_tiles_of_the_linear_loss(implementation: Implementation, classes_of_tile: int) -> None:
    rng = np.random.default_rng(8)
    x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((9, 3), (3, 140)))
    labels = rng.integers(0, 140, 9).astype(np.int32)
    value = jax.jit(
        lambda x, kernel: xentjax.linear_softmax_cross_entropy(
            x,
            kernel,
            labels,
            max_bytes=9 * classes_of_tile * 4,
            implementation=implementation,
        )
    )(x, kernel)
    expected = oracles.cross_entropy(x.astype(np.float64) @ kernel, labels).losses
    assert_close(value, expected, VALUE["float32"])


def check_refuses_64_bits(implementation: Implementation) -> None:
    with (
        jax.enable_x64(True),
        pytest.raises(
            NotImplementedError, match=f"expected at most 32 bits for '{implementation}'"
        ),
    ):
        integer_loss(
            jnp.zeros((2, 3), jnp.float64),
            jnp.zeros(2, jnp.int32),
            implementation=implementation,
        )


def lowered_for_tpu(function: Any, *arguments: Any) -> str:
    """The program of a TPU; skips the test where that cannot be made."""
    try:
        return jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",)).as_text()
    except ImportError as error:
        pytest.skip(f"this jaxlib does not lower for TPU: {error}")
