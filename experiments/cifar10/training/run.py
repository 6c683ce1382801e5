"""A run, from its first step or a checkpoint to the evaluation and its figures."""

import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from experiments.cifar10.backend import current_backend, data_mesh
from experiments.cifar10.config import Config, ConfigError, ViewsName
from experiments.cifar10.data.augment import views
from experiments.cifar10.data.load import Dataset
from experiments.cifar10.results import report
from experiments.cifar10.results.evaluate import (
    Evaluation,
    Result,
    accuracy,
    compile_evaluation,
    evaluate,
    predict_all,
)
from experiments.cifar10.training.programs import TrainingPrograms
from experiments.cifar10.training.steps import StepCount
from experiments.common import checkpoint
from experiments.common.ahead import Ahead
from experiments.common.command import UserError, say
from experiments.common.interrupt import TrainingStopped
from experiments.common.progress import TrainingProgress
from experiments.common.run_folder import RunFolder
from experiments.common.stopwatch import Stopwatch
from xentjax import fit_temperature

WITHOUT_BAR = "a line follows for every epoch; the first step may have to be compiled"
STATUS = "loss {loss:.3f}  accuracy {accuracy:.1%}"
EPOCH_DONE = (
    "epoch {epoch:2d}  {side} px  loss {loss:.3f}  accuracy {accuracy:.2%}  "
    "{images_per_second:,.0f} images/s"
)
HELD_OUT = "  held out {held_out_accuracy:.1%}"


class DivergenceError(UserError):
    """The loss became NaN or infinite; the message names the step."""


def check(config: Config, dataset: Dataset) -> None:
    """Validate a run before its folder is made.

    Raises:
        ConfigError: the settings do not fit the data set or the devices.
    """
    StepCount.of(config, _trained_images(config, dataset))
    data_mesh(config.batch_size, config.num_devices)


def run(
    config: Config,
    dataset: Dataset,
    folder: RunFolder,
    *,
    resume: bool = False,
    devices: Sequence[Any] | None = None,
    console: Console | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    watch: Stopwatch | None = None,
) -> Result:
    """Train and test a network; write checkpoint, metrics, summary and figures to the folder.

    Args:
        config: the settings.
        dataset: the images.
        folder: the folder of the run.
        resume: continue from the folder's checkpoint.
        devices: devices that share each batch; default: `config.num_devices` of the available ones.
        console: shows the progress, if there is one.
        should_stop: called before every call of the step, which takes one step on CPU and the rest
            of the epoch elsewhere; True saves a checkpoint and stops.
        watch: counts the seconds of each activity.

    Raises:
        ConfigError: the settings do not fit the data set or the devices.
        CheckpointError: there is nothing to resume, nothing left to do, or no room to save.
        RunError: the folder cannot be written, or another process uses it.
        TrainingStopped: `should_stop` returned True.
        DivergenceError: the loss became NaN or infinite.
    """
    watch = watch or Stopwatch()
    with folder.locked(), TrainingProgress(console, WITHOUT_BAR) as progress, Ahead() as ahead:
        trainer = _Trainer(config, dataset, folder, devices, progress, watch)
        count = trainer.count
        last = checkpoint.latest_step(folder.path) if resume else None
        if last == count.total and folder.read_summary() is not None:
            raise checkpoint.CheckpointError(
                f"{folder.path}: expected a stopped run, got a finished one"
            )
        first_step = trainer.begin(resume, ahead)
        if (torn := folder.drop_torn_lines()) and console is not None:
            say(console, f"metrics.jsonl: dropped {torn} incomplete line{'s' * (torn > 1)}")
        for epoch in range(first_step // count.per_epoch, count.epochs):
            trainer.train_epoch(epoch, should_stop)
        result = trainer.result(first_step)
        report.save(folder, config, dataset, result, progress.doing, watch)
        return result


def _trained_images(config: Config, dataset: Dataset) -> int:
    """Count the training images that are not held out."""
    available = len(dataset.train_images)
    if config.held_out >= available:
        raise ConfigError(
            f"held_out: expected less than {available}, the number of training images, "
            f"got {config.held_out}"
        )
    return available - config.held_out


def _area(side: int) -> float:
    """Return the number of pixels of an image, relative to 32 x 32."""
    return (side / 32) ** 2


def _number_of_views(which: ViewsName) -> float:
    """Return the number of views of an image, approximate if it depends on the predictions."""
    number = len(views(np.zeros((1, 32, 32, 3), np.uint8), which))
    return number + 1.0 * (which == "shifted_if_unsure")


@lru_cache(maxsize=16)
def _programs(config: Config, mesh: Mesh, num_images: int, num_classes: int) -> TrainingPrograms:
    """Make and compile the functions once for all seeds; the seed of the settings is 0."""
    return TrainingPrograms(config, current_backend(), mesh, num_images, num_classes)


class _Trainer:
    """The state of a run, and the programs that update it."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        folder: RunFolder,
        devices: Sequence[Any] | None,
        progress: TrainingProgress | None = None,
        watch: Stopwatch | None = None,
    ) -> None:
        num_images = _trained_images(config, dataset)
        train_images, held_out_images = np.split(dataset.train_images, [num_images])
        train_labels, held_out_labels = np.split(dataset.train_labels, [num_images])
        mesh = data_mesh(config.batch_size, devices or config.num_devices)
        num_classes = len(dataset.class_names)
        programs = _programs(replace(config, seed=0), mesh, num_images, num_classes)
        self.config = config
        self.folder = folder
        self.count = programs.count
        self._num_classes = num_classes
        self._progress = progress or TrainingProgress(None)
        self._watch = watch or Stopwatch()
        self._programs = programs.with_new_clock(self._compiling)
        self._train_set = programs.replicate(train_images), programs.replicate(train_labels)
        self._whitened = train_images
        self._held_out_set = held_out_images, held_out_labels
        self._test_set = dataset.test_images, dataset.test_labels

    def begin(self, resume: bool, ahead: Ahead | None = None) -> int:
        """Make or restore the first state, and plan what follows; return the step to go on from.

        Args:
            resume: restore the state from the folder's checkpoint.
            ahead: compiles the programs in the background, in the order in which they are needed.
        """
        with self._watch.during("preparing"):
            shapes = self._programs.shapes_of_state()
            if resume:
                self.state = checkpoint.restore(self.folder.path, shapes)
                first_step = int(self.state.step)
            else:
                first_step = 0
            needed = self._plan(first_step)
            if ahead is not None:
                ahead.run(needed)
            if not resume:
                self.state = self._programs.initial_state(self.config.seed, self._whitened)
        return first_step

    @contextmanager
    def _compiling(self) -> Iterator[None]:
        with self._watch.during("compiling"), self._progress.compiling():
            yield

    def _plan(self, first_step: int) -> list[Callable[[], None]]:
        """Estimate the work after this step, for the progress; return calls that compile for it.

        The unit of work is the classification of an image of 32 x 32 pixels; training on it is
        three units.
        """
        scans, size = current_backend().scans_epochs, current_backend().test_batch
        views, tested = _number_of_views(self.config.views), len(self._test_set[0])
        held_out = self.config.held_out
        programs, work = self._programs, 0.0
        compilations = dict[Hashable, Callable[[], None]]()  # in the order in which they are needed

        def test(number: int, side: int) -> float:
            """Plan a test of this many images."""
            batch = min(size, number)
            compilations[batch, side] = partial(programs.compile_prediction, batch, side)
            return number * _area(side)

        if first_step < self.count.total:
            compilations["plan"] = programs.compile_plan
        for epoch in range(first_step // self.count.per_epoch, self.count.epochs):
            side, first, end = self.config.image_side(epoch), *self.count.of_epoch(epoch)
            if steps := end - max(first, first_step):
                number = steps if scans else 1
                compile_steps = partial(programs.compile_steps, epoch, number)
                compilations.setdefault((number, programs.step(epoch)), compile_steps)
                work += 3 * steps * self.config.batch_size * _area(side)
                if held_out:
                    work += test(held_out, side)
        side = self.config.image_side(self.count.epochs - 1)
        work += test(tested, side) * views
        if held_out:
            work += test(held_out, side) * views
        number = len(compilations) + (first_step == 0)  # and the initial state
        # not counted: it is compiled long before it is needed
        compilations["evaluation"] = partial(compile_evaluation, tested, self._num_classes)
        self._progress.plan(work, max(0, number - programs.number_compiled))
        return list(compilations.values())

    def train_epoch(self, epoch: int, should_stop: Callable[[], bool]) -> None:
        """Take the remaining steps of the epoch; test, log and save."""
        train_step, train_steps = self._programs.step(epoch), self._programs.train_steps
        scans = current_backend().scans_epochs
        side = self.config.image_side(epoch)
        start, end = self.count.of_epoch(epoch)
        step = first_step = int(self.state.step)
        if step == end:  # the last, partial epoch is trained; only its summary is missing
            return
        plan = self._programs.plan_epoch(self.config.seed, epoch)
        start_seconds = train_steps.run_seconds
        self._progress.doing(f"epoch {epoch + 1}/{self.count.epochs}")
        metrics: dict[str, float] = {}
        while step < end:
            if should_stop():
                checkpoint.save(self.folder.path, self.state)
                raise TrainingStopped(f"stopped after step {step} of {self.count.total}")
            with self._watch.during("training"):
                self.state, losses = train_steps(
                    self.state,
                    *self._train_set,
                    plan,
                    step=train_step,
                    num_steps=end - step if scans else 1,
                )
            self._check_finite(np.asarray(losses), step)
            before, step = step, step + len(losses)
            seen = self.config.batch_size * (step - start)
            seconds = train_steps.run_seconds - start_seconds
            metrics = {
                "loss": float(self.state.loss) / seen,
                "accuracy": float(self.state.correct) / seen,
                "images_per_second": self.config.batch_size * (step - first_step) / seconds,
            }
            work = 3 * (step - before) * self.config.batch_size * _area(side)
            self._progress.worked(work, STATUS.format(**metrics))
        done = EPOCH_DONE
        if self.config.held_out:
            images, labels = self._held_out_set
            metrics["held_out_accuracy"] = accuracy(self._logits(images, "plain", side), labels)
            done += HELD_OUT
        self._progress.doing("saving")
        with self._watch.during("saving"):
            self.folder.log(epoch=epoch + 1, step=step, image_side=side, **metrics)
            checkpoint.save(self.folder.path, self.state)
        self._progress.line(done.format(epoch=epoch + 1, side=side, **metrics))

    def result(self, first_step: int) -> Result:
        """Test the network, which this process has trained from `first_step` on."""
        views = self.config.views
        images, labels = self._test_set
        original = self._logits(images, "plain")
        plain = test = self._evaluated(original, labels)
        if views != "plain":
            test = self._evaluated(self._logits(images, views, original=original), labels)
        temperature = calibrated = None
        if self.config.held_out:
            held_out = self._logits(self._held_out_set[0], views)
            self._progress.doing("fitting T")
            with self._watch.during("evaluating"), warnings.catch_warnings(action="ignore"):
                # the command reports that there is none
                fit = fit_temperature(held_out, self._held_out_set[1])
            if fit.converged:  # it does not if all are right: the best temperature is then 0
                temperature = float(fit.temperature)
                calibrated = self._evaluated(test.logits / np.float32(temperature), test.labels)
        train_steps, predict = self._programs.train_steps, self._programs.predict
        seconds = train_steps.run_seconds
        trained = self.config.batch_size * (self.count.total - first_step)
        return Result(
            state=self.state,
            test=test,
            test_plain=plain,
            temperature=temperature,
            calibrated=calibrated,
            train_seconds=None if first_step else seconds,
            compile_seconds=train_steps.compile_seconds + predict.compile_seconds,
            test_seconds=predict.run_seconds,
            images_per_second=trained / seconds if seconds else 0.0,
        )

    def _evaluated(self, logits: np.ndarray, labels: np.ndarray) -> Evaluation:
        self._progress.doing("evaluating")
        with self._watch.during("evaluating"):
            return evaluate(logits, labels)

    def _logits(
        self,
        images: np.ndarray,
        views: ViewsName,
        side: int | None = None,
        original: np.ndarray | None = None,
    ) -> np.ndarray:
        """Compute the logits of images shrunk to `side`; None is the side of the last epoch."""
        side = side or self.config.image_side(self.count.epochs - 1)
        self._progress.doing("testing")

        def predict(batch: np.ndarray) -> Any:
            logits = self._programs.predict(self.state, self._programs.replicate(batch), side=side)
            self._progress.worked(len(batch) * _area(side))
            return logits

        with self._watch.during("testing"):
            return predict_all(predict, images, views, original)

    def _check_finite(self, losses: np.ndarray, first_step: int) -> None:
        if np.isfinite(losses).all():
            return
        index = int(np.flatnonzero(~np.isfinite(losses))[0])
        kept = checkpoint.latest_step(self.folder.path)
        saved = (
            "there is no checkpoint" if kept is None else f"the checkpoint of step {kept} is kept"
        )
        raise DivergenceError(
            f"loss: expected a finite number, got {losses[index]} in step "
            f"{first_step + index + 1}; {saved}; a smaller --learning-rate may help"
        )
