"""Cost of the keywords of the softmax cross-entropy, relative to the plain call."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import noise, timing
from benchmarks.harness.modes import Loss, jax_function
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from xentjax import softmax_cross_entropy_with_integer_labels

PLAIN = "none"
AGAIN = f"{PLAIN}, {noise.AGAIN}"
LEGEND = (
    f"{AGAIN}: the same program as {PLAIN} in the same rounds, whose interval is the noise; "
    f"interval: {noise.LEVEL:.0%} bootstrap interval over the rounds",
)


def keywords(num_classes: int) -> dict[str, dict[str, Any]]:
    """Return sets of keywords by their names in the table."""
    scalars = {"label_smoothing": 0.1, "z_loss": 1e-4, "temperature": 0.9, "ignore_index": -1}
    weights = {"class_weights": jnp.linspace(0.5, 2, num_classes)}
    return {
        PLAIN: {},
        "label smoothing": {"label_smoothing": 0.1},
        "soft cap": {"logit_soft_cap": 30.0},
        "all but the soft cap": scalars | weights,
        "all": scalars | weights | {"logit_soft_cap": 30.0},
    }


def measure(shapes: Iterable[tuple[int, int]], session: Session) -> Table:
    """Measure time, as a multiple of the plain call's, and memory of the loss and an SGD step."""
    named = [(f"{shape[0]} × {shape[1]}", shape) for shape in shapes]
    groups = session.collect("keywords", named, lambda shape: _rows(shape, session))
    rows = [row for group in groups for row in group]
    header = (
        *("case", "keywords", "forward", "interval", "SGD step", "interval of the step"),
        *("forward temp MB", "SGD step temp MB"),
    )
    return Table("Keywords: time over that of the call without any", header, tuple(rows), LEGEND)


def _rows(shape: tuple[int, int], session: Session) -> list[tuple[str | float | None, ...]]:
    logits = jax.random.normal(jax.random.key(0), shape)
    labels = jax.random.randint(jax.random.key(1), shape[:1], 0, shape[1])
    named = keywords(shape[1])
    forward, step = {}, {}
    thunks: dict[str, timing.Thunk] = {}
    for name, values in named.items():
        session.say(f"compiling {name}", log=False)
        loss = _mean_loss(values)
        forward[name] = timing.compile_ahead_of_time(jax_function(loss, "forward"), logits, labels)
        step[name] = timing.compile_ahead_of_time(
            jax_function(loss, "SGD step"), logits, labels, donate=(0,)
        )
        thunks[f"{name}, forward"] = lambda call=forward[name].call: call(logits, labels)
        thunks[f"{name}, step"] = timing.thread_state(
            lambda x, call=step[name].call: call(x, labels), jnp.array(logits)
        )
    for mode in ("forward", "step"):
        thunks[f"{AGAIN}, {mode}"] = thunks[f"{PLAIN}, {mode}"]
    forward[AGAIN], step[AGAIN] = forward[PLAIN], step[PLAIN]
    seconds = session.interleave(thunks)

    def multiple(name: str, mode: str) -> tuple[float, str]:
        found = noise.interval(seconds[f"{name}, {mode}"], seconds[f"{PLAIN}, {mode}"])
        return found.median, found.text()

    def megabytes(compiled: timing.Compiled) -> float | None:
        return None if compiled.temp_bytes is None else compiled.temp_bytes / 1e6

    case = f"{shape[0]} × {shape[1]}"
    return [
        (
            case,
            name,
            *multiple(name, "forward"),
            *multiple(name, "step"),
            megabytes(forward[name]),
            megabytes(step[name]),
        )
        for name in (*named, AGAIN)
    ]


def _mean_loss(keywords: dict[str, Any]) -> Loss:
    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return softmax_cross_entropy_with_integer_labels(
            logits, labels, reduction="mean", **keywords
        )

    return loss
