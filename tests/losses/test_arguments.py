"""Arguments that every loss accepts: anything that clearly holds an array, at any promotion.

Other arguments are refused in one line.
"""

import ast
import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import xentjax
from tests.support.columns import Column
from xentjax._core import checks

LOGITS = np.array([[0.5, -1.0, 2.0], [1.5, 0.25, -0.5]], np.float32)
OTHERS = np.array([[0.25, 0.5, 1.0], [-1.0, 0.5, 0.75]], np.float32)
PMFS = np.array([[0.5, 0.25, 0.25], [0.0, 0.125, 0.875]], np.float32)
LABELS = np.array([2, 0], np.int32)
WEIGHTS = np.array([0.5, 2.0, 1.0], np.float32)
CLASSES = np.array([[True, False, True], [True, True, True]])
ROWS = np.array([True, False])
KERNEL = np.array([[0.5, -0.25, 1.0], [1.0, 0.5, 0.0], [-0.5, 0.25, 2.0]], np.float32)
ADJUSTS = {"logit_soft_cap": np.float32(3.0), "temperature": np.float32(1.5)}
SMOOTHED = {"label_smoothing": np.float32(0.1), "z_loss": np.float32(0.01), **ADJUSTS}

# The loss, its arrays, and its keywords that are arrays or scalars.
CALLS: dict[str, tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]] = {
    "softmax_cross_entropy": (
        xentjax.softmax_cross_entropy,
        (LOGITS, PMFS),
        {"where": CLASSES, "class_weights": WEIGHTS, **SMOOTHED},
    ),
    "softmax_cross_entropy_with_integer_labels": (
        xentjax.softmax_cross_entropy_with_integer_labels,
        (LOGITS, LABELS),
        {"where": ROWS, "class_weights": WEIGHTS, **SMOOTHED},
    ),
    "linear_softmax_cross_entropy": (
        xentjax.linear_softmax_cross_entropy,
        (LOGITS, KERNEL, LABELS, WEIGHTS),
        {"where": ROWS, "class_weights": WEIGHTS, **SMOOTHED},
    ),
    "linear_softmax_cross_entropy, pmfs": (
        xentjax.linear_softmax_cross_entropy,
        (LOGITS, KERNEL, PMFS, WEIGHTS),
        {"where": CLASSES, "class_weights": WEIGHTS, **SMOOTHED},
    ),
    "linear_log_probs": (
        xentjax.linear_log_probs,
        (LOGITS, KERNEL, LABELS, WEIGHTS),
        {"where": ROWS, **ADJUSTS},
    ),
    "linear_loss": (
        partial(xentjax.linear_loss, lambda stats: stats.entropy - stats.label_log_prob),
        (LOGITS, KERNEL, LABELS, WEIGHTS),
        {"where": ROWS, **ADJUSTS},
    ),
    "linear_kl_divergence": (
        xentjax.linear_kl_divergence,
        (OTHERS, KERNEL, LOGITS, KERNEL),
        {"target_bias": WEIGHTS, "bias": WEIGHTS, "where": CLASSES, **ADJUSTS},
    ),
    "linear_js_divergence": (
        xentjax.linear_js_divergence,
        (OTHERS, KERNEL, LOGITS, KERNEL),
        {"target_bias": WEIGHTS, "where": ROWS, "weight": np.float32(0.25), **ADJUSTS},
    ),
    "linear_top_k": (
        lambda x, kernel, bias, **keywords: (
            xentjax.linear_top_k(x, kernel, 2, bias, **keywords).log_probs
        ),
        (LOGITS, KERNEL, WEIGHTS),
        {"where": CLASSES, **ADJUSTS},
    ),
    "linear_sample": (
        lambda *arrays, **keywords: (
            xentjax.linear_sample(jax.random.key(0), *arrays, **keywords).log_probs
        ),
        (LOGITS, KERNEL, WEIGHTS),
        {"where": ROWS, **ADJUSTS},
    ),
    "linear_top_k_kl_divergence": (
        lambda x, log_probs, labels, *arrays, **keywords: xentjax.linear_top_k_kl_divergence(
            xentjax.TopK(log_probs, labels), x, *arrays, **keywords
        ),
        (LOGITS, np.log(PMFS[:, 1:2] + 0.1), LABELS[:, None], KERNEL, WEIGHTS),
        {"where": ROWS, **ADJUSTS},
    ),
    "brier_score": (xentjax.brier_score, (LOGITS, LABELS), {"where": ROWS}),
    "brier_score, pmfs": (xentjax.brier_score, (LOGITS, PMFS), {"where": CLASSES}),
    "kl_divergence_with_logits": (
        xentjax.kl_divergence_with_logits,
        (OTHERS, LOGITS, np.float32(2.0)),
        {"where": CLASSES},
    ),
    "nll_loss": (
        xentjax.nll_loss,
        (LOGITS, LABELS),
        {"where": ROWS, "class_weights": WEIGHTS},
    ),
    "poly_loss_cross_entropy": (
        xentjax.poly_loss_cross_entropy,
        (LOGITS, PMFS),
        {"epsilon": np.float32(1.5), "where": CLASSES, "class_weights": WEIGHTS},
    ),
    "softmax_focal_loss": (
        xentjax.softmax_focal_loss,
        (LOGITS, LABELS),
        {"gamma": np.float32(1.5), "where": ROWS, "class_weights": WEIGHTS},
    ),
    "smooth_labels": (xentjax.smooth_labels, (PMFS, np.float32(0.25)), {"where": CLASSES}),
    "sigmoid_binary_cross_entropy": (
        xentjax.sigmoid_binary_cross_entropy,
        (LOGITS, PMFS),
        {"pos_weight": WEIGHTS, "where": CLASSES},
    ),
    "sigmoid_focal_loss": (
        xentjax.sigmoid_focal_loss,
        (LOGITS, PMFS),
        {"alpha": PMFS, "gamma": WEIGHTS, "where": CLASSES},
    ),
    "log_softmax": (xentjax.log_softmax, (LOGITS,), {"where": CLASSES}),
    "softmax": (xentjax.softmax, (LOGITS,), {"where": CLASSES}),
    "logsumexp": (xentjax.logsumexp, (LOGITS,), {"where": CLASSES}),
}


def as_column(x: Any) -> Any:
    return Column(x) if np.ndim(x) else x.item()


def nested(x: Any) -> Any:
    """Lists of scalars, which under jit are traced."""
    return [nested(row) for row in x] if np.ndim(x) else x


HOLDERS: dict[str, Callable[[Any], Any]] = {
    "Param": lambda x: nnx.Param(jnp.asarray(x)),
    "column": as_column,
    "list": lambda x: x.tolist(),
    "list of arrays": lambda x: list(map(jnp.asarray, x)) if np.ndim(x) else x,
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("name", CALLS)
def test_whatever_holds_an_array_is_taken(name, holder, unchecked_annotations):
    loss, arrays, keywords = CALLS[name]
    hold = HOLDERS[holder]
    got = loss(*map(hold, arrays), **{k: hold(x) for k, x in keywords.items()})
    np.testing.assert_allclose(got, loss(*arrays, **keywords), rtol=1e-6)


@pytest.mark.parametrize("name", CALLS)
def test_lists_of_traced_numbers_are_taken(name, unchecked_annotations):
    loss, arrays, keywords = CALLS[name]
    call = jax.jit(lambda arrays: loss(*map(nested, arrays), **keywords))
    np.testing.assert_allclose(call(arrays), loss(*arrays, **keywords), rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "x64"),
    [
        ("float32", False),  # which is what float64 is there
        ("bfloat16", False),
        ("float32", True),
        ("float64", True),
        ("bfloat16", True),
    ],
)
@pytest.mark.parametrize("name", CALLS)
def test_strict_promotion(name, dtype, x64):
    """No argument is promoted that the caller did not promote: value and gradient, jitted."""
    loss, arrays, keywords = CALLS[name]
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        first = jnp.asarray(arrays[0], dtype)
        # Python numbers are weak, and default integers have 64 bits.
        keywords = {k: x.item() if np.ndim(x) == 0 else x for k, x in keywords.items()}
        others = tuple(
            x.astype(int) if x is LABELS else x.item() if x.ndim == 0 else x for x in arrays[1:]
        )

        def total(first):
            result = loss(first, *others, **keywords)
            return jnp.sum(jnp.where(jnp.isfinite(result), result, 0).astype(float))

        value, gradient = jax.jit(jax.value_and_grad(total))(first)
    assert gradient.dtype == first.dtype
    expected = loss(*arrays, **keywords)
    expected = np.where(np.isfinite(expected), expected, 0).sum()
    rtol = 2e-2 if dtype == "bfloat16" else 2e-6
    np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol)


integer_loss = xentjax.softmax_cross_entropy_with_integer_labels
linear_loss = xentjax.linear_softmax_cross_entropy
focal_loss = xentjax.sigmoid_focal_loss


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "ignore_index: expected an integer, got True",
         lambda: integer_loss(LOGITS, LABELS, ignore_index=True)),
        (TypeError, "ignore_index: expected an integer, got True",
         lambda: linear_loss(LOGITS, KERNEL, LABELS, ignore_index=True)),
        (TypeError, "ignore_index: expected an integer, got 1.0",
         lambda: xentjax.brier_score(LOGITS, LABELS, ignore_index=1.0)),  # pyright: ignore[reportArgumentType]
        (TypeError, "ignore_index: expected an integer that is known under jit (a static argument)"
         ", got a traced int32[]",
         lambda: jax.jit(lambda i: integer_loss(LOGITS, LABELS, ignore_index=i))(jnp.int32(0))),
        (TypeError, "ignore_index: expected an integer that is known under jit",
         lambda: jax.jit(lambda i: linear_loss(LOGITS, KERNEL, LABELS, ignore_index=i))(0)),
        (ValueError, "labels: expected class indices, integers of shape (2,), or probabilities of "
         "shape (2, 3), got float32 of shape (2,)",
         lambda: linear_loss(LOGITS, KERNEL, jnp.ones(2, jnp.float32))),
        (ValueError, "labels: expected class indices, integers of shape (2,), or probabilities of "
         "shape (2, 3), got bool of shape (2,)",
         lambda: linear_loss(LOGITS, KERNEL, ROWS)),
        (ValueError, "labels: expected class indices, integers of shape (2,), or probabilities of "
         "shape (2, 3), got int32 of shape (2, 1)",
         lambda: linear_loss(LOGITS, KERNEL, LABELS[:, None])),
        (ValueError, "labels: expected one target a class, the logits' shape (3, 3), got shape "
         "(3,), an index a row; softmax_cross_entropy_with_integer_labels takes class indices",
         lambda: xentjax.softmax_cross_entropy(KERNEL, jnp.arange(3))),
        (ValueError, "temperature: expected a finite number > 0 in float32, got 1e-46",
         lambda: integer_loss(LOGITS, LABELS, temperature=1e-46)),
        (ValueError, "temperature: expected a finite number > 0 in float32, got 1e-40",
         lambda: xentjax.kl_divergence_with_logits(LOGITS, OTHERS, 1e-40)),
        (ValueError, "temperature: expected a finite number > 0 in float32, got 1e+39",
         lambda: integer_loss(LOGITS, LABELS, temperature=1e39)),
        (ValueError, "temperature: expected a finite number > 0, got an integer too large for a "
         "float",
         lambda: integer_loss(LOGITS, LABELS, temperature=10**400)),
        (ValueError, "class_weights: expected finite weights, got nan for class 1",
         lambda: integer_loss(LOGITS, LABELS, class_weights=np.array([1, np.nan, 1], np.float32))),
        (ValueError, "class_weights: expected finite weights, got -inf for class 2",
         lambda: linear_loss(LOGITS, KERNEL, LABELS, class_weights=jnp.array([1, 1, -np.inf]))),
        (ValueError, "logit_soft_cap: expected a finite number > 0 or None in float32, got 1e+39",
         lambda: linear_loss(LOGITS, KERNEL, LABELS, logit_soft_cap=1e39)),
        (ValueError, "logit_soft_cap: expected a finite number > 0 or None in float32, got 1e-46",
         lambda: integer_loss(LOGITS, LABELS, logit_soft_cap=1e-46)),
        (ValueError, "z_loss: expected a finite number >= 0 in float32, got 1e+39",
         lambda: integer_loss(LOGITS, LABELS, z_loss=1e39)),
        (ValueError, "epsilon: expected a finite number in float32, got -1e+39",
         lambda: xentjax.poly_loss_cross_entropy(LOGITS, PMFS, epsilon=-1e39)),
        (ValueError, "gamma: expected a finite number >= 0 in float32, got 1e+39",
         lambda: xentjax.softmax_focal_loss(LOGITS, LABELS, gamma=1e39)),
        (ValueError, "gamma: expected finite numbers >= 0, got 1e+39",
         lambda: focal_loss(LOGITS, PMFS, gamma=1e39)),
        (ValueError, "pos_weight: expected finite numbers >= 0, got 1e+39",
         lambda: xentjax.sigmoid_binary_cross_entropy(LOGITS, PMFS, pos_weight=1e39)),
        (TypeError, "gamma: expected finite numbers >= 0, got complex64",
         lambda: focal_loss(LOGITS, PMFS, gamma=np.complex64(1))),
        (ValueError, "z_loss: expected a finite number >= 0, got inf",
         lambda: integer_loss(LOGITS, LABELS, z_loss=np.inf)),
        (ValueError, "logit_soft_cap: expected a finite number > 0 or None, got inf",
         lambda: linear_loss(LOGITS, KERNEL, LABELS, logit_soft_cap=np.inf)),
        (ValueError, "gamma: expected a finite number >= 0, got inf",
         lambda: xentjax.softmax_focal_loss(LOGITS, LABELS, gamma=np.inf)),
        (TypeError, "temperature: expected a finite number > 0, got bool of shape (2, 3)",
         lambda: integer_loss(LOGITS, LABELS, temperature=CLASSES)),
        (TypeError, "z_loss: expected a finite number >= 0, got list",
         lambda: integer_loss(LOGITS, LABELS, z_loss=[jnp.eye(3)])),  # pyright: ignore[reportArgumentType]
        (TypeError, "ignore_index: expected an integer, got float32 of shape (2, 3)",
         lambda: integer_loss(LOGITS, LABELS, ignore_index=LOGITS)),  # pyright: ignore[reportArgumentType]
        (ValueError, "reduction: expected one of 'none', 'sum', 'mean', got float32 of shape "
         "(2, 3)",
         lambda: integer_loss(LOGITS, LABELS, reduction=LOGITS)),  # pyright: ignore[reportArgumentType]
        (TypeError, "axis: expected an integer or a tuple of integers, got float32 of shape (2, 3)",
         lambda: integer_loss(LOGITS, LABELS, LOGITS)),  # pyright: ignore[reportArgumentType]
        (TypeError, "temperature: expected a finite number > 0, got np.True_",
         lambda: integer_loss(LOGITS, LABELS, temperature=np.True_)),
    ],
)  # fmt: skip
def test_refused_in_one_line(error, message, call, unchecked_annotations):
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        call()


def calls_of_own(function, folder):
    """The names of the functions of that file or folder that a call runs, with their argument.

    Only in tests are values checked against annotations, by `__instancecheck__`.
    """
    calls = []

    def record(frame, event, _):
        code = frame.f_code
        is_own = code.co_filename.startswith(str(folder)) and code.co_name != "__instancecheck__"
        if event == "call" and is_own:
            calls.append((code.co_name, frame.f_locals.get("name")))

    sys.setprofile(record)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", CALLS)
def test_each_argument_is_checked_once(name):
    loss, arrays, keywords = CALLS[name]
    calls = Counter(calls_of_own(lambda: loss(*arrays, **keywords), checks.__file__))
    assert set(keywords) <= {argument for _, argument in calls}
    assert {call: n for call, n in calls.items() if n > 1 and call[1]} == {}


def test_an_eager_call_is_short():
    """Frames of this package in a call whose program is compiled."""
    logits, labels = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    for _ in range(2):
        integer_loss(logits, labels)
    folder = Path(xentjax.__file__).parent
    assert 0 < len(calls_of_own(lambda: integer_loss(logits, labels), folder)) <= 15


@pytest.mark.parametrize(
    ("call", "frames"),
    [
        (lambda: integer_loss(jnp.zeros((7, 13)), jnp.zeros(7, jnp.int32)), 60),
        (lambda: linear_loss(jnp.zeros((5, 3)), jnp.zeros((3, 17)), jnp.zeros(5, jnp.int32)), 112),
        (lambda: xentjax.fit_categorical(jnp.ones(19)), 35),
    ],
    ids=["integer labels", "linear head", "fit_categorical"],
)
def test_a_first_call_enters_few_functions(call, frames):
    """Functions of this package that run while a program is traced, of shapes not seen before."""
    calls = calls_of_own(call, Path(xentjax.__file__).parent)
    assert 0 < sum(not name.startswith("<") for name, _ in calls) <= frames


@pytest.mark.parametrize(
    "loss", [xentjax.softmax_cross_entropy, integer_loss, linear_loss], ids=lambda f: f.__name__
)
def test_overloads_list_every_keyword(loss):
    """Editors show the overloads, so a keyword missing from them would be hidden from users."""
    source = Path(inspect.unwrap(loss).__code__.co_filename).read_text()
    names = [
        [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef) and node.name == loss.__name__
    ]
    assert names == [list(inspect.signature(loss).parameters)] * 3


class Index:
    """An integer of a library of its own."""

    def __index__(self):
        return 2


@pytest.mark.parametrize(
    "name",
    [
        "softmax_cross_entropy_with_integer_labels",
        "linear_softmax_cross_entropy",
        "brier_score",
        "nll_loss",
    ],
)
def test_ignore_index_may_be_anything_that_is_an_index(name, unchecked_annotations):
    loss, arrays, _ = CALLS[name]
    got = loss(*arrays, ignore_index=Index())
    np.testing.assert_array_equal(got, loss(*arrays, ignore_index=2))
    assert got[0] == 0


def test_class_weights_may_be_negative_as_in_pytorch():
    weights = np.array([1, 1, -2], np.float32)
    got = integer_loss(LOGITS, LABELS, class_weights=weights)
    np.testing.assert_allclose(got, weights[LABELS] * integer_loss(LOGITS, LABELS), rtol=1e-6)


def test_one_hot_integers_and_a_shared_pmf_stay_targets():
    rows = jnp.zeros((3, 3))
    for labels in (jnp.eye(3, dtype=jnp.int32), jnp.array([0.0, 0.5, 0.5])):
        got = xentjax.softmax_cross_entropy(rows, labels)
        np.testing.assert_allclose(got, np.full(3, np.log(3)), rtol=1e-6)


@pytest.mark.parametrize("cap", [1e25, 1e30, 1e38, 3e38])
def test_a_huge_soft_cap_is_none(cap):
    """Logits over it are subnormal: cap tanh(a / cap) had become 0, and the loss log K."""

    def value_and_gradient(**keywords):
        return jax.jit(
            jax.value_and_grad(lambda a: integer_loss(a, LABELS, reduction="sum", **keywords))
        )(LOGITS)

    for limit in (cap, jnp.float32(cap)):
        for got, expected in zip(
            value_and_gradient(logit_soft_cap=limit), value_and_gradient(), strict=True
        ):
            np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_temperatures_as_far_as_float32_reaches():
    """Far apart, the logits divided by a tiny one are infinite: the loss of a right label is 0."""
    got = integer_loss(LOGITS, LABELS, temperature=2e-38)
    np.testing.assert_array_equal(got, [0, 0])
    gradient = jax.grad(lambda a: integer_loss(a, LABELS, temperature=2e-38).sum())(LOGITS)
    np.testing.assert_array_equal(gradient, 0)
    np.testing.assert_allclose(
        integer_loss(LOGITS, LABELS, temperature=3e38), [np.log(3)] * 2, rtol=1e-6
    )
