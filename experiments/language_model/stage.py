"""A stage of a run: its remaining steps after the last checkpoint, with a record of each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from experiments.common import checkpoint
from experiments.common.command import UserError
from experiments.common.interrupt import TrainingStopped
from experiments.common.progress import TrainingProgress
from experiments.common.run_folder import RunFolder
from experiments.language_model.train import TrainState

Metrics = dict[str, float]
Take = Callable[[TrainState], tuple[TrainState, Metrics]]


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: of the stage, and of the folder of its checkpoint.
        steps: number of steps of the whole stage.
        step_work: estimated work of a step, see `work.py`.
        evaluate_every: steps between two evaluations, which also save a checkpoint.
    """

    name: str
    steps: int
    step_work: float
    evaluate_every: int

    def steps_left(self, folder: RunFolder) -> int:
        """Count the steps after the last checkpoint."""
        return self.steps - (checkpoint.latest_step(folder.path / self.name) or 0)

    def train(
        self,
        state: TrainState,
        take: Take,
        evaluate: Callable[[TrainState], Metrics],
        folder: RunFolder,
        progress: TrainingProgress,
        should_stop: Callable[[], bool],
    ) -> TrainState:
        """Take the remaining steps; log each, evaluate and save.

        Args:
            state: before the first step.
            take: takes one step or a few, and returns the new state and what to log.
            evaluate: returns what to log of a state from time to time.
            folder: the folder of the run.
            progress: shows what happens.
            should_stop: called before every `take`; True saves a checkpoint and stops.

        Raises:
            TrainingStopped: `should_stop` returned True.
            CheckpointError: the checkpoint is damaged, or there is no room to save.
            UserError: a number became NaN or infinite.
        """
        path = folder.path / self.name
        if checkpoint.latest_step(path) is not None:
            state = checkpoint.restore(path, state)
        while (before := int(state.step)) < self.steps:
            if should_stop():
                checkpoint.save(path, state)
                raise TrainingStopped(f"{self.name}: stopped after step {before} of {self.steps}")
            progress.doing(f"{self.name} {before}/{self.steps}")
            state, metrics = take(state)
            step = int(state.step)
            self._check_finite(step, metrics)
            progress.worked(self.step_work * (step - before), _shown(metrics))
            due = step // self.evaluate_every > before // self.evaluate_every
            if not due and step < self.steps:
                folder.log(stage=self.name, step=step, **metrics)
                continue
            progress.doing(f"{self.name}: testing")
            metrics |= evaluate(state)
            folder.log(stage=self.name, step=step, **metrics)
            checkpoint.save(path, state)
            progress.line(f"{self.name:9s} {step:4d}/{self.steps}  {_shown(metrics)}")
        return state

    def _check_finite(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name}: expected a finite number, got {value} in step {step} of "
                    f"{self.name}; a smaller learning rate may help"
                )


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in metrics.items()).replace(
        "bits_per_byte", "bits/byte"
    )
