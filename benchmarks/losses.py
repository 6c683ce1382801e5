"""Softmax cross-entropy with integer labels, mean over rows: xentjax and its rivals.

All get the same standard normal logits and the same labels, and each is compiled for one mode:
forward, loss and gradient, or an SGD step on the logits that reuses their buffer.
"""

import importlib
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import cases, keywords, machine, timing
from benchmarks.modes import LEARNING_RATE, Loss, jax_function
from benchmarks.report import Cell, Result
from benchmarks.session import Session
from xentjax import softmax_cross_entropy_with_integer_labels

SUBJECT = "xentjax"
TORCH = "torch eager"
NO_TORCH = (
    "torch is not installed: the extra [benchmarks] brings it, on Linux with CUDA's libraries, "
    "5.5 GB in all; its build for CPUs, 0.2 GB, is on PyTorch's own index, named on its "
    "installation page"
)
NOTES = (
    "float32 logits, integer labels, mean over rows; all rivals interleaved in one process",
    "naive: -sum(one_hot * log_softmax) by hand; jax.nn: log_softmax + take_along_axis; "
    "SGD step: logits - 0.1 * gradient in the donated buffer of the logits (torch: in place)",
)
LEGEND = (
    "GB/s: bytes a second; forward reads the logits once; value_and_grad and the SGD step read "
    "them twice (statistics, then gradient) and write them once",
    "limit: the time this machine needs to move those bytes and do nothing else, as a share of "
    "xentjax's time; measured in the same rounds on an array of the same shape (its sum; x + 1 "
    "into a fresh buffer for the gradient, into the donated one for the SGD step). The second read "
    "of a row that is still in the cache is free, so a share above 100% is possible",
)


def xentjax_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The subject."""
    return softmax_cross_entropy_with_integer_labels(logits, labels, reduction="mean")


def naive_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The textbook: -sum(one_hot * log softmax), written by hand and kept from overflowing."""
    one_hot = (labels[:, None] == jnp.arange(logits.shape[-1])[None, :]).astype(logits.dtype)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    log_softmax = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    return -jnp.mean(jnp.sum(one_hot * log_softmax, axis=-1))


def gather_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """jax.nn.log_softmax, then the label's entry."""
    log_softmax = jax.nn.log_softmax(logits, axis=-1)
    return -jnp.mean(jnp.take_along_axis(log_softmax, labels[:, None], axis=-1))


def optax_one_hot_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """optax's loss of pmfs, on one-hot labels."""
    one_hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return jnp.mean(optax.softmax_cross_entropy(logits, one_hot))


def optax_integer_loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """optax's loss of integer labels."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


JAX_LOSSES: dict[str, Loss] = {
    SUBJECT: xentjax_loss,
    "naive": naive_loss,
    "jax.nn": gather_loss,
    "optax one-hot": optax_one_hot_loss,
    "optax integer": optax_integer_loss,
}


def load_torch() -> ModuleType | None:
    """torch on as many threads as XLA has, or None where it is not installed."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    torch.set_num_threads(machine.cores())
    return torch


def torch_thunk(
    torch: ModuleType, logits: np.ndarray, labels: np.ndarray, mode: str
) -> timing.Thunk:
    """torch's own loss in the same mode, on its own copy of the logits."""
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


def problem(case: cases.LossCase) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a case, the same in every run."""
    rng = np.random.default_rng(0)
    rows, classes = case.shape
    logits = rng.standard_normal(case.shape, dtype=np.float32).astype(case.dtype)
    return logits, rng.integers(classes, size=rows, dtype=np.int32)


def measure(case: cases.LossCase, torch: ModuleType | None, session: Session) -> Cell:
    """Compile and time all rivals on one case, with the machine's limits among them."""
    logits, labels = problem(case)
    donated = case.mode == "SGD step"
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    thunks: dict[str, timing.Thunk] = {}
    compiled: dict[str, timing.Compiled] = {}
    for name, loss in JAX_LOSSES.items():
        session.say(f"compiling {name}", log=False)
        function = jax_function(loss, case.mode)
        compiled[name] = timing.compile_apart(function, x, y, donate=(0,) if donated else ())
        call = compiled[name].call
        if donated:
            thunks[name] = timing.thread_state(lambda x, call=call: call(x, y), jnp.array(x))
        else:
            thunks[name] = lambda call=call: call(x, y)
    if torch is not None:
        thunks[TORCH] = torch_thunk(torch, logits, labels, case.mode)

    floor = machine.traffic(case.shape)
    passes = {
        "forward": ("read",),
        "value_and_grad": ("read", "fresh"),
        "SGD step": ("read", "update"),
    }[case.mode]
    seconds = session.interleave(thunks | {name: floor[name] for name in passes})
    limits = [seconds.pop(name) for name in passes]
    return Cell(
        case=case.name,
        mode=case.mode,
        seconds=seconds,
        work=(1 if case.mode == "forward" else 3) * logits.nbytes / 1e9,
        limit_seconds=[sum(parts) for parts in zip(*limits, strict=True)],
        temp_bytes={name: c.temp_bytes for name, c in compiled.items()},
        compile_seconds={name: c.compile_seconds for name, c in compiled.items()},
    )


def run(session: Session) -> Result:
    """Measure every case."""
    limits = machine.measure(quick=session.quick)
    torch = load_torch()
    table = cases.LOSSES_QUICK if session.quick else cases.LOSSES
    cells = session.collect(
        "cross-entropy",
        [(f"{case.name} {case.mode}", case) for case in table],
        lambda case: measure(case, torch, session),
    )
    costs = keywords.measure(cases.KEYWORDS_QUICK if session.quick else cases.KEYWORDS, session)
    return Result(
        name="losses",
        subject=SUBJECT,
        rivals=(*(name for name in JAX_LOSSES if name != SUBJECT), TORCH),
        unit="GB/s",
        cells=tuple(cells),
        machine=limits,
        notes=(*NOTES, *([] if torch else [NO_TORCH])),
        legend=LEGEND,
        extent=session.extent,
        tables=(costs,) if costs.rows else (),
    )
