"""Tuning for a reward by policy gradients, while a penalty keeps the model near where it began.

The reward of a text is the share of its sampled tokens that are a space and lower-case letters, at
least two: ordinary words. Its advantage A, the same for all its tokens, is its reward less the
mean of the batch, in standard deviations. With the ratio r = p(token) / p_old(token) the loss of a
token is

    -min(r A, clip(r, 1 - c, 1 + c) A) - b H(p) + k (e^d - d - 1),  d = log p_ref - log p

where p_old is the model that drew the text, p_ref the model before tuning, H the entropy, and the
last term an unbiased estimate of KL(p || p_ref) that is never negative.

Sources: J. Schulman et al., Proximal Policy Optimization, arXiv 1707.06347 (clipped ratio);
Z. Shao et al., DeepSeekMath, arXiv 2402.03300 (advantages within a batch, KL estimate).
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from experiments.language_model.model import AnyArray, LanguageModel, features, head
from experiments.language_model.sample import Continued
from experiments.language_model.tokenizer import Tokenizer
from experiments.language_model.train import TrainState, descend
from xentjax import SoftmaxStats, linear_log_probs, linear_loss

WORD = re.compile(rb" [a-z]{2,}")
SMALL = 1e-6


class Rollout(NamedTuple):
    """Texts that the model has written, and what an update needs of each token.

    Attributes:
        tokens: int32 [B, T], what the model saw.
        labels: int32 [B, T], the tokens that follow.
        sampled: bool [B, T], whether the label was sampled rather than part of the prompt.
        old_log_probs: of the labels, by the model that drew them, in nats, [B, T].
        reference_log_probs: by the model before tuning, [B, T].
        advantages: of the text, [B, T].
    """

    tokens: AnyArray
    labels: AnyArray
    sampled: AnyArray
    old_log_probs: AnyArray
    reference_log_probs: AnyArray
    advantages: AnyArray


def is_word(tokenizer: Tokenizer) -> np.ndarray:
    """Return whether each token is a space and lower-case letters, bool [K]."""
    return np.array([WORD.fullmatch(token) is not None for token in tokenizer.vocabulary])


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Return the rewards less the mean of the batch, in standard deviations."""
    return (rewards - rewards.mean()) / (rewards.std() + SMALL)


def make_log_probs(model: LanguageModel) -> Callable[[Any, AnyArray, AnyArray], Array]:
    """Make the jitted function (params, tokens, labels [B, T]) -> log-probabilities [B, T]."""

    def log_probs(params: Any, tokens: AnyArray, labels: AnyArray) -> Array:
        return linear_log_probs(features(model, params, tokens), head(params), labels)

    return jax.jit(log_probs)


def rewards_of(drawn: Continued, prompt_length: int, words: np.ndarray) -> np.ndarray:
    """Compute the reward of each text, [B]; `words` is the result of `is_word`."""
    return words[drawn.tokens[:, prompt_length:]].mean(axis=1, dtype=np.float32)


def rewarded(
    drawn: Continued, prompt_length: int, rewards: np.ndarray, reference_log_probs: AnyArray
) -> Rollout:
    """Collect what an update needs."""
    tokens, labels = drawn.tokens[:, :-1], drawn.tokens[:, 1:]
    sampled = np.arange(labels.shape[1]) >= prompt_length - 1
    return Rollout(
        tokens,
        labels,
        np.broadcast_to(sampled, labels.shape),
        drawn.log_probs,
        reference_log_probs,
        np.broadcast_to(advantages(rewards)[:, None], labels.shape),
    )


def surrogate(
    stats: SoftmaxStats,
    old_log_probs: Array,
    reference_log_probs: Array,
    advantages: Array,
    *,
    clip: float,
    entropy_weight: float,
    kl_weight: float,
) -> tuple[Array, tuple[Array, Array]]:
    """Compute the loss of each token, and its KL estimate and entropy."""
    ratio = jnp.exp(stats.label_log_prob - old_log_probs)
    gain = jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)
    difference = reference_log_probs - stats.label_log_prob
    kl = jnp.expm1(difference) - difference
    return -gain - entropy_weight * stats.entropy + kl_weight * kl, (kl, stats.entropy)


def make_tuning_step(
    model: LanguageModel, optimizer: optax.GradientTransformation, **weights: float
) -> Callable[[TrainState, Rollout], tuple[TrainState, Array, Array]]:
    """Make the jitted step (state, rollout) -> (state, mean KL estimate, mean entropy).

    The state is donated.

    Args:
        model: the model.
        optimizer: changes its parameters.
        **weights: see `surrogate`.
    """

    def loss(params: Any, rollout: Rollout) -> tuple[Array, tuple[Array, Array]]:
        return linear_loss(
            partial(surrogate, **weights),
            features(model, params, rollout.tokens),
            head(params),
            rollout.labels,
            inputs=(rollout.old_log_probs, rollout.reference_log_probs, rollout.advantages),
            where=rollout.sampled,
            has_aux=True,
        )

    def step(state: TrainState, rollout: Rollout) -> tuple[TrainState, Array, Array]:
        (_, (kl, entropy)), gradient = jax.value_and_grad(loss, has_aux=True)(state.params, rollout)
        kept = rollout.sampled
        state = descend(state, gradient, optimizer)
        return state, jnp.mean(kl, where=kept), jnp.mean(entropy, where=kept)

    return jax.jit(step, donate_argnames="state")
