"""The jitted functions of a run, compiled once for all runs of equal settings in a process."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, NamedTuple

import optax

from experiments.common.compiled import CompiledFunction
from experiments.language_model.config import Config
from experiments.language_model.distill import make_distillation_step
from experiments.language_model.evaluate import make_window_nats
from experiments.language_model.sample import make_next_token
from experiments.language_model.train import Stream, make_optimizer, make_train_step
from experiments.language_model.tune import make_log_probs, make_tuning_step


class Optimizers(NamedTuple):
    """The optimizers of the stages."""

    teacher: optax.GradientTransformation
    student: optax.GradientTransformation
    tuning: optax.GradientTransformation


class Programs(NamedTuple):
    """The functions; see the modules of their names."""

    train_teacher: CompiledFunction
    train_student: CompiledFunction
    distil: CompiledFunction
    teacher_nats: CompiledFunction
    student_nats: CompiledFunction
    next_token: CompiledFunction
    log_probs: CompiledFunction
    tune: CompiledFunction

    def with_new_clock(self, compiling: Callable[[], AbstractContextManager[None]]) -> "Programs":
        """Share the programs; `compiling` is entered while one is compiled."""
        return Programs(*(program.with_new_clock(compiling) for program in self))


@lru_cache(maxsize=4)
def make_programs(config: Config, vocabulary: int) -> tuple[Optimizers, Programs]:
    """Make the optimizers and functions for a vocabulary of this size."""
    teacher, student = config.teacher(vocabulary), config.student(vocabulary)
    optimizers = Optimizers(
        make_optimizer(config.learning_rate, config.steps),
        make_optimizer(config.learning_rate, config.student_steps),
        make_optimizer(config.tuning_rate, config.tuning_steps),
    )
    batches: dict[str, Any] = {"seed": config.seed, "batch_size": config.batch_size}
    weights = {name: getattr(config, name) for name in ("clip", "entropy_weight", "kl_weight")}
    functions = {
        "train_teacher": make_train_step(
            teacher, optimizers.teacher, stream=Stream.TEACHER, **batches
        ),
        "train_student": make_train_step(
            student, optimizers.student, stream=Stream.STUDENT, **batches
        ),
        "distil": make_distillation_step(student, teacher, optimizers.student, **batches),
        "teacher_nats": make_window_nats(teacher),
        "student_nats": make_window_nats(student),
        "next_token": make_next_token(teacher),
        "log_probs": make_log_probs(teacher),
        "tune": make_tuning_step(teacher, optimizers.tuning, **weights),
    }
    programs = {name: CompiledFunction(function) for name, function in functions.items()}
    return optimizers, Programs(**programs)
