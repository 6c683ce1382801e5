"""The cases of `compare`: programs of xentjax only, by name.

A program is made in the process that runs it. Names are looked up only when a case is loaded, so
that a revision without them fails in this case alone.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import cases
from benchmarks.harness.baselines import OURS
from benchmarks.harness.modes import jax_function


class Program(NamedTuple):
    """A function, its arguments, and the indices of arguments whose buffers it may reuse."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    donate: tuple[int, ...] = ()


Maker = Callable[[], Program]

OF_LABELS = ("softmax_focal_loss", "brier_score", "nll_loss")
OF_PMFS = ("softmax_cross_entropy", "poly_loss_cross_entropy")
NORMALIZERS = ("softmax", "log_softmax", "logsumexp")
HEADS = ("log-probs", "log-probs, entropy", "surrogate", "KL", "JS", "top 64", "sample")


def programs(*, quick: bool) -> dict[str, Maker]:
    """Return the makers of all programs, whose calls take a few to some tens of milliseconds."""
    found: dict[str, Maker] = {}
    for case in cases.LOSSES_QUICK if quick else cases.COMPARE_LOSSES:
        found[f"cross-entropy {case.name} {case.mode}"] = partial(_cross_entropy, case)
    rows = cases.LOSSES_QUICK[0] if quick else cases.COMPARE_LOSSES[-1]
    for name in (*OF_LABELS, *OF_PMFS):
        found[f"{name} {rows.name} value_and_grad"] = partial(_loss, name, rows)
    for name in NORMALIZERS:
        found[f"{name} {rows.name} forward"] = partial(_normalizer, name, rows)
    shape = cases.LINEAR_SHAPES_QUICK[0] if quick else cases.COMPARE_LINEAR
    for mode in cases.LINEAR_MODES:
        for keywords in ({}, {"gradients_in_forward": True}):
            case = cases.LinearCase(shape, "float32", mode)
            named = "".join(f", {keyword}" for keyword in keywords)
            found[f"linear {case.name} {mode}{named}"] = partial(_linear, case, keywords)
    head = cases.HeadCase(shape, "float32")
    for name in HEADS:
        found[f"head {name}, {head.name}"] = partial(_head, name, head)
    pmfs = (4, 10) if quick else (1000, 1000)
    for name in ("entropy", "kl_divergence"):
        found[f"{name} {pmfs[0]} × {pmfs[1]}"] = partial(_measure, name, pmfs)
    samples = 1000 if quick else 10**6
    found[f"counts of {samples:,} samples, K = 256"] = partial(_counts, samples)
    return found


def _xentjax(name: str) -> Callable[..., Any]:
    return getattr(importlib.import_module("xentjax"), name)


def _cross_entropy(case: cases.LossCase) -> Program:
    function = partial(_xentjax("softmax_cross_entropy_with_integer_labels"), reduction="mean")
    return _in_mode(function, case)


def _loss(name: str, case: cases.LossCase) -> Program:
    x, labels = _logits(case)
    target = labels if name in OF_LABELS else jax.nn.one_hot(labels, case.shape[1])
    return Program(jax.value_and_grad(partial(_xentjax(name), reduction="mean")), (x, target))


def _in_mode(function: Callable[..., Any], case: cases.LossCase) -> Program:
    x, labels = _logits(case)
    donate = (0,) if case.mode == "SGD step" else ()
    return Program(jax_function(function, case.mode), (x, labels), donate)


def _logits(case: cases.LossCase) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal(case.shape, dtype=np.float32)
    labels = rng.integers(case.shape[1], size=case.shape[0], dtype=np.int32)
    return jnp.asarray(logits), jnp.asarray(labels)


def _normalizer(name: str, case: cases.LossCase) -> Program:
    return Program(partial(_xentjax(name), axis=-1), _logits(case)[:1])


def _linear(case: cases.LinearCase, keywords: dict[str, Any]) -> Program:
    linear = importlib.import_module("benchmarks.linear.implementations")
    loss = partial(linear.xentjax_loss, **keywords)
    function = loss if case.mode == "loss" else jax.value_and_grad(loss, (0, 1))
    return Program(function, tuple(map(jax.numpy.asarray, linear.problem(case.shape))))


def _head(name: str, case: cases.HeadCase) -> Program:
    heads = importlib.import_module("benchmarks.heads.implementations")
    (operation,) = (each for each in heads.operations() if each.name == name)
    args = heads.arguments(operation, OURS, case, heads.given(case.shape))
    return Program(heads.function_of(operation, OURS), args)


def _measure(name: str, shape: tuple[int, int]) -> Program:
    weights = np.random.default_rng(0).exponential(size=(2, *shape)) + 1e-3
    p, q = jnp.asarray(weights / weights.sum(-1, keepdims=True), jnp.float32)
    return Program(_xentjax(name), (p,) if name == "entropy" else (p, q))


def _counts(samples: int) -> Program:
    drawn = np.random.default_rng(0).integers(256, size=samples)
    counts = _xentjax("counts")
    return Program(lambda x: counts(x, 256), (jnp.asarray(drawn, jnp.int32),))
