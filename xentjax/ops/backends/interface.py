"""The functions that a back-end offers to the operations above it."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

from xentjax.ops.layer import LinearRows
from xentjax.ops.rows import Layer, Requested, Rows, RowStatistics

Wrt = Literal["x", "kernel"]
"""The part of a layer in which a gradient is taken; "kernel" stands for kernel and bias."""


class Backend(NamedTuple):
    """The functions of a back-end; None where it has none of its own and XLA's serves."""

    row_statistics: Callable[[Rows, Requested], RowStatistics]
    """The statistics of logits in memory. It needs no derivative."""
    linear_statistics: Callable[[LinearRows, Requested], RowStatistics | None] | None = None
    """The statistics of a layer whose logits exist on the chip alone; None if that layer's logits
    have to come from XLA, block by block."""
    layer_gradients: (
        Callable[[LinearRows, RowStatistics, RowStatistics, tuple[Wrt, ...]], Layer] | None
    ) = None
    """The pullback of cotangents (third) of the statistics (second) in the layer, None where it is
    not asked for. The layer has at least one row."""
    softmax: Callable[[Float[Array, "*rows k"], bool], Float[Array, "*rows k"]] | None = None
    """log softmax (True) or softmax of each row. It needs no derivative."""
    stores_logits: bool = False
    """Whether a layer's logits are to be stored whole."""
