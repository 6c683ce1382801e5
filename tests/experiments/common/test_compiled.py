"""Programs compiled ahead: as few as need be, and their seconds."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import compiled
from experiments.common.compiled import CompiledFunction


@partial(jax.jit, static_argnames="times")
def repeated_sum(x: jax.Array, *, times: int) -> jax.Array:
    return times * x.sum()


def test_a_program_for_every_shape_and_static_argument():
    function = CompiledFunction(repeated_sum)
    calls = [(2, 1), (3, 1), (2, 1), (2, 5), (3, 1)]
    results = [function(jnp.ones(size), times=times) for size, times in calls]
    assert [float(result) for result in results] == [2, 3, 2, 10, 3]
    assert len(function) == 3


def test_compilation_and_runs_are_timed_separately(monkeypatch: pytest.MonkeyPatch):
    now = [0.0]
    monkeypatch.setattr(compiled.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(jax, "block_until_ready", lambda x: now.__setitem__(0, now[0] + 2) or x)

    @contextmanager
    def compiling() -> Iterator[None]:
        yield
        now[0] += 5

    function = CompiledFunction(repeated_sum, compiling=compiling)
    for _ in range(3):
        function(jnp.ones(2), times=1)
    assert (function.compile_seconds, function.run_seconds) == (5, 6)
    other = function.with_new_clock(compiling)
    assert (len(other), other.compile_seconds, other.run_seconds) == (1, 0, 0)
    other(np.ones(2, np.float32), times=1)
    other(np.ones(3, np.float32), times=1)
    assert (other.compile_seconds, other.run_seconds) == (5, 4)
    assert (len(function), function.run_seconds) == (2, 6)


def test_a_program_compiled_in_another_thread_is_waited_for_and_counted_once():
    waits: list[str] = []

    @contextmanager
    def compiling() -> Iterator[None]:
        waits.append("begun")
        yield

    function = CompiledFunction(repeated_sum, compiling=compiling)
    shape = jax.ShapeDtypeStruct((2,), np.float32)
    with ThreadPoolExecutor(2) as pool:
        programs = list(pool.map(lambda _: function.compile(shape, times=3), range(2)))
    assert programs[0] is programs[1]
    for _ in range(2):
        assert float(function(jnp.ones(2), times=3)) == 6
    assert (len(function), waits) == (1, ["begun"])


def test_a_failed_compilation_is_tried_again():
    function = CompiledFunction(repeated_sum)
    for _ in range(2):
        with pytest.raises(TypeError):
            function.compile(np.ones(2, np.float32))  # without the keyword
    assert len(function) == 0
    assert float(function(np.ones(2, np.float32), times=2)) == 4
