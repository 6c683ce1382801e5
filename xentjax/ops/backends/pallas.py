"""Helpers of the Pallas kernels for all hardware: rows, and the platforms of a kernel."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.export import is_symbolic_dim
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir, xla
from jaxtyping import Array, Bool, Float

from xentjax.ops.rows import InnerProduct, Rows, RowStatistics, map_rows


def with_batch(rows: Rows, batched: Rows, size: int) -> Rows:
    """Make the batch the first axis of every array, even of arrays that the whole batch shares."""

    def batch_first(x: Array, is_batched: bool) -> Array:
        return x if is_batched else jnp.broadcast_to(x[None], (size, *x.shape))

    whole, classes = map_rows(batch_first, rows, batched), rows.mask.classes
    if classes is not None and not batched.mask.classes:  # the whole batch shares one mask
        whole = whole._replace(mask=whole.mask._replace(classes=classes[None]))
    return whole


def divided(a: Float[Array, "*s"], temperature: Array | None) -> Float[Array, "*s"]:
    """Compute `over_temperature`, whose rule with symbolic zeros Mosaic cannot lower."""
    return a if temperature is None else a / temperature


def finite(running_max: Float[Array, "*rows"]) -> Float[Array, "*rows"]:
    """Compute the shift m: 0 in a row without a finite maximum, so that infinities remain."""
    return jnp.where(jnp.abs(running_max) < jnp.inf, running_max, 0)  # Mosaic has no isfinite


def zeros_where_masked(
    stats: RowStatistics, row_mask: Bool[Array, "*rows"], num_classes: int
) -> RowStatistics:
    """Give masked rows the statistics of rows whose logits are all 0."""

    def same_total(zero: InnerProduct | None, t: InnerProduct | None) -> InnerProduct | None:
        return None if zero is None or t is None else zero._replace(total=t.total)

    zeros = jax.tree.map(jnp.zeros_like, stats)
    zeros = zeros._replace(
        log_sum=jnp.full_like(stats.log_sum, math.log(num_classes)),
        target=same_total(zeros.target, stats.target),
        uniform=same_total(zeros.uniform, stats.uniform),
    )
    return jax.tree.map(partial(jnp.where, row_mask), stats, zeros)


def check_sizes(name: str, x: Array, implementation: str) -> None:
    """Refuse symbolic sizes, since a grid needs numbers."""
    if any(map(is_symbolic_dim, x.shape)):
        raise NotImplementedError(
            f"{name}: expected a shape of known sizes for {implementation!r}, got {x.shape}"
        )


def only_on(x: Array, platform: str, expected: str) -> Array:
    """Return x, and refuse to lower the program for any other platform.

    The platform is known only when lowering: a program may be exported for another machine.
    """
    return _only_on.bind(x, platform=platform, expected=expected)


_only_on = Primitive("only_on")
_only_on.def_impl(partial(xla.apply_primitive, _only_on))
_only_on.def_abstract_eval(lambda x, **_: x)
batching.defvectorized(_only_on)


def _lowered(context: Any, x: Any, *, platform: str, expected: str) -> list[Any]:
    for other in context.module_context.platforms:
        if other != platform:
            raise NotImplementedError(f"{expected}, got {other}")
    return [x]


mlir.register_lowering(_only_on, _lowered)
