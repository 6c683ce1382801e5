"""Divergence for distillation against float64: values, derivatives, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.closeness import assert_close
from tests.support.derivatives import check_derivatives, derivatives
from tests.support.oracles import losses as oracles
from tests.support.oracles.softmax import softmax
from tests.support.problems import PROBLEMS, ROW, Problem
from tests.support.residuals import residual_bytes
from tests.support.tolerances import GRADIENT, VALUE

INF, NAN = np.inf, np.nan
kl_divergence = xentjax.kl_divergence_with_logits


def arguments(name):
    return next(p for p in PROBLEMS if p.name == name).arguments()


@pytest.mark.parametrize(
    ("name", "temperature", "implementation"),
    [
        ("plain", 4.0, "xla"),
        ("plain", 1.0, "reference"),
        ("axis 1", 0.5, "xla"),
        ("row mask", 4.0, "xla"),
        ("class mask", 4.0, "reference"),
        ("mask on axis 1", 1.0, "xla"),
    ],
)
def test_kl_divergence(name, temperature, implementation):
    """Derivatives in both arguments at once: teacher and student are stacked and move together."""
    problem = next(p for p in PROBLEMS if p.name == name)
    logits, _, keywords = problem.arguments()
    keywords = {k: v for k, v in keywords.items() if k in ("axis", "where")}
    teacher, _, _ = Problem("teacher", shape=problem.shape).arguments()
    check_derivatives(
        lambda x, implementation: kl_divergence(
            x[0], x[1], temperature, implementation=implementation, **keywords
        ),
        lambda x: oracles.kl_divergence_with_logits(x[0], x[1], temperature, **keywords),
        np.stack([teacher, logits]),
        implementation,
    )


def test_common_offset_costs_no_digits():
    logits = np.array([[0.5, -1, 2], [1, 0.25, -3]], np.float32)
    offset = np.float32(1e5)
    expected = oracles.kl_divergence_with_logits(logits[:1], logits[1:])
    got = kl_divergence(logits[:1] + offset, logits[1:] - offset)
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])
    expected = oracles.kl_divergence_with_logits(logits[:1], logits[1:], temperature=3.0)
    got = kl_divergence(logits[:1] + offset, logits[1:] - offset, 3.0)
    np.testing.assert_allclose(got, expected, rtol=VALUE["float32"])


def test_kl_divergence_of_equal_logits_is_exactly_0():
    """Gradients are 0 as well; the Hessian is the Fisher information."""
    rng = np.random.default_rng(0)
    logits = (10 * rng.standard_normal((50, 9))).astype(np.float32)
    value, gradients = jax.value_and_grad(
        lambda a, b: jnp.sum(kl_divergence(a, b, 2.0)), argnums=(0, 1)
    )(logits, logits)
    assert value == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)
    row = logits[0] / 10
    p = softmax(row)
    for argnum in (0, 1):
        hessian = jax.jit(jax.hessian(kl_divergence, argnum))(row, row)
        assert_close(hessian, np.diag(p) - np.outer(p, p), GRADIENT["float32"])


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 0.3, 3.0, 100.0, 1e4])
def test_kl_divergence_is_never_negative(distance):
    """H(p, q) - H(p) in float32 is negative for half of all rows at a distance of 1e-3."""
    rng = np.random.default_rng(0)
    teacher = rng.standard_normal((200, 9)).astype(np.float32)
    student = (teacher + distance * rng.standard_normal(teacher.shape)).astype(np.float32)
    got = kl_divergence(teacher, student)
    assert (got > 0).all()
    expected = oracles.kl_divergence_with_logits(teacher, student)
    np.testing.assert_allclose(got, expected, rtol=max(3e-6, 1e-6 / distance))


def test_temperature_is_traced_and_differentiable():
    """Some logits are -inf, which no temperature moves."""
    teacher = np.array([[0.5, -INF, 2.0, 0.25], [1.0, 2.0, -INF, 3.0]], np.float32)
    student = np.array([[1.5, -INF, -2.0, 1.0], [0.0, 1.0, 2.0, -1.0]], np.float32)

    def total(t):
        return jnp.sum(kl_divergence(teacher, student, t))

    with np.errstate(invalid="ignore"):
        plus, at, minus = (
            oracles.kl_divergence_with_logits(teacher, student, 2 + d).sum()
            for d in (1e-4, 0, -1e-4)
        )
    value, slope = jax.jit(jax.value_and_grad(total))(2.0)
    assert_close(value, at, VALUE["float32"])
    assert_close(slope, (plus - minus) / 2e-4, GRADIENT["float32"])
    curvature = (plus - 2 * at + minus) / 1e-8
    for second in (jax.grad(jax.grad(total)), jax.jacfwd(jax.jacfwd(total))):
        assert_close(jax.jit(second)(2.0), curvature, 10 * GRADIENT["float32"])


LOSSES = {
    "student": lambda x, **k: kl_divergence(
        jnp.broadcast_to(jnp.array([0.5, -INF, 1.0, 2.0]), x.shape), x, **k
    ),
    "teacher": lambda x, **k: kl_divergence(
        x, jnp.broadcast_to(jnp.array([0.5, -INF, 1.0, 2.0]), x.shape), **k
    ),
}


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, "xla") for name in LOSSES] + [("teacher", "reference")],
)
def test_impossible_class_is_as_if_it_were_not_there(name, implementation):
    """-inf on both sides is exact in every order: the same as -1e4."""
    run = derivatives(LOSSES[name], implementation)
    for got, expected in zip(
        run([[0.5, -INF, 2.0, 0.25]]), run([[0.5, -1e4, 2.0, 0.25]]), strict=True
    ):
        if name == "teacher" and got.shape == (1, 4):  # d KL / d teacher of q = 0 < p is no limit
            got, expected = np.delete(got, 1, -1), np.delete(expected, 1, -1)
        assert_close(got, expected, GRADIENT["float32"])


def test_student_that_cannot_reach_the_teacher_costs_inf():
    value, gradient, *_ = derivatives(
        lambda x, implementation: kl_divergence(jnp.array([ROW]), x), None
    )([[0.5, -INF, 2.0, 0.25]])
    assert value[0] == INF
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "classes") for name in LOSSES] + [("student", "rows")],
)
def test_masked_entries_may_hold_anything(name, kind):
    if kind == "classes":
        where = np.array([[True, True, False, True], [False] * 4])
    else:
        where = np.array([True, False])
    run = derivatives(
        lambda x, **k: LOSSES[name](x, where=where, reduction="mean", **k), "xla"
    )  # fmt: skip
    kept = -1.0 if kind == "rows" else 7.0
    expected = run([[0.5, 3.0, kept, 0.25], [0.0] * 4])
    assert all(np.isfinite(result).all() for result in expected) or name == "teacher"
    for garbage in (NAN, INF, -INF, 1e38):
        entry = kept if kind == "rows" else garbage
        results = run([[0.5, 3.0, entry, 0.25], [garbage] * 4])
        for got, clean in zip(results, expected, strict=True):
            np.testing.assert_array_equal(got, clean)
    np.testing.assert_array_equal(expected[1][1], 0)


@pytest.mark.parametrize("name", LOSSES)
def test_bad_rows_are_nan_alone(name):
    run = derivatives(LOSSES[name], "xla")
    for bad in ([-INF] * 4, [0.0, 1.0, NAN, 2.0]):
        for result in run([ROW, bad])[:2]:
            assert np.isnan(result[1]).all()
            assert np.isfinite(result[0]).all() or name == "teacher"


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype):
    with jax.enable_x64(dtype == "float64"):
        x, _, _ = arguments("plain")
        x = jnp.asarray(x, dtype)
        teacher = np.ones(x.shape, np.float32)

        def oracle(x):
            return oracles.kl_divergence_with_logits(teacher, x, 2.0)

        value, gradient = jax.value_and_grad(lambda x: jnp.sum(kl_divergence(teacher, x, 2.0)))(x)
        assert value.dtype == ("float64" if dtype == "float64" else "float32")
        assert gradient.dtype == dtype
        expected = oracle(np.asarray(x, np.float64))
        assert_close(value, expected.sum(), VALUE[dtype])
        slope = oracles.numerical_gradient(oracle, np.asarray(x, np.float64))
        assert_close(gradient, slope, max(GRADIENT[dtype], 1e-9))


def test_vmap_equals_the_batched_call():
    logits, _, _ = Problem("batch", shape=(4, 3, 7)).arguments()
    shared = jax.vmap(kl_divergence, (None, 0))(logits[0], logits)
    full = np.broadcast_to(logits[0], logits.shape)
    assert_close(shared, oracles.kl_divergence_with_logits(full, logits), VALUE["float32"])


def test_reverse_mode_keeps_the_inputs_and_a_few_numbers_a_row():
    n, k = 64, 512
    x, y = jax.random.normal(jax.random.key(0), (2, n, k), jnp.float32)
    assert residual_bytes(lambda x, y: jnp.sum(kl_divergence(x, y)), x, y) <= 32 * n


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "target_logits: expected a floating dtype, got int32",
         lambda x, y: kl_divergence(x.astype(jnp.int32), x)),
        (ValueError, "target_logits: expected the logits' shape (2, 3), got (1, 3)",
         lambda x, y: kl_divergence(x[:1], x)),
        (ValueError, "temperature: expected a finite number > 0, got 0",
         lambda x, y: kl_divergence(x, x, 0.0)),
        (ValueError, "reduction: expected one of", lambda x, y: kl_divergence(x, x, reduction="")),  # pyright: ignore[reportArgumentType]
        (ValueError, "implementation: expected one of",
         lambda x, y: kl_divergence(x, x, implementation="fast")),  # pyright: ignore[reportArgumentType]
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_wrong_arguments_say_what_was_expected(error, message, call):
    with pytest.raises(error) as raised:
        call(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
    assert str(raised.value).startswith(message)
