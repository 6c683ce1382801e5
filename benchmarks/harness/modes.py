"""Modes of a loss of logits and labels: the functions that are compiled and timed."""

from collections.abc import Callable
from typing import Any

import jax

from benchmarks.harness import cases

Loss = Callable[[jax.Array, jax.Array], jax.Array]

LEARNING_RATE = 0.1


def jax_function(loss: Loss, mode: str) -> Callable[[jax.Array, jax.Array], Any]:
    """Return the function of logits and labels to compile for a mode."""
    match mode:
        case "forward":
            return loss
        case "value_and_grad":
            return jax.value_and_grad(loss)
        case "SGD step":
            return lambda logits, labels: logits - LEARNING_RATE * jax.grad(loss)(logits, labels)
    raise ValueError(f"mode: expected one of {cases.MODES}, got {mode!r}")
