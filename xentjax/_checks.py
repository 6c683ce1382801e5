"""Argument checks: one clear line that names the argument, what was expected and what came."""

import operator
from collections.abc import Sequence
from typing import Any, NoReturn, SupportsIndex

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def fail(name: str, expected: str, got: object) -> NoReturn:
    """Raise the ValueError every check of this package raises."""
    raise ValueError(f"{name}: expected {expected}, got {got}")


def concrete(x: ArrayLike) -> np.ndarray | None:
    """The value of `x` where it is known, None under jit, vmap and grad.

    Checks of values (rather than shapes and dtypes) apply to concrete arrays only.
    """
    return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def check_array(name: str, x: ArrayLike | None) -> jax.Array:
    """`x` as a jax array; a list, None or a string is a TypeError."""
    if not isinstance(x, jax.Array | np.ndarray | np.generic | bool | int | float):
        raise TypeError(f"{name}: expected an array, got {type(x).__name__}")
    # jnp.asarray of a tracer would be a copy that reverse mode keeps.
    if isinstance(x, jax.Array):
        return x
    try:
        return jnp.asarray(x)
    except (TypeError, OverflowError):  # strings, objects, integers of more than 64 bits
        kind = x.dtype if isinstance(x, np.ndarray | np.generic) else repr(x)
        raise TypeError(f"{name}: expected an array of numbers, got {kind}") from None


def check_floating(name: str, x: ArrayLike) -> jax.Array:
    """`x` as a jax array of a real floating dtype, else a TypeError."""
    array = check_array(name, x)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}")
    return array


def check_integer(name: str, x: ArrayLike) -> jax.Array:
    """`x` as a jax array of an integer dtype, else a TypeError."""
    array = check_array(name, x)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name}: expected an integer dtype, got {array.dtype}")
    return array


def check_bool(name: str, x: ArrayLike) -> jax.Array:
    """`x` as a jax array of booleans, else a TypeError."""
    array = check_array(name, x)
    if array.dtype != jnp.bool_:
        raise TypeError(f"{name}: expected a bool array, got {array.dtype}")
    return array


def broadcasts(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to `target`."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def check_index(name: str, value: SupportsIndex) -> int:
    """`value` as an int, else a TypeError."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """`value` is one of `choices`, else a ValueError that lists them."""
    if not (isinstance(value, str) and value in choices):
        fail(name, "one of " + ", ".join(map(repr, choices)), repr(value))


def check_scalar(name: str, value: ArrayLike | None, expected: str, holds: Any) -> None:
    """A real scalar for which `holds` is true; the value is checked where it is concrete."""
    if isinstance(value, bool) or not isinstance(
        value, jax.Array | np.ndarray | np.generic | int | float
    ):
        raise TypeError(f"{name}: expected {expected}, got {value!r}")
    if np.ndim(value) != 0:
        fail(name, f"{expected} (a scalar)", f"shape {np.shape(value)}")
    known = concrete(value)
    if known is not None and not holds(known):
        fail(name, expected, known)


def check_flag(name: str, value: Any) -> None:
    """True or False, known before anything is traced."""
    if not isinstance(value, bool | np.bool_):
        kind = type(value).__name__ if isinstance(value, jax.Array) else repr(value)
        raise TypeError(f"{name}: expected True or False, got {kind}")
