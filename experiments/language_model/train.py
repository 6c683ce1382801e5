"""Training: the cross-entropy of the next token, without the logits of a batch in memory."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.typing import ArrayLike

from experiments.language_model.data import take_batch
from experiments.language_model.model import LanguageModel, features, head, initial_params
from xentjax import linear_softmax_cross_entropy

WARMUP = 0.1  # of the steps, after which the learning rate is at its peak


class TrainState(NamedTuple):
    """All that a step reads and writes except the data.

    Attributes:
        step: int32 scalar, steps taken so far.
        params: trained parameters.
        optimizer: its moments and step count.
    """

    step: Array
    params: Any
    optimizer: Any


class Stream(IntEnum):
    """The uses of random numbers; equal uses get equal numbers."""

    PARAMETERS = 0
    TEACHER = 1
    STUDENT = 2  # alone and distilled: the same batches
    SAMPLES = 3
    TUNING = 4


def key_of(seed: int, stream: Stream, step: ArrayLike = 0) -> Array:
    """Derive the key of a step, so that a resumed run draws the same numbers."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def make_optimizer(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Make Adam with clipped gradients, whose rate rises linearly and falls as a cosine."""
    warmup = max(1, round(WARMUP * steps))
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, warmup, max(steps, warmup + 1)
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.95))


def initial_state(
    model: LanguageModel, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Draw parameters, the same for the same seed."""
    params = initial_params(model, key_of(seed, Stream.PARAMETERS))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def descend(
    state: TrainState, gradient: Any, optimizer: optax.GradientTransformation
) -> TrainState:
    """Change the parameters along the gradient, and count the step."""
    updates, moments = optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, moments)


def make_train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    stream: Stream,
    batch_size: int,
) -> Callable[[TrainState, Array], tuple[TrainState, Array]]:
    """Make the jitted step (state, text int32 [N]) -> (state, loss in nats a token).

    The state is donated.
    """

    def loss(params: Any, tokens: Array, labels: Array) -> Array:
        return linear_softmax_cross_entropy(
            features(model, params, tokens),
            head(params),
            labels,
            reduction="mean",
            gradients_in_forward=True,
        )

    def step(state: TrainState, text: Array) -> tuple[TrainState, Array]:
        key = key_of(seed, stream, state.step)
        tokens, labels = take_batch(key, text, batch_size, model.context)
        value, gradient = jax.value_and_grad(loss)(state.params, tokens, labels)
        return descend(state, gradient, optimizer), value

    return jax.jit(step, donate_argnames="state")
