"""Jitted functions compiled ahead of their first call, so that compilation is timed separately."""

import threading
import time
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

import jax
import numpy as np


class CompiledFunction:
    """A jitted function, compiled once for each combination of shapes and static keywords.

    Attributes:
        compile_seconds: time spent tracing and compiling so far, or waiting for another thread that
            does.
        run_seconds: time spent in the compiled programs so far.

    Args:
        function: a result of `jax.jit`.
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
        self._lock = threading.Lock()
        self._programs: dict[Hashable, Future[Any]] = {}
        self._ready: dict[Hashable, Any] = {}
        self.compile_seconds = 0.0
        self.run_seconds = 0.0

    def __len__(self) -> int:
        """Number of programs compiled so far."""
        return len(self._programs)

    def with_new_clock(self, compiling: Callable[[], AbstractContextManager[None]]) -> Self:
        """Share the programs, and count seconds from here.

        Args:
            compiling: entered while a program is compiled.
        """
        copy = type(self)(self._function, self._options, compiling)
        copy._lock, copy._programs = self._lock, self._programs
        with self._lock:
            done = {key: program for key, program in self._programs.items() if program.done()}
        copy._ready = {key: program.result() for key, program in done.items()}
        return copy

    def compile(self, *args: Any, **static: Hashable) -> Any:
        """Return the program for these arguments; the first thread that asks for it compiles it.

        Args:
            *args: arrays, or their shapes as `jax.ShapeDtypeStruct`, with their shardings.
            **static: the static keywords.
        """
        key = _key(args, static)
        with self._lock:
            program = self._programs.get(key)
            if is_first := program is None:
                program = self._programs[key] = Future()
        if is_first:
            try:
                program.set_result(self._function.lower(*args, **static).compile(self._options))
            except BaseException as error:
                with self._lock:
                    del self._programs[key]
                program.set_exception(error)
                raise
        return program.result()

    def __call__(self, *args: Any, **static: Hashable) -> Any:
        """Call the function and wait for its result."""
        key = _key(args, static)
        if key not in self._ready:
            started = time.perf_counter()
            with self._compiling():
                self._ready[key] = self.compile(*args, **static)
            self.compile_seconds += time.perf_counter() - started
        started = time.perf_counter()
        result = jax.block_until_ready(self._ready[key](*args))
        self.run_seconds += time.perf_counter() - started
        return result


def _key(args: tuple[Any, ...], static: Mapping[str, Hashable]) -> Hashable:
    # NumPy does not accept jax.ShapeDtypeStruct as an array
    leaves = jax.tree.leaves(args)
    shapes = (leaf.shape if hasattr(leaf, "shape") else np.shape(leaf) for leaf in leaves)
    return (*shapes, *sorted(static.items()))
