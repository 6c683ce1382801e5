"""Argument checks: one clear line that names the argument, what was expected and what came."""

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, SupportsIndex, cast, get_args

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from xentjax._core.array_like import ArrayLike


def raise_value_error(name: str, expected: str, got: object) -> NoReturn:
    """Raise `ValueError("name: expected ..., got ...")`."""
    raise ValueError(f"{name}: expected {expected}, got {got}")


def concrete(x: ArrayLike) -> np.ndarray | None:
    """Return the value of `x` if it is known, or None (under jit, vmap and grad).

    Values, unlike shapes and dtypes, can be checked only where they are known. An array with parts
    on other hosts is not known here.
    """
    return np.asarray(x) if is_known(x) else None


def is_known(x: ArrayLike) -> bool:
    """Whether the value of `x` is known here: not under jit, nor if parts are on other hosts."""
    if isinstance(x, jax.core.Tracer):
        return False
    return not isinstance(x, jax.Array) or x.is_fully_addressable


Native = jax.Array | np.ndarray | np.generic | bool | int | float
"""Types that jax accepts as arrays."""


def native(name: str, x: Any) -> ArrayLike:
    """Return the argument as a jax array, a NumPy array or a Python number.

    Objects with `__jax_array__` (flax.nnx.Param) or `__array__` (a pandas Series) and lists of
    numbers are accepted too.
    """
    if isinstance(x, np.ma.MaskedArray):
        expected = "an array without a mask (pass `x.data` and, as `where`, `~x.mask`)"
        raise TypeError(f"{name}: expected {expected}, got MaskedArray")
    if isinstance(x, Native):
        return cast(ArrayLike, x)
    if hasattr(x, "__jax_array__"):
        return native(name, x.__jax_array__())
    if hasattr(x, "__array__"):
        convert = np.asarray
    elif isinstance(x, list | tuple | range):
        traced = any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(x))
        convert = jnp.asarray if traced else np.asarray
    else:
        hint = ""
        if isinstance(x, Mapping):
            hint = " (pass `list(x.values())`)"
        elif isinstance(x, Iterable) and not isinstance(x, str):
            hint = " (pass a list)"
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}{hint}")
    try:
        array = convert(x)
        if array.dtype == object:  # for example a table with nullable columns
            array = np.asarray(array.tolist())
    except Exception as error:  # the object's own conversion may raise anything
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}: {reason}") from None
    if array.dtype == object:
        expected = "an array of numbers (of a nullable column: `x.to_numpy(dtype)`)"
        raise TypeError(f"{name}: expected {expected}, got {type(x).__name__} of objects")
    return array


@contextmanager
def naming_order(call: str, swapped: Callable[[], bool]) -> Iterator[None]:
    """Add the order of the arguments to an error about them, if they seem to be swapped."""
    try:
        yield
    except (TypeError, ValueError) as error:
        if not swapped():
            raise
        raise type(error)(f"{error}; are the arguments of {call} swapped?") from None


def scalar_first(x: Any, y: Any) -> bool:
    """Whether the first argument is a scalar and the second is not."""
    return np.ndim(x) == 0 and np.ndim(y) > 0


def is_key(x: Any) -> bool:
    """Whether the argument is a random key, of the old or the new kind."""
    dtype = getattr(x, "dtype", None)
    return dtype == np.uint32 or (dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key))


def check_key(name: str, key: Any) -> None:
    """Raise a TypeError unless the argument is a random key."""
    if not is_key(key):
        raise TypeError(f"{name}: expected a random key, got {in_one_line(key)}")


def native_array(name: str, x: Any) -> jax.Array | np.ndarray:
    """Return the argument as an array; host arrays stay on the host."""
    array = native(name, x)
    return array if isinstance(array, jax.Array) else np.asarray(array)


def check_array(name: str, x: Any) -> jax.Array:
    """Return the argument as a jax array; raise a TypeError for None, strings and objects."""
    # jnp.asarray would copy a tracer, and reverse mode would keep the copy.
    return x if isinstance(x, jax.Array) else to_jax(name, native(name, x))


def to_jax(name: str, x: ArrayLike) -> jax.Array:
    """Turn a result of `native` into a jax array."""
    if isinstance(x, jax.Array):
        return x
    try:
        return jnp.asarray(x)
    except (TypeError, OverflowError):  # strings, objects, integers of more than 64 bits
        kind = x.dtype if isinstance(x, np.ndarray | np.generic) else repr(x)
        raise TypeError(f"{name}: expected an array of numbers, got {kind}{of_labels(x)}") from None


def of_labels(x: Any) -> str:
    """Suggest what a user of non-integer labels may have meant."""
    dtype = getattr(x, "dtype", None)
    kind = dtype.kind if isinstance(dtype, np.dtype) else ""
    if kind == "f":
        return " (`x.astype(int)`, if they are whole)"
    return " (encode makes integers of labels)" if kind in "UTSb" and kind else ""


def check_floating(name: str, x: Any, *, hint: str = "") -> jax.Array:
    """Return `x` as a jax array of a real floating dtype, or raise a TypeError.

    Args:
        name: of the argument.
        x: the argument.
        hint: what a user who passes integers may have meant.
    """
    array = check_array(name, x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        hint = hint if jnp.issubdtype(array.dtype, jnp.integer) else ""
        raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}{hint}")
    return array


def check_integer(name: str, x: Any) -> jax.Array:
    """Return `x` as a jax array of an integer dtype, or raise a TypeError."""
    array = check_array(name, x)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer dtype, got {array.dtype}")
    return array


def check_bool(name: str, x: Any) -> jax.Array:
    """Return `x` as a jax array of booleans, or raise a TypeError."""
    array = check_array(name, x)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name}: expected a bool array, got {array.dtype}")
    return array


def in_one_line(value: Any) -> str:
    """Format an argument for an error: arrays by dtype and shape, others by their own text."""
    if isinstance(value, jax.Array | np.ndarray) and value.ndim > 0:
        return f"{value.dtype} of shape {value.shape}"
    text = repr(value)
    return type(value).__name__ if "\n" in text else text


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to `target`."""
    try:
        # jax's, since NumPy's knows no symbolic sizes
        return jax.lax.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def check_index(name: str, value: SupportsIndex) -> int:
    """Return `value` as an int, or raise a TypeError."""
    if isinstance(value, jax.core.Tracer):
        expected = f"{name}: expected an integer that is known under jit (a static argument)"
        raise TypeError(f"{expected}, got a traced {value.aval.str_short()}")
    try:
        if isinstance(value, bool):  # Python takes a bool for an int, but here it is a mistake
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {in_one_line(value)}") from None


def check_num_steps(name: str, num_steps: int) -> None:
    """Raise unless the number of steps is an integer that a loop can count to."""
    most = np.iinfo(np.int32).max
    if isinstance(num_steps, bool) or not 1 <= check_index(name, num_steps) <= most:
        raise_value_error(name, f"an integer 1..{most}", repr(num_steps))


def check_choice(name: str, value: Any, choices: Any, *, hint: str = "") -> None:
    """Raise a ValueError that lists the names of a Literal unless `value` is one of them."""
    names = get_args(choices)
    if not (isinstance(value, str) and value in names):
        expected = "one of " + ", ".join(map(repr, names))
        raise_value_error(name, expected, f"{in_one_line(value)}{hint}")


def real_scalar(name: str, value: Any, expected: str) -> Any:
    """Return a real scalar (an array or a Python number); do not check its value."""
    if not isinstance(value, Native) and hasattr(value, "__jax_array__"):
        value = value.__jax_array__()
    dtype = getattr(value, "dtype", type(value))
    real = any(jnp.issubdtype(dtype, kind) for kind in (jnp.integer, jnp.floating))
    if not (isinstance(value, Native) and real):
        raise TypeError(f"{name}: expected {expected}, got {in_one_line(value)}")
    if np.ndim(value) != 0:
        raise_value_error(name, f"{expected} (a scalar)", f"shape {np.shape(value)}")
    if isinstance(value, int) and abs(value) > sys.float_info.max:
        raise_value_error(name, expected, "an integer too large for a float")
    return value


def check_scalar(name: str, value: Any, expected: str, holds: Any) -> Any:
    """Return a real scalar (an array or a Python number).

    Where its value is known, `holds` must be true of it.
    """
    value = real_scalar(name, value, expected)
    known = concrete(cast(ArrayLike, value))
    if known is not None and not holds(known):
        raise_value_error(name, expected, known)
    return value


def check_alpha(alpha: Any) -> Any:
    """Return a level of significance as a scalar; check its value where it is known."""
    return check_scalar("alpha", alpha, "a number in (0, 1)", lambda value: 0 < value < 1)


def check_flag(name: str, value: Any) -> None:
    """Raise a TypeError unless the value is True or False; a traced array is neither."""
    if not isinstance(value, bool | np.bool_):
        kind = type(value).__name__ if isinstance(value, jax.Array) else repr(value)
        raise TypeError(f"{name}: expected True or False, got {kind}")
