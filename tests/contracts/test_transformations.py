"""Every rule of the package under every transformation of jax: one table of calls for all."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export
from jax.sharding import AxisType, Mesh, PartitionSpec as P

from tests.support.tolerances import TRANSFORMED
from tests.support.transformations import (
    CALLS,
    Arguments,
    Call,
    Everything,
    K,
    everything,
    on_explicit_axes,
)
from tests.support.virtual_devices import run_module, run_optimised
from xentjax import (
    chi_squared_test,
    conditional_entropy,
    confidence_intervals,
    cross_entropy,
    entropy,
    entropy_estimate,
    expected_kl,
    fit_categorical,
    fit_softmax_regression,
    g_test,
    independence_test,
    js_divergence,
    kkt_certificate,
    kl_divergence,
    multinomial_log_likelihood,
    mutual_information,
)
from xentjax.calibration import (
    classwise_calibration_error,
    expected_calibration_error,
    fit_temperature,
    risk_coverage,
)

BATCH = 2
BY_NAME = {call.name: call for call in CALLS}


def drawn(call: Call) -> list[Arguments]:
    """The arguments of each member of a batch, of NumPy: no operation on them is compiled."""
    rng = np.random.default_rng(0)
    return [dict(call.arguments(rng)) for _ in range(BATCH)]


def arguments_of(call: Call) -> Arguments:
    """The arguments of the first member."""
    return {n: jnp.asarray(x) for n, x in drawn(call)[0].items()}


def is_floating(x: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def normal_like(x: jax.Array | np.ndarray) -> np.ndarray:
    """Normal numbers, the same for every shape."""
    return np.random.default_rng(1).standard_normal(x.shape).astype(x.dtype)


def directions_of(call: Call, arguments: Arguments) -> Arguments:
    if call.reverse_only:
        return {}
    return {n: normal_like(x) for n, x in arguments.items() if is_floating(x)}


@cache
def zeros_like_results(call: Call) -> list[np.ndarray]:
    """Arrays of the shapes and dtypes of the call's results."""
    return [np.zeros(x.shape, x.dtype) for x in jax.eval_shape(call, arguments_of(call))]


@cache
def one_by_one(call: Call):
    """The call without a transformation but jit, compiled once for all tests of it."""
    return jax.jit(partial(everything, call))


@cache
def value_and_gradients(call: Call) -> tuple[list[jax.Array], Arguments]:
    """Values for the first member, and the gradients of their sum."""
    arguments = arguments_of(call)
    weights = [x + 1 for x in zeros_like_results(call)]
    return one_by_one(call)(arguments, weights, directions_of(call, arguments))[:2]


def assert_close(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=TRANSFORMED, atol=TRANSFORMED, equal_nan=False)


@pytest.mark.parametrize(
    ("name", "batched"),
    [(call.name, argument) for call in CALLS for argument in call.draws],
)
def test_one_argument_batched(name, batched):
    """The gradient of the vmap is the sum of its members' gradients (jax-ml/jax#16374)."""
    call = BY_NAME[name]
    first, second = drawn(call)
    arguments = {**first, batched: np.stack([first[batched], second[batched]])}
    axes = {n: 0 if n == batched else None for n in arguments}
    weights = [normal_like(np.stack([x] * BATCH)) for x in zeros_like_results(call)]
    directions = directions_of(call, arguments)
    got = jax.jit(partial(everything, jax.vmap(call, (axes,))))(arguments, weights, directions)

    def member(tree: Arguments, i: int) -> Arguments:
        return {n: x[i] if n == batched else x for n, x in tree.items()}

    each = [
        one_by_one(call)(member(arguments, i), [w[i] for w in weights], member(directions, i))
        for i in range(BATCH)
    ]
    stacked = jax.tree.map(lambda *x: np.stack(x), *each)
    gradients = {n: g if n == batched else g.sum(0) for n, g in stacked.gradients.items()}
    assert_close(got, Everything(stacked.values, gradients, stacked.tangents))


@pytest.mark.parametrize("name", [call.name for call in CALLS if call.rows])
def test_rows_split_inside_shard_map(name):
    """The default checks of shard_map pass with all arguments of rows split, and with each alone.

    One device shows whether types agree; `test_eight_devices` whether values do.
    """
    call = BY_NAME[name]
    arguments = arguments_of(call)
    expected = value_and_gradients(call)
    if not all(x.shape for x in expected[0]):  # a sum over rows varies, and has no axis to split
        return
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))

    def of_part(arguments: Arguments):
        return everything(call, arguments, None, {})[:2]

    for split in {frozenset(call.rows), *(frozenset({n}) for n in call.rows)}:
        specs = {n: P("devices") if n in split else P() for n in arguments}
        mapped = jax.shard_map(
            of_part,
            mesh=mesh,
            in_specs=(specs,),
            out_specs=([P("devices") for _ in expected[0]], {n: specs[n] for n in expected[1]}),
        )
        assert_close(jax.jit(mapped)(arguments), expected)


@pytest.mark.slow
def test_repeated_rows_as_users_programs_are_compiled():
    """The program runs without the flags of conftest.py, which hide what XLA's optimisations do."""
    printed = run_optimised("tests.programs.repeated_rows")
    assert printed.splitlines() == ["tried 75"]


@pytest.mark.slow
@pytest.mark.devices
def test_random_nestings():
    """Few of the seeds that `tests.programs.random_transformations` takes."""
    printed = run_module("tests.programs.random_transformations", "0", "12")
    assert printed.splitlines() == ["tried 12"]


@pytest.mark.slow
@pytest.mark.devices
def test_eight_devices():
    printed = run_module("tests.programs.parallel_transformations")
    split = [c for c in CALLS if c.rows]
    tried = len(split) + sum(len(c.rows) for c in split if len(c.rows) > 1)
    assert printed.splitlines() == [f"tried {tried} on 8 devices"]


@pytest.mark.parametrize(
    "name", [c.name for c in CALLS if c.rows and c.name != "linear, all, in tiles"]
)
def test_exported_with_a_symbolic_batch(name, unchecked_annotations):
    """The export can be read back too; a bound on memory needs a known number of rows."""
    call = BY_NAME[name]
    arguments = arguments_of(call)
    (n,) = export.symbolic_shape("n")
    shapes = {
        name: jax.ShapeDtypeStruct((n, *x.shape[1:]) if name in call.rows else x.shape, x.dtype)
        for name, x in arguments.items()
    }

    def of_rows(arguments: Arguments):
        return everything(call, arguments, None, {})[:2]

    exported = export.export(jax.jit(of_rows))(shapes)
    read = export.deserialize(exported.serialize())
    assert_close(read.call(arguments), value_and_gradients(call))


@pytest.mark.parametrize("name", BY_NAME)
def test_no_nan_is_made_for_valid_arguments(name, unchecked_annotations):
    """No operation makes a NaN for a `where` to leave out: without jit, debug_nans sees them."""
    call = BY_NAME[name]
    arguments = arguments_of(call)
    weights = [jnp.asarray(x + 1) for x in zeros_like_results(call)]
    with jax.disable_jit(), jax.debug_nans(True):
        everything(call, arguments, weights, {})


@pytest.mark.parametrize("by", ["rows", "classes"])
@pytest.mark.parametrize("name", [c.name for c in CALLS if c.rows])
def test_split_over_explicit_axes(name, by):
    """One device shows whether shardings agree; `test_explicit_axes` whether values do."""
    call = BY_NAME[name]
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",), axis_types=(AxisType.Explicit,))
    got = on_explicit_axes(call, drawn(call)[0], by, mesh)
    assert_close(got[:2], value_and_gradients(call))


def test_explicit_axes():
    printed = run_module("tests.programs.explicit_axes")
    tried = 2 * sum(bool(c.rows) for c in CALLS)
    assert printed.splitlines() == [f"tried {tried} on 8 devices"]


def test_statistics_on_explicit_axes():
    printed = run_module("tests.programs.explicit_statistics")
    assert printed.splitlines() == ["tried 72 on 8 devices"]


def _fit_temperature(p: jax.Array) -> list[jax.Array]:
    # Right in two rows of three, so that there is a temperature.
    logits = jnp.concatenate([p, p, p])
    labels = jnp.stack([p[0].argmax(), p[0].argmax(), p[0].argmin()]).astype(jnp.int32)
    return jax.tree.leaves(fit_temperature(logits, labels))


def _fit_regression(p: jax.Array) -> tuple[jax.Array, jax.Array]:
    x = p[:, :1] * jnp.arange(9, dtype=p.dtype)[:, None]
    fit = fit_softmax_regression(x, jnp.array([0, 1, 0, 2, 0, 1, 2, 1, 2]), 3, l2=0.1)
    return fit.kernel, fit.bias[None]


_LOOPS = [
    pytest.param(partial(fit_categorical, solver="newton", max_steps=5), id="newton"),
    pytest.param(partial(fit_categorical, solver=optax.adam(0.1), max_steps=5), id="an optimizer"),
    pytest.param(_fit_temperature, id="fit_temperature"),
    pytest.param(_fit_regression, id="fit_softmax_regression"),
]


@pytest.mark.parametrize(
    "function",
    [
        *_LOOPS,
        pytest.param(partial(confidence_intervals, method="sison_glaz"), id="sison_glaz"),
    ],
)
def test_loops_inside_shard_map(function):
    """The carry of a loop varies over the mesh from its first step on."""
    rows = jnp.asarray(np.random.default_rng(0).integers(1, 9, (1, K)), jnp.float32)
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))

    def leaves(rows: jax.Array) -> list[jax.Array]:
        return [jnp.atleast_1d(x) for x in jax.tree.leaves(function(rows))]

    mapped = jax.shard_map(leaves, mesh=mesh, in_specs=P("devices"), out_specs=P("devices"))
    assert_close(jax.jit(mapped)(rows), leaves(rows))


@pytest.mark.parametrize("function", _LOOPS)
def test_gradients_of_loops_inside_shard_map(function):
    rows = jnp.asarray(np.random.default_rng(0).integers(1, 9, (1, K)), jnp.float32)
    mesh = Mesh(np.array(jax.devices()[:1]), ("devices",))

    def gradient(rows: jax.Array) -> jax.Array:
        def total(rows: jax.Array) -> jax.Array:
            found = jax.tree.leaves(function(rows))
            return jnp.stack([jnp.square(x).sum() for x in found if is_floating(x)]).sum()

        return jax.grad(total)(rows)

    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=P("devices"), out_specs=P("devices"))
    assert_close(jax.jit(mapped)(rows), jax.jit(gradient)(rows))


def _measure_of(counts: jax.Array, measure, form: str, *, pair: bool = True, **keywords):
    """The measure and its gradient for pmfs that have probabilities of 0 in the same places."""
    weights = [counts, counts**2] if pair else [counts]
    pmfs = [w / w.sum() if form == "pmf" else jnp.log(w / w.sum()) for w in weights]
    return jax.value_and_grad(lambda pmfs: measure(*pmfs, form=form, **keywords))(pmfs)


def _joint_measure_of(counts: jax.Array, measure, form: str):
    """A measure of a joint pmf with a row, and perhaps a column, of probability 0."""
    joint = jnp.stack([counts, jnp.zeros_like(counts), counts**2])
    joint = joint / joint.sum()
    joint = joint if form == "pmf" else jnp.log(joint)
    return jax.value_and_grad(partial(measure, form=form))(joint)


def _regression(counts: jax.Array):
    x = jnp.stack([counts, counts**2], 1)
    x = jnp.concatenate([x, x[::-1]])
    return fit_softmax_regression(x, jnp.array([0, 1, 1, 0, 1, 0, 0, 1]), 2, l2=0.1)


_MEASURES = [
    pytest.param(
        partial(call, measure=measure, form=form, **keywords),
        id=" ".join([measure.__name__, form, *map(str, keywords.values())]),
    )
    for form in ("pmf", "log_pmf")
    for call, measure, keywords in [
        (_measure_of, entropy, {"pair": False}),
        (_measure_of, cross_entropy, {}),
        (_measure_of, kl_divergence, {}),
        (_measure_of, js_divergence, {}),
        (_measure_of, js_divergence, {"weight": 0.0}),
        (_measure_of, js_divergence, {"weight": 1.0}),
        (_joint_measure_of, mutual_information, {}),
        (_joint_measure_of, conditional_entropy, {}),
    ]
]


@pytest.mark.parametrize(
    "function",
    [
        *_MEASURES,
        pytest.param(_regression, id="regression"),
        pytest.param(partial(confidence_intervals, method="jeffreys"), id="jeffreys"),
        pytest.param(partial(confidence_intervals, method="sison_glaz"), id="sison_glaz"),
        pytest.param(lambda c: multinomial_log_likelihood(c / c.sum(), c), id="multinomial"),
        pytest.param(lambda c: kkt_certificate(c / c.sum(), c), id="certificate"),
        pytest.param(lambda c: chi_squared_test(c, c / c.sum()), id="chi-squared test"),
        pytest.param(lambda c: expected_kl(c / c.sum(), 5), id="expected KL"),
        pytest.param(partial(fit_categorical, solver="newton", max_steps=3), id="newton"),
        pytest.param(partial(confidence_intervals, method="wald"), id="wald"),
        pytest.param(partial(confidence_intervals, method="goodman"), id="goodman"),
        pytest.param(partial(entropy_estimate, method="plug_in"), id="plug_in"),
        pytest.param(partial(entropy_estimate, method="chao_shen"), id="chao_shen"),
        pytest.param(partial(entropy_estimate, method="james_stein"), id="james_stein"),
        pytest.param(partial(entropy_estimate, method="grassberger"), id="grassberger"),
        pytest.param(partial(fit_categorical, prior=2), id="prior"),
        pytest.param(lambda c: g_test(c, jnp.full(4, 0.25)), id="G-test"),
        pytest.param(lambda c: independence_test(jnp.stack([c, c**2])), id="independence"),
        pytest.param(lambda c: risk_coverage(c[None] / c.sum(), jnp.array([1])), id="risk"),
        pytest.param(
            lambda c: expected_calibration_error(c[None] / c.sum(), jnp.array([1])), id="ece"
        ),
        pytest.param(
            lambda c: classwise_calibration_error(
                c[None] / c.sum(), jnp.array([1]), norm="l2", debias=True
            ),
            id="classwise",
        ),
    ],
)
@pytest.mark.parametrize("counts", [(3.0, 2, 5, 1), (3.0, 0, 5, 1)])
def test_no_nan_is_made_for_valid_counts(function, counts, unchecked_annotations):
    """No operation makes a NaN, not even the one that invalid counts would result in."""
    with jax.disable_jit(), jax.debug_nans(True):
        function(jnp.array(counts))
