"""The functions of a back-end that the operations call."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from jaxtyping import Array, Float

from xentjax.ops.layer import LinearRows
from xentjax.ops.rows import Layer, Requested, Rows, RowStatistics

Wrt = Literal["x", "kernel"]
"""Part of a layer with respect to which a gradient is taken; "kernel" means kernel and bias."""


class Backend(NamedTuple):
    """The functions of a back-end; None if it has none of its own and XLA's is used."""

    row_statistics: Callable[[Rows, Requested], RowStatistics]
    """Statistics of logits in memory. The function needs no derivative."""
    linear_statistics: Callable[[LinearRows, Requested], RowStatistics | None] | None = None
    """Statistics of a layer whose logits are never stored in the device's main memory. The function
    returns None if XLA has to compute that layer's logits, block by block."""
    layer_gradients: (
        Callable[[LinearRows, RowStatistics, RowStatistics, tuple[Wrt, ...]], Layer] | None
    ) = None
    """Gradients of a layer (first) from its statistics (second) and their cotangents (third), None
    for parts that are not requested (fourth). The layer has at least one row."""
    softmax: Callable[[Float[Array, "*rows k"], bool], Float[Array, "*rows k"]] | None = None
    """Log-softmax (if True) or softmax of each row. The function needs no derivative."""
    stores_logits: bool = False
    """Whether all logits of a layer are to be stored at once."""
