"""Errors of loss and gradients of a linear layer against float64."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import cases
from benchmarks.harness.tables import Table
from benchmarks.linear.implementations import (
    Implementation,
    compile_for,
    jax_thunk,
    problem,
    torch_thunks,
)


class Derivatives(NamedTuple):
    """Loss and gradients in features [N, D] and kernel [D, K]."""

    loss: np.ndarray
    x: np.ndarray
    kernel: np.ndarray


def exact(x: np.ndarray, kernel: np.ndarray, labels: np.ndarray) -> Derivatives:
    """Compute loss and gradients in float64 with NumPy."""
    logits = x @ kernel
    logits -= np.max(logits, axis=1, keepdims=True)
    exps = np.exp(logits)
    total = np.sum(exps, axis=1)
    rows = np.arange(len(labels))
    d_logits = exps / total[:, None]
    d_logits[rows, labels] -= 1
    d_logits /= len(labels)
    loss = np.mean(np.log(total) - logits[rows, labels])
    return Derivatives(loss, d_logits @ kernel.T, x.T @ d_logits)


def accuracy(
    implementations: Mapping[str, Implementation], torch: ModuleType | None, *, quick: bool
) -> Table:
    """Make a table of relative errors against float64 on the same inputs; of gradients, in norm."""
    shape = cases.LINEAR_ACCURACY_QUICK if quick else cases.LINEAR_ACCURACY
    given, rows = problem(shape), []
    for dtype in ("float32", "bfloat16"):
        case = cases.LinearCase(shape, dtype, "value_and_grad")
        x, kernel = (np.asarray(jnp.asarray(a, dtype), np.float64) for a in given[:2])
        truth = exact(x, kernel, given.labels)
        thunks = {
            name: jax_thunk(compile_for(each, case), each, case, given)
            for name, each in implementations.items()
        }
        if torch is not None:
            thunks |= torch_thunks(torch, case, given)
        for name, thunk in thunks.items():
            loss, (d_x, d_kernel) = jax.tree.map(_as_float64, thunk())
            d_kernel = d_kernel if d_kernel.shape == truth.kernel.shape else d_kernel.T
            pairs = zip((loss, d_x, d_kernel), truth, strict=True)
            errors = [np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs]
            rows.append((dtype, name, *map(float, errors)))
    return Table(
        f"Relative errors against float64 at {' × '.join(map(str, shape))}",
        ("dtype", "implementation", "loss", "gradient in x", "gradient in kernel"),
        tuple(rows),
    )


def _as_float64(array: Any) -> np.ndarray:
    """Convert an array of jax or torch; first to float32, since NumPy has no bfloat16."""
    return np.asarray(array.float() if hasattr(array, "float") else array, np.float64)
