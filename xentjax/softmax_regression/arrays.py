"""Differences between NumPy on the host and JAX in compiled programs.

The formulas of this package are written once for both. Arrays whose values are in the host's memory
are fitted by NumPy in float64: nothing is compiled, and BLAS multiplies. Under a transformation of
jax, and on other devices, the code runs in compiled programs in the dtype of the features.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from xentjax._core.varying import on_auto_axes, pvary_all

Array: TypeAlias = Any
"""Array or scalar of NumPy or JAX, for annotations of shapes."""

# Largest number of elements of an array of a chunk of rows; on the host it fits in the cache.
_CHUNK, _HOST_CHUNK = 2**19, 2**18


def on_host(*arrays: Any) -> bool:
    """Whether the values of all arrays in the trees are known and in the host's memory."""
    return all(map(_lies_on_host, jax.tree.leaves(arrays)))


def _lies_on_host(x: Any) -> bool:
    if not isinstance(x, jax.Array):
        return True
    if isinstance(x, jax.core.Tracer) or len(x.devices()) != 1:
        return False
    return next(iter(x.devices())).platform == "cpu"


def host_or_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call(dtype, *trees)`, which runs the function on the host or in a compiled program.

    Its results are jax arrays; floating ones have this dtype. On the host, the function gets NumPy
    arrays and scalars, with floating ones in float64; in a compiled program it gets jax arrays,
    with floating ones in the dtype.
    """
    compiled = jax.jit(jax.default_matmul_precision("highest")(on_auto_axes(function)))

    @wraps(function)
    def call(dtype: DTypeLike, *trees: Any, host: bool = True) -> Any:
        if not (host and on_host(trees)):
            return compiled(*jax.tree.map(lambda x: _cast(jnp.asarray(x), dtype), trees))
        with np.errstate(all="ignore"):
            found = function(*jax.tree.map(lambda x: _cast(np.asarray(x), np.float64)[()], trees))
            found = jax.tree.map(lambda x: _cast(np.asarray(x), dtype), found)
        return jax.device_put(found)

    return call


def in_dtype_of_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute `function` of small arrays in float64 if their values are known.

    Its results have the dtype of the first argument, and are jax arrays if the first argument is.
    """

    @wraps(function)
    def call(*arrays: Any) -> Any:
        if not on_host(arrays):
            return function(*arrays)
        with np.errstate(all="ignore"):
            found = function(*(_cast(np.asarray(x), np.float64)[()] for x in arrays))
            found = jax.tree.map(lambda x: _cast(np.asarray(x), arrays[0].dtype), found)
        return jax.device_put(found) if isinstance(arrays[0], jax.Array) else found

    return call


def in_jax(*arrays: Any) -> list[jax.Array]:
    """Convert to jax arrays; float64 stays float64 even if x64 is off."""
    with jax.enable_x64(True):
        return [jnp.asarray(x) for x in arrays]


def _cast(x: Any, dtype: DTypeLike) -> Any:
    return x.astype(dtype, copy=False) if jnp.issubdtype(x.dtype, jnp.floating) else x


def namespace(x: Any) -> Any:
    """Return the module with the functions for an array, `numpy` or `jax.numpy`."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def while_loop(
    unfinished: Callable[[Any], Any], body: Callable[..., Any], state: Any, *constants: Any
) -> Any:
    """Apply `body(state, *constants)` while `unfinished(state)`."""
    if all(isinstance(x, np.ndarray | np.generic) for x in jax.tree.leaves(state)):
        while unfinished(state):
            state = body(state, *constants)
        return state
    # In `shard_map`, all that a loop carries must vary over the mesh from the start, zeros too.
    state, constants = pvary_all((state, constants))
    return jax.lax.while_loop(unfinished, lambda state: body(state, *constants), state)


def add(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
    """Add two tuples of arrays, array by array."""
    return tuple(x + y for x, y in zip(a, b, strict=True))


def sum_over_rows(
    function: Callable[..., tuple[Any, ...]],
    rows: tuple[Any, ...],
    width: int,
    add: Callable[..., tuple[Any, ...]] = add,
) -> tuple[Any, ...]:
    """Compute `function(*rows)` in chunks of rows, to limit its memory and rounding.

    Args:
        function: takes arrays with the rows on the last axis; its results are sums over the rows.
        rows: the arrays; a None is passed on.
        width: number of elements per row of its largest array.
        add: merges the results of two chunks.

    Returns:
        The merged results.
    """
    host, n = isinstance(rows[0], np.ndarray), rows[0].shape[-1]
    chunk = max(1, (_HOST_CHUNK if host else _CHUNK) // max(width, 1))
    full, rest = divmod(n, chunk)

    def of_rows(start: Any, size: int) -> tuple[Any, ...]:
        return function(*(x if x is None else _slice(x, start, size) for x in rows))

    total = of_rows(0, rest) if rest or not full else of_rows(rest, chunk)
    if host:
        for start in range(rest or chunk, n, chunk):
            total = add(total, of_rows(start, chunk))
        return total
    skipped = 0 if rest else 1
    if full == skipped:
        return total
    return jax.lax.fori_loop(
        skipped, full, lambda i, total: add(total, of_rows(rest + i * chunk, chunk)), total
    )


def _slice(x: Any, start: Any, size: int) -> Any:
    if isinstance(x, np.ndarray):
        return x[..., start : start + size]
    return jax.lax.dynamic_slice_in_dim(x, start, size, -1)
