"""What a training run is made of: the settings and the presets."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

from experiments._command import UserError, check_seed

DatasetName = Literal["cifar10", "digits"]


class ConfigError(UserError):
    """A setting that cannot be trained with; its text is one line that names it."""


@dataclass(frozen=True)
class Config:
    """Every setting of a run; equal settings on equal hardware give equal results.

    Learning rate and weight decay are airbench's: per 1024 images and free of the momentum, so
    they need no change when the batch size or the momentum does (`optimizer.py` converts them).
    """

    dataset: DatasetName = "cifar10"
    """cifar10, or scikit-learn's digits, which need no download."""
    seed: int = 0
    """Of the initial parameters, the order of the images and their augmentation."""
    epochs: int = 10
    """Passes through the training images."""
    batch_size: int = 1000
    """Images a step; the images of an epoch that fill no batch are left out of it."""
    widths: tuple[int, int, int] = (64, 256, 256)
    """Channels of the three groups of convolutions."""
    image_sides: tuple[int, ...] = (32,)
    """Side in pixels the images are shrunk to, epoch by epoch; the last holds from there on."""
    learning_rate: float = 10.0
    """At the peak of the schedule, per 1024 images."""
    weight_decay: float = 0.015
    """Per 1024 images, relative to the learning rate's schedule."""
    momentum: float = 0.85
    """Nesterov's."""
    norm_bias_scale: float = 64.0
    """How many times the learning rate the biases of batch normalisation get."""
    warmup: float = 0.2
    """The fraction of the training after which the learning rate is at its peak."""
    whiten_bias_epochs: int = 3
    """Epochs in which the whitening's bias is trained; without it later steps are cheaper."""
    lookahead: bool = False
    """Every 5 steps go back towards a slow average of the parameters."""
    label_smoothing: float = 0.2
    """Share of the target mass that is spread over all classes."""
    shift: int = 2
    """Largest random shift of an image in pixels, its border reflected."""
    flip: bool = True
    """Mirror each image every other epoch, and average over both mirror images in the test."""

    def __post_init__(self) -> None:
        def check(name: str, expected: str, holds: bool) -> None:
            if not holds:
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

        check_seed("seed", self.seed)
        check("dataset", " or ".join(get_args(DatasetName)), self.dataset in get_args(DatasetName))
        check("epochs", "at least 1", self.epochs >= 1)
        check("batch_size", "at least 2, batch normalisation needs them", self.batch_size >= 2)
        check("widths", "three numbers, at least 1", _three_channels(self.widths))
        check("image_sides", "9 to 32 pixels each", _within(self.image_sides, 9, 32))
        check("learning_rate", "a positive number", self.learning_rate > 0)
        check("weight_decay", "0 or more", self.weight_decay >= 0)
        check("momentum", "0 to below 1", 0 <= self.momentum < 1)
        check("norm_bias_scale", "a positive number", self.norm_bias_scale > 0)
        check("warmup", "0 to below 1", 0 <= self.warmup < 1)
        check("whiten_bias_epochs", "0 or more", self.whiten_bias_epochs >= 0)
        check("label_smoothing", "0 to 1", 0 <= self.label_smoothing <= 1)
        check("shift", "0 to 8 pixels", 0 <= self.shift <= 8)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The configuration that a run folder's config.json holds."""
        try:
            arguments: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            return cls(**arguments)
        except (TypeError, AttributeError) as error:
            raise ConfigError(f"config.json: expected a CIFAR-10 run's settings: {error}") from None

    def image_side(self, epoch: int) -> int:
        """Side of the images in this epoch, in pixels."""
        return self.image_sides[min(epoch, len(self.image_sides) - 1)]

    def changes(self, other: Self) -> list[str]:
        """The settings in which `other` differs."""
        names = (field.name for field in dataclasses.fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def _three_channels(widths: tuple[int, ...]) -> bool:
    return len(widths) == 3 and min(widths) >= 1


def _within(values: tuple[int, ...], low: int, high: int) -> bool:
    return len(values) > 0 and all(low <= value <= high for value in values)


# 25 pixels rather than 24: whitened to 24, they are halved to 12, 6 and 3 without a rest.
TINY = Config(
    epochs=6,
    batch_size=128,
    widths=(32, 64, 128),
    image_sides=(25, 25, 25, 25, 32),
    learning_rate=11.5,
    whiten_bias_epochs=2,
    lookahead=True,
)
PRESETS: Mapping[str, Config] = {
    "tiny": TINY,
    "airbench94": Config(),
    "tour": dataclasses.replace(
        TINY, epochs=2, widths=(16, 32, 64), image_sides=(25,), whiten_bias_epochs=1
    ),
    "digits": dataclasses.replace(
        TINY,
        dataset="digits",
        epochs=20,
        batch_size=64,
        widths=(16, 32, 64),
        image_sides=(25,),
        flip=False,
    ),
}
