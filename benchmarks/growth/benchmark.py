"""Growth: every operation at sizes that double in rows N or in classes K, and fitted exponents."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import xentjax
from benchmarks.growth.report import Growth, Line, Point
from benchmarks.harness import machine, timing
from benchmarks.harness.session import Session

FEATURES = 64


class Operation(NamedTuple):
    """A function of a number of rows and of classes.

    Attributes:
        name: its name in the tables.
        make: the function and its arguments.
        rows: sizes N, at the first number of classes.
        classes: sizes K, at the first number of rows.
    """

    name: str
    make: Callable[[int, int], tuple[Callable[..., Any], tuple[Any, ...]]]
    rows: tuple[int, ...]
    classes: tuple[int, ...]


def _logits(loss: Callable[..., Any], n: int, k: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    return loss, (jax.random.normal(jax.random.key(0), (n, k)), jnp.arange(n) % k)


def _layer(
    function: Callable[..., Any], n: int, k: int
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (n, FEATURES))
    kernel = jax.random.normal(keys[1], (FEATURES, k)) / FEATURES**0.5
    return function, (x, kernel, jnp.arange(n) % k)


def operations(*, quick: bool) -> tuple[Operation, ...]:
    """Return the operations with their sizes."""
    loss = partial(xentjax.softmax_cross_entropy_with_integer_labels, reduction="mean")
    linear = partial(xentjax.linear_softmax_cross_entropy, reduction="mean")
    logits = (8, 32) if quick else (2048, 4096, 8192, 16384)
    classes = (16, 64) if quick else (512, 1024, 2048, 4096)
    rows = (8, 32) if quick else (512, 1024, 2048, 4096)
    wide = (64, 256) if quick else (4096, 8192, 16384, 32768)

    def of_head(function: Callable[..., Any]) -> partial[Any]:
        return partial(_layer, function)

    return (
        Operation("cross-entropy", partial(_logits, loss), logits, classes),
        Operation(
            "cross-entropy, gradient",
            partial(_logits, jax.value_and_grad(loss)),
            logits,
            classes,
        ),
        Operation("linear cross-entropy", of_head(linear), rows, wide),
        Operation(
            "linear cross-entropy, gradients",
            of_head(jax.value_and_grad(linear, (0, 1))),
            rows,
            wide,
        ),
        Operation("linear top 8", of_head(lambda x, w, _: tuple(xentjax.linear_top_k(x, w, 8))),
                  rows, wide),
        Operation(
            "linear sample",
            of_head(lambda x, w, _: tuple(xentjax.linear_sample(jax.random.key(0), x, w))),
            rows,
            wide,
        ),
    )  # fmt: skip


def measure(operation: Operation, session: Session) -> list[Line]:
    """Time all sizes of an operation in the same rounds: a line in N, one in K."""
    lines = {
        "N": [(n, operation.classes[0]) for n in operation.rows],
        "K": [(operation.rows[0], k) for k in operation.classes],
    }
    shapes = sorted({shape for several in lines.values() for shape in several})
    compiled, thunks = {}, {}
    for shape in shapes:
        session.say(f"compiling {shape[0]} × {shape[1]}", log=False)
        function, args = operation.make(*shape)
        program = timing.compile_ahead_of_time(function, *args)
        compiled[shape], thunks[str(shape)] = program, partial(program.call, *args)
    seconds = session.interleave(thunks)
    return [
        Line(
            operation.name,
            axis,
            [
                Point(n if axis == "N" else k, seconds[str((n, k))], compiled[n, k].temp_bytes)
                for n, k in several
            ],
            f"K = {operation.classes[0]}" if axis == "N" else f"N = {operation.rows[0]}",
        )
        for axis, several in lines.items()
    ]


def run(session: Session) -> Growth:
    """Measure every operation."""
    limits = machine.measure(quick=session.quick)
    found = session.collect(
        "growth",
        [(each.name, each) for each in operations(quick=session.quick)],
        lambda each: measure(each, session),
    )
    return Growth(tuple(line for lines in found for line in lines), limits, session.extent)
