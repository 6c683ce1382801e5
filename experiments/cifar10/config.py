"""The settings of a run, and the presets."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import numpy as np

from experiments.common.command import check_seed
from experiments.common.settings import (
    ConfigError as ConfigError,
    changed_settings,
    settings_from_json,
)

DatasetName = Literal["cifar10", "digits"]
NetworkName = Literal["airbench", "resnet18"]
LossName = Literal["cross_entropy", "focal", "poly", "brier"]
OptimizerName = Literal["sgd", "muon"]
ViewsName = Literal["plain", "mirrored", "mirrored_and_shifted", "shifted_if_unsure"]
PresetName = Literal[
    "cpu89",
    "cpu92",
    "cpu93",
    "cpu94",
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


@dataclass(frozen=True)
class Config:
    """All settings of a run; on one machine equal settings give equal results, bit for bit on CPU.

    Learning rate and weight decay are in airbench's units: per 1024 images and independent of the
    momentum, so they need not change with the batch size or the momentum (`optimizer.py` converts
    them).
    """

    dataset: DatasetName = "cifar10"
    """cifar10, or scikit-learn's digits, which need no download."""
    seed: int = 0
    """Seed of the initial parameters, the order of the images and their augmentation."""
    held_out: int = 0
    """Training images held out to fit the temperature."""
    num_devices: int | None = None
    """Devices that share each batch; default: all available ones."""

    network: NetworkName = "airbench"
    """airbench: whitening, then groups of convolutions; resnet18: residual blocks."""
    widths: tuple[int, ...] = (64, 256, 256)
    """Channels of each group: three groups in airbench, four in resnet18."""
    convs: int = 2
    """Convolutions in each of airbench's groups; of three, the last two have a residual path."""
    whiten: bool = True
    """Start from a fixed whitening of 2x2 patches rather than from trained filters."""
    whiten_components: int = 12
    """Components of a patch that the first layer has, the most variable ones of 12; each has two
    channels."""
    whiten_bias_epochs: float = 3.0
    """Epochs in which the whitening's bias is trained; later steps are cheaper."""
    identity_init: bool = True
    """Start each convolution as a copy of as many input channels as possible."""
    norm_momentum: float = 0.6
    """Fraction of batch normalisation's running statistics that a step keeps."""

    epochs: float = 9.9
    """Passes through the training images; the last may be partial."""
    batch_size: int = 1024
    """Images per step; the last images of an epoch that do not fill a batch are left out."""
    image_sides: tuple[int, ...] = (32,)
    """Side in pixels to which images are shrunk, epoch by epoch; the last applies from there on."""
    shift: int = 2
    """Largest random shift of an image in pixels; borders are reflected."""
    flip: bool = True
    """Mirror each image every other epoch."""
    cutout: int = 0
    """Side in pixels of a square that is blanked at a random position in each image."""
    views: ViewsName = "mirrored_and_shifted"
    """Views of a test image whose logits are averaged: original, mirrored, and both shifted, of
    every image or of those whose two most probable classes are close."""

    loss: LossName = "cross_entropy"
    """Cross-entropy, focal loss (gamma 2), poly loss (epsilon 1) or Brier score."""
    label_smoothing: float = 0.2
    """Fraction of the target mass that is spread over all classes, in cross-entropy and poly."""

    optimizer: OptimizerName = "sgd"
    """Nesterov momentum for all parameters, or Muon for the convolution kernels."""
    muon_rate: float = 0.24
    """Muon's peak learning rate, for kernels with a norm of 1 per output channel."""
    muon_momentum: float = 0.6
    """Nesterov momentum of Muon."""
    learning_rate: float = 11.5
    """Learning rate at the peak of the schedule, per 1024 images."""
    weight_decay: float = 0.0153
    """Weight decay per 1024 images, scaled by the schedule of the learning rate."""
    momentum: float = 0.85
    """Nesterov momentum."""
    norm_bias_scale: float = 64.0
    """Learning rate of the biases of batch normalisation, relative to the others."""
    warmup: float = 0.23
    """Fraction of the steps after which the learning rate is at its peak."""
    final_rate: float = 0.07
    """Learning rate at the end, relative to its peak."""
    lookahead: bool = True
    """Return towards a slow average of the parameters every 5 steps."""

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
        check("whiten_components", "1 to 12", 1 <= self.whiten_components <= 12)
        check("whiten_bias_epochs", "0 or more", 0 <= self.whiten_bias_epochs < math.inf)
        check("norm_momentum", "0 to below 1", 0 <= self.norm_momentum < 1)
        check("epochs", "a positive number", 0 < self.epochs < math.inf)
        check("batch_size", "at least 2, for batch normalisation", self.batch_size >= 2)
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
            if isinstance(value, float):  # non-finite ones are rejected above
                check(field.name, "a number that float32 can represent", _is_float32(value))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], path: Path) -> Self:
        """Read the configuration in config.json of the run folder `path`."""
        return settings_from_json(cls, values, path, "a CIFAR-10")

    @property
    def smooths_labels(self) -> bool:
        """Whether the loss smooths the labels."""
        return self.label_smoothing > 0 and self.loss in ("cross_entropy", "poly")

    def image_side(self, epoch: int) -> int:
        """Return the side of the images in an epoch, in pixels."""
        return self.image_sides[min(epoch, len(self.image_sides) - 1)]

    def changes(self, other: Self) -> list[str]:
        """List the settings in which `other` differs."""
        return changed_settings(self, other)


def _is_float32(value: float) -> bool:
    """Whether a number is 0, or neither overflows nor loses digits in float32."""
    return value == 0 or SMALLEST <= abs(value) <= LARGEST


def _within(values: tuple[int, ...], low: int, high: int) -> bool:
    return len(values) > 0 and all(low <= value <= high for value in values)


# 25 pixels rather than 24: 24 after the whitening, then halved exactly to 12, 6 and 3.
TOUR = Config(
    held_out=1000,
    widths=(16, 32, 64),
    whiten_bias_epochs=1.0,
    epochs=2.0,
    batch_size=128,
    image_sides=(25,),
)
# holding out 848 images leaves 48 batches of 1024, as many as fit into all 50,000
AIRBENCH94 = Config(held_out=848)
BY_MUON: Mapping[str, Any] = {
    "optimizer": "muon",
    "learning_rate": 6.5,
    "weight_decay": 0.0157,
    "warmup": 0.0,
    "final_rate": 0.0,
    "lookahead": False,
}
CPU94 = replace(
    AIRBENCH94,
    whiten_components=8,
    whiten_bias_epochs=2.0,
    epochs=11.0,
    batch_size=256,
    image_sides=(25, 25, 25, 25, 25, 25, 32),
    views="shifted_if_unsure",
    muon_rate=0.09,
    **BY_MUON,
)
PRESETS: Mapping[str, Config] = {
    # A step of 144 images fits into one block of memory, so that XLA can store its program.
    "cpu89": replace(
        CPU94,
        widths=(32, 96, 160),
        whiten_bias_epochs=0.0,
        epochs=3.75,
        batch_size=144,
        image_sides=(25, 25, 32),
        muon_rate=0.075,
        learning_rate=9.0,
    ),
    "cpu92": replace(
        CPU94,
        widths=(64, 128, 128),
        whiten_bias_epochs=0.0,
        epochs=8.0,
        image_sides=(25, 25, 25, 25, 25, 32),
    ),
    "cpu93": replace(CPU94, epochs=7.0, image_sides=(25, 25, 25, 25, 32)),
    "cpu94": CPU94,
    "airbench93": replace(AIRBENCH94, widths=(64, 128, 128), epochs=11.0),
    "airbench94": AIRBENCH94,
    "airbench94-muon": replace(AIRBENCH94, held_out=0, batch_size=2000, epochs=8.0, **BY_MUON),
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
    "tour": TOUR,
    "digits": replace(
        TOUR,
        dataset="digits",
        held_out=100,
        whiten_bias_epochs=2.0,
        epochs=20.0,
        batch_size=64,
        flip=False,
        views="plain",
    ),
}
