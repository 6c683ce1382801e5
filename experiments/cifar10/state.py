"""The training state: all that a step reads and writes except the data."""

from typing import Any, NamedTuple

from jax import Array

FIXED = "fixed"  # the collection of a network's variables that are not trained


class TrainState(NamedTuple):
    """All that a training step reads and writes except the data.

    Attributes:
        step: int32 scalar, steps taken so far; epoch and position in it follow from it.
        params: trained parameters.
        batch_stats: running statistics of batch normalisation.
        optimizer: momenta and step counts.
        slow: lookahead's average of (params, batch_stats); None without lookahead.
        whitening: the fixed filters of airbench's first layer.
        loss: sum of the losses of this epoch's images so far, in nats.
        correct: number of them that were classified correctly.
    """

    step: Array
    params: Any
    batch_stats: Any
    optimizer: Any
    slow: Any
    whitening: Array
    loss: Array
    correct: Array

    @property
    def variables(self) -> dict[str, Any]:
        """The variables of the network, as flax has them."""
        return {
            "params": self.params,
            "batch_stats": self.batch_stats,
            FIXED: {"whitening": self.whitening},
        }
