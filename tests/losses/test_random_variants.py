"""Random numbers through the losses beside the two cross-entropies, against float64.

A table names what is compiled (shape, axes, dtype, keywords); hypothesis draws the numbers, extreme
ones among them, as data of one compiled function a row of the table. Bounds are what the rounding
of float32 log-probabilities, relative to max(1, distance from the largest logit), makes of a value.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import xentjax
from tests.support.oracles import losses as oracles
from tests.support.random_problems import (
    Layout,
    assert_within,
    random_where,
    rounding,
    single,
    spoil,
)
from tests.support.tolerances import RANDOM_GRADIENT, RANDOM_VALUE

LAST = Layout((3,), (7,), (1,), -1)
FIRST = Layout((4,), (5,), (0,), 0)
MIDDLE = Layout((2, 3), (6,), (1,), (-2,))
SEVERAL = Layout((4,), (2, 3), (2, 0), (-1, 0))
ONE_ROW = Layout((), (40,), (0,), (0,))
ONE_CLASS = Layout((4,), (1,), (1,), 1)


@dataclass(frozen=True)
class Case:
    """Everything of one call that decides what is compiled."""

    loss: str
    layout: Layout
    dtype: str = "float32"
    where: str | None = None
    labels: str = "int32"
    weighted: bool = False
    keywords: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = (
            self.dtype,
            self.where,
            self.labels,
            *(f"{k} {v}" for k, v in self.keywords.items()),
        )
        return f"{self.loss}, {self.layout.axis}, " + ", ".join(p for p in parts if p)


@dataclass(frozen=True)
class Numbers:
    """Random numbers for a case."""

    seed: int
    exponent: int
    offset: float

    def logits(self, shape: tuple[int, ...], dtype: str, rng: Any) -> np.ndarray:
        offset = min(self.offset, 1e4) if dtype == "float16" else self.offset
        return (rng.standard_normal(shape) * 10.0**self.exponent + offset).astype(jnp.dtype(dtype))


def for_random_numbers(check: Callable[[Numbers], None]) -> None:
    """Run a check on random numbers, the same at every run."""
    numbers = st.builds(
        Numbers,
        seed=st.integers(0, 2**32 - 1),
        exponent=st.sampled_from([0, 0, 1, 2, 4, -3, -30]),
        offset=st.sampled_from([0.0, 0.0, -30.0, 1e5]),
    )
    settings(max_examples=20, deadline=None, derandomize=True)(given(numbers)(check))()


class Expected(NamedTuple):
    """Expected d loss / d log p_k of each row, and bounds on errors of loss and gradient."""

    slope: np.ndarray
    loss_bound: np.ndarray
    gradient_bound: np.ndarray


def finite(x: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(x), x, 0)


def sizes(log_p: np.ndarray) -> np.ndarray:
    """Sizes that the rounding of log p_k is relative to; 1 at an impossible class."""
    return np.maximum(1, np.abs(finite(log_p - log_p.max(-1, keepdims=True))))


def smallest(dtype: str) -> float:
    """Size below which a result of the dtype has lost digits or is 0."""
    return float(jnp.finfo(dtype).smallest_subnormal if dtype == "float16" else 1e-37)


def poly_loss(log_p, t, _, *, epsilon=2.0, class_weights=1.0):
    """Poly loss in the form of cross-entropy: sum_k w_k t_k f(log p_k)."""
    mass = t * class_weights
    p, slack = np.exp(log_p), 1 + abs(epsilon)
    return Expected(
        -mass * (1 + epsilon * p),
        RANDOM_VALUE * (mass * (sizes(log_p) + abs(epsilon))).sum(-1),
        RANDOM_GRADIENT * slack * mass.sum(-1),
    )


def softmax_focal_loss(log_p, t, _, *, gamma=2.0, class_weights=1.0):
    """Ill-conditioned at p_y = 1, so the bounds are changes under a change of log p_y."""
    weight = (t * class_weights).sum(-1)
    h = -np.where(t == 1, log_p, 0).sum(-1)
    size = np.maximum(1, np.where(t == 1, sizes(log_p), 0).sum(-1))

    def value(h):
        return h * (-np.expm1(-h)) ** gamma

    def slope(h):
        wrong = -np.expm1(-np.maximum(h, 1e-300))
        return wrong**gamma + gamma * h * np.exp(-h) * wrong ** (gamma - 1)

    def change(function, step):
        h_finite = finite(h)
        low, high = (function(np.maximum(h_finite + s * step * size, 0)) for s in (-1, 1))
        return np.abs(high - low) + step * (1 + gamma) * np.abs(function(h_finite))

    s = np.where(h == np.inf, 1, slope(finite(h)))
    return Expected(
        -t * (weight * s)[..., None],
        weight * change(value, RANDOM_VALUE),
        weight * (change(slope, RANDOM_GRADIENT) + RANDOM_GRADIENT * s),
    )


def brier_score(log_p, t, loss):
    p = np.exp(log_p)
    error = p * sizes(log_p)
    return Expected(
        2 * (p - t) * p,
        RANDOM_VALUE * (loss + (2 * np.abs(p - t) * error).sum(-1)) + RANDOM_VALUE**2,
        RANDOM_GRADIENT * 2 * (p * (p + t)).sum(-1),
    )


SLOPES = {
    "poly_loss_cross_entropy": poly_loss,
    "softmax_focal_loss": softmax_focal_loss,
    "brier_score": brier_score,
}
CASES = [
    Case("poly_loss_cross_entropy", LAST, labels="float32"),
    Case("poly_loss_cross_entropy", FIRST, "bfloat16", "classes", "float32", True,
         {"epsilon": -1.0}),
    Case("poly_loss_cross_entropy", MIDDLE, "float16", "rows", "bfloat16", True,
         {"epsilon": 0.5, "reduction": "mean"}),
    Case("poly_loss_cross_entropy", SEVERAL, "float32", "shared", "int32", False,
         {"epsilon": 10.0, "reduction": "sum"}),
    Case("softmax_focal_loss", LAST, keywords={"gamma": 0.5}),
    Case("softmax_focal_loss", FIRST, "bfloat16", "classes", "int8", True, {"gamma": 2.0}),
    Case("softmax_focal_loss", MIDDLE, "float16", "rows", "uint8", True,
         {"gamma": 1.0, "reduction": "mean", "ignore_index": 0}),
    Case("softmax_focal_loss", SEVERAL, "float32", "size 1",
         keywords={"gamma": 5.0, "reduction": "sum", "ignore_index": -1}),
    Case("softmax_focal_loss", ONE_CLASS, "float32", keywords={"gamma": 0.0}),
    Case("brier_score", LAST, "float32", "classes"),
    Case("brier_score", FIRST, "bfloat16", "one row", "float32"),
    Case("brier_score", MIDDLE, "float16", "rows", "uint8",
         keywords={"reduction": "mean", "ignore_index": 2}),
    Case("brier_score", SEVERAL, "float32", "classes", "float32", keywords={"reduction": "sum"}),
    Case("brier_score", ONE_ROW, "float32", None, "bfloat16"),
]  # fmt: skip


def random_rows(case: Case, numbers: Numbers, rng: Any):
    """Logits with the classes last, which classes and rows are kept, and `where` as it is there."""
    layout = case.layout
    x = numbers.logits((*layout.rows, layout.num_classes), case.dtype, rng)
    where = random_where(case.where, layout, rng)
    mask, keep = oracles.masks(x, -1, where)
    return x, mask, keep, where


def passed(where: np.ndarray | None, layout: Layout) -> dict[str, Any]:
    """`where` as a keyword, with the classes on their axes."""
    if where is None:
        return {}
    return {"where": layout.array(where) if where.ndim > len(layout.rows) else where}


def random_indices(case: Case, keep: np.ndarray, rng: Any):
    """Class indices, some of them bad or ignored; which are bad; the rows that count."""
    k, ignored = case.layout.num_classes, case.keywords.get("ignore_index")
    labels = np.asarray(rng.integers(0, k, case.layout.rows))
    if case.keywords.get("reduction") != "mean" and rng.random() < 0.3:
        labels[rng.random(labels.shape) < 0.4] = rng.choice([k, k + 5, 127])
    if ignored is not None and ignored >= np.iinfo(case.labels).min:
        labels[rng.random(labels.shape) < 0.4] = ignored
        keep = keep & (labels != ignored)
    return labels.astype(case.labels), keep & (labels >= k), keep


def random_targets(case: Case, rng: Any) -> np.ndarray:
    """Probabilities, some of them 0, or one-hot rows of integers."""
    shape = (*case.layout.rows, case.layout.num_classes)
    if case.labels == "int32":
        return np.eye(shape[-1], dtype=np.int32)[rng.integers(0, shape[-1], shape[:-1])]
    mass = rng.gamma(0.5, size=shape) * (rng.random(shape) < 0.8)
    return (mass / np.maximum(mass.sum(-1, keepdims=True), 1e-3)).astype(jnp.dtype(case.labels))


def evaluator(case: Case) -> Callable[..., tuple[Any, ...]]:
    """Losses and gradients of one call in what it takes first, compiled once."""
    keywords = {k: single(v) if isinstance(v, float) else v for k, v in case.keywords.items()}
    if not case.loss.startswith("sigmoid"):
        keywords["axis"] = case.layout.axis

    @jax.jit
    def evaluate(x, labels, arrays):
        def total(x):
            losses = getattr(xentjax, case.loss)(*x, *labels, **keywords, **arrays)
            return jnp.sum(losses), losses

        (_, losses), gradients = jax.value_and_grad(total, has_aux=True)(x)
        return losses, *gradients

    def checked(x, labels=(), **arrays):
        losses, *gradients = evaluate(x, labels, arrays)
        assert losses.dtype == jnp.float32
        assert all(gradient.dtype == case.dtype for gradient in gradients)
        return losses, *gradients

    return checked


def check_reduced(got, loss, bound, reduction: str, denominator: float) -> float:
    """Compares what is reduced, and returns the share that each row has in it."""
    if reduction == "none":
        assert_within(got, loss, bound)
        return 1.0
    share = 1.0 if reduction == "sum" else 1 / denominator if denominator else 0.0
    with np.errstate(invalid="ignore"):
        assert_within(got, share * np.sum(loss) if share else 0.0, share * np.sum(bound))
    return share


def spread(x: np.ndarray, target: np.ndarray) -> np.ndarray:
    """One number a row as one an element."""
    return np.broadcast_to(x[..., None], target.shape)


def gradient_of(slope: np.ndarray, log_p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """d loss / d logits from d loss / d log p, and the size of the terms that make it."""
    total, size = (x.sum(-1, keepdims=True) for x in (slope, np.abs(slope)))
    return slope - np.exp(log_p) * total, np.broadcast_to(size, slope.shape)


def check_gradient(got, expected, bound, terms) -> None:
    """Compare gradients; in half precision each term is rounded before they are added."""
    dtype = str(got.dtype)
    bound = np.broadcast_to(bound, expected.shape)
    assert_within(got, expected, bound + rounding(dtype) * terms + smallest(dtype))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_losses_of_labels(case):
    layout, soft = case.layout, case.loss == "poly_loss_cross_entropy" or "f" in case.labels
    exponents = {k: single(v) for k, v in case.keywords.items() if k in ("epsilon", "gamma")}
    oracle = getattr(oracles, case.loss.removesuffix("_cross_entropy"))
    reduction, evaluate = case.keywords.get("reduction", "none"), evaluator(case)

    def check(numbers):
        rng = np.random.default_rng(numbers.seed)
        x, mask, keep, where = random_rows(case, numbers, rng)
        k, bad = layout.num_classes, np.zeros(keep.shape, bool)
        if soft:
            labels = random_targets(case, rng)
            t = np.where(mask, labels.astype(np.float64), 0)
        else:
            labels, bad, keep = random_indices(case, keep, rng)
            t = 1.0 * (np.arange(k) == labels[..., None])
        weights: Any = {}
        if case.weighted:
            w = (rng.gamma(1.0, size=k) * (rng.random(k) < 0.8)).astype(np.float32)
            weights = {"class_weights": w}
        spoil(x, mask & keep[..., None], rng)
        given = layout.array(labels) if soft else labels
        losses, gradient = evaluate(
            (layout.array(x),), (given,), **passed(where, layout), **weights
        )

        kept_labels = labels.astype(np.float64) if soft else np.where(bad | ~keep, 0, labels)
        with np.errstate(invalid="ignore"):
            values = oracle(x, kept_labels, -1, where, **exponents, **weights)
            log_p, _ = oracles.log_softmax(np.where(keep[..., None], x, 0), -1, where)
            expected = SLOPES[case.loss](log_p, t, values, **exponents, **weights)
        loss, slope, loss_bound, gradient_bound = (
            np.where(keep if v.ndim == keep.ndim else keep[..., None], v, 0)
            for v in (values, *expected)
        )
        denominator = (keep * (t @ weights.get("class_weights", np.ones(k)))).sum()
        share = check_reduced(
            losses, np.where(bad, np.nan, loss), loss_bound, reduction,
            keep.sum() if soft else denominator,
        )  # fmt: skip
        full, _ = gradient_of(slope, log_p)
        full = share * np.where(bad[..., None], np.nan, np.where(mask, full, 0))
        bound = share * spread(gradient_bound, x)
        check_gradient(gradient, *map(layout.array, (full, bound, bound / RANDOM_GRADIENT)))

    for_random_numbers(check)


KL_CASES = [
    Case("kl_divergence_with_logits", LAST),
    Case("kl_divergence_with_logits", FIRST, "bfloat16", "classes", keywords={"temperature": 4.0}),
    Case("kl_divergence_with_logits", MIDDLE, "float16", "rows",
         keywords={"temperature": 0.5, "reduction": "mean"}),
    Case("kl_divergence_with_logits", SEVERAL, "float32", "shared",
         keywords={"temperature": 7.0, "reduction": "sum"}),
    Case("kl_divergence_with_logits", ONE_CLASS, "float32", "one row"),
]  # fmt: skip


@pytest.mark.parametrize("case", KL_CASES, ids=str)
def test_kl_divergence(case):
    """Gradients in both arguments; where the loss is infinite, the teacher's has no limit."""
    layout, temperature = case.layout, case.keywords.get("temperature", 1.0)
    reduction, evaluate = case.keywords.get("reduction", "none"), evaluator(case)

    def check(numbers):
        rng = np.random.default_rng(numbers.seed)
        x, mask, keep, where = random_rows(case, numbers, rng)
        # Anything from the same logits to others.
        distance = rng.choice([0.0, 1e-3, 0.1, 1.0])
        y = (x.astype(np.float64) + distance * rng.standard_normal(x.shape)).astype(x.dtype)
        for z in (x, y):
            spoil(z, mask & keep[..., None], rng)
        with np.errstate(invalid="ignore"):
            log_p, _ = oracles.log_softmax(
                np.where(keep[..., None], x, 0).astype(np.float64) / temperature, -1, where
            )
        # A probability that float32 does not hold costs nothing where the student has none.
        x[mask & (y == -np.inf) & (log_p < np.log(1e-37))] = -np.inf
        losses, *gradients = evaluate((layout.array(x), layout.array(y)), **passed(where, layout))

        rows = keep[..., None]
        a, b = (np.where(rows, z, 0).astype(np.float64) / temperature for z in (x, y))
        with np.errstate(invalid="ignore"):
            loss = oracles.kl_divergence_with_logits(x, y, temperature, axis=-1, where=where)
            (log_p, _), (log_q, _) = (oracles.log_softmax(z, -1, where) for z in (a, b))
            p, q = np.exp(log_p), np.exp(log_q)
            d = np.where(p > 0, log_p - log_q, 0)
        # Divided by a temperature, logits are rounded at their full size.
        size_p, size_q = (
            sizes(log_z)
            + (temperature != 1) * np.abs(finite(np.where(mask, z, 0))).max(-1, keepdims=True)
            for log_z, z in ((log_p, a), (log_q, b))
        )
        error = RANDOM_VALUE * np.maximum(size_p, size_q)
        # To second order: near the minimum the first vanishes.
        loss_bound = (p * np.abs(finite(d)) * error + np.abs(p - q) * error).sum(-1)
        loss_bound += (np.maximum(p, q) * error**2).sum(-1)
        loss_bound = np.where(keep, loss_bound + RANDOM_VALUE * finite(loss), 0)
        share = check_reduced(losses, loss, loss_bound, reduction, keep.sum())

        error *= RANDOM_GRADIENT / RANDOM_VALUE
        for slope, log_z, got, kept in (
            (p * finite(d), log_p, gradients[0], rows & np.isfinite(loss)[..., None]),
            (-p, log_q, gradients[1], rows),
        ):
            full, terms = gradient_of(slope, log_z)
            z = np.exp(log_z)
            bound = (np.abs(terms) + p + z * (1 + p.sum(-1, keepdims=True))) * error
            bound += z * (p * error).sum(-1, keepdims=True)
            full, bound, terms = (
                share / temperature * np.where(mask & rows, v, 0) for v in (full, bound, terms)
            )
            got = np.where(layout.array(kept | ~rows & mask), got, 0).astype(got.dtype)
            check_gradient(got, *map(layout.array, (np.where(kept, full, 0), bound, terms)))

    for_random_numbers(check)


NLL_CASES = [
    Case("nll_loss", LAST, "float32", "classes", "int32", True),
    Case("nll_loss", MIDDLE, "bfloat16", "rows", "uint8", True,
         {"reduction": "mean", "ignore_index": 1}),
    Case("nll_loss", SEVERAL, "float16", None, "int8", False, {"ignore_index": -1}),
    Case("nll_loss", FIRST, "float32", "size 1", "int32", False, {"reduction": "sum"}),
]  # fmt: skip


@pytest.mark.parametrize("case", NLL_CASES, ids=str)
def test_nll_loss(case):
    """Linear in what it is given, of any size."""
    layout, evaluate = case.layout, evaluator(case)
    reduction = case.keywords.get("reduction", "none")

    def check(numbers):
        rng = np.random.default_rng(numbers.seed)
        x, mask, keep, where = random_rows(case, numbers, rng)
        labels, bad, keep = random_indices(case, keep, rng)
        weights: Any = {}
        if case.weighted:
            weights = {"class_weights": rng.gamma(1.0, size=x.shape[-1]).astype(np.float32)}
        spoil(x, mask & keep[..., None], rng)
        losses, gradient = evaluate(
            (layout.array(x),), (labels,), **passed(where, layout), **weights
        )

        t = 1.0 * (np.arange(x.shape[-1]) == labels[..., None])
        w = t @ weights.get("class_weights", np.ones(x.shape[-1]))
        safe = np.where(bad | ~keep, 0, labels)
        loss = np.where(keep, oracles.nll_loss(x, safe, -1, where, **weights), 0)
        bound = RANDOM_VALUE * np.abs(finite(loss))
        loss = np.where(bad, np.nan, loss)
        share = check_reduced(losses, loss, bound, reduction, (w * keep).sum())
        full = -np.where(mask & keep[..., None], t * w[..., None], 0) * share
        terms = np.abs(full)
        full = np.where(bad[..., None], np.nan, full)
        check_gradient(gradient, *map(layout.array, (full, RANDOM_GRADIENT * terms, terms)))

    for_random_numbers(check)


NORMALIZED_CASES = [
    Case(name, *arguments)
    for name in ("log_softmax", "softmax", "logsumexp")
    for arguments in (
        (LAST, "float32", "classes"),
        (SEVERAL, "float32", None),
        (MIDDLE, "bfloat16", "rows"),
        (FIRST, "float16", "shared"),
    )
]


@pytest.mark.parametrize("case", NORMALIZED_CASES, ids=str)
def test_normalized(case):
    """Value and vector-Jacobian product with numbers that half precision holds exactly."""
    layout, of_rows = case.layout, case.loss == "logsumexp"

    @jax.jit
    def evaluate(x, v, arrays):
        value, pullback = jax.vjp(
            lambda x: getattr(xentjax, case.loss)(x, layout.axis, **arrays), x
        )
        v = jnp.where(jnp.isfinite(value), v, 0).astype(value.dtype)
        return value, pullback(v)[0]

    def check(numbers):
        rng = np.random.default_rng(numbers.seed)
        x, mask, keep, where = random_rows(case, numbers, rng)
        if where is not None and where.ndim < x.ndim:  # rows, which are masked class by class
            where = where[..., None]
        spoil(x, mask & keep[..., None], rng)
        v = rng.integers(-8, 9, layout.rows if of_rows else x.shape) / 4
        value, gradient = evaluate(
            layout.array(x),
            (v if of_rows else layout.array(v)).astype(np.float32),
            passed(where, layout),
        )
        assert value.dtype == gradient.dtype == case.dtype

        mask = mask & keep[..., None]
        with np.errstate(invalid="ignore"):
            log_p, _ = oracles.log_softmax(x, -1, where)
        log_p = np.where(mask, log_p, -np.inf)
        p, size = np.exp(log_p), sizes(np.where(keep[..., None], log_p, 0))
        if of_rows:
            largest = np.where(mask, x, -np.inf).astype(np.float64).max(-1, keepdims=True)
            with np.errstate(invalid="ignore"):
                first = (largest - log_p.max(-1, keepdims=True))[..., 0]
            expected = np.where(keep, first, -np.inf)
            bound = 1 + np.abs(finite(expected))
        elif case.loss == "softmax":
            expected, bound = p, p * size
        else:
            expected, bound = log_p, size
        with np.errstate(over="ignore"):
            expected = expected.astype(jnp.dtype(case.dtype)).astype(np.float64)
        bound = RANDOM_VALUE * bound + rounding(case.dtype) * np.abs(finite(expected))
        bound += smallest(case.dtype)
        if of_rows:
            assert_within(value, expected, bound)
            full = v[..., None] * p
            terms = np.abs(full)
            bound = RANDOM_GRADIENT * terms * size
        else:
            assert_within(value, *map(layout.array, (expected, bound)))
            v = np.where(np.isfinite(expected), v, 0)
            full, terms = gradient_of(v if case.loss == "log_softmax" else v * p, log_p)
            bound = RANDOM_GRADIENT * terms
        check_gradient(gradient, *map(layout.array, (full, bound, terms)))

    for_random_numbers(check)


BINARY_CASES = [
    Case("sigmoid_binary_cross_entropy", LAST, labels="float32"),
    Case("sigmoid_binary_cross_entropy", FIRST, "bfloat16", "classes", "int8", True),
    Case("sigmoid_binary_cross_entropy", MIDDLE, "float16", "size 1", "bool", True,
         {"reduction": "mean"}),
    Case("sigmoid_focal_loss", LAST, "float32", "shared", "float32", True),
    Case("sigmoid_focal_loss", FIRST, "bfloat16", None, "int32", True, {"reduction": "sum"}),
    Case("sigmoid_focal_loss", MIDDLE, "float16", "classes", "bfloat16", False,
         {"reduction": "mean"}),
]  # fmt: skip


def binary_gradient(a, t, *, pos_weight=1.0, gamma=0.0, alpha=None):
    """d loss / d logits, the sum of its terms' sizes, and how many roundings each has in it."""
    log_p, log_not_p = -np.logaddexp(0, -a), -np.logaddexp(0, a)
    yes, no = pos_weight * t * np.exp(log_not_p), (1 - t) * np.exp(log_p)
    # log(1 - p_t), and its slope by the shares of "no" and "yes" in it.
    with np.errstate(divide="ignore"):
        log_no, log_yes = np.log(1 - t) + log_p, np.log(t) + log_not_p
    log_wrong = np.logaddexp(log_no, log_yes)
    no_share, yes_share = (
        np.exp(log_no - log_wrong + log_not_p),
        np.exp(log_yes - log_wrong + log_p),
    )
    entropy = -t * log_p - (1 - t) * log_not_p
    weight = np.exp(gamma * log_wrong)
    if alpha is not None:
        weight *= alpha * t + (1 - alpha) * (1 - t)
    gradient = weight * (no - yes + gamma * entropy * (no_share - yes_share))
    size = weight * (no + yes + gamma * entropy * (no_share + yes_share))
    return gradient, size, 1 + gamma * (1 + np.abs(log_wrong))


@pytest.mark.parametrize("case", BINARY_CASES, ids=str)
def test_binary_losses(case):
    """Sums of positive terms: right relative to these, however small they are."""
    focal, evaluate = case.loss == "sigmoid_focal_loss", evaluator(case)
    reduction = case.keywords.get("reduction", "none")

    def check(numbers):
        rng = np.random.default_rng(numbers.seed)
        x, _, _, where = random_rows(case, numbers, rng)
        keep = np.broadcast_to(True if where is None else where, x.shape)
        if "f" in case.labels:
            labels = rng.choice([0.0, 1.0, 0.5, rng.random()], x.shape)
        else:
            labels = rng.integers(0, 2, x.shape)
        labels = labels.astype(jnp.dtype(case.labels))
        bad = np.zeros(x.shape, bool)
        if case.labels.startswith("int") and rng.random() < 0.3:
            bad = keep & (rng.random(x.shape) < 0.2)
            labels = np.where(bad, rng.choice([-1, 2, 100]), labels).astype(labels.dtype)
        spoil(x, keep, rng)
        x = np.where(x == -np.inf, np.where(keep, np.asarray(-1e4, x.dtype), x), x)
        questions = x.shape[-1]
        factors: dict[str, Any] = {}
        if focal:
            factors["gamma"] = rng.choice([0, 0.5, 2, 5], questions).astype(np.float32)
            if case.weighted:
                factors["alpha"] = rng.choice([0, 0.25, 1], questions).astype(np.float32)
        elif case.weighted:
            factors["pos_weight"] = rng.choice([0, 0.5, 3], questions).astype(np.float32)
        losses, gradient = evaluate((x,), (labels,), where=where, **factors)

        a, t = (np.where(keep & ~bad, v, 0).astype(np.float64) for v in (x, labels))
        factors = {k: v.astype(np.float64) for k, v in factors.items()}
        loss = np.where(keep, getattr(oracles, case.loss)(a, t, **factors), 0)
        full, size, condition = binary_gradient(a, t, **factors)
        bound = np.where(keep, RANDOM_VALUE * condition * loss, 0) + smallest("float32")
        share = check_reduced(losses, np.where(bad, np.nan, loss), bound, reduction, keep.sum())
        full, bound = (
            share * np.where(keep, v, 0) for v in (full, RANDOM_GRADIENT * condition * size)
        )
        check_gradient(gradient, np.where(bad, np.nan, full), bound, np.abs(full))

    for_random_numbers(check)
