"""A user's loss of one row: traced once to see what it uses, then applied to many rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters import partial_eval
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from xentjax._core.checks import check_array, in_one_line, raise_value_error
from xentjax._core.varying import pvary
from xentjax.losses._formula import SoftmaxStats
from xentjax.ops import Requested

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class RowFunction:
    """A function of the statistics and inputs of rows; jit compares it as a static argument."""

    function: Callable[..., Any]
    """Maps closed-over arrays, statistics and inputs of rows to losses and auxiliary results."""
    requested: Requested
    """Names of the statistics that it uses."""
    loss: Callable[..., Any] | None
    """The user's function; None if it closes over arrays, which a cache must not keep."""
    has_aux: bool
    program: str
    """Jaxpr and tree of results as text: they differ if the function read other variables."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RowFunction) or self.loss is None:
            return self is other
        # Equality rather than identity: every access to a method makes a new object.
        return bool(self.loss == other.loss) and self.program == other.program

    def __hash__(self) -> int:
        return hash(self.program)

    def traced_anew(self) -> "RowFunction":
        """Trace the function again, for a `shard_map` over other mesh axes."""
        return replace(self, function=partial(_call, self.loss, self.has_aux))

    def __call__(
        self,
        closed_over: Sequence[Array],
        stats: SoftmaxStats,
        mask: Bool[Array, " n"] | None,
        inputs: Any,
    ) -> tuple[Float[Array, " n"], Any]:
        """Compute the loss of each row and its auxiliary results; 0 in masked rows."""
        if mask is not None and mask.size > 0:
            stats = _like_a_kept_row(mask, stats, _SOME_ROW)
            inputs = _like_a_kept_row(mask, inputs, jax.tree.map(lambda _: 1, inputs))

        def call_row(stats: SoftmaxStats, inputs: Any) -> Any:
            # The traced function takes several rows; this is one.
            one = jax.tree.map(lambda x: x[None], (stats, *inputs))
            return jax.tree.map(lambda x: x[0], self.function(closed_over, *one))

        loss, aux = jax.vmap(call_row)(stats, inputs)
        loss = loss.astype(stats.label_log_prob.dtype)
        # A bad label makes its row NaN, whatever the function returns.
        nan = jnp.isnan(stats.label_log_prob)
        loss *= jnp.where(nan, stats.label_log_prob, 1)
        if mask is None:
            return loss, aux
        return jax.tree.map(lambda x: _select(mask, x, jnp.zeros_like(x)), (loss, aux))


_SOME_ROW = SoftmaxStats._make((1, -1, 1, 0))
"""Statistics for which most functions are finite, unlike those of a certain outcome."""


def _like_a_kept_row(mask: Bool[Array, " n"], tree: T, otherwise: Any) -> T:
    """Give masked rows the numbers of a kept row, for which the function is defined.

    Otherwise a masked row could make the derivative in arrays that all rows share NaN. If no row is
    kept, the numbers are `otherwise`.
    """
    kept, any_kept = jnp.argmax(mask), jnp.any(mask)

    def like_kept(x: Array, otherwise: int) -> Array:
        row = jax.lax.dynamic_index_in_dim(x, kept, keepdims=True)
        row = jnp.where(any_kept, row, jnp.full_like(row, otherwise))
        return _select(mask, x, jax.lax.stop_gradient(row))

    return jax.tree.map(like_kept, tree, otherwise)


def _select(mask: Bool[Array, " n"], x: Array, other: Array) -> Array:
    return jnp.where(mask.reshape(-1, *(1,) * (x.ndim - 1)), x, other)


def row_function(
    loss: Any, inputs: Sequence[Any], dtype: DTypeLike, has_aux: bool, axes: frozenset[str]
) -> tuple[RowFunction, list[Array]]:
    """Trace the user's function for one row; return it and the arrays that it closes over.

    Args:
        loss: the function.
        inputs: of rows, with one leading axis.
        dtype: of the statistics.
        has_aux: whether the function returns auxiliary results too.
        axes: mesh axes that statistics and inputs vary over, inside `shard_map`.
    """
    if not callable(loss):
        expected = "loss: expected a function of SoftmaxStats and inputs"
        raise TypeError(f"{expected}, got {in_one_line(loss)}")
    one = jnp.zeros(1, dtype)
    stats = SoftmaxStats(one, one, one, jnp.zeros(1, jnp.int32))
    row = jax.tree.map(lambda x: jnp.zeros((1, *x.shape[1:]), x.dtype), inputs)

    call = partial(_call, loss, has_aux, ())
    traced, shape = jax.make_jaxpr(call, return_shape=True)(*pvary((stats, *row), axes))
    jaxpr = traced.jaxpr
    closed_over = [x if isinstance(x, Array) else jnp.asarray(x) for x in traced.consts]
    _, used = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    normalizer, _, entropy, predicted, *_ = used
    requested = Requested(mean=entropy, predicted=predicted, normalizer=normalizer)
    structure = jax.tree.structure(shape)
    run = partial(_run, jaxpr, structure)
    own = None if closed_over else loss
    return RowFunction(run, requested, own, has_aux, f"{jaxpr} {structure}"), closed_over


def _run(jaxpr: Any, structure: Any, closed_over: Sequence[Array], *arguments: Any) -> Any:
    """Run the traced function, with the arrays that it closes over as arguments."""
    run = jaxpr_as_fun(ClosedJaxpr(jaxpr, list(closed_over)))
    return jax.tree.unflatten(structure, run(*jax.tree.leaves(arguments)))


def _call(loss: Any, has_aux: bool, _: Sequence[Array], *arguments: Any) -> tuple[Any, Any]:
    """Call the user's function itself."""
    return _checked(loss(*arguments), has_aux)


def _checked(result: Any, has_aux: bool) -> tuple[Float[Array, " 1"], Any]:
    """Check the loss of one row; return it and its auxiliary results, () if there are none."""
    aux: Any = ()
    if has_aux:
        if not (isinstance(result, tuple) and len(result) == 2):
            got = _kind(result)
            raise TypeError(f"loss: expected a pair (loss, aux) with has_aux=True, got {got}")
        result, aux = result
    if not isinstance(result, jax.Array):
        expected = "an array with the loss of each row"
        hint = "; has_aux=True takes a pair" if isinstance(result, tuple) else ""
        raise TypeError(f"loss: expected {expected}, got {_kind(result)}{hint}")
    if not jnp.issubdtype(result.dtype, jnp.floating):
        raise TypeError(f"loss: expected losses of a floating dtype, got {result.dtype}")
    if result.shape != (1,):
        hint = "" if result.shape else "; linear_loss itself takes the mean or sum of the rows"
        raise_value_error("loss", "shape (1,) for one row", f"shape {result.shape}{hint}")
    aux = jax.tree.map(partial(check_array, "aux"), aux)
    for x in jax.tree.leaves(aux):
        if x.shape[:1] != (1,):
            expected = "auxiliary results with one leading axis, of size 1 for one row"
            raise_value_error("loss", expected, f"shape {x.shape}")
    return result, aux


def _kind(result: Any) -> str:
    return "an array" if isinstance(result, jax.Array) else type(result).__name__
