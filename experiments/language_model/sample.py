"""Samples of text, token after token, each drawn without the logits in memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from experiments.language_model.model import Cache, LanguageModel, empty_cache, head
from xentjax import linear_sample


class Continued(NamedTuple):
    """Prompts and what was drawn after them.

    Attributes:
        tokens: int32 [B, L]; the first ones of each row are the prompt.
        log_probs: of the tokens [:, 1:], in nats, [B, L - 1]; of those in the prompts 0.
    """

    tokens: np.ndarray
    log_probs: np.ndarray


def make_next_token(model: LanguageModel) -> Callable[..., tuple[Array, Array, Cache]]:
    """Make the jitted step that draws one token after each text.

    It is called as (cache, params, tokens int32 [B], position, key, temperature), where the cache
    is donated, and returns the next tokens int32 [B], their log-probabilities [B], and the cache.
    """

    def next_token(
        cache: Cache, params: Any, tokens: Array, position: Array, key: Array, temperature: Array
    ) -> tuple[Array, Array, Cache]:
        result: Any = model.apply({"params": params}, tokens[:, None], cache, position)
        hidden, cache = result
        drawn = linear_sample(
            jax.random.fold_in(key, position), hidden[:, 0], head(params), temperature=temperature
        )
        return drawn.indices, drawn.log_probs, cache

    return jax.jit(next_token, donate_argnames="cache")


def continue_prompts(
    next_token: Callable[..., tuple[Array, Array, Cache]],
    model: LanguageModel,
    params: Any,
    prompts: np.ndarray,
    length: int,
    key: Array,
    temperature: float = 1.0,
    after_token: Callable[[], None] = lambda: None,
) -> Continued:
    """Draw what follows each prompt.

    Args:
        next_token: see `make_next_token`.
        model: the model.
        params: its parameters.
        prompts: int32 [B, P].
        length: L, of prompts and continuation together; at most the model's context.
        key: the same key draws the same tokens.
        temperature: below 1 prefers likely tokens.
        after_token: called after each position.
    """
    cache = empty_cache(model, len(prompts))
    tokens = np.zeros((len(prompts), length), np.int32)
    tokens[:, : prompts.shape[1]] = prompts
    log_probs = np.zeros((len(prompts), length - 1), np.float32)
    for position in range(length - 1):
        drawn, log_prob, cache = next_token(
            cache, params, tokens[:, position], np.int32(position), key, np.float32(temperature)
        )
        if position + 1 >= prompts.shape[1]:
            tokens[:, position + 1], log_probs[:, position] = drawn, log_prob
        after_token()
    return Continued(tokens, log_probs)
