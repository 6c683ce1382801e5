"""Training from the first step, or from a checkpoint, to the evaluation and its figures."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from experiments._command import UserError
from experiments._records import RunFolder
from experiments.cifar10 import checkpoint, report
from experiments.cifar10.backend import Backend, current_backend
from experiments.cifar10.config import Config, ConfigError
from experiments.cifar10.data import Dataset
from experiments.cifar10.evaluate import Evaluation, evaluate, predict_all
from experiments.cifar10.programs import Programs
from experiments.cifar10.progress import TrainingProgress
from experiments.cifar10.step import TrainState, make_training


class TrainingStopped(Exception):
    """Training was asked to stop; its state is saved."""


class DivergenceError(UserError):
    """The loss is no longer a number; the text names the step."""


@dataclass(frozen=True)
class Result:
    """What a run ends with.

    Attributes:
        state: the trained state.
        test: predictions of the test images, averaged over mirror images if the settings flip.
        test_plain: predictions of the test images as they are.
        train_seconds: time in training steps; after a resume, of the steps since.
        compile_seconds: time to compile training and prediction.
        test_seconds: time to predict the test images, after each epoch and at the end.
        images_per_second: in training steps; after a resume, in the steps since.
    """

    state: TrainState
    test: Evaluation
    test_plain: Evaluation
    train_seconds: float
    compile_seconds: float
    test_seconds: float
    images_per_second: float

    @property
    def accuracy(self) -> float:
        """Fraction of the test images classified correctly."""
        return self.test.accuracy

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood of the test labels in nats."""
        return self.test.nll


def run(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    *,
    resume: bool = False,
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Result:
    """Train on the dataset, test, and write checkpoint, metrics, summary and figures to the folder.

    Args:
        config: the settings.
        dataset: the images.
        folder: of this run.
        resume: go on from the folder's checkpoint.
        console: where to show the progress; None shows nothing.
        should_stop: asked before every step; True saves a checkpoint and stops.

    Raises:
        ConfigError: the batch is larger than the data set.
        CheckpointError: there is nothing to resume, or nothing left to do.
        TrainingStopped: `should_stop` said so.
        DivergenceError: the loss became NaN or infinite.
    """
    trainer = _Trainer(config, dataset, folder, current_backend())
    if resume:
        trainer.state = checkpoint.restore(folder.path, trainer.state)
    first_step = int(trainer.state.step)
    if first_step == trainer.total_steps and folder.has_summary():
        raise checkpoint.CheckpointError(
            f"{folder.path}: expected a stopped run, got a finished one"
        )
    with TrainingProgress(first_step, trainer.total_steps, console) as progress:
        for epoch in range(first_step // trainer.steps_per_epoch, config.epochs):
            trainer.train_epoch(epoch, progress, should_stop)
    result = trainer.result(images=config.batch_size * (trainer.total_steps - first_step))
    report.save(folder, config, dataset, result)
    return result


class _Trainer:
    """The state of a run and the programs that move it on."""

    def __init__(
        self, config: Config, dataset: Dataset, folder: RunFolder, backend: Backend
    ) -> None:
        num_images = len(dataset.train_images)
        if config.batch_size > num_images:
            raise ConfigError(
                f"batch_size: expected at most {num_images}, the number of training images, "
                f"got {config.batch_size}"
            )
        training = make_training(config, backend, num_images, len(dataset.class_names))
        self.config = config
        self.folder = folder
        self.steps_per_epoch = num_images // config.batch_size
        self.total_steps = config.epochs * self.steps_per_epoch
        self.state = training.initial_state(dataset.train_images)
        self._scans_epochs = backend.scans_epochs
        self._plan_epoch = training.plan_epoch
        self._advance = Programs(training.advance, backend.compiler_options)
        self._predict = Programs(training.predict)
        self._train_set = training.put(dataset.train_images), training.put(dataset.train_labels)
        self._test_set = dataset.test_images, dataset.test_labels

    def train_epoch(
        self, epoch: int, progress: TrainingProgress, should_stop: Callable[[], bool]
    ) -> None:
        """Take the epoch's steps, or those that are left of it; test, log and save."""
        plan = self._plan_epoch(epoch)
        side = self.config.image_side(epoch)
        end = (epoch + 1) * self.steps_per_epoch
        step = first_step = int(self.state.step)
        start_seconds = self._advance.run_seconds
        metrics: dict[str, float] = {}
        while step < end:
            if should_stop():
                checkpoint.save(self.folder.path, self.state)
                raise TrainingStopped(f"stopped after step {step} of {self.total_steps}")
            self.state, losses = self._advance(
                self.state,
                *self._train_set,
                plan,
                steps=end - step if self._scans_epochs else 1,
                side=side,
                train_whitening=epoch < self.config.whiten_bias_epochs,
            )
            _check_finite(np.asarray(losses), step)
            before, step = step, step + len(losses)
            seen = self.config.batch_size * (step - epoch * self.steps_per_epoch)
            seconds = self._advance.run_seconds - start_seconds
            metrics = {
                "loss": float(self.state.loss) / seen,
                "accuracy": float(self.state.correct) / seen,
                "images_per_second": self.config.batch_size * (step - first_step) / seconds,
            }
            progress.stepped(f"epoch {epoch + 1}/{self.config.epochs}", step - before, metrics)
        metrics["test_accuracy"] = self._test(side, flip=False).accuracy
        self.folder.log(epoch=epoch + 1, step=step, image_side=side, **metrics)
        checkpoint.save(self.folder.path, self.state)
        progress.epoch_done(epoch + 1, side, metrics)

    def result(self, images: int) -> Result:
        """Test the trained network; `images` is the number it was trained on in this process."""
        side = self.config.image_side(self.config.epochs - 1)
        plain = self._test(side, flip=False)
        test = self._test(side, flip=True) if self.config.flip else plain
        seconds = self._advance.run_seconds
        return Result(
            state=self.state,
            test=test,
            test_plain=plain,
            train_seconds=seconds,
            compile_seconds=self._advance.compile_seconds + self._predict.compile_seconds,
            test_seconds=self._predict.run_seconds,
            images_per_second=images / seconds if seconds else 0.0,
        )

    def _test(self, side: int, *, flip: bool) -> Evaluation:
        images, labels = self._test_set
        logits = predict_all(
            lambda batch: self._predict(self.state, batch, side=side, flip=flip), images
        )
        return evaluate(logits, labels)


def _check_finite(losses: np.ndarray, first_step: int) -> None:
    if not np.isfinite(losses).all():
        index = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise DivergenceError(
            f"loss: expected a finite number, got {losses[index]} in step "
            f"{first_step + index + 1}; a smaller --learning-rate may help"
        )
