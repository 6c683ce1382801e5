"""Cross-entropy of a linear layer, mean over rows: ours and the baselines.

All get the same features, kernel and labels.
"""

import importlib
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import cases, timing
from benchmarks.harness.baselines import NAIVE, OURS, load_if_installed
from xentjax import linear_softmax_cross_entropy

Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

MIB = 2**20
IN_FORWARD = "gradients_in_forward"
BUDGET = "max_bytes=16MiB"
TOKAMAX = ("tokamax xla", "tokamax chunked_xla")
JAX_CCE = "jax-cce"
TORCH_NAIVE, TORCH_CHUNKED = "torch naive", "torch chunked"
BASELINES = (IN_FORWARD, BUDGET, NAIVE, *TOKAMAX, JAX_CCE, TORCH_NAIVE, TORCH_CHUNKED)
WITHOUT_LOGITS = (TOKAMAX[1], JAX_CCE, TORCH_CHUNKED)


class Problem(NamedTuple):
    """Features [N, D], kernel [D, K] that gives logits of unit variance, labels [N]."""

    x: Any
    kernel: Any
    labels: Any


def problem(shape: tuple[int, int, int]) -> Problem:
    """Make a problem of this shape in float32, the same in every run."""
    n, d, k = shape
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d), dtype=np.float32)
    kernel = rng.standard_normal((d, k), dtype=np.float32) / np.float32(np.sqrt(d))
    return Problem(x, kernel, rng.integers(k, size=n, dtype=np.int32))


def naive_loss(x: jax.Array, kernel: jax.Array, labels: jax.Array) -> jax.Array:
    """Compute all logits in the dtype of x, then the loss by optax."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(x @ kernel, labels))


def xentjax_loss(x: jax.Array, kernel: jax.Array, labels: jax.Array, **keywords: Any) -> jax.Array:
    """Compute the loss by xentjax, with these keywords."""
    return linear_softmax_cross_entropy(x, kernel, labels, reduction="mean", **keywords)


class Implementation(NamedTuple):
    """A loss that XLA compiles, and whether it takes the kernel as [K, D]."""

    loss: Loss
    classes_first: bool = False


def jax_implementations() -> dict[str, Implementation]:
    """Find ours and the installed baselines that XLA compiles."""
    found = {
        OURS: Implementation(xentjax_loss),
        IN_FORWARD: Implementation(partial(xentjax_loss, gradients_in_forward=True)),
        BUDGET: Implementation(partial(xentjax_loss, max_bytes=16 * MIB)),
        NAIVE: Implementation(naive_loss),
    }
    if (tokamax := load_if_installed("tokamax")) is not None:
        # Otherwise tokamax parses this program's command line and rejects unknown options.
        importlib.import_module("absl.flags").FLAGS.mark_as_parsed()
        for name in TOKAMAX:
            loss = partial(_tokamax_loss, tokamax, name.split()[1])
            try:
                jax.eval_shape(loss, jnp.ones((8, 8)), jnp.ones((8, 8)), jnp.zeros(8, jnp.int32))
            except ValueError:  # this version does not have it
                continue
            found[name] = Implementation(loss)
    if (jax_cce := load_if_installed("jax_cce")) is not None:
        found[JAX_CCE] = Implementation(jax_cce.linear_cross_entropy, classes_first=True)
    return found


def _tokamax_loss(
    tokamax: ModuleType,
    implementation: str,
    x: jax.Array,
    kernel: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    return tokamax.linear_softmax_cross_entropy_loss(
        x, labels, kernel, reduction="mean", implementation=implementation
    )


def compile_for(implementation: Implementation, case: cases.LinearCase) -> timing.Compiled:
    """Compile an implementation for a case, without allocating its arrays."""
    n, d, k = case.shape
    x = jax.ShapeDtypeStruct((n, d), case.dtype)
    kernel = jax.ShapeDtypeStruct((k, d) if implementation.classes_first else (d, k), case.dtype)
    gradients = case.mode == "value_and_grad"
    function = jax.value_and_grad(implementation.loss, (0, 1)) if gradients else implementation.loss
    return timing.compile_ahead_of_time(function, x, kernel, jax.ShapeDtypeStruct((n,), jnp.int32))


def jax_thunk(
    program: timing.Compiled,
    implementation: Implementation,
    case: cases.LinearCase,
    given: Problem,
) -> timing.Thunk:
    """Make a call of the compiled program on the problem."""
    kernel = given.kernel.T if implementation.classes_first else given.kernel
    x, kernel = (jnp.asarray(a).astype(case.dtype) for a in (given.x, kernel))
    return partial(program.call, x, kernel, jnp.asarray(given.labels))


def torch_thunks(
    torch: ModuleType, case: cases.LinearCase, given: Problem
) -> dict[str, timing.Thunk]:
    """Make calls of torch on copies, kernel [K, D]: naive and, since torch 2.13, chunked."""
    dtype, functional = getattr(torch, case.dtype), torch.nn.functional
    gradients = case.mode == "value_and_grad"
    x, kernel = (torch.tensor(a).to(dtype) for a in (given.x, np.ascontiguousarray(given.kernel.T)))
    y = torch.tensor(given.labels, dtype=torch.int64)
    x.requires_grad_(gradients)
    kernel.requires_grad_(gradients)

    def thunk(loss_of: Callable[..., Any]) -> Any:
        loss = loss_of(x, kernel, y)
        return (loss.detach(), torch.autograd.grad(loss, (x, kernel))) if gradients else loss

    def naive(x: Any, kernel: Any, y: Any) -> Any:
        return functional.cross_entropy(functional.linear(x, kernel), y)

    thunks = {TORCH_NAIVE: partial(thunk, naive)}
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        options = torch.nn.LinearCrossEntropyOptions()
        chunked = partial(functional.linear_cross_entropy, options=options)
        thunks[TORCH_CHUNKED] = partial(thunk, chunked)
    return thunks
