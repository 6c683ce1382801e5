"""Functions of a linear head: ours, by stored logits, and by a loop over chunks of rows.

The loop is written by hand in JAX libraries for reinforcement learning and distillation: a scan
over chunks of rows, whose logits are recomputed for the gradient (`jax.checkpoint`).
"""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import xentjax
from benchmarks.harness import cases
from benchmarks.harness.baselines import NAIVE, OURS
from benchmarks.linear.implementations import (
    JAX_CCE,
    TOKAMAX,
    jax_implementations as losses_by_jax,
    problem,
)

SCAN = "scan + remat"
LOG_PROBS = "linear_log_probs"
CHUNK = 256
"""Number of rows of a chunk."""
TOP = 64
"""Number k of classes of top-k."""


class Rest(NamedTuple):
    """Arguments of a function other than features [N, D] and kernel [D, K]."""

    labels: Any
    advantage: Any
    old_log_prob: Any
    teacher_x: Any
    teacher_kernel: Any
    rows: Any
    """Index of each row, from which a chunk derives the key of its samples."""


Function = Callable[[jax.Array, jax.Array, Rest], Any]


class Operation(NamedTuple):
    """One function in one mode, with every implementation that has it."""

    name: str
    mode: str
    products: int
    """Matrix products of N D K multiplications with stored logits, without the teacher's."""
    functions: dict[str, Function]
    classes_first: tuple[str, ...] = ()
    """Implementations that take the kernel as [K, D]."""


@lru_cache(maxsize=1)
def given(shape: tuple[int, int, int]) -> tuple[np.ndarray, np.ndarray, Rest]:
    """Make features, kernel and the rest in float32, the same in every run.

    Logits have unit variance, the teacher's too. The teacher has 1.5 D features.
    """
    n, d, k = shape
    x, kernel, labels = problem(shape)
    rng, wide = np.random.default_rng(1), 3 * d // 2
    normal = partial(rng.standard_normal, dtype=np.float32)
    teacher = normal((n, wide)), normal((wide, k)) / np.float32(np.sqrt(wide))
    old = np.float32(0.3) * normal(n) - np.float32(np.log(k) + 0.5)
    return x, kernel, Rest(labels, normal(n), old, *teacher, np.arange(n, dtype=np.int32))


def surrogate(
    log_prob: jax.Array, entropy: jax.Array, advantage: jax.Array, old: jax.Array
) -> jax.Array:
    """Compute the clipped surrogate of each row, with an entropy bonus."""
    ratio = jnp.exp(log_prob - old)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    return -gain - 0.01 * entropy


def _log_softmax(x: jax.Array, kernel: jax.Array) -> jax.Array:
    logits = x @ kernel
    wide = jnp.float64 if logits.dtype == jnp.float64 else jnp.float32
    return jax.nn.log_softmax(logits.astype(wide))


def _log_probs(x: jax.Array, kernel: jax.Array, rest: Rest) -> jax.Array:
    return jnp.take_along_axis(_log_softmax(x, kernel), rest.labels[:, None], 1)[:, 0]


def _log_probs_and_entropy(
    x: jax.Array, kernel: jax.Array, rest: Rest
) -> tuple[jax.Array, jax.Array]:
    log_p = _log_softmax(x, kernel)
    log_prob = jnp.take_along_axis(log_p, rest.labels[:, None], 1)[:, 0]
    return log_prob, -jnp.sum(jnp.exp(log_p) * log_p, -1)


def _kl(x: jax.Array, kernel: jax.Array, rest: Rest) -> jax.Array:
    log_p, log_q = _log_softmax(rest.teacher_x, rest.teacher_kernel), _log_softmax(x, kernel)
    return jnp.sum(jnp.exp(log_p) * (log_p - log_q), -1)


def _js(x: jax.Array, kernel: jax.Array, rest: Rest) -> jax.Array:
    log_p, log_q = _log_softmax(rest.teacher_x, rest.teacher_kernel), _log_softmax(x, kernel)
    log_m = jnp.logaddexp(log_p, log_q) - jnp.log(2.0).astype(log_p.dtype)
    of_p, of_q = (jnp.sum(jnp.exp(a) * (a - log_m), -1) for a in (log_p, log_q))
    return (of_p + of_q) / 2


def _top_k(x: jax.Array, kernel: jax.Array, rest: Rest) -> Any:
    return lax.top_k(_log_softmax(x, kernel), min(TOP, kernel.shape[1]))


def _sample(x: jax.Array, kernel: jax.Array, rest: Rest) -> tuple[jax.Array, jax.Array]:
    log_p = _log_softmax(x, kernel)
    drawn = jax.random.categorical(jax.random.fold_in(jax.random.key(0), rest.rows[0]), log_p)
    return drawn, jnp.take_along_axis(log_p, drawn[:, None], 1)[:, 0]


def _in_chunks(function: Function) -> Function:
    """Compute the function by a scan over chunks of rows; gradients recompute each chunk."""

    def chunked(x: jax.Array, kernel: jax.Array, rest: Rest) -> Any:
        size = CHUNK if x.shape[0] % CHUNK == 0 else x.shape[0]
        by_row = x, rest._replace(teacher_kernel=None)
        chunks = jax.tree.map(lambda a: a.reshape(-1, size, *a.shape[1:]), by_row)

        @jax.checkpoint
        def of_chunk(x: jax.Array, rest: Rest, kernel: jax.Array, teacher_kernel: Any) -> Any:
            return function(x, kernel, rest._replace(teacher_kernel=teacher_kernel))

        def step(_: None, chunk: tuple[jax.Array, Rest]) -> tuple[None, Any]:
            return None, of_chunk(*chunk, kernel, rest.teacher_kernel)

        _, found = lax.scan(step, None, chunks)
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), found)

    return chunked


def _both(function: Function, finish: Callable[[Any, Rest], Any] | None = None) -> dict[str, Any]:
    """Return the function with stored logits and in chunks, each followed by `finish`."""
    both = {NAIVE: function, SCAN: _in_chunks(function)}
    if finish is None:
        return both
    return {name: _followed_by(finish, each) for name, each in both.items()}


def _followed_by(finish: Callable[[Any, Rest], Any], function: Function) -> Function:
    return lambda x, kernel, rest: finish(function(x, kernel, rest), rest)


def _mean(values: jax.Array, _: Rest) -> jax.Array:
    return jnp.mean(values)


def _minus_mean(values: jax.Array, _: Rest) -> jax.Array:
    return -jnp.mean(values)


def _mean_surrogate(values: tuple[jax.Array, jax.Array], rest: Rest) -> jax.Array:
    return jnp.mean(surrogate(*values, rest.advantage, rest.old_log_prob))


def _our_log_probs(x: jax.Array, kernel: jax.Array, rest: Rest, implementation: Any = None) -> Any:
    return xentjax.linear_log_probs(
        x, kernel, rest.labels, return_entropy=True, implementation=implementation
    )


def _our_loss(x: jax.Array, kernel: jax.Array, rest: Rest, implementation: Any = None) -> jax.Array:
    def loss(stats: xentjax.SoftmaxStats, advantage: jax.Array, old: jax.Array) -> jax.Array:
        return surrogate(stats.label_log_prob, stats.entropy, advantage, old)

    inputs = rest.advantage, rest.old_log_prob
    return xentjax.linear_loss(
        loss, x, kernel, rest.labels, inputs=inputs, implementation=implementation
    )


def _our_nll(x: jax.Array, kernel: jax.Array, rest: Rest) -> jax.Array:
    return -jnp.mean(xentjax.linear_log_probs(x, kernel, rest.labels))


def _our_top_k(x: jax.Array, kernel: jax.Array, _: Rest) -> Any:
    return tuple(xentjax.linear_top_k(x, kernel, min(TOP, kernel.shape[1])))


def _our_sample(x: jax.Array, kernel: jax.Array, _: Rest) -> Any:
    return tuple(xentjax.linear_sample(jax.random.key(0), x, kernel))


def _divergence(name: str) -> Function:
    def mean(x: jax.Array, kernel: jax.Array, rest: Rest) -> jax.Array:
        function = getattr(xentjax, name)  # may be missing in an older revision
        return function(rest.teacher_x, rest.teacher_kernel, x, kernel, reduction="mean")

    return mean


def _others() -> dict[str, Function]:
    """Find the installed losses of other packages, which return the mean over rows."""

    def of_labels(loss: Callable[..., jax.Array]) -> Function:
        return lambda x, kernel, rest: loss(x, kernel, rest.labels)

    found = losses_by_jax()
    return {name: of_labels(found[name].loss) for name in (*TOKAMAX, JAX_CCE) if name in found}


def operations() -> tuple[Operation, ...]:
    """Return every function, with its installed baselines."""
    gradients = "value_and_grad"
    kl, js = (_divergence(name) for name in ("linear_kl_divergence", "linear_js_divergence"))
    return (
        Operation(
            "log-probs",
            gradients,
            3,
            {OURS: _our_nll, **_both(_log_probs, _minus_mean), **_others()},
            classes_first=(JAX_CCE,),
        ),
        Operation(
            "log-probs, entropy",
            "forward",
            1,
            {OURS: _our_log_probs, **_both(_log_probs_and_entropy)},
        ),
        Operation(
            "surrogate",
            gradients,
            3,
            {
                OURS: _our_loss,
                LOG_PROBS: lambda *a: _mean_surrogate(_our_log_probs(*a), a[2]),
                **_both(_log_probs_and_entropy, _mean_surrogate),
            },
        ),
        Operation("KL", gradients, 3, {OURS: kl, **_both(_kl, _mean)}),
        Operation("JS", gradients, 3, {OURS: js, **_both(_js, _mean)}),
        Operation(f"top {TOP}", "forward", 1, {OURS: _our_top_k, **_both(_top_k)}),
        Operation("sample", "forward", 1, {OURS: _our_sample, **_both(_sample)}),
    )


def operations_by(implementations: Mapping[str, str]) -> tuple[Operation, ...]:
    """Return the functions with kernels: our implementations under these names, and baselines."""

    def ours(function: Callable[..., Any]) -> dict[str, Function]:
        return {
            name: partial(function, implementation=each) for name, each in implementations.items()
        }

    return (
        Operation(
            "log-probs, entropy",
            "forward",
            1,
            {**ours(_our_log_probs), **_both(_log_probs_and_entropy)},
        ),
        Operation(
            "surrogate",
            "value_and_grad",
            3,
            {**ours(_our_loss), **_both(_log_probs_and_entropy, _mean_surrogate)},
        ),
    )


def work(operation: Operation, shape: tuple[int, int, int]) -> int:
    """Count the operations with stored logits; a teacher adds one product of 1.5 D features."""
    n, d, k = shape
    teacher = 3 * d // 2 if operation.name in ("KL", "JS") else 0
    return 2 * n * k * (operation.products * d + teacher)


def function_of(operation: Operation, name: str) -> Callable[..., Any]:
    """Return the function to compile: with gradients in x and kernel if the mode has them."""
    function = operation.functions[name]
    return function if operation.mode == "forward" else jax.value_and_grad(function, (0, 1))


def arguments(
    operation: Operation, name: str, case: cases.HeadCase, arrays: tuple[Any, Any, Rest]
) -> tuple[Any, ...]:
    """Return the arrays in the dtype of the case and the layout that the implementation expects."""
    x, kernel, rest = arrays
    kernel = kernel.T if name in operation.classes_first else kernel
    x, kernel, *teacher = (
        jnp.asarray(a).astype(case.dtype) for a in (x, kernel, rest.teacher_x, rest.teacher_kernel)
    )
    rest = jax.tree.map(jnp.asarray, rest)
    return x, kernel, rest._replace(teacher_x=teacher[0], teacher_kernel=teacher[1])
