"""Classes chosen in each row of a linear layer, and their logits, from one pass over its tiles.

Choices form a monoid, as the statistics do: the choice from two tiles is made among the choices of
each. The indices of the chosen classes have no derivative. The derivative of their logits is
computed in the tiles that contain them, which the derivative of log s visits anyway.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Int32

from xentjax._core.axis_name import AxisName
from xentjax._core.varying import pvary_all
from xentjax.ops.blocks import Blocks, blocks
from xentjax.ops.derivative import moving_inputs, statistics_tangents, value_and_tangent
from xentjax.ops.dispatch import row_statistics
from xentjax.ops.layer import LinearRows, slice_classes, slice_rows, with_logits
from xentjax.ops.linear.batch import batch_as_rows
from xentjax.ops.linear.statistics import (
    forward_blocks,
    map_kept_rows,
    sum_over_tiles,
    tile_shard,
    zeros_of,
)
from xentjax.ops.merge import ACROSS_FIRST_AXIS, ClassShard, merge
from xentjax.ops.registry import backend
from xentjax.ops.rows import (
    Mask,
    Requested,
    Rows,
    RowStatistics,
    adjusted_logits,
)
from xentjax.ops.sharded import across_devices


class Chosen(NamedTuple):
    """Classes chosen in each row, m of them."""

    indices: Int32[Array, "n m"]
    """-1 where there is no class."""
    logits: Float[Array, "n m"]
    """Logits after the soft cap, less the shift, not yet divided by the temperature."""
    shift: Float[Array, " n"]
    """Shift as in `RowStatistics`, with a zero derivative."""
    log_sum: Float[Array, " n"]
    """log s over the classes that the chooser keeps in the sum; -inf if it keeps none."""


Candidates = Any
"""Tuple of arrays [n, ...], whose meaning depends on the chooser."""


@runtime_checkable
class Chooser(Protocol):
    """Rule that chooses classes; hashable."""

    @property
    def arrays(self) -> int:
        """Number of values in memory for each logit of a tile."""
        ...

    @property
    def neutral(self) -> tuple[float, ...]:
        """Fill value of each array of candidates, for places without a candidate."""
        ...

    @property
    def may_leave_none(self) -> bool:
        """Whether log s may be a sum over no classes."""
        ...

    def candidates(self, shard: ClassShard, by_row: Any, best: Candidates | None, /) -> Candidates:
        """Return the candidates in a tile, whose first class has the index `shard.first_class`.

        `best` are the candidates of earlier tiles, if any; worse ones may be left out.
        """
        ...

    def merge(self, a: Candidates, b: Candidates) -> Candidates:
        """Return the candidates among `a` and `b`; the classes of `a` have the smaller indices."""
        ...

    def across_devices(self, a: Candidates, axis_name: AxisName) -> Candidates:
        """Return the candidates among those of all devices; every device gets the same."""
        ...

    def summed_rows(self, shard: ClassShard, by_row: Any) -> Rows:
        """Return the rows of a tile, with the classes that do not belong to log s masked.

        In the derivative rule, `by_row` holds only the indices of the chosen classes, which have
        the same origin as `shard.first_class`.
        """
        ...

    def result(
        self,
        candidates: Candidates,
        stats: RowStatistics,
        by_row: Any,
        temperature: Float[Array, ""] | None,
        /,
    ) -> tuple[Int32[Array, "n m"], Float[Array, "n m"], RowStatistics]:
        """Return the classes, their logits before temperature, and the statistics for `Chosen`."""
        ...


def choose(
    shard: ClassShard,
    by_row: Any,
    chooser: Chooser,
    axis_name: AxisName | None,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    """Choose among all classes of each row; with an axis name, `shard` has only some of them.

    The logits and log s are differentiable in every floating input of the shard's rows, in all
    modes and orders.

    Args:
        shard: rows of a layer, without target.
        by_row: arrays for the chooser, with an entry for each row or one for all.
        chooser: the rule that chooses.
        axis_name: the mesh axis over which the classes are split, or None.
        implementation: the back-end that computes the row statistics.
        max_bytes: the approximate limit on the memory of tiles.
    """
    temperature = shard.rows.scalars.temperature
    if temperature is not None:  # shared by devices, not differentiated
        temperature = lax.stop_gradient(temperature)
    shard = shard._replace(rows=pvary_all(shard.rows))
    return _choose(shard, by_row, temperature, chooser, axis_name, implementation, max_bytes)


@partial(jax.custom_jvp, nondiff_argnums=(3, 4, 5, 6))
def _choose(
    shard: ClassShard,
    by_row: Any,
    temperature: Float[Array, ""] | None,
    chooser: Chooser,
    axis_name: AxisName | None,
    implementation: str | None,
    max_bytes: int | None,
) -> Chosen:
    visit = partial(
        _tile_by_tile, chooser=chooser, implementation=implementation, max_bytes=max_bytes
    )
    candidates, stats = batch_as_rows(visit)(shard.rows, shard.first_class[None], by_row)
    if axis_name is not None:
        candidates = chooser.across_devices(candidates, axis_name)
        stats = merge(stats, shard.first_class, None, across_devices(axis_name), temperature)
    indices, logits, stats = chooser.result(candidates, stats, by_row, temperature)
    return Chosen(indices, logits - stats.shift[:, None], stats.shift, stats.log_sum)


@partial(_choose.defjvp, symbolic_zeros=True)
def _(
    chooser: Chooser,
    axis_name: AxisName | None,
    implementation: str | None,
    max_bytes: int | None,
    primals: tuple[ClassShard, Any, Any],
    tangents: tuple[ClassShard, Any, Any],
) -> tuple[Chosen, Chosen]:
    (shard, *_), (d_shard, *_) = primals, tangents
    chosen = _choose(*primals, chooser, axis_name, implementation, max_bytes)
    # If log s is over no classes, -inf would make softmax e^(-inf + inf); 0 makes it e^-inf.
    empty = chooser.may_leave_none & (chosen.log_sum == -jnp.inf)
    log_sum = jnp.where(empty, 0, chosen.log_sum)
    stats = RowStatistics(chosen.shift, log_sum, None, None, None, None, None)

    def tile_tangents(tile: ClassShard, d_rows: Rows, numbers: Any) -> Float[Array, "n m1"]:
        stats, indices = numbers
        summed = chooser.summed_rows(tile, (indices,))
        d_log_sum = statistics_tangents(summed, stats, d_rows).log_sum
        d_logits = _logit_tangents(tile, d_rows, indices)
        return jnp.concatenate([d_log_sum[:, None], d_logits], 1)

    numbers = stats, chosen.indices - shard.first_class
    d_linear = moving_inputs(d_shard.rows)
    dots = sum_over_tiles(tile_tangents, shard.rows, d_linear, numbers, max_bytes)
    if axis_name is not None:
        dots = lax.psum(dots, axis_name)
    no_dot: Any = SymbolicZero.from_primal_value(chosen.indices)
    return chosen, Chosen(no_dot, dots[:, 1:], jnp.zeros_like(chosen.shift), dots[:, 0])


def _tile_by_tile(
    linear: LinearRows,
    first_class: Int32[Array, "#n"],
    by_row: Any,
    chooser: Chooser,
    implementation: str | None,
    max_bytes: int | None,
) -> tuple[Candidates, RowStatistics]:
    """Find the candidates among the classes of one device; compute the statistics of log s."""
    rows, classes = _blocks(linear, chooser, implementation, max_bytes)
    requested = Requested(normalizer=True)

    def visit_rows(i: Int32[Array, ""]) -> tuple[Candidates, RowStatistics]:
        block = slice_rows(linear, rows, i)
        first, here = jax.tree.map(
            lambda x: x if x.shape[0] == 1 else rows.slice(x, i, 0), (first_class, by_row)
        )

        def visit_tile(
            j: Int32[Array, ""], best: Candidates | None = None
        ) -> tuple[Candidates, RowStatistics, Array]:
            tile = tile_shard(with_logits(slice_classes(block, classes, j)), classes, j)
            own = None if tile.first_own is None else first[0] + tile.first_own
            tile = tile._replace(first_class=first[0] + tile.first_class, first_own=own)
            stats = row_statistics(chooser.summed_rows(tile, here), requested, implementation)
            return chooser.candidates(tile, here, best), stats, tile.first_class

        if classes.count == 1:
            return visit_tile(jnp.int32(0))[:2]

        def add_tile(total: Candidates, j: Int32[Array, ""]) -> tuple[Any, Any]:
            candidates, *statistics = visit_tile(j, total)
            return chooser.merge(total, candidates), statistics

        like = zeros_of(lambda j: visit_tile(j)[0], jnp.int32(0))
        start = tuple(map(jnp.full_like, like, chooser.neutral))
        candidates, (stats, firsts) = lax.scan(add_tile, start, classes.indices())
        temperature = linear.scalars.temperature
        stats = merge(stats, firsts[:, None], None, ACROSS_FIRST_AXIS, temperature)
        return candidates, jax.tree.map(lambda a: a[0], stats)

    return map_kept_rows(visit_rows, linear, rows)


def _blocks(
    linear: LinearRows, chooser: Chooser, implementation: str | None, max_bytes: int | None
) -> tuple[Blocks, Blocks]:
    if backend(implementation).stores_logits:
        n, k = linear.logits.shape
        return blocks(n, n), blocks(k, k)
    return forward_blocks(linear, max_bytes, chooser.arrays)


def places(
    tile: ClassShard, indices: Int32[Array, "n m"]
) -> tuple[Int32[Array, "n m"], Bool[Array, "n m"]]:
    """Return the places of classes in a tile, 0 outside of it, and whether the tile owns them."""
    place = indices - tile.first_class
    own = (place >= 0) & (place < tile.rows.logits.shape[-1])
    if tile.first_own is not None:
        own &= indices >= tile.first_own
    return jnp.where(own, place, 0), own


def rows_at(rows: Rows, place: Int32[Array, "n m"]) -> Rows:
    """Reduce the rows of a tile to the logits and masks of m of its classes."""
    classes = rows.mask.classes
    if classes is not None:
        every = jnp.broadcast_to(classes, rows.logits.shape)
        classes = jnp.take_along_axis(every, place, -1)
    logits = jnp.take_along_axis(rows.logits, place, -1)
    return rows._replace(logits=logits, mask=Mask(rows.mask.rows, classes))


def _logit_tangents(
    tile: ClassShard, d_rows: Rows, indices: Int32[Array, "n m"]
) -> Float[Array, "n m"]:
    """Compute the derivative of the chosen logits in a tile; 0 for those of other tiles."""
    place, own = places(tile, indices)
    rows = rows_at(tile.rows, place)
    logits = rows.logits
    d_logits = jnp.zeros_like(logits)
    if d_rows.logits is not None:
        d_logits = jnp.take_along_axis(d_rows.logits, place, -1)
    (logits, scalars), (d_logits, d_scalars) = pvary_all(
        ((logits, rows.scalars), (d_logits, d_rows.scalars))
    )
    _, dots = value_and_tangent(
        adjusted_logits,
        rows._replace(logits=logits, scalars=scalars),
        d_rows._replace(logits=d_logits, scalars=d_scalars),
    )
    return jnp.where(own, dots, 0)
