"""The arguments of the measures of pmfs, checked and brought into one form.

The measures themselves, in `_special` and `_special_log`, take outcomes along the last axis (of a
joint pmf, pairs along the last two), one shape and one dtype, and p = 0 where a mask leaves an
outcome out.
"""

import math
from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array
from numpy.lib.array_utils import normalize_axis_tuple

from xentjax import _special, _special_log
from xentjax._checks import (
    check_array,
    check_bool,
    check_choice,
    check_floating,
    check_scalar,
    concrete,
    fail,
)
from xentjax._dtypes import compute_dtype

_COUNTS = "; counts go through empirical_pmf, or entropy_estimate"


def outcomes_last(
    axis: int | Sequence[int], where: ArrayLike | None, form: str, **pmfs: ArrayLike
) -> tuple[list[Array], float]:
    """Each pmf, or log pmf, as [..., K] whatever the axis or axes of its outcomes, of one shape;
    and how far rounding may part their sums, relative to these."""
    arrays, axes, tolerance = _check_arrays("axis", axis, where, form, pmfs)
    if axes != (arrays[0].ndim - 1,):
        arrays = [jnp.moveaxis(array, axes, range(-len(axes), 0)) for array in arrays]
        arrays = [array.reshape(*array.shape[: -len(axes)], -1) for array in arrays]
    return [_special_log.log_softmax(a) for a in arrays] if form == "logits" else arrays, tolerance


def pairs_last(
    axes: tuple[int, int], where: ArrayLike | None, form: str, joint: ArrayLike
) -> tuple[Array, float]:
    """The joint pmf, or its logarithm, as [..., X, Y]; and how far its sum may be from 1."""
    (array,), checked, tolerance = _check_arrays("axes", axes, where, form, {"joint": joint})
    pairs = jnp.moveaxis(array, checked, (-2, -1))
    if form != "logits":
        return pairs, tolerance
    flat = pairs.reshape(*pairs.shape[:-2], -1)
    return _special_log.log_softmax(flat).reshape(pairs.shape), tolerance


def measures(form: str) -> ModuleType:
    """The module whose functions take what `outcomes_last` and `pairs_last` return."""
    return _special if form == "pmf" else _special_log


def check_pmf_named(
    name: str,
    p: ArrayLike,
    axis: int | Sequence[int] = -1,
    *,
    atol: float | None = None,
    hint: str = _COUNTS,
) -> None:
    """Raise unless the argument `name` is a pmf, as `xentjax.check_pmf` says of its own."""
    array = _check_probabilities(name, p, hint)
    axes = _check_axes("axis", axis, array.shape)
    if atol is None:
        atol = _special.sum_tolerance(array.dtype, math.prod(array.shape[i] for i in axes))
    else:
        check_scalar("atol", atol, "a number >= 0", lambda value: value >= 0)
    known = concrete(array)
    if known is not None:
        _check_sums(name, known, axes, atol, hint=hint)


def _check_arrays(
    axis_name: str,
    axis: int | Sequence[int],
    where: ArrayLike | None,
    form: str,
    arrays: dict[str, ArrayLike],
) -> tuple[list[Array], tuple[int, ...], float]:
    """Floating arrays of one shape and precision, p = 0 where `where` leaves an outcome out; the
    axes of their outcomes; and how far rounding may part their sums."""
    check_choice("form", form, ("pmf", "log_pmf", "logits"))
    checked = {name: _check_probabilities(name, array) for name, array in arrays.items()}
    shape: tuple[int, ...] = ()
    for name, array in checked.items():
        try:
            shape = jax.lax.broadcast_shapes(shape, array.shape)
        except ValueError:
            fail(name, f"a shape that broadcasts with {shape}", array.shape)
    keep = None
    if where is not None:
        mask = check_bool("where", where)
        try:
            keep = jnp.broadcast_to(mask, shape)
        except ValueError:
            fail("where", f"a shape that broadcasts to {shape}", mask.shape)
    axes = _check_axes(axis_name, axis, shape)
    if axis_name == "axes" and len(axes) != 2:
        fail("axes", "two axes, of x and of y", repr(axis))

    number = math.prod(shape[i] for i in axes)
    tolerance = math.inf  # what softmax has normalised differs by nothing else
    if form != "logits":
        tolerances = [
            _special.sum_tolerance(array.dtype, number, logarithms=form == "log_pmf")
            for array in checked.values()
        ]
        for (name, array), atol in zip(checked.items(), tolerances, strict=True):
            _check_known(name, array, keep, shape, axes, form, atol)
        tolerance = max(tolerances)

    dtype = compute_dtype(*(array.dtype for array in checked.values()))
    result = [jnp.broadcast_to(array.astype(dtype), shape) for array in checked.values()]
    if keep is not None:
        impossible = 0.0 if form == "pmf" else -jnp.inf
        result = [jnp.where(keep, array, jnp.full_like(array, impossible)) for array in result]
    return result, axes, tolerance


def _check_known(
    name: str,
    array: Array,
    keep: Array | None,
    shape: tuple[int, ...],
    axes: tuple[int, ...],
    form: str,
    atol: float,
) -> None:
    """Of a pmf or log pmf whose values are known: what is kept sums to 1, where anything is."""
    known, mask = concrete(array), None if keep is None else concrete(keep)
    if known is None or (mask is None and keep is not None):
        return
    # Batches that it is broadcast over would be summed again and again, outcomes belong to the sum.
    known = known.reshape((1,) * (len(shape) - known.ndim) + known.shape)
    size = [n if i in axes else known.shape[i] for i, n in enumerate(shape)]
    known = np.broadcast_to(known, size)
    if form == "log_pmf":
        with np.errstate(over="ignore"):
            known = np.exp(known.astype(compute_dtype(known.dtype)))
        name = f"exp({name})"
    if mask is not None:
        known = np.where(mask, known, known.dtype.type(0))
    _check_sums(name, known, axes, atol, judged=True if mask is None else mask.any(axes))


def _check_sums(
    name: str,
    p: np.ndarray,
    axes: tuple[int, ...],
    atol: float,
    *,
    judged: np.ndarray | np.generic | bool = True,
    hint: str = _COUNTS,
) -> None:
    if not p.min(initial=0) >= 0:
        fail(name, "probabilities >= 0", p[~(p >= 0)][0])
    sums = p.sum(axes, dtype=np.float64)
    wrong = judged & ~(np.abs(sums - 1) <= atol)
    if wrong.any():
        digits = 2 - math.floor(math.log10(atol)) if atol > 0 else 17
        expected = f"probabilities with sum 1 within {atol:.2g}"
        fail(name, expected, f"sum {sums[wrong][0]:.{digits}g}{hint}")


def _check_probabilities(name: str, p: ArrayLike, hint: str = _COUNTS) -> Array:
    array = check_array(name, p)
    if jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}{hint}")
    return check_floating(name, array)


def _check_axes(name: str, axis: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        axes = normalize_axis_tuple(axis, len(shape))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        axes = ()
    if not axes:
        fail(name, f"an axis or axes of an array of shape {shape}", repr(axis))
    if 0 in (shape[i] for i in axes):
        fail(name, "at least one outcome", f"axis {axis} of shape {shape}")
    return axes
