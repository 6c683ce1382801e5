"""Softmax cross-entropy with integer labels, mean over rows: ours and the baselines.

All get the same standard normal logits and the same labels.
"""

from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import cases, timing
from benchmarks.harness.baselines import NAIVE, OURS
from benchmarks.harness.modes import LEARNING_RATE, Loss
from xentjax import softmax_cross_entropy_with_integer_labels


def xentjax_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the loss of integer labels by xentjax."""
    return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def naive_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the textbook formula -sum(one_hot * log softmax), by hand but without overflow."""
    one_hot = (labels[:, None] == jnp.arange(logits.shape[-1])[None, :]).astype(logits.dtype)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    log_softmax = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    return -jnp.mean(jnp.sum(one_hot * log_softmax, axis=-1))


def gather_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Gather the label's entry of jax.nn.log_softmax."""
    log_softmax = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_softmax, labels[:, None], axis=-1))


def optax_one_hot_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the loss of one-hot labels by optax."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(optax.softmax_cross_entropy(logits, one_hot))


def optax_integer_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute the loss of integer labels by optax."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


JAX_LOSSES: dict[str, Loss] = {
    OURS: xentjax_loss,
    NAIVE: naive_loss,
    "jax.nn": gather_loss,
    "optax one-hot": optax_one_hot_loss,
    "optax integer": optax_integer_loss,
}


def problem(case: cases.LossCase) -> tuple[np.ndarray, np.ndarray]:
    """Make the logits and labels of a case, the same in every run."""
    rng = np.random.default_rng(0)
    rows, classes = case.shape
    logits = rng.standard_normal(case.shape, dtype=np.float32).astype(case.dtype)
    return logits, rng.integers(classes, size=rows, dtype=np.int32)


def torch_thunk(
    torch: ModuleType, logits: np.ndarray, labels: np.ndarray, mode: str
) -> timing.Thunk:
    """Make a call of torch's loss in the same mode, on its own copy of the logits."""
    x = torch.tensor(logits, requires_grad=mode != "forward")
    y = torch.tensor(labels, dtype=torch.int64)

    def value_and_grad() -> tuple[Any, Any]:
        loss = torch.nn.functional.cross_entropy(x, y)
        return loss.detach(), torch.autograd.grad(loss, x)[0]

    def step() -> Any:
        _, gradient = value_and_grad()
        with torch.no_grad():
            return x.sub_(gradient, alpha=LEARNING_RATE)

    match mode:
        case "forward":
            return lambda: torch.nn.functional.cross_entropy(x, y)
        case "value_and_grad":
            return value_and_grad
        case "SGD step":
            return step
    raise ValueError(f"mode: expected one of {cases.MODES}, got {mode!r}")
