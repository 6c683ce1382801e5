"""Fixtures of the tests of linear heads."""

from collections.abc import Callable
from typing import Any

import jax
import pytest

from xentjax.ops import layer as layer_operations
from xentjax.ops.linear import in_forward


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The number of matrix products that a call runs.

    The function has to have a shape that no other test has: products that are compiled already
    tell nothing.
    """
    runs: list[int] = []
    matmul = layer_operations.matmul

    def telling(a: Any, b: Any, linear: Any) -> Any:
        jax.debug.callback(lambda: runs.append(1))
        return matmul(a, b, linear)

    monkeypatch.setattr(layer_operations, "matmul", telling)
    monkeypatch.setattr(in_forward, "matmul", telling)

    def count(function: Callable[..., Any], *arguments: Any) -> int:
        runs.clear()
        jax.block_until_ready(function(*arguments))
        jax.effects_barrier()
        return len(runs)

    return count
