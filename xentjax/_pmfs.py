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


def outcomes_last(
    axis: int | Sequence[int], where: ArrayLike | None, form: str, **pmfs: ArrayLike
) -> list[Array]:
    """Each pmf, or log pmf, as [..., K] whatever the axis or axes of its outcomes, of one shape."""
    arrays = _check_arrays(where, form, pmfs)
    axes = _check_axes("axis", axis, arrays[0].shape)
    if axes != (arrays[0].ndim - 1,):
        arrays = [jnp.moveaxis(array, axes, range(-len(axes), 0)) for array in arrays]
        arrays = [array.reshape(*array.shape[: -len(axes)], -1) for array in arrays]
    return [_special_log.log_softmax(a) for a in arrays] if form == "logits" else arrays


def pairs_last(
    axes: tuple[int, int], where: ArrayLike | None, form: str, joint: ArrayLike
) -> Array:
    """The joint pmf, or its logarithm, as [..., X, Y]."""
    (array,) = _check_arrays(where, form, {"joint": joint})
    checked = _check_axes("axes", axes, array.shape)
    if len(checked) != 2:
        fail("axes", "two axes, of x and of y", repr(axes))
    pairs = jnp.moveaxis(array, checked, (-2, -1))
    if form != "logits":
        return pairs
    flat = pairs.reshape(*pairs.shape[:-2], -1)
    return _special_log.log_softmax(flat).reshape(pairs.shape)


def measures(form: str) -> ModuleType:
    """The module whose functions take what `outcomes_last` and `pairs_last` return."""
    return _special if form == "pmf" else _special_log


def rounding(form: str, *pmfs: ArrayLike) -> float:
    """The relative difference between the sums of pmfs that their dtype explains."""
    if form == "logits":
        return math.inf  # what softmax has normalised differs by nothing else
    return 4 * max(float(jnp.finfo(check_array("p", pmf).dtype).eps) for pmf in pmfs)


def check_pmf_named(
    name: str, p: ArrayLike, axis: int | Sequence[int] = -1, *, atol: float | None = None
) -> None:
    """Raise unless the argument `name` is a pmf, as `xentjax.check_pmf` says of its own."""
    array = check_floating(name, p)
    axes = _check_axes("axis", axis, array.shape)
    if atol is not None:
        check_scalar("atol", atol, "a number >= 0", lambda value: value >= 0)
    known = concrete(array)
    if known is None:
        return
    if atol is None:
        atol = max(1e-6, 8 * float(jnp.finfo(array.dtype).eps))
    known = known.astype(np.float64)
    if not (known >= 0).all():
        fail(name, "probabilities >= 0", known[~(known >= 0)][0])
    sums = known.sum(axes)
    wrong = np.abs(sums - 1) > atol
    if wrong.any():
        fail(name, f"probabilities with sum 1 within {atol:.7g}", f"sum {sums[wrong][0]:.7g}")


def _check_arrays(where: ArrayLike | None, form: str, arrays: dict[str, ArrayLike]) -> list[Array]:
    """Floating arrays of one shape and precision, p = 0 where `where` leaves an outcome out."""
    check_choice("form", form, ("pmf", "log_pmf", "logits"))
    checked = {name: check_floating(name, array) for name, array in arrays.items()}
    shape: tuple[int, ...] = ()
    for name, array in checked.items():
        try:
            shape = jax.lax.broadcast_shapes(shape, array.shape)
        except ValueError:
            fail(name, f"a shape that broadcasts with {shape}", array.shape)
    dtype = compute_dtype(*(array.dtype for array in checked.values()))
    result = [jnp.broadcast_to(array.astype(dtype), shape) for array in checked.values()]
    if where is None:
        return result
    keep = check_bool("where", where)
    try:
        keep = jnp.broadcast_to(keep, shape)
    except ValueError:
        fail("where", f"a shape that broadcasts to {shape}", keep.shape)
    impossible = 0.0 if form == "pmf" else -jnp.inf
    return [jnp.where(keep, array, jnp.full_like(array, impossible)) for array in result]


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
