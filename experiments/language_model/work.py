"""Estimates of the work of a run, from which the remaining time is computed."""

from experiments.language_model.config import Config
from experiments.language_model.model import LanguageModel

BACKWARD = 3  # work of a value and its gradient, relative to the value
SLOWER = 5  # work of a token that is drawn, relative to one of a batch that is predicted at once


def of_token(model: LanguageModel) -> float:
    """Return the multiplications for a token, in millions."""
    width = model.width
    attention = model.blocks * model.context * width
    return (12 * model.blocks * width**2 + attention + model.vocabulary * width) / 1e6


def of_training_step(config: Config, model: LanguageModel) -> float:
    """Return the work of a training step."""
    return BACKWARD * config.batch_size * config.context * of_token(model)


def of_distillation_step(config: Config, student: LanguageModel, teacher: LanguageModel) -> float:
    """Return the work of a distillation step, in which the teacher only predicts."""
    tokens = config.batch_size * config.context
    return of_training_step(config, student) + tokens * of_token(teacher)


def of_position(config: Config, model: LanguageModel) -> float:
    """Return the work of drawing one token of every rollout."""
    return SLOWER * config.rollouts * of_token(model)


def of_update(config: Config, model: LanguageModel) -> float:
    """Return the work of an update, with its share of the reference's log-probabilities."""
    tokens = config.rollouts * (config.prompt + config.drawn - 1)
    return (BACKWARD + 1 / config.updates) * tokens * of_token(model)
