"""The time of training with PyTorch's steps, relative to that with ours, step by step in turn."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import jax
import numpy as np

from experiments.cifar10.config import Config
from experiments.cifar10.torch_step import Step, torch_step, xentjax_step

LEAST_ROUNDS, MOST_ROUNDS, ENOUGH_SECONDS = 4, 14, 20.0


@dataclass(frozen=True)
class Phase:
    """Epochs of equal steps, and the seconds of one.

    Attributes:
        side: of the images in pixels.
        train_whitening: whether the bias of the first layer is trained.
        epochs: number of epochs; the last may be partial.
        xentjax_seconds: median of the seconds of a step.
        torch_seconds: the same of PyTorch's.
        ratio: median of the ratios of PyTorch's seconds to ours, within rounds.
    """

    side: int
    train_whitening: bool
    epochs: float
    xentjax_seconds: float
    torch_seconds: float
    ratio: float


def time_phases(torch: ModuleType, config: Config, saying: Callable[[str], None]) -> list[Phase]:
    """Time the steps of a run, in turn with PyTorch's (eager).

    Args:
        torch: the package.
        config: settings for which `not_written_for` lists nothing.
        saying: called with the current activity.
    """
    epochs: dict[tuple[int, bool], float] = {}
    for epoch in range(math.ceil(config.epochs)):
        kind = config.image_side(epoch), epoch < config.whiten_bias_epochs
        epochs[kind] = epochs.get(kind, 0.0) + min(1.0, config.epochs - epoch)
    phases = []
    for (side, trained), number in epochs.items():
        saying(f"steps at {side} pixels: compiling")
        ours = xentjax_step(config, side, train_whitening=trained)
        theirs = torch_step(torch, config, side, train_whitening=trained)
        seconds = _in_turn(
            (ours, theirs), lambda said, side=side: saying(f"steps at {side} pixels: {said}")
        )
        ratios = seconds[:, 1] / seconds[:, 0]
        own, theirs_seconds = np.median(seconds, axis=0).tolist()
        phases.append(Phase(side, trained, number, own, theirs_seconds, float(np.median(ratios))))
    return phases


def relative_time(phases: Sequence[Phase]) -> float:
    """Return the time of training with PyTorch's steps, relative to that with ours."""
    ours = [phase.epochs * phase.xentjax_seconds for phase in phases]
    theirs = [own * phase.ratio for own, phase in zip(ours, phases, strict=True)]
    return sum(theirs) / sum(ours)


def _in_turn(steps: Sequence[Step], saying: Callable[[str], None]) -> np.ndarray:
    """Time steps in turn, [rounds, steps] in seconds; every second round has the reverse order.

    An untimed step before each timed one restores caches and thread pools.
    """
    for step in steps:
        jax.block_until_ready(step())
    began, rounds = time.perf_counter(), []
    while len(rounds) < LEAST_ROUNDS or (
        len(rounds) < MOST_ROUNDS and time.perf_counter() - began < ENOUGH_SECONDS
    ):
        saying(f"round {len(rounds) + 1}")
        seconds = [0.0] * len(steps)
        order = range(len(steps))
        for index in reversed(order) if len(rounds) % 2 else order:
            jax.block_until_ready(steps[index]())
            start = time.perf_counter()
            jax.block_until_ready(steps[index]())
            seconds[index] = time.perf_counter() - start
        rounds.append(seconds)
    return np.asarray(rounds)
