"""How many steps a training takes, and where its epochs begin and end."""

import math
from dataclasses import dataclass
from typing import Self

from experiments.cifar10.config import Config, ConfigError

MOST_STEPS = 2**31 - 1  # they are counted in int32


@dataclass(frozen=True)
class Length:
    """The length of a training, in steps.

    Attributes:
        steps_per_epoch: whole batches in the training images.
        steps: of the whole training.
        whitening_steps: the first ones, which train the whitening's bias.
    """

    steps_per_epoch: int
    steps: int
    whitening_steps: int

    @classmethod
    def of(cls, config: Config, num_images: int) -> Self:
        """The length of a training on `num_images` images.

        Raises:
            ConfigError: they do not fill one batch, or there are no or too many steps.
        """
        if config.batch_size > num_images:
            raise ConfigError(
                f"batch_size: expected at most {num_images}, the number of training images, "
                f"got {config.batch_size}"
            )
        steps_per_epoch = num_images // config.batch_size
        most = MOST_STEPS / steps_per_epoch  # epochs
        steps = _steps(config.epochs, steps_per_epoch) if config.epochs <= most else 0
        if steps == 0:
            raise ConfigError(
                f"epochs: expected 1 to {MOST_STEPS} steps, {steps_per_epoch} an epoch, "
                f"got {config.epochs}"
            )
        return cls(
            steps_per_epoch, steps, _steps(min(config.whiten_bias_epochs, most), steps_per_epoch)
        )

    @property
    def epochs(self) -> int:
        """Epochs, the last of which may be a part of one."""
        return math.ceil(self.steps / self.steps_per_epoch)


def _steps(epochs: float, steps_per_epoch: int) -> int:
    """Whole steps; 1.1 epochs of 50 are 55, though 1.1 * 50 is more in floating point."""
    return math.ceil(round(epochs * steps_per_epoch, 6))
