"""Distillation: a student learns the teacher's whole distribution of the next token.

    sum_k p_k (log p_k - log q_k),  p = softmax of the teacher's head, q of the student's

The two heads differ in width and share the vocabulary. Neither's logits are stored.

Source: G. Hinton, O. Vinyals, J. Dean, Distilling the Knowledge in a Neural Network,
arXiv 1503.02531.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax import Array, lax

from experiments.language_model.data import take_batch
from experiments.language_model.model import AnyArray, LanguageModel, features, head
from experiments.language_model.train import Stream, TrainState, descend, key_of
from xentjax import linear_kl_divergence


def distillation_loss(
    params: Any,
    student: LanguageModel,
    teacher_params: Any,
    teacher: LanguageModel,
    tokens: AnyArray,
) -> Array:
    """Average KL(teacher || student) over tokens [B, T]; no gradient reaches the teacher."""
    teacher_params = lax.stop_gradient(teacher_params)
    return linear_kl_divergence(
        features(teacher, teacher_params, tokens),
        head(teacher_params),
        features(student, params, tokens),
        head(params),
        reduction="mean",
    )


def make_distillation_step(
    student: LanguageModel,
    teacher: LanguageModel,
    optimizer: optax.GradientTransformation,
    *,
    seed: int,
    batch_size: int,
) -> Callable[[TrainState, Any, Array], tuple[TrainState, Array]]:
    """Make the jitted step (state, teacher's parameters, text) -> (state, loss in nats a token).

    The batches are the same as for the student that learns alone. The state is donated.
    """

    def step(state: TrainState, teacher_params: Any, text: Array) -> tuple[TrainState, Array]:
        key = key_of(seed, Stream.STUDENT, state.step)
        tokens, _ = take_batch(key, text, batch_size, student.context)
        value, gradient = jax.value_and_grad(distillation_loss)(
            state.params, student, teacher_params, teacher, tokens
        )
        return descend(state, gradient, optimizer), value

    return jax.jit(step, donate_argnames="state")
