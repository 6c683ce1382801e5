"""The calls that have to come through every transformation of jax, one row for each rule.

A call is a function of arrays alone. Each draw of its arguments is valid, so that every result is
finite or infinite by right, never NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

import xentjax
from xentjax.calibration import expected_calibration_error

N, K, D = 8, 5, 3
Rng = np.random.Generator
Arguments = dict[str, Any]
Draw = Callable[[Rng], Any]


def _normal(*shape: int) -> Draw:
    return lambda rng: rng.standard_normal(shape).astype(np.float32)


def _pmfs(*shape: int) -> Draw:
    def draw(rng: Rng) -> np.ndarray:
        mass = rng.gamma(1.0, size=shape)
        return (mass / mass.sum(-1, keepdims=True)).astype(np.float32)

    return draw


def _labels(rng: Rng) -> np.ndarray:
    return rng.integers(0, K, N).astype(np.int32)


def _kept_classes(rng: Rng) -> np.ndarray:
    return (rng.random((N, K)) < 0.7) | (np.arange(K) == 0)


def _kept_rows(rng: Rng) -> np.ndarray:
    return rng.random(N) < 0.7


def _two_classes(rng: Rng) -> np.ndarray:
    return rng.random((N, K)).argsort(1)[:, :2].astype(np.int32)


def _key(rng: Rng) -> np.ndarray:
    return rng.integers(0, 2**32, 2, np.uint32)


def _positive(*shape: int) -> Draw:
    return lambda rng: rng.uniform(0.5, 2.0, shape).astype(np.float32)


def _counts(rng: Rng) -> np.ndarray:
    return rng.integers(1, 9, K).astype(np.float32)


def _table(rng: Rng) -> np.ndarray:
    return rng.integers(1, 9, (2, 3)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Call:
    """A function of arrays and how its arguments are drawn."""

    name: str
    function: Callable[..., Any]
    draws: dict[str, Draw]
    rows: tuple[str, ...] = ()
    """The arguments with an entry for each of N rows, which devices may share."""
    reverse_only: bool = False

    def arguments(self, rng: Rng) -> dict[str, np.ndarray]:
        """One valid draw of every argument."""
        return {name: np.asarray(draw(rng)) for name, draw in self.draws.items()}

    def __call__(self, arguments: Arguments) -> list[jax.Array]:
        """The result's floating arrays; 0 in place of an infinity, whose slope is no number."""
        leaves = jax.tree.leaves(self.function(**arguments))
        floating = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        return [jnp.where(jnp.isinf(x), 0, x) for x in floating]


class Everything(NamedTuple):
    """Results of a function in both modes of differentiation."""

    values: list[jax.Array]
    gradients: Arguments
    """Gradient of sum_i <values_i, weights_i>."""
    tangents: list[jax.Array]


def everything(
    function: Callable[[Arguments], list[jax.Array]],
    arguments: Arguments,
    weights: list[jax.Array] | None,
    directions: Arguments,
) -> Everything:
    """Values, gradients in all floating arguments, and tangents along `directions` if any.

    Weights of None are ones.
    """
    moving = {n: x for n, x in arguments.items() if jnp.issubdtype(x.dtype, jnp.floating)}

    def of_moving(moving: Arguments) -> list[jax.Array]:
        return function({**arguments, **moving})

    values, pullback = jax.vjp(of_moving, moving)
    if weights is None:
        weights = [jnp.ones_like(x) for x in values]
    tangents = jax.jvp(of_moving, (moving,), (directions,))[1] if directions else []
    return Everything(values, pullback(weights)[0], tangents)


def on_explicit_axes(call: Call, arguments: Arguments, by: str, mesh: Mesh) -> Everything:
    """`everything` of arguments whose rows or classes are split over an Explicit mesh axis.

    The weights are ones.
    """

    def spec(name: str, x: jax.Array) -> P:
        if by == "rows":
            return P("devices") if name in call.rows else P()
        named = name.removeprefix("target_")
        by_class = named in (*call.rows, "class_weights", "kernel", "bias") and x.shape[-1:] == (K,)
        return P(*(None,) * (x.ndim - 1), "devices") if by_class else P()

    with jax.set_mesh(mesh):
        placed = {
            name: jax.device_put(np.asarray(x), NamedSharding(mesh, spec(name, x)))
            for name, x in arguments.items()
        }
        return jax.jit(partial(everything, call))(placed, None, {})


LOGITS: dict[str, Draw] = {"logits": _normal(N, K)}
ROWS: dict[str, Draw] = {**LOGITS, "labels": _labels}
SOFT: dict[str, Draw] = {**LOGITS, "labels": _pmfs(N, K)}
SCALARS: dict[str, Draw] = {
    "label_smoothing": lambda rng: np.float32(rng.uniform(0.1, 0.4)),
    "z_loss": lambda rng: np.float32(rng.uniform(0.01, 0.1)),
    "logit_soft_cap": lambda rng: np.float32(rng.uniform(2, 5)),
    "temperature": lambda rng: np.float32(rng.uniform(0.5, 2)),
}
LAYER: dict[str, Draw] = {"x": _normal(N, D), "kernel": _normal(D, K), "bias": _normal(K)}
LAYERS: dict[str, Draw] = {
    "target_x": _normal(N, 2),
    "target_kernel": _normal(2, K),
    "target_bias": _normal(K),
    **LAYER,
}
PMF: dict[str, Draw] = {"p": _pmfs(N, K)}
PAIR: dict[str, Draw] = {"p": _pmfs(N, K), "q": _pmfs(N, K)}

_integer = xentjax.softmax_cross_entropy_with_integer_labels
_soft = xentjax.softmax_cross_entropy
_linear = xentjax.linear_softmax_cross_entropy


def _by_row(name: str, function: Callable[..., Any], draws: dict[str, Draw], **keywords) -> Call:
    of_rows = ["logits", "labels", "x", "target_x", "where", "p", "q", "log_probs", "indices"]
    rows = tuple(name for name in draws if name in of_rows)
    return Call(name, partial(function, **keywords), draws, rows)


def _surrogate(
    stats: xentjax.SoftmaxStats, advantage: jax.Array, old: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """A clipped surrogate with an entropy bonus, and its ratio."""
    ratio = jnp.exp(stats.label_log_prob - old)
    gain = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage)
    return -gain - 0.1 * stats.entropy, ratio


def _linear_loss(advantage: jax.Array, old: jax.Array, **arrays: Any) -> jax.Array:
    return xentjax.linear_loss(
        _surrogate, **arrays, inputs=(advantage, old), has_aux=True, ignore_index=2,
        reduction="sum",
    )[0]  # fmt: skip


def _pmf_by_steps(counts: jax.Array) -> jax.Array:
    return xentjax.fit_categorical(counts, solver="newton", max_steps=9).pmf


def _posterior(counts: jax.Array, prior: jax.Array, q: jax.Array) -> list[jax.Array]:
    posterior = xentjax.dirichlet_posterior(counts, prior)
    moments = [posterior.mean, posterior.sd, posterior.covariance]
    divergence = posterior.expected_kl(q)
    return [*moments, divergence, posterior.expected_entropy(), xentjax.log_evidence(counts, prior)]


def _weighted_counts(weights: jax.Array) -> jax.Array:
    return xentjax.counts(jnp.arange(weights.size, dtype=jnp.int32) % K, K, weights=weights)


def _calibration_error(probs: jax.Array) -> jax.Array:
    labels = jnp.arange(len(probs), dtype=jnp.int32) % K
    return expected_calibration_error(probs, labels)


def _top_k_kl(log_probs: jax.Array, indices: jax.Array, **keywords: Any) -> jax.Array:
    target = xentjax.TopK(log_probs, indices)
    return xentjax.linear_top_k_kl_divergence(target, **keywords)


def _entropy_of_kept(p: jax.Array, where: jax.Array) -> jax.Array:
    """Entropy of the classes that `where` keeps, whose probabilities have to sum to 1."""
    kept = jnp.where(where, p, 0)
    return xentjax.entropy(kept / kept.sum(-1, keepdims=True), where=where)


CALLS = (
    _by_row("integer", _integer, ROWS),
    _by_row("integer, stats", _integer, ROWS, return_stats=True),
    _by_row("integer, rows", _integer, {**ROWS, "where": _kept_rows}, return_stats=True),
    _by_row("integer, ignored", _integer, ROWS, ignore_index=2, reduction="sum"),
    _by_row(
        "integer, all",
        _integer,
        {**ROWS, "where": _kept_classes, "class_weights": _positive(K), **SCALARS},
    ),
    _by_row("integer, smoothed", _integer, {**ROWS, "label_smoothing": SCALARS["label_smoothing"]}),
    _by_row("soft", _soft, SOFT),
    _by_row("soft, stats", _soft, SOFT, return_stats=True),
    _by_row(
        "soft, all",
        _soft,
        {**SOFT, "where": _kept_classes, "class_weights": _positive(K), **SCALARS},
        return_stats=True,
    ),
    _by_row("soft, mean", _soft, {**SOFT, "where": _kept_rows}, reduction="sum"),
    _by_row("linear", _linear, {**LAYER, "labels": _labels}),
    _by_row("linear, ignored", _linear, {**LAYER, "labels": _labels}, ignore_index=2),
    _by_row("linear, soft", _linear, {**LAYER, "labels": _pmfs(N, K)}, return_stats=True),
    _by_row(
        "linear, all, in tiles",
        _linear,
        {
            **LAYER,
            "labels": _labels,
            "where": _kept_classes,
            "class_weights": _positive(K),
            **SCALARS,
        },
        return_stats=True,
        max_bytes=512,
    ),
    Call(
        "linear, gradients in forward",
        partial(_linear, reduction="sum", gradients_in_forward=True, ignore_index=2),
        {**LAYER, "labels": _labels, "class_weights": _positive(K), **SCALARS},
        ("x", "labels"),
        reverse_only=True,
    ),
    _by_row(
        "linear log-probs",
        partial(xentjax.linear_log_probs, return_entropy=True, ignore_index=2),
        {**LAYER, "labels": _labels, "where": _kept_classes, "temperature": SCALARS["temperature"]},
    ),
    Call(
        "linear loss",
        _linear_loss,
        {
            **LAYER,
            "labels": _labels,
            "advantage": _normal(N),
            "old": _normal(N),
            "temperature": SCALARS["temperature"],
        },
        ("x", "labels", "advantage", "old"),
        reverse_only=True,
    ),
    _by_row(
        "linear kl, all",
        xentjax.linear_kl_divergence,
        {
            **LAYERS,
            "where": _kept_classes,
            "logit_soft_cap": SCALARS["logit_soft_cap"],
            "temperature": SCALARS["temperature"],
        },
    ),
    _by_row(
        "linear js, sum",
        xentjax.linear_js_divergence,
        {
            **LAYERS,
            "where": _kept_rows,
            "weight": lambda rng: np.float32(rng.uniform(0.1, 0.9)),
            "temperature": SCALARS["temperature"],
        },
        reduction="sum",
    ),
    _by_row(
        "linear top-k",
        partial(xentjax.linear_top_k, k=3),
        {**LAYER, "where": _kept_classes, "temperature": SCALARS["temperature"]},
    ),
    _by_row("linear sample", xentjax.linear_sample, {"key": _key, **LAYER, "where": _kept_classes}),
    _by_row(
        "linear top-k kl",
        _top_k_kl,
        {
            "log_probs": lambda rng: np.log(_pmfs(N, 3)(rng)[:, :2]),
            "indices": _two_classes,
            **LAYER,
            "temperature": SCALARS["temperature"],
        },
    ),
    _by_row("brier, indices", xentjax.brier_score, ROWS),
    _by_row("brier, pmfs", xentjax.brier_score, SOFT),
    _by_row("focal", xentjax.softmax_focal_loss, ROWS),
    _by_row("poly", xentjax.poly_loss_cross_entropy, SOFT),
    _by_row("nll", xentjax.nll_loss, {"log_probs": _normal(N, K), "labels": _labels}),
    _by_row("binary", xentjax.sigmoid_binary_cross_entropy, SOFT),
    _by_row(
        "binary focal", xentjax.sigmoid_focal_loss, {**LOGITS, "labels": _pmfs(N, K)}, alpha=0.3
    ),
    _by_row(
        "kl with logits",
        lambda p, q, temperature: xentjax.kl_divergence_with_logits(p, q, temperature),
        {"p": _normal(N, K), "q": _normal(N, K), "temperature": SCALARS["temperature"]},
    ),
    _by_row("logsumexp", partial(xentjax.logsumexp, axis=-1), {**LOGITS, "where": _kept_classes}),
    _by_row("log_softmax", xentjax.log_softmax, LOGITS),
    _by_row("softmax", xentjax.softmax, {**LOGITS, "where": _kept_classes}),
    _by_row("entropy", _entropy_of_kept, {**PMF, "where": _kept_classes}),
    _by_row("cross-entropy", xentjax.cross_entropy, PAIR),
    _by_row("kl", xentjax.kl_divergence, PAIR),
    _by_row("js", xentjax.js_divergence, PAIR),
    _by_row("entropy of logits", partial(xentjax.entropy, form="logits"), {"p": _normal(N, K)}),
    _by_row(
        "kl of logits",
        partial(xentjax.kl_divergence, form="logits"),
        {"p": _normal(N, K), "q": _normal(N, K)},
    ),
    Call(
        "mutual information",
        xentjax.mutual_information,
        {"joint": lambda rng: _pmfs(N * K)(rng).reshape(N, K)},
    ),
    Call("log likelihood", xentjax.log_likelihood, {"q": _pmfs(K), "counts": _counts}),
    Call("score", xentjax.score, {"q": _pmfs(K), "counts": _counts}),
    Call("expected KL", partial(xentjax.expected_kl, n=7), {"p": _pmfs(K)}),
    Call("G-test", lambda q, counts: xentjax.g_test(counts, q), {"q": _pmfs(K), "counts": _counts}),
    Call(
        "chi-squared test",
        lambda q, counts: xentjax.chi_squared_test(counts, q),
        {"q": _pmfs(K), "counts": _counts},
    ),
    Call(
        "power",
        xentjax.power,
        {"p": _pmfs(K), "q": _pmfs(K), "n": lambda rng: np.float32(rng.uniform(1, 9))},
    ),
    Call("independence", xentjax.independence_test, {"table": _table}),
    Call("posterior", _posterior, {"counts": _counts, "prior": _positive(K), "q": _pmfs(K)}),
    Call("KKT certificate", xentjax.kkt_certificate, {"q": _pmfs(K), "counts": _counts}),
    Call("empirical pmf", xentjax.empirical_pmf, {"counts": _counts}),
    Call("fit, by steps", _pmf_by_steps, {"counts": _counts}),
    *(
        Call(f"entropy, {m}", partial(xentjax.entropy_estimate, method=m), {"counts": _counts})
        for m in ("plug_in", "grassberger")
    ),
    Call(
        "intervals",
        partial(xentjax.confidence_intervals, method="wilson"),
        {"counts": _counts},
    ),
    Call("weighted counts", _weighted_counts, {"weights": _positive(N)}),
    Call("calibration error", _calibration_error, {"probs": _pmfs(N, K)}),
)
