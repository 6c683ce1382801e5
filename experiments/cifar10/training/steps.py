"""The number of steps of a run, and where its epochs begin and end."""

import math
from dataclasses import dataclass
from typing import Self

from experiments.cifar10.config import Config, ConfigError

MOST_STEPS = 2**31 - 1  # they are counted in int32


@dataclass(frozen=True)
class StepCount:
    """The number of steps of a run.

    Attributes:
        per_epoch: whole batches in the training images.
        total: steps of the whole run.
        whitening: the first steps, which train the whitening's bias.
    """

    per_epoch: int
    total: int
    whitening: int

    @classmethod
    def of(cls, config: Config, num_images: int) -> Self:
        """Count the steps of a run on `num_images` images.

        Raises:
            ConfigError: the images do not fill one batch, or there are no or too many steps.
        """
        if config.batch_size > num_images:
            raise ConfigError(
                f"batch_size: expected at most {num_images}, the number of training images, "
                f"got {config.batch_size}"
            )
        per_epoch = num_images // config.batch_size
        most_epochs = MOST_STEPS / per_epoch
        total = _whole_steps(config.epochs, per_epoch) if config.epochs <= most_epochs else 0
        if total == 0:
            raise ConfigError(
                f"epochs: expected 1 to {MOST_STEPS} steps, {per_epoch} an epoch, "
                f"got {config.epochs}"
            )
        whitening = _whole_steps(min(config.whiten_bias_epochs, most_epochs), per_epoch)
        return cls(per_epoch, total, whitening)

    @property
    def epochs(self) -> int:
        """Number of epochs; the last one may be partial."""
        return math.ceil(self.total / self.per_epoch)

    def of_epoch(self, epoch: int) -> tuple[int, int]:
        """First step of an epoch, and the one after its last."""
        start = epoch * self.per_epoch
        return start, min(start + self.per_epoch, self.total)


def _whole_steps(epochs: float, steps_per_epoch: int) -> int:
    """Round up; 1.1 epochs of 50 are 55, though 1.1 * 50 > 55 in floating point."""
    return math.ceil(round(epochs * steps_per_epoch, 6))
