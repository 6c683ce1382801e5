"""log_softmax, softmax and logsumexp against NumPy float64: axes, masks, extremes, derivatives.

And against jax.nn, whose meaning they have.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.oracles.softmax import normalized
from tests.support.problems import IMPLEMENTATIONS
from tests.support.tolerances import GRADIENT, VALUE

INF = np.inf
FUNCTIONS = {
    "logsumexp": xentjax.logsumexp,
    "log_softmax": xentjax.log_softmax,
    "softmax": xentjax.softmax,
}


@pytest.fixture(params=FUNCTIONS)
def name(request):
    return request.param


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2)], ids=str)
def test_value_and_derivatives(name, axis, implementation):
    rng = np.random.default_rng(0)
    logits = (3 * rng.standard_normal((3, 4, 5))).astype(np.float32)
    direction = rng.standard_normal(logits.shape)
    expected = normalized(name, logits, axis)
    weight = rng.standard_normal(expected.shape)

    @jax.jit
    def everything(x, dx, w):
        def function(x):
            return FUNCTIONS[name](x, axis, implementation=implementation)

        value, derivative = jax.jvp(function, (x,), (dx,))
        return value, derivative, jax.grad(lambda x: jnp.vdot(function(x), w))(x)

    value, derivative, gradient = everything(
        logits, direction.astype(np.float32), weight.astype(np.float32)
    )
    step = 1e-6
    difference = (
        normalized(name, logits + step * direction, axis)
        - normalized(name, logits - step * direction, axis)
    ) / (2 * step)
    atol = 10 * VALUE["float32"]
    np.testing.assert_allclose(value, expected, rtol=VALUE["float32"], atol=VALUE["float32"])
    np.testing.assert_allclose(derivative, difference, rtol=GRADIENT["float32"], atol=atol)
    np.testing.assert_allclose(
        np.vdot(np.asarray(gradient, np.float64), direction),
        np.vdot(difference, weight),
        rtol=GRADIENT["float32"],
        atol=atol,
    )


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", ["classes", "rows"])
def test_where(name, kind, implementation):
    """Masked classes have probability 0, a row without classes has none; gradients stay finite."""
    logits = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, INF], [0.5, 0.25, 0.125]], np.float32)
    if kind == "classes":
        where = np.array([[True, False, True], [False, False, False], [True, True, True]])
        full = where
    else:
        where = np.array([False, False, True])[:, None]
        full = np.repeat(where, 3, 1)

    def function(x):
        return FUNCTIONS[name](x, -1, where=where, implementation=implementation)

    np.testing.assert_allclose(
        function(logits), normalized(name, logits, -1, full), rtol=VALUE["float32"]
    )
    gradient = jax.grad(lambda x: jnp.sum(jnp.where(jnp.isfinite(function(x)), function(x), 0)))
    got = gradient(jnp.asarray(logits))
    assert np.isfinite(got).all()
    np.testing.assert_array_equal(np.asarray(got)[~full], 0)


def test_impossible_classes(name):
    logits = jnp.array([0.0, -INF, 1.0])
    expected = normalized(name, np.array(logits))
    np.testing.assert_allclose(FUNCTIONS[name](logits), expected, rtol=VALUE["float32"])
    jacobian = jax.jacfwd(lambda x: FUNCTIONS[name](x)[jnp.array([0, 2])] if name != "logsumexp"
                          else FUNCTIONS[name](x))(logits)  # fmt: skip
    assert np.isfinite(jacobian).all()
    np.testing.assert_array_equal(jacobian[..., 1], 0)


def test_rows_of_infinities(name):
    """No class possible: lse is -inf and there is no softmax. A logit of +inf: lse is +inf."""
    got = np.asarray(FUNCTIONS[name](jnp.array([[-INF, -INF], [INF, 0.0]]), -1))
    if name == "logsumexp":
        np.testing.assert_array_equal(got, [-INF, INF])
    else:
        assert np.isnan(got[0]).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_result_has_the_input_dtype(name, dtype):
    with jax.enable_x64(dtype == "float64"):
        logits = jnp.asarray(np.random.default_rng(1).standard_normal((4, 9)), dtype)
        got = FUNCTIONS[name](logits, -1)
    assert got.dtype == dtype
    rounding = {"float64": VALUE["float64"]}.get(dtype) or float(jnp.finfo(dtype).eps)
    expected = normalized(name, np.asarray(logits, np.float64))
    np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=rounding, atol=rounding)


def test_offset_of_1e5_costs_no_digits():
    logits = np.array([[0.0, 1.0, -2.0]], np.float32)
    got = xentjax.log_softmax(logits + np.float32(1e5))
    np.testing.assert_allclose(got, normalized("log_softmax", logits), rtol=VALUE["float32"])


# shape of the logits, arguments; `where` is named by its shape
JAX_CASES: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((5,), {}),
    ((4, 4), {}),
    ((3, 4), {"axis": 0}),
    ((3, 4), {"axis": -1}),
    ((3, 4), {"axis": None}),
    ((2, 3, 4), {"axis": (0, -1)}),
    ((2, 3, 4), {"axis": [1, 2]}),
    ((2, 3, 4), {"axis": ()}),
    ((2, 3, 4), {"axis": []}),
    ((), {"axis": None}),
    ((2, 0), {"axis": -1}),
    ((0, 3), {"axis": -1}),
    ((4, 4), {"where": (4,)}),  # classes, not rows
    ((4, 4), {"where": (4,), "axis": 0}),
    ((3, 4), {"where": (3, 1), "axis": -1}),
    ((3, 4), {"where": (3, 4), "axis": None}),
    ((3, 4), {"where": (1, 4), "axis": (1, 0)}),
    ((2, 3, 4), {"where": (3, 4), "axis": -1}),
    ((2, 3, 4), {"where": (3, 1), "axis": (0, 1)}),
    ((2, 3, 4), {"where": (), "axis": 1}),
]


@pytest.mark.parametrize(("shape", "axis"), [((), None), ((2, 3, 4), None), ((2, 3, 4), (2, 0))])
def test_keepdims(shape, axis):
    x = jnp.ones(shape)
    got = xentjax.logsumexp(x, axis, keepdims=True)
    expected = jax.nn.logsumexp(x, axis, keepdims=True)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])


@pytest.mark.parametrize(("shape", "keywords"), JAX_CASES, ids=str)
def test_means_what_it_means_in_jax(name, shape, keywords):
    keywords = {k: tuple(v) if isinstance(v, list) else v for k, v in keywords.items()}
    rng = np.random.default_rng(3)
    x = rng.integers(-16, 17, shape) / np.float32(4)
    x = jnp.asarray(x, jnp.float32)
    if "where" in keywords:
        where = rng.random(keywords["where"]) < 0.6
        keywords = {**keywords, "where": jnp.asarray(where)}
    theirs, ours = getattr(jax.nn, name), FUNCTIONS[name]
    with jax.numpy_rank_promotion("allow"):
        shape = jax.eval_shape(partial(theirs, **keywords), x).shape
        v = jnp.asarray(rng.integers(-8, 9, shape) / 4, jnp.float32)

        @jax.jit
        def values_and_slopes(x, v):
            v = jnp.where(jnp.isfinite(theirs(x, **keywords)), v, 0)

            def total(x, function):
                y = function(x, **keywords)
                return jnp.sum(v * jnp.where(jnp.isfinite(y), y, 0)), y

            of = [jax.grad(partial(total, function=f), has_aux=True)(x) for f in (theirs, ours)]
            return [y for _, y in of], [slope for slope, _ in of]

        (expected, got), slopes = values_and_slopes(x, v)
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=VALUE["float32"], atol=VALUE["float32"])
        # Where nothing is kept, theirs may be NaN.
        theirs_nan = np.isnan(slopes[0])
        np.testing.assert_allclose(
            slopes[1], np.where(theirs_nan, 0, slopes[0]), rtol=GRADIENT["float32"], atol=1e-6
        )


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int32", "int64", "float16", "bfloat16", "float64"]
)
@pytest.mark.parametrize("x64", [False, True])
def test_takes_the_dtypes_that_jax_takes(name, dtype, x64):
    with jax.enable_x64(x64):
        x = jnp.arange(5) % 2 if dtype == "bool" else jnp.arange(5)
        x = x.astype(jax.dtypes.canonicalize_dtype(dtype))
        got = FUNCTIONS[name](x)
        # uint8 of theirs wraps around, and booleans have no softmax there.
        same = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jax.nn.logsumexp(x).dtype
        assert got.dtype == same
        expected = normalized(name, np.asarray(x, np.float64), None if name == "logsumexp" else -1)
        rounding = float(jnp.finfo(same).eps)
        np.testing.assert_allclose(np.asarray(got, np.float64), expected, rtol=2 * rounding)


def test_what_jax_takes_as_an_array(name, unchecked_annotations):
    for x in ([1.0, 2.0], [1, 2], (jnp.float32(1), jnp.float32(2)), np.array([1.0, 2.0])):
        found = FUNCTIONS[name](x)
        expected = getattr(jax.nn, name)(jnp.array([1.0, 2.0], found.dtype))
        np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(("axis", "plain"), [(np.array([1, 2]), (1, 2)), (np.int64(1), 1)])
def test_axes_of_numpy(name, axis, plain, unchecked_annotations):
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(FUNCTIONS[name](x, axis), FUNCTIONS[name](x, plain))


def test_wrong_arguments(name, unchecked_annotations):
    function, x = FUNCTIONS[name], jnp.zeros((2, 3))
    with pytest.raises(TypeError, match=r"^logits: expected a real dtype, got complex64$"):
        function(jnp.zeros(3, jnp.complex64))
    for where in (jnp.ones(2, bool), jnp.ones((1, 2, 3), bool)):
        with pytest.raises(
            ValueError, match=r"^where: expected a shape that broadcasts to the log"
        ):
            function(x, where=where)
    with pytest.raises(TypeError, match=r"^where: expected a bool array"):
        function(x, where=jnp.ones(3))
    with pytest.raises(
        ValueError, match=r"^axis: expected axes of an array of 2 dimensions, got 2"
    ):
        function(x, 2)
    with pytest.raises(ValueError, match=r"^implementation: expected one of"):
        function(x, implementation=["xla"])
    if name == "logsumexp":
        with pytest.raises(TypeError, match=r"^keepdims: expected True or False, got 1"):
            function(x, keepdims=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_infinite_slope_at_a_probability_that_underflows_counts_as_0(dtype):
    """Forward mode has 0 too: the softmax's slope is 0 there, and jax.nn's 0 * inf is NaN."""
    logits = jnp.array([110.0, 0.0, 109.0], dtype)
    p = np.exp([0.0, -1.0]) / (1 + np.exp(-1.0))
    slope = -p * np.log(p)
    slope -= p * slope.sum()
    rtol = 1e-6 if dtype == "float32" else 1e-2
    for values in (lambda a: xentjax.softmax(a), lambda a: jax.jit(xentjax.softmax)(a)):
        gradient = jax.grad(lambda a, values=values: xentjax.entropy(values(a)))(logits)
        np.testing.assert_allclose(
            np.asarray(gradient, np.float32), [slope[0], 0, slope[1]], rtol, 1e-6
        )


def test_a_nan_cotangent_is_not_lost_at_a_probability_that_underflows():
    """0 wins over an infinite cotangent, and NaN over 0: nothing hides it."""
    logits = jnp.array([110.0, 0.0, 109.0], "float32")
    for softmax in (lambda a: xentjax.softmax(a), lambda a: jax.jit(xentjax.softmax)(a)):
        _, pullback = jax.vjp(softmax, logits)
        assert np.isfinite(pullback(jnp.array([1.0, jnp.inf, 1.0], "float32"))[0]).all()
        assert np.isnan(pullback(jnp.array([1.0, jnp.nan, 1.0], "float32"))[0]).all()
