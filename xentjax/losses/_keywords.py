"""The keywords of the cross-entropies, each checked once, on the host."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import check_whole
from xentjax._core.checks import (
    check_choice,
    check_flag,
    check_floating,
    concrete,
    raise_value_error,
    real_scalar,
)
from xentjax._core.choices import Reduction
from xentjax._core.dtypes import compute_dtype
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Rows, Scalars


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("label_smoothing", "z_loss"),
    meta_fields=("reduction", "return_stats", "implementation"),
)
@dataclass(frozen=True)
class Keywords:
    """Parsed keywords of a cross-entropy; None for an absent term."""

    label_smoothing: Float[Array, ""] | None = None
    z_loss: Float[Array, ""] | None = None
    reduction: str = "none"
    return_stats: bool = False
    implementation: str | None = None


def with_keywords(
    rows: Rows,
    split: SplitClasses | None,
    *,
    class_weights: ArrayLike | None,
    label_smoothing: ArrayLike,
    z_loss: ArrayLike,
    logit_soft_cap: ArrayLike | None,
    temperature: ArrayLike,
    reduction: str,
    return_stats: bool,
    implementation: str | None,
) -> tuple[Rows, Keywords]:
    """Check the keywords; return the rows with weights and scalars, and the other keywords."""
    check_choice("reduction", reduction, Reduction)
    if implementation is not None:
        check_implementation(implementation)
    check_flag("return_stats", return_stats)
    weights = None
    if class_weights is not None:
        num_classes = rows.logits.shape[-1] if split is None else split.num_classes
        weights = class_weight_vector(class_weights, num_classes)
    soft_cap, divisor, smoothing, z_weight = scalar_keywords(
        rows.logits.dtype,
        (SOFT_CAP, logit_soft_cap),
        (TEMPERATURE, temperature),
        (LABEL_SMOOTHING, label_smoothing),
        (Z_LOSS, z_loss),
    )
    if split is not None:
        check_whole(
            split.axis_name,
            class_weights=weights,
            logit_soft_cap=soft_cap,
            temperature=divisor,
            label_smoothing=smoothing,
            z_loss=z_weight,
        )
    rows = rows._replace(class_weights=weights, scalars=Scalars(soft_cap, divisor))
    return rows, Keywords(smoothing, z_weight, reduction, return_stats, implementation)


class Scalar(NamedTuple):
    """A keyword that is one real number."""

    name: str
    expected: str
    holds: Callable[[np.ndarray], Any]
    """Whether a value is allowed; it must also be allowed once rounded to the compute dtype."""
    neutral: float | None
    """Value that has no effect."""
    largest: Callable[[np.dtype], float] | None = None
    """Limit for a compute dtype: larger values are replaced by it, without effect on results."""


def _largest_cap(dtype: np.dtype) -> float:
    """Return the largest soft cap c for which a / c does not underflow if |a| >= eps / 8."""
    limits = jnp.finfo(dtype)
    return float(limits.eps / 8 / limits.tiny)


LABEL_SMOOTHING = Scalar("label_smoothing", "a number in [0, 1]", lambda x: 0 <= x <= 1, 0.0)
Z_LOSS = Scalar("z_loss", "a finite number >= 0", lambda x: 0 <= x < np.inf, 0.0)
SOFT_CAP = Scalar(
    "logit_soft_cap", "a finite number > 0 or None", lambda x: 0 < x < np.inf, None, _largest_cap
)
TEMPERATURE = Scalar("temperature", "a finite number > 0", lambda x: 0 < x < np.inf, 1.0)


def scalar_keywords(
    dtype: DTypeLike, *keywords: tuple[Scalar, ArrayLike | None]
) -> list[Float[Array, ""] | None]:
    """Return the checked keywords in the compute dtype; None for one known to have no effect."""
    values = []
    for scalar, value in keywords:
        neutral = scalar.neutral
        nothing = value is neutral or (type(value) in (int, float) and value == neutral)
        values.append(None if nothing else _scalar(scalar, value, dtype))
    return values


def _scalar(scalar: Scalar, value: Any, dtype: DTypeLike) -> Float[Array, ""]:
    name, expected, holds = scalar.name, scalar.expected, scalar.holds
    value = real_scalar(name, value, expected)  # raises a TypeError for None
    dtype = np.dtype(compute_dtype(dtype))
    largest = np.inf if scalar.largest is None else scalar.largest(dtype)
    known = concrete(value)
    if known is None:
        return jnp.asarray(value if largest == np.inf else jnp.minimum(value, largest), dtype)
    if not holds(known):
        raise_value_error(name, expected, known)
    with np.errstate(over="ignore"):
        rounded = known.astype(dtype)
    if np.abs(rounded) < np.finfo(dtype).tiny:  # XLA takes it for 0
        rounded = np.zeros((), dtype)
    if not holds(rounded):
        raise_value_error(name, f"{expected} in {dtype}", known)
    return jnp.asarray(np.minimum(rounded, dtype.type(largest)))


def class_weight_vector(weights: ArrayLike, num_classes: int) -> Float[Array, " K"]:
    """Check the class weights: one finite number per class, which may be negative."""
    weights = check_floating("class_weights", weights)
    if weights.shape != (num_classes,):
        raise_value_error(
            "class_weights", f"one weight a class, shape {(num_classes,)}", weights.shape
        )
    known = concrete(weights)
    if known is not None and not (finite := np.isfinite(known)).all():
        k = int(np.argmin(finite))
        raise_value_error("class_weights", "finite weights", f"{known[k]} for class {k}")
    return weights


def with_class_weights(rows: Rows, weights: ArrayLike | None) -> Rows:
    """Add checked class weights to the rows, unless they are None."""
    if weights is None:
        return rows
    return rows._replace(class_weights=class_weight_vector(weights, rows.logits.shape[-1]))


def check_names(reduction: str, implementation: str | None = None) -> None:
    """Check the keywords that are names, before jax hashes them as static arguments."""
    check_choice("reduction", reduction, Reduction)
    check_implementation(implementation)


def check_implementation(name: str | None) -> None:
    """Check the name of an implementation, or None."""
    if name is not None:
        check_choice("implementation", name, Implementation)
