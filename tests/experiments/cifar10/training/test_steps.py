"""The number of steps of a run, of whole epochs or not."""

import dataclasses

import pytest

from experiments.cifar10.config import PRESETS, Config, ConfigError
from experiments.cifar10.training.steps import StepCount


@pytest.mark.parametrize(
    ("epochs", "whitening", "steps", "whitening_steps", "passes"),
    [
        (2.0, 1.0, 12, 6, 2),
        (0.1, 0.0, 1, 0, 1),  # a step at least
        (1.0, 0.5, 6, 3, 1),
        (1.01, 0.01, 7, 1, 2),
        (1.5, 1.25, 9, 8, 2),
        (1.99, 3.0, 12, 18, 2),
    ],
)
def test_a_part_of_an_epoch_is_rounded_up_to_whole_steps(
    epochs, whitening, steps, whitening_steps, passes
):
    config = Config(epochs=epochs, whiten_bias_epochs=whitening, batch_size=8)
    count = StepCount.of(config, 50)
    assert count == StepCount(6, steps, whitening_steps)
    assert count.epochs == passes
    assert [count.of_epoch(epoch) for epoch in range(passes)] == [
        (start, min(start + 6, steps)) for start in range(0, steps, 6)
    ]


@pytest.mark.parametrize(
    ("preset", "steps_per_epoch", "steps"),
    [
        ("airbench94", 48, 476),  # as published: 9.9 epochs, 475.2 steps
        ("airbench94-muon", 25, 200),
        ("airbench95", 48, 720),
        ("airbench96", 48, 1776),
        ("cpu89", 341, 1279),  # 3.75 epochs, 1278.75 steps
    ],
)
def test_lengths_of_presets_on_cifar10(preset, steps_per_epoch, steps):
    config = PRESETS[preset]
    count = StepCount.of(config, 50_000 - config.held_out)
    assert (count.per_epoch, count.total) == (steps_per_epoch, steps)


def test_images_that_fill_no_batch_are_an_error_that_names_the_setting():
    config = Config(batch_size=51)
    with pytest.raises(ConfigError, match=r"batch_size: expected at most 50, .*, got 51"):
        StepCount.of(config, 50)
    assert StepCount.of(dataclasses.replace(config, batch_size=50), 50).per_epoch == 1


def test_image_sides_hold_from_the_last_one_on():
    config = Config(image_sides=(9, 12))
    assert [config.image_side(epoch) for epoch in range(4)] == [9, 12, 12, 12]
