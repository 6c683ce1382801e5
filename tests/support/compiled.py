"""The memory that compiled functions need."""

from collections.abc import Callable
from typing import Any

import jax
import pytest


def temporary_bytes(function: Callable[..., Any], *arguments: Any) -> int:
    """Bytes that the compiled function allocates beside arguments and results; it is never run.

    The function may be compiled by `jax.jit` with options of its own; arguments may be shapes.
    """
    jitted: Any = function if hasattr(function, "lower") else jax.jit(function)
    memory = jitted.lower(*arguments).compile().memory_analysis()
    if memory is None:
        pytest.skip("this backend does not tell the size of its temporaries")
    return memory.temp_size_in_bytes
