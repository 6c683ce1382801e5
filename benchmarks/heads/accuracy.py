"""Errors of functions of a linear head, and of their gradients, against float64."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import cases
from benchmarks.harness.baselines import NAIVE
from benchmarks.harness.tables import Table
from benchmarks.heads.implementations import Operation, arguments, function_of, given


def accuracy(table: Sequence[Operation], *, quick: bool) -> Table:
    """Make a table of relative errors in norm on the same inputs, except for random samples.

    All are compared with stored logits in float64.
    """
    shape = cases.LINEAR_ACCURACY_QUICK if quick else cases.HEADS_ACCURACY
    rows = []
    for dtype in ("float32", "bfloat16"):
        case = cases.HeadCase(shape, dtype)
        for operation in table:
            if operation.name == "sample":
                continue
            for name, errors in errors_of(operation, case).items():
                figures = ("-" if error is None else error for error in errors)
                rows.append((f"{operation.name}, {operation.mode}", dtype, name, *figures))
    return Table(
        f"Relative errors against float64 at {' × '.join(map(str, shape))}",
        ("case", "dtype", "implementation", "value", "gradient in x", "gradient in kernel"),
        tuple(rows),
    )


def errors_of(operation: Operation, case: cases.HeadCase) -> dict[str, list[float | None]]:
    """Return the errors of value and gradients by implementation; None for missing gradients."""
    arrays, found = given(case.shape), {}
    for name in operation.functions:
        own = arguments(operation, name, case, arrays)
        found[name] = _parts(jax.jit(function_of(operation, name))(*own), operation)
    with jax.enable_x64(True):
        own = jax.tree.map(_in_float64, arguments(operation, NAIVE, case, arrays))
        exact = _parts(jax.jit(function_of(operation, NAIVE))(*own), operation)
    return {name: [_error(*pair) for pair in zip(parts, exact, strict=True)]
            for name, parts in found.items()}  # fmt: skip


def _in_float64(x: Any) -> Any:
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    return np.asarray(x, np.float64) if floating else np.asarray(x)


def _parts(result: Any, operation: Operation) -> list[np.ndarray | None]:
    """Return the flattened value, and the gradients in x and kernel."""
    value, gradients = result if operation.mode != "forward" else (result, (None, None))
    floating = [
        np.ravel(np.asarray(x, np.float64))
        for x in jax.tree.leaves(value)
        if jnp.issubdtype(x.dtype, jnp.floating)
    ]
    return [
        np.concatenate(floating),
        *(None if g is None else np.asarray(g, np.float64) for g in gradients),
    ]


def _error(found: np.ndarray | None, exact: np.ndarray | None) -> float | None:
    if found is None or exact is None:
        return None
    found = found if found.shape == exact.shape else found.T
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
