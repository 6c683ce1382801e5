"""Checks of the arguments of this package: counts and pmfs of classes."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_array,
    check_floating,
    check_index,
    concrete,
    in_one_line,
    naming_order,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype
from xentjax._core.varying import sharded_alike, whole_classes
from xentjax.information.arguments import check_sums, parse_pmf

_EMPIRICAL = "; counts go through empirical_pmf"
_SHARES = "; shares are counts once they are multiplied by the number of samples"


def parse_counts(
    name: str, counts: ArrayLike, *, whole: bool = False, some: bool = False, hint: str = _SHARES
) -> Shaped[Array, "*batch k"]:
    """Check counts [..., K], their values too where these are known, and return them.

    Integers, and float64 numbers on the host, stay exact even without x64, so that counts can be
    subtracted before they are rounded (see `in_float64`).

    Args:
        name: of the argument.
        counts: integer or floating.
        whole: whether they must be whole numbers, with one above 0 in each row.
        some: whether one in each row must be above 0.
        hint: what a user who passes shares may have meant.
    """
    array = _numbers(name, counts)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise_value_error(name, "at least one class", f"shape {array.shape}")
    with jax.enable_x64(True):
        array = whole_classes(array)
    known = concrete(array)
    if known is not None:
        check_amounts(name, known)
        if whole:
            _check_whole(name, known, hint)
        if whole or some:
            check_not_all_zero(name, known)
    return array


def parse_table(name: str, table: ArrayLike, *, hint: str = "") -> Shaped[Array, "*batch r c"]:
    """Check a two-way table of whole numbers [..., R, C]; return it as `parse_counts` does.

    Args:
        name: of the argument.
        table: integer or floating.
        hint: what a user who passes one row or column may have meant.
    """
    array = _numbers(name, table)
    if array.ndim < 2 or min(array.shape[-2:]) < 2:
        raise_value_error(name, "at least 2 rows and 2 columns", f"shape {array.shape}{hint}")
    with jax.enable_x64(True):
        array = whole_classes(array, axes=2)
    known = concrete(array)
    if known is not None:
        check_amounts(name, known)
        _check_whole(name, known)
        for axis, kind in ((-1, "rows"), (-2, "columns")):
            number = known.any(axis).sum(-1)
            if not (enough := number >= 2).all():
                where = f" in table {', '.join(map(str, at))}" if (at := _first(~enough)) else ""
                raise_value_error(name, f"at least two {kind} with counts", f"{number[at]}{where}")
    return array


def _numbers(name: str, counts: ArrayLike) -> Array:
    """Return integers unchanged, and other numbers as float32 or float64."""
    with jax.enable_x64(True):
        array = check_array(name, counts)
        if jnp.issubdtype(array.dtype, jnp.integer):
            return array
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise TypeError(f"{name}: expected integer or floating counts, got {array.dtype}")
        return array.astype(compute_dtype(array.dtype))


def _check_whole(name: str, known: np.ndarray, hint: str = "") -> None:
    if known.dtype.kind == "f" and not (is_whole := known == np.round(known)).all():
        hint = hint if (known <= 1).all() else ""
        raise_value_error(name, "whole numbers", f"{known[~is_whole][0]}{hint}")


def _first(found: np.ndarray | np.bool_) -> tuple[int, ...]:
    """Return the index of the first True."""
    return tuple(np.argwhere(found)[0].tolist()) if found.ndim else ()


def check_not_all_zero(name: str, counts: np.ndarray) -> None:
    """Raise if all counts of a row are 0."""
    if not (some := counts.any(-1)).all():
        where = f" in row {', '.join(map(str, row))}" if (row := _first(~some)) else ""
        raise_value_error(name, "at least one count > 0", f"all 0{where}")


def check_amounts(name: str, known: np.ndarray) -> None:
    """Raise unless all numbers are finite and >= 0."""
    if known.dtype.kind == "u":
        return
    valid = known >= 0 if known.dtype.kind == "i" else (known >= 0) & np.isfinite(known)
    if not valid.all():
        raise_value_error(name, "finite numbers >= 0", known[~valid][0])


def parse_prior(name: str, prior: ArrayLike, counts: Array) -> Float[Array, "*batch k"]:
    """Return Dirichlet concentrations in the shape of the counts; float64 for integer counts."""
    with jax.enable_x64(True):
        concentration = whole_classes(check_array(name, prior))
        if concentration.dtype == jnp.bool_:
            raise TypeError(f"{name}: expected numbers, got bool")
        if concentration.ndim and concentration.shape != counts.shape[-1:]:
            raise_value_error(
                name, f"a scalar or shape ({counts.shape[-1]},)", f"shape {concentration.shape}"
            )
        known = concrete(concentration)
        if known is not None and not (valid := (known > 0) & (known < np.inf)).all():
            raise_value_error(name, "finite concentrations > 0", known[~valid][0])
        dtype = jnp.float64 if jnp.issubdtype(counts.dtype, jnp.integer) else counts.dtype
        return jnp.broadcast_to(concentration.astype(dtype), counts.shape)


def check_shape(name: str, shape: tuple[int, ...]) -> None:
    """Raise unless the shape is a tuple of integers >= 0."""
    if not isinstance(shape, tuple):
        raise TypeError(f"{name}: expected a tuple of integers, got {in_one_line(shape)}")
    if any(check_index(name, size) < 0 for size in shape):
        raise_value_error(name, "sizes >= 0", shape)


def parse_pmf_of_classes(name: str, q: ArrayLike) -> Float[Array, "*batch k"]:
    """Check a pmf [..., K] and return it; float64 stays float64 even without x64."""
    array = _parse_classes(name, q, hint=_EMPIRICAL)
    check_sums(name, array)
    return array


def parse_two_pmfs(p: ArrayLike, q: ArrayLike) -> tuple[Array, Array]:
    """Check the pmfs p and q [..., K]; broadcast them, for functions `in_float64`."""
    return _of_one_shape("p", parse_pmf_of_classes("p", p), "q", parse_pmf_of_classes("q", q))


def parse_sample_sizes(name: str, n: ArrayLike, batch: tuple[int, ...]) -> Shaped[Array, "..."]:
    """Check numbers of samples, which must broadcast with `batch`, the leading shape of pmfs."""
    with jax.enable_x64(True):  # 64-bit integers on the host do not wrap around
        size = check_array(name, n)
    if size.dtype == jnp.bool_:
        raise TypeError(f"{name}: expected numbers, got bool")
    known = concrete(size)
    if known is not None and not (valid := np.isfinite(known) & (known >= 0)).all():
        raise_value_error(name, "finite numbers >= 0", known[~valid][0])
    try:
        jax.lax.broadcast_shapes(batch, size.shape)
    except ValueError:
        expected = f"a shape that broadcasts with {batch}, q's but the last"
        raise_value_error(name, expected, size.shape)
    return size


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def without_derivative(name: str, counts: Array) -> Array:
    """Return counts that raise a TypeError if they are differentiated."""
    return counts


@without_derivative.defjvp
def _(name, _primals, _tangents):
    raise TypeError(
        f"{name}: expected whole numbers without a derivative, got one to differentiate"
    )


def check_known(name: str, x: ArrayLike) -> np.ndarray:
    """Return the value of an array; raise a TypeError if it is traced."""
    known = concrete(x)
    if known is None:
        raise TypeError(
            f"{name}: expected an array that is known (not under jit), got a traced one"
        )
    return known


def parse_pmf_and_counts(
    call: str,
    q: ArrayLike,
    counts: ArrayLike,
    *,
    normalised: bool = True,
    whole: bool = False,
    some: bool = False,
) -> tuple[Array, Array]:
    """Check `q` and `counts` [..., K] and broadcast them, for functions `in_float64`.

    Args:
        call: the function with its arguments in order, to show if they seem to be swapped.
        q: a pmf; if not `normalised`, any probabilities.
        counts, whole, some: see `parse_counts`.
    """
    with naming_order(call, lambda: _is_pmf(counts) and not _is_pmf(q)):
        parsed_counts = parse_counts("counts", counts, whole=whole, some=some)
        parsed_q = _parse_classes("q", q, hint=_EMPIRICAL)
        arrays = _of_one_shape("q", parsed_q, "counts", parsed_counts)
        if normalised:
            check_sums("q", parsed_q)
        elif (known := concrete(parsed_q)) is not None and _are_of_samples(known, counts):
            raise_value_error("q", "probabilities", f"{known.max():g}")
    return arrays


def _are_of_samples(q: np.ndarray, counts: ArrayLike) -> bool:
    """Whether the pmf holds whole numbers and the counts are a pmf."""
    return bool((q > 1).any() and (q == np.round(q)).all()) and _is_pmf(counts)


def _parse_classes(name: str, q: ArrayLike, *, hint: str = "") -> Array:
    with jax.enable_x64(True):
        array = check_floating(name, q, hint=hint)
    if array.ndim == 0 or array.shape[-1] == 0:
        raise_value_error(name, "at least one class", f"shape {array.shape}")
    with jax.enable_x64(True):
        return whole_classes(array)


def _of_one_shape(first: str, x: Array, second: str, y: Array) -> tuple[Array, Array]:
    if x.shape[-1] != y.shape[-1]:
        raise_value_error(second, f"{x.shape[-1]} classes as in {first}", y.shape[-1])
    try:
        shape = jax.lax.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        expected = f"a shape that broadcasts with {first}'s {x.shape}"
        raise_value_error(second, expected, y.shape)
    with jax.enable_x64(True):
        x, y = sharded_alike(jnp.broadcast_to(x, shape), jnp.broadcast_to(y, shape))
    return x, y


def _is_pmf(x: ArrayLike) -> bool:
    """Whether the values, as far as they are known, are those of a pmf."""
    try:
        parse_pmf("", x)
    except (TypeError, ValueError):
        return False
    return True
