"""Jitted functions compiled ahead of their first call, so that compilation is timed separately."""

import time
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import jax
import numpy as np


class CompiledFunction:
    """A jitted function, compiled once for each combination of shapes and static keywords.

    Attributes:
        compile_seconds: time spent tracing and compiling so far.
        run_seconds: time spent in the compiled programs so far.

    Args:
        function: what `jax.jit` returned.
        compiler_options: for XLA.
        compiling: entered while a program is compiled.
    """

    def __init__(
        self,
        function: Any,
        compiler_options: Mapping[str, str] | None = None,
        compiling: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._function = function
        self._options = dict(compiler_options) if compiler_options else None
        self._compiling = compiling
        self._compiled: dict[Hashable, Any] = {}
        self.compile_seconds = 0.0
        self.run_seconds = 0.0

    def __len__(self) -> int:
        """Number of programs compiled so far."""
        return len(self._compiled)

    def with_new_clock(self, compiling: Callable[[], AbstractContextManager[None]]) -> Self:
        """Share the programs, and count seconds from here.

        Args:
            compiling: entered while a program is compiled.
        """
        copy = type(self)(self._function, self._options, compiling)
        copy._compiled = self._compiled
        return copy

    def __call__(self, *args: Any, **static: Hashable) -> Any:
        """Call the function and wait for its result."""
        key = tuple(map(np.shape, jax.tree.leaves(args))), *sorted(static.items())
        if key not in self._compiled:
            started = time.perf_counter()
            with self._compiling():
                lowered = self._function.lower(*args, **static)
                self._compiled[key] = lowered.compile(self._options)
            self.compile_seconds += time.perf_counter() - started
        started = time.perf_counter()
        result = jax.block_until_ready(self._compiled[key](*args))
        self.run_seconds += time.perf_counter() - started
        return result
