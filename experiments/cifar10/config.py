"""What a training run is made of: the settings and the presets."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

import numpy as np

from experiments.common.command import UserError, check_seed

DatasetName = Literal["cifar10", "digits"]
NetworkName = Literal["airbench", "resnet18"]
LossName = Literal["cross_entropy", "focal", "poly", "brier"]
OptimizerName = Literal["sgd", "muon"]
ViewsName = Literal["plain", "mirrored", "mirrored_and_shifted"]
PresetName = Literal[
    "tiny",
    "small",
    "airbench93",
    "airbench94",
    "airbench94-muon",
    "airbench95",
    "airbench96",
    "resnet18",
    "tour",
    "digits",
]
MOST_CHANNELS = 8192
SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
GROUPS: Mapping[str, int] = {"airbench": 3, "resnet18": 4}  # of convolutions, in each network


class ConfigError(UserError):
    """A setting that cannot be trained with; its text is one line that names it."""


@dataclass(frozen=True)
class Config:
    """Every setting of a run; equal settings on one machine give equal results, bit for bit on CPU.

    Learning rate and weight decay are airbench's: per 1024 images and free of the momentum, so
    they need no change when the batch size or the momentum does (`optimizer.py` converts them).
    """

    dataset: DatasetName = "cifar10"
    """cifar10, or scikit-learn's digits, which need no download."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images and their augmentation."""
    held_out: int = 0
    """Training images that are left out of it, to fit the temperature on."""
    num_devices: int | None = None
    """Devices that share each batch; by default all there are."""

    network: NetworkName = "airbench"
    """airbench: whitening, then groups of convolutions; resnet18: residual blocks."""
    widths: tuple[int, ...] = (64, 256, 256)
    """Channels of each group: three groups in airbench, four in resnet18."""
    convs: int = 2
    """Convolutions in each of airbench's groups; of three, the last two have a residual path."""
    whiten: bool = True
    """Start from a fixed whitening of 2x2 patches rather than from trained filters."""
    whiten_bias_epochs: float = 3.0
    """Epochs in which the whitening's bias is trained; without it later steps are cheaper."""
    identity_init: bool = True
    """Start each convolution as a copy of its input, as far as its channels go."""
    norm_momentum: float = 0.6
    """Part of batch normalisation's running statistics that a step keeps."""

    epochs: float = 9.9
    """Passes through the training images; the last may be a part of one."""
    batch_size: int = 1024
    """Images a step; the images of an epoch that fill no batch are left out of it."""
    image_sides: tuple[int, ...] = (32,)
    """Side in pixels the images are shrunk to, epoch by epoch; the last holds from there on."""
    shift: int = 2
    """Largest random shift of an image in pixels, its border reflected."""
    flip: bool = True
    """Mirror each image every other epoch."""
    cutout: int = 0
    """Side in pixels of a square that is blanked at a random place of each image."""
    views: ViewsName = "mirrored_and_shifted"
    """Views of a test image whose logits are averaged: it, its mirror image, and both shifted."""

    loss: LossName = "cross_entropy"
    """Cross-entropy, focal (gamma 2), poly (epsilon 1) or the Brier score."""
    label_smoothing: float = 0.2
    """Share of the target mass that is spread over all classes, in cross-entropy and poly."""

    optimizer: OptimizerName = "sgd"
    """Nesterov's momentum for all, or Muon for the convolutions' kernels."""
    muon_rate: float = 0.24
    """At the peak of the schedule; kernels have a norm of 1 per output channel then."""
    muon_momentum: float = 0.6
    """Nesterov's, of Muon."""
    learning_rate: float = 11.5
    """At the peak of the schedule, per 1024 images."""
    weight_decay: float = 0.0153
    """Per 1024 images, relative to the learning rate's schedule."""
    momentum: float = 0.85
    """Nesterov's."""
    norm_bias_scale: float = 64.0
    """How many times the learning rate the biases of batch normalisation get."""
    warmup: float = 0.23
    """The fraction of the training after which the learning rate is at its peak."""
    final_rate: float = 0.07
    """The learning rate at the end, relative to its peak."""
    lookahead: bool = True
    """Every 5 steps go back towards a slow average of the parameters."""

    def __post_init__(self) -> None:
        def check(name: str, expected: str, holds: bool) -> None:
            if not holds:
                raise ConfigError(f"{name}: expected {expected}, got {getattr(self, name)}")

        def check_choice(name: str, choices: Any) -> None:
            check(name, " or ".join(get_args(choices)), getattr(self, name) in get_args(choices))

        check_seed("seed", self.seed)
        check_choice("dataset", DatasetName)
        check_choice("network", NetworkName)
        check_choice("loss", LossName)
        check_choice("optimizer", OptimizerName)
        check_choice("views", ViewsName)
        check("held_out", "0 or more", self.held_out >= 0)
        check("num_devices", "at least 1", self.num_devices is None or self.num_devices >= 1)
        groups = GROUPS[self.network]
        fits = len(self.widths) == groups and min(self.widths) >= 1
        check("widths", f"{groups} numbers, at least 1", fits)
        check("widths", f"at most {MOST_CHANNELS} each", max(self.widths) <= MOST_CHANNELS)
        check("convs", "2 or 3", self.convs in (2, 3))
        check("whiten_bias_epochs", "0 or more", 0 <= self.whiten_bias_epochs < math.inf)
        check("norm_momentum", "0 to below 1", 0 <= self.norm_momentum < 1)
        check("epochs", "a positive number", 0 < self.epochs < math.inf)
        check("batch_size", "at least 2, batch normalisation needs them", self.batch_size >= 2)
        check("image_sides", "9 to 32 pixels each", _within(self.image_sides, 9, 32))
        check("shift", "0 to 8 pixels", 0 <= self.shift <= 8)
        check("cutout", "0 to 32 pixels", 0 <= self.cutout <= 32)
        check("label_smoothing", "0 to 1", 0 <= self.label_smoothing <= 1)
        check("learning_rate", "a positive number", 0 < self.learning_rate < math.inf)
        check("weight_decay", "0 or more", 0 <= self.weight_decay < math.inf)
        check("momentum", "0 to below 1", 0 <= self.momentum < 1)
        check("muon_rate", "a positive number", 0 < self.muon_rate < math.inf)
        check("muon_momentum", "0 to below 1", 0 <= self.muon_momentum < 1)
        check("norm_bias_scale", "a positive number", 0 < self.norm_bias_scale < math.inf)
        check("warmup", "0 to below 1", 0 <= self.warmup < 1)
        check("final_rate", "0 to 1", 0 <= self.final_rate <= 1)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float):  # those that are not finite are refused above
                check(field.name, "a number that float32 holds", _is_float32(value))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Self:
        """Return the configuration that config.json in the run's folder `path` holds."""
        try:
            arguments: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
            }
            kinds = get_type_hints(cls)
            for name, value in arguments.items():
                if not _is_of_kind(value, kinds[name]):
                    raise TypeError(f"{name}: {value!r}")
            return cls(**arguments)
        except (TypeError, AttributeError, KeyError) as error:
            raise ConfigError(
                f"{path / 'config.json'}: expected a CIFAR-10 run's settings: {error}"
            ) from None

    @property
    def smooths_labels(self) -> bool:
        """Whether the loss is that of smoothed labels."""
        return self.label_smoothing > 0 and self.loss in ("cross_entropy", "poly")

    def image_side(self, epoch: int) -> int:
        """Side of the images in this epoch, in pixels."""
        return self.image_sides[min(epoch, len(self.image_sides) - 1)]

    def changes(self, other: Self) -> list[str]:
        """The settings in which `other` differs."""
        names = (field.name for field in dataclasses.fields(self))
        return [name for name in names if getattr(self, name) != getattr(other, name)]


def _is_of_kind(value: Any, kind: Any) -> bool:
    """Whether JSON's value suits the annotation of a setting."""
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(type(entry) is int for entry in value)
    if get_origin(kind) is Literal:
        return isinstance(value, str)
    return type(value) in {int: (int,), float: (int, float), bool: (bool,)}.get(
        kind, (int, type(None))
    )


def _is_float32(value: float) -> bool:
    """Whether it is 0, or neither overflows nor loses digits in float32."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _within(values: tuple[int, ...], low: int, high: int) -> bool:
    return len(values) > 0 and all(low <= value <= high for value in values)


# 25 pixels rather than 24: whitened to 24, they are halved to 12, 6 and 3 without a rest.
TINY = Config(
    held_out=1000,
    widths=(32, 64, 128),
    whiten_bias_epochs=2.0,
    epochs=6.0,
    batch_size=128,
    image_sides=(25, 25, 25, 25, 32),
)
# 848 images held out leave 48 batches of 1024, as many as fit into all 50,000
AIRBENCH94 = Config(held_out=848)
PRESETS: Mapping[str, Config] = {
    "tiny": TINY,
    "small": replace(TINY, widths=(64, 128, 128), epochs=8.0, image_sides=(25, 25, 25, 25, 25, 32)),
    "airbench93": replace(AIRBENCH94, widths=(64, 128, 128), epochs=11.0),
    "airbench94": AIRBENCH94,
    "airbench94-muon": replace(
        AIRBENCH94,
        held_out=0,
        batch_size=2000,
        epochs=8.0,
        optimizer="muon",
        learning_rate=6.5,
        weight_decay=0.0157,
        warmup=0.0,
        final_rate=0.0,
        lookahead=False,
    ),
    "airbench95": replace(AIRBENCH94, widths=(128, 384, 384), epochs=15.0, learning_rate=10.0),
    "airbench96": replace(
        AIRBENCH94,
        widths=(128, 384, 512),
        convs=3,
        norm_momentum=0.9,
        epochs=37.0,
        learning_rate=9.0,
        weight_decay=0.012,
        shift=4,
        cutout=12,
        warmup=0.1,
        final_rate=0.0,
    ),
    "resnet18": replace(
        AIRBENCH94,
        network="resnet18",
        widths=(64, 128, 256, 512),
        whiten_bias_epochs=0.0,
        norm_momentum=0.9,
        epochs=30.0,
        batch_size=512,
        shift=4,
        views="mirrored",
        label_smoothing=0.1,
        learning_rate=10.0,
        weight_decay=0.005,
        momentum=0.9,
        norm_bias_scale=1.0,
        final_rate=0.0,
        lookahead=False,
    ),
    "tour": replace(
        TINY, epochs=2.0, widths=(16, 32, 64), image_sides=(25,), whiten_bias_epochs=1.0
    ),
    "digits": replace(
        TINY,
        dataset="digits",
        held_out=100,
        epochs=20.0,
        batch_size=64,
        widths=(16, 32, 64),
        image_sides=(25,),
        flip=False,
        views="plain",
    ),
}
