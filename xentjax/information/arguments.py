"""Checks of the arguments of information measures, which bring them into one form.

The measures themselves, in `pmf` and `log_pmf`, take arrays of one shape and dtype, with the
outcomes along the last axis (the pairs of a joint pmf along the last two) and p = 0 where a mask
leaves an outcome out.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.lib.array_utils import normalize_axis_tuple

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_bool,
    check_choice,
    check_floating,
    check_scalar,
    is_known,
    raise_value_error,
)
from xentjax._core.choices import Form
from xentjax._core.dtypes import compute_dtype
from xentjax._core.varying import on_auto_axes, sharded_alike, whole_classes
from xentjax.information import log_pmf, pmf

# NumPy adds this many numbers in less time than a dispatch takes.
_FEW = 2**14
_COUNTS = "; counts go through empirical_pmf, or entropy_estimate"
_TABLE = _COUNTS + "; a table through independence_test"


def outcomes_last(
    axis: int | Sequence[int], where: ArrayLike | None, form: str, **pmfs: ArrayLike
) -> tuple[list[Array], float]:
    """Return pmfs, or log pmfs, as arrays [..., K] of one shape, and the tolerance of their sums.

    The tolerance is relative: how much the sums may differ by rounding.
    """
    arrays, axes, tolerance = _check_arrays("axis", axis, where, form, pmfs)
    if axes != (arrays[0].ndim - 1,):
        arrays = [jnp.moveaxis(array, axes, range(-len(axes), 0)) for array in arrays]
        arrays = [_flat(array, len(axes)) for array in arrays]
    return [log_pmf.log_softmax(a) for a in arrays] if form == "logits" else arrays, tolerance


def pairs_last(
    axes: tuple[int, int], where: ArrayLike | None, form: str, joint: ArrayLike
) -> tuple[Array, float]:
    """Return the joint pmf, or its logarithm, as [..., X, Y], and the tolerance of its sum."""
    (array,), checked, tolerance = _check_arrays("axes", axes, where, form, {"joint": joint})
    pairs = jnp.moveaxis(array, checked, (-2, -1))
    if form != "logits":
        return pairs, tolerance
    return log_pmf.log_softmax(_flat(pairs, 2)).reshape(pairs.shape), tolerance


def _flat(array: Array, axes: int) -> Array:
    """Join the last axes of an array; the result is not split over devices along that axis."""
    if axes == 1:
        return array
    return whole_classes(array, axes).reshape(*array.shape[:-axes], -1)


def measures(form: str) -> ModuleType:
    """Return the module of measures for a form: `pmf` or `log_pmf`."""
    return pmf if form == "pmf" else log_pmf


def parse_pmf(
    name: str, p: ArrayLike, axis: int | Sequence[int] = -1, *, atol: float | None = None
) -> Array:
    """Check a pmf as `xentjax.check_pmf` does and return it; float64 stays float64 without x64."""
    with jax.enable_x64(True):
        array = check_floating(name, p, hint=_COUNTS)
    axes = _check_axes("axis", axis, array.shape)
    if atol is not None:
        check_scalar("atol", atol, "a number >= 0", lambda value: value >= 0)
    check_sums(name, array, axes, atol=atol)
    return array


def check_sums(
    name: str,
    p: Array,
    axes: tuple[int, ...] = (-1,),
    *,
    keep: Array | None = None,
    atol: float | None = None,
    hint: str = _COUNTS,
) -> None:
    """Raise unless the values of an array, if they are known, are pmfs.

    Args:
        name: of the argument.
        p: [..., K], floating.
        axes: axes of the outcomes.
        keep: which entries have to be pmfs, bool, broadcast to `p`; None for all.
        atol: as in `check_pmf`; by default that of the dtype that jax gives the argument.
        hint: what a user may have meant.
    """
    axes = tuple(axis % p.ndim for axis in axes)
    if atol is None:
        dtype = jax.dtypes.canonicalize_dtype(p.dtype)
        atol = pmf.sum_tolerance(dtype, math.prod(p.shape[i] for i in axes))
    _start_check({name: _Argument(p, atol)}, keep, axes, p.shape, hint=hint)()


def _check_arrays(
    axis_name: str,
    axis: int | Sequence[int],
    where: ArrayLike | None,
    form: str,
    arrays: dict[str, ArrayLike],
) -> tuple[list[Array], tuple[int, ...], float]:
    """Return floating arrays of one shape and dtype, their axes and the tolerance of sums.

    Outcomes that `where` leaves out get p = 0.
    """
    check_choice("form", form, Form)
    hint = _COUNTS if axis_name == "axis" else _TABLE
    checked = {name: check_floating(name, array, hint=hint) for name, array in arrays.items()}
    shape: tuple[int, ...] = ()
    for name, array in checked.items():
        try:
            shape = jax.lax.broadcast_shapes(shape, array.shape)
        except ValueError:
            raise_value_error(name, f"a shape that broadcasts with {shape}", array.shape)
    keep = None
    if where is not None:
        mask = check_bool("where", where)
        try:
            keep = jnp.broadcast_to(mask, shape)
        except ValueError:
            raise_value_error("where", f"a shape that broadcasts to {shape}", mask.shape)
    axes = _check_axes(axis_name, axis, shape)
    if axis_name == "axes" and len(axes) != 2:
        raise_value_error("axes", "two axes, of x and of y", repr(axis))

    number = math.prod(shape[i] for i in axes)
    tolerance = math.inf  # a softmax is normalised up to rounding
    pmfs: dict[str, _Argument] = {}
    if form != "logits":
        logarithms = form == "log_pmf"
        pmfs = {
            name: _Argument(array, pmf.sum_tolerance(array.dtype, number, logarithms=logarithms))
            for name, array in checked.items()
        }
        tolerance = max(argument.atol for argument in pmfs.values())
    end_check = _start_check(pmfs, keep, axes, shape, form, hint)

    dtype = compute_dtype(*(array.dtype for array in checked.values()))
    result = [jnp.broadcast_to(array.astype(dtype), shape) for array in checked.values()]
    result = list(sharded_alike(*result))
    if keep is not None:
        impossible = 0.0 if form == "pmf" else -jnp.inf
        keep, *result = sharded_alike(keep, *result)
        result = [jnp.where(keep, array, jnp.full_like(array, impossible)) for array in result]
    end_check()
    return result, axes, tolerance


class _Argument(NamedTuple):
    """A pmf, or log pmf, and how much its sum may differ from 1."""

    values: Array
    atol: float


def _start_check(
    pmfs: dict[str, _Argument],
    keep: Array | None,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    form: str = "pmf",
    hint: str = _COUNTS,
) -> Callable[[], None]:
    """Return a function that raises unless the kept part of each argument is >= 0 and sums to 1.

    Sums of large arrays start here and run until that function is called. Arguments whose values
    are not known pass.
    """
    if keep is not None and not is_known(keep):
        return lambda: None
    pmfs = {name: argument for name, argument in pmfs.items() if is_known(argument.values)}
    clear: Array | bool = False
    if sum(argument.values.size for argument in pmfs.values()) > _FEW:
        # Sum known values now, not inside a program that is being traced.
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            clear = _are_clearly_pmfs(list(pmfs.values()), keep, axes, shape, form)

    def end() -> None:
        if not clear:
            for name, argument in pmfs.items():
                _check_sum(name, argument, keep, axes, shape, form, hint)

    return end


@partial(jax.jit, static_argnums=(2, 3, 4))
def _are_clearly_pmfs(
    pmfs: list[_Argument],
    keep: Array | None,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    form: str,
) -> Array:
    """Whether float32 sums suffice: all are off by less than half of the tolerance."""

    @on_auto_axes
    def are_clearly(pmfs: list[_Argument], keep: Array | None) -> Array:
        clear = jnp.ones((), bool)
        for argument in pmfs:
            p = _probabilities(jnp, argument.values, keep, axes, shape, form)
            judged = True if keep is None else keep.any(axes)
            is_close = jnp.abs(_sum(p, axes, form) - 1) <= argument.atol / 2
            clear &= (is_close | ~jnp.asarray(judged)).all()
            if form == "pmf":
                clear &= p.min(initial=0) >= 0
        return clear

    return are_clearly(pmfs, keep)


def _sum(p: Array, axes: tuple[int, ...], form: str) -> Array:
    if form == "log_pmf":  # the exponential is summed without being stored
        return p.sum(axes)
    ones = jnp.ones([p.shape[i] for i in axes], p.dtype)
    # On CPU a matrix product is faster than a sum, especially for short rows.
    return jnp.tensordot(
        p, ones, (axes, tuple(range(len(axes)))), precision=jax.lax.Precision.HIGHEST
    )


def _check_sum(
    name: str,
    argument: _Argument,
    keep: Array | None,
    axes: tuple[int, ...],
    shape: tuple[int, ...],
    form: str,
    hint: str,
) -> None:
    mask = None if keep is None else np.asarray(keep)
    with np.errstate(over="ignore"):
        p = _probabilities(np, np.asarray(argument.values), mask, axes, shape, form)
    if form == "log_pmf":
        name = f"exp({name})"
    if not p.min(initial=0) >= 0:
        bad = p[~(p >= 0)][0]
        hint = "; of a log pmf or logits: its exp or softmax" if form == "pmf" and bad < 0 else ""
        raise_value_error(name, "probabilities >= 0", f"{bad}{hint}")
    sums = p.sum(axes, dtype=np.float64)
    wrong = ~(np.abs(sums - 1) <= argument.atol) & (True if mask is None else mask.any(axes))
    if wrong.any():
        digits = 2 - math.floor(math.log10(argument.atol)) if argument.atol > 0 else 17
        expected = f"probabilities with sum 1 within {argument.atol:.2g}"
        raise_value_error(name, expected, f"sum {sums[wrong][0]:.{digits}g}{hint}")


def _probabilities(
    xp: ModuleType, p: Any, keep: Any, axes: tuple[int, ...], shape: tuple[int, ...], form: str
) -> Any:
    """Return the probabilities to add, in float32 or better, by `numpy` or `jax.numpy`."""
    # Do not add the same row for every batch that it broadcasts over; outcomes must be complete.
    p = p.reshape((1,) * (len(shape) - p.ndim) + p.shape)
    p = xp.broadcast_to(p, [n if i in axes else p.shape[i] for i, n in enumerate(shape)])
    p = p.astype(compute_dtype(p.dtype))
    if form == "log_pmf":
        p = xp.exp(p)
    return p if keep is None else xp.where(keep, p, xp.zeros((), p.dtype))


def _check_axes(name: str, axis: object, shape: tuple[int, ...]) -> tuple[int, ...]:
    try:
        axes = normalize_axis_tuple(axis, len(shape))  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        axes = ()
    if not axes:
        raise_value_error(name, f"an axis or axes of an array of shape {shape}", repr(axis))
    if 0 in (shape[i] for i in axes):
        raise_value_error(name, "at least one outcome", f"axis {axis} of shape {shape}")
    return axes
