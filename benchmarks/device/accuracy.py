"""Errors of kernels and XLA's code on an accelerator, against float64 on the host."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import cases
from benchmarks.harness.tables import Table
from benchmarks.heads.accuracy import errors_of
from benchmarks.heads.implementations import operations_by
from benchmarks.linear import accuracy as of_layers
from benchmarks.linear.implementations import Implementation, xentjax_loss
from xentjax import softmax_cross_entropy_with_integer_labels

DTYPES = ("float32", "bfloat16")
HEADER = ("case", "implementation", "value", "first gradient", "second gradient")
SHAPES, SHAPES_QUICK = ((4096, 10), (512, 1000), (64, 50257)), ((8, 10),)
LEGEND = (
    "relative errors in the norm; gradients: in the logits, or in features and kernel; the inputs "
    "are those of the dtype, and float64 gets the same",
)


def of_logits(shape: tuple[int, int], dtype: str, implementations: Mapping[str, Any]) -> list[Any]:
    """Return errors of the mean loss of labels and its gradient, with a row per implementation."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
    labels = rng.integers(shape[1], size=shape[0], dtype=np.int32)
    exact_loss, exact_gradient = _exact(np.asarray(x, np.float64), labels)
    rows = []
    for name, each in implementations.items():
        loss = partial(
            softmax_cross_entropy_with_integer_labels, reduction="mean", implementation=each
        )
        value, gradient = jax.jit(jax.value_and_grad(loss))(x, labels)
        errors = _error(value, exact_loss), _error(gradient, exact_gradient), "-"
        rows.append((f"logits {shape[0]} × {shape[1]}, {dtype}", name, *errors))
    return rows


def of_layer(dtype: str, implementations: Mapping[str, Any], *, quick: bool) -> list[Any]:
    """Return errors of the loss of a linear layer, with both ways to compute its gradients."""
    named = {}
    for name, each in implementations.items():
        for suffix, forward in (("", False), (", in forward", True)):
            loss = partial(xentjax_loss, implementation=each, gradients_in_forward=forward)
            named[name + suffix] = Implementation(loss)
    table = of_layers.accuracy(named, None, quick=quick)
    return [(f"linear layer, {row[0]}", *row[1:]) for row in table.rows if row[0] == dtype]


def of_head(dtype: str, implementations: Mapping[str, Any], *, quick: bool) -> list[Any]:
    """Return errors of log-probabilities with entropies, and of the surrogate."""
    shape = cases.LINEAR_ACCURACY_QUICK if quick else cases.HEADS_ACCURACY
    case = cases.HeadCase(shape, dtype)
    return [
        (f"{operation.name}, {dtype}", name, *("-" if e is None else e for e in errors))
        for operation in operations_by(implementations)
        for name, errors in errors_of(operation, case).items()
    ]


def table_of(rows: list[Any]) -> Table:
    """Make a table of all errors."""
    return Table("Relative errors against float64", HEADER, tuple(rows), LEGEND)


def _exact(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows = np.arange(len(labels))
    shifted = logits - logits.max(1, keepdims=True)
    total = np.exp(shifted).sum(1)
    loss = np.mean(np.log(total) - shifted[rows, labels])
    gradient = np.exp(shifted) / total[:, None]
    gradient[rows, labels] -= 1
    return loss, gradient / len(labels)


def _error(found: Any, exact: np.ndarray) -> float:
    return float(np.linalg.norm(np.asarray(found, np.float64) - exact) / np.linalg.norm(exact))
