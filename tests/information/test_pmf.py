"""x log x and its kin at the boundary: limits and slopes derived by hand."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.tolerances import GRADIENT, VALUE
from xentjax.information.log_pmf import log_softmax, log_sum_exp, times_exp
from xentjax.information.pmf import (
    divergence_term,
    log,
    log_ratio,
    sum_difference,
    times_power,
    x_log_x,
    x_log_y,
)

INF, NAN = np.inf, np.nan


def derivatives(function, *arguments):
    """Value and first derivative in each argument, element by element, from both modes."""
    ones = [np.ones_like(a) for a in arguments]
    steps = [
        tuple(one if i == j else np.zeros_like(one) for j, one in enumerate(ones))
        for i in range(len(ones))
    ]

    @jax.jit
    def both_modes(arguments, steps):
        value, pullback = jax.vjp(function, *arguments)
        forward = [jax.jvp(function, arguments, step)[1] for step in steps]
        return value, pullback(jnp.ones_like(value)), forward

    value, reverse, forward = both_modes(arguments, steps)
    for slope, along in zip(reverse, forward, strict=True):
        np.testing.assert_allclose(along, slope, rtol=1e-6)
    return value, *reverse


@pytest.mark.parametrize(
    ("function", "arguments", "expected"),
    [
        (log, [[0, 2]], [[-INF, np.log(2)], [INF, 0.5]]),
        (x_log_x, [[0, 2]], [[0, 2 * np.log(2)], [-INF, 1 + np.log(2)]]),
        (
            x_log_y,
            [[0, 0, 3, 3], [0, 2, 0, 2]],
            [[0, 0, -INF, 3 * np.log(2)], [-INF, np.log(2), -INF, np.log(2)], [0, 0, INF, 1.5]],
        ),
        (
            lambda x, y: times_power(x, y, -1),
            [[0, 0, 3, 3], [0, 2, 0, 2]],
            [[0, 0, INF, 1.5], [INF, 0.5, INF, 0.5], [0, 0, -INF, -0.75]],
        ),
        (
            lambda x, y: log_ratio(x, y, 7.0),
            [[0, 0, 3, 3], [0, 2, 0, 2]],
            [[7, -INF, INF, np.log(1.5)], [0, INF, 1 / 3, 1 / 3], [0, -0.5, -INF, -0.5]],
        ),
    ],
    ids=["log", "x_log_x", "x_log_y", "times_power", "log_ratio"],
)
def test_values_and_derivatives_at_every_kind_of_zero(function, arguments, expected):
    arguments = [jnp.array(a, jnp.float32) for a in arguments]
    for result, right in zip(derivatives(function, *arguments), expected, strict=True):
        np.testing.assert_allclose(result, right, VALUE["float32"])


def test_all_orders_of_x_log_x():
    """1 + log x, 1 / x, -1 / x^2, 2 / x^3, each with its limit at 0."""
    x, function = jnp.array([0.0, 2.0]), x_log_x
    for expected in ([-INF, 1 + np.log(2)], [INF, 1 / 2], [-INF, -1 / 4], [INF, 2 / 8]):
        function = (lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1])(function)
        np.testing.assert_allclose(jax.jit(function)(x), expected, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_divergence_term_has_full_relative_precision_everywhere(dtype):
    steps = np.logspace(-12 if dtype == "float64" else -5, 6, 60)
    x = np.full(120, 0.37, dtype)
    y = (x * np.concatenate([1 + steps, 1 / (1 + steps)])).astype(dtype)
    with localcontext(prec=50):
        pairs = [(Decimal(float(a)), Decimal(float(b))) for a, b in zip(x, y, strict=True)]
        expected = np.array([float(a * (a / b).ln() - a + b) for a, b in pairs])
    with jax.enable_x64(dtype == "float64"):
        result = divergence_term(jnp.array(x), jnp.array(y))
        assert result.dtype == dtype
    np.testing.assert_allclose(result, expected, rtol=VALUE[dtype])


def test_divergence_term_at_zeros_and_outside():
    x, y = jnp.array([0.0, 0.0, 2.0, -0.1, 0.1]), jnp.array([0.0, 3.0, 0.0, 0.1, -0.1])
    np.testing.assert_array_equal(divergence_term(x, y), [0, 3, INF, NAN, NAN])


def test_sum_difference_drops_rounding_and_keeps_its_derivatives():
    """The rounding, 4 eps, is relative to the sum of all numbers, 2: a difference of 8 eps is 0."""
    p, eps = jnp.array([0.25, 0.75], "float32"), np.finfo(np.float32).eps
    for size, expected in ((8 * eps, 0.0), (16 * eps, -16 * eps), (0.5, -0.5)):
        q = p + jnp.array([size, 0], "float32")
        value, slopes = jax.value_and_grad(sum_difference, (0, 1))(p, q, 4 * float(eps))
        assert value == expected
        np.testing.assert_array_equal(slopes, [[1, 1], [-1, -1]])


class TestLogarithmsOfSums:
    rows = np.array([[0, -30, -INF], [1e5, 1e5, 1e5 - 1], [-INF, 2, -INF], [-1, 0.5, 3]])

    def test_values_and_derivatives(self):
        x = jnp.array(self.rows, jnp.float32)
        top = self.rows.max(-1, keepdims=True)
        weights = np.exp(self.rows - top)
        largest = np.arange(3) == self.rows.argmax(-1)[:, None]
        rest = np.log1p(np.where(largest, 0, weights).sum(-1, keepdims=True))
        log_p = (self.rows - top) - rest
        p = np.exp(log_p)
        np.testing.assert_allclose(log_softmax(x), log_p, VALUE["float32"])  # -1e-13 is not 0
        np.testing.assert_allclose(log_sum_exp(x), (top + rest)[:, 0], VALUE["float32"])
        slope = jax.grad(lambda x: log_sum_exp(x).sum())(x)
        np.testing.assert_allclose(slope, p, GRADIENT["float32"])
        jacobian = jax.jit(jax.vmap(jax.jacrev(log_softmax)))(x)
        np.testing.assert_allclose(jacobian, np.eye(3) - p[:, None], 1e-5, 1e-6)

    def test_nothing_stays_nothing(self):
        x = jnp.full(3, -INF)
        np.testing.assert_array_equal(log_softmax(x), x)
        assert log_sum_exp(x) == -INF
        for function in (log_softmax, log_sum_exp):
            assert np.isfinite(jax.jacrev(function)(x)).all()


def test_times_exp_where_there_is_nothing():
    x, log_p = jnp.array([INF, -INF, NAN, 3.0, INF]), jnp.array([-INF, -INF, -INF, 0.0, 0.0])
    np.testing.assert_array_equal(times_exp(x, log_p), [0, 0, 0, 3, INF])
    x_slope, log_p_slope = jax.vjp(times_exp, x, log_p)[1](jnp.ones(5))
    np.testing.assert_array_equal(x_slope, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(log_p_slope, [0, 0, 0, 3, INF])
