"""Samples: prompts stay, the same key draws the same tokens, and rare ones are rare."""

import jax
import numpy as np
import pytest

from experiments.language_model.model import LanguageModel, features, head, initial_params
from experiments.language_model.sample import Continued, continue_prompts, make_next_token

MODEL = LanguageModel(vocabulary=6, context=5, width=32, blocks=1)
PROMPTS = np.tile(np.array([[1, 2]], np.int32), (400, 1))


@pytest.fixture(scope="module")
def params():
    return initial_params(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def draw(params):
    next_token = make_next_token(MODEL)

    def drawn(seed: int, temperature: float = 1.0) -> Continued:
        key = jax.random.key(seed)
        return continue_prompts(next_token, MODEL, params, PROMPTS, 5, key, temperature)

    return drawn


def test_the_prompt_stays_and_the_key_decides_the_rest(draw):
    drawn, again, other = draw(0), draw(0), draw(1)
    np.testing.assert_array_equal(drawn.tokens[:, :2], PROMPTS)
    np.testing.assert_array_equal(drawn.tokens, again.tokens)
    assert (drawn.tokens != other.tokens).any()
    assert (drawn.log_probs[:, 0] == 0).all()
    assert (drawn.log_probs[:, 1:] < 0).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_tokens_come_as_often_as_the_softmax_says(draw, params, temperature):
    hidden = jax.jit(features, static_argnums=0)(MODEL, params, PROMPTS[:1])
    logits = np.asarray(hidden[0, -1] @ head(params), np.float64) / temperature
    pmf = np.exp(logits - np.logaddexp.reduce(logits))
    drawn = draw(2, temperature)
    shares = np.bincount(drawn.tokens[:, 2], minlength=6) / 400
    # four standard errors
    np.testing.assert_array_less(abs(shares - pmf), 4 * np.sqrt(pmf * (1 - pmf) / 400) + 1e-9)
    np.testing.assert_allclose(drawn.log_probs[:, 1], np.log(pmf)[drawn.tokens[:, 2]], rtol=1e-4)
