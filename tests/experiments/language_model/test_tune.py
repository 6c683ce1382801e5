"""Tuning: the loss is that of its definition, and a few updates raise the reward."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.language_model.model import LanguageModel, initial_params
from experiments.language_model.sample import Continued, continue_prompts, make_next_token
from experiments.language_model.tokenizer import Tokenizer
from experiments.language_model.train import Stream, TrainState, key_of, make_optimizer
from experiments.language_model.tune import (
    advantages,
    is_word,
    make_log_probs,
    make_tuning_step,
    rewarded,
    rewards_of,
    surrogate,
)
from tests.support.tolerances import TRANSFORMED, VALUE
from xentjax import SoftmaxStats

MODEL = LanguageModel(vocabulary=12, context=8, width=32, blocks=1)
WEIGHTS = {"clip": 0.2, "entropy_weight": 0.01, "kl_weight": 0.05}
GOOD = np.arange(12) < 4  # the tokens that are rewarded
PROMPTS = np.zeros((64, 2), np.int32)


def test_words_are_a_space_and_at_least_two_lower_case_letters():
    pairs = [b" a", b" ab", b" abc", b" aB", b"ab", b" a1"]
    tokenizer = Tokenizer([])
    tokenizer.vocabulary.extend(pairs)
    assert is_word(tokenizer)[-len(pairs) :].tolist() == [False, True, True, False, False, False]
    assert not is_word(tokenizer)[: -len(pairs)].any()


def test_a_reward_is_the_share_of_the_sampled_tokens():
    drawn = Continued(np.array([[0, 0, 5, 1], [9, 9, 9, 9]], np.int32), np.zeros((2, 3)))
    rewards = rewards_of(drawn, 2, GOOD)
    np.testing.assert_array_equal(rewards, [0.5, 0.0])
    rollout = rewarded(drawn, 2, rewards, np.zeros((2, 3)))
    np.testing.assert_array_equal(rollout.sampled, [[False, True, True]] * 2)
    np.testing.assert_allclose(rollout.advantages, [[1.0] * 3, [-1.0] * 3], rtol=1e-5)
    np.testing.assert_array_equal(advantages(np.full(3, 0.25)), np.zeros(3))


def test_the_loss_of_a_token_is_that_of_the_definition():
    rng = np.random.default_rng(0)
    log_prob, old, reference, advantage, entropy = rng.normal(size=(5, 50))
    ratio = np.exp(log_prob - old)
    gain = np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage)
    kl = np.exp(reference - log_prob) - (reference - log_prob) - 1
    stats = SoftmaxStats(
        *map(jnp.float32, (np.zeros(50), log_prob, entropy)), predicted=jnp.zeros(50, jnp.int32)
    )
    loss, (found_kl, found_entropy) = surrogate(
        stats, *map(jnp.float32, (old, reference, advantage)), **WEIGHTS
    )
    expected = -gain - 0.01 * entropy + 0.05 * kl
    np.testing.assert_allclose(loss, expected, rtol=TRANSFORMED, atol=TRANSFORMED)
    np.testing.assert_allclose(found_kl, kl, rtol=TRANSFORMED, atol=TRANSFORMED)
    np.testing.assert_allclose(found_entropy, entropy, rtol=VALUE["float32"])


def test_a_few_updates_raise_the_reward_and_the_drawn_log_probs_are_those_of_the_model():
    optimizer = make_optimizer(1e-2, 10)
    reference = initial_params(MODEL, jax.random.key(0))
    params = jax.tree.map(jnp.copy, reference)
    state = TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    next_token, log_probs = jax.jit(make_next_token(MODEL)), make_log_probs(MODEL)
    step = make_tuning_step(MODEL, optimizer, **WEIGHTS)
    history = []
    for number in range(10):
        key = key_of(0, Stream.TUNING, number)
        drawn = continue_prompts(next_token, MODEL, state.params, PROMPTS, 8, key)
        tokens, labels = drawn.tokens[:, :-1], drawn.tokens[:, 1:]
        own = np.asarray(log_probs(state.params, tokens, labels))
        np.testing.assert_allclose(drawn.log_probs[:, 1:], own[:, 1:], rtol=1e-4, atol=1e-4)
        rewards = rewards_of(drawn, 2, GOOD)
        rollout = rewarded(drawn, 2, rewards, log_probs(reference, tokens, labels))
        state, kl, entropy = step(state, rollout)
        history.append((float(rewards.mean()), float(kl), float(entropy)))
    assert int(state.step) == 10
    reward, kl, entropy = np.transpose(history)
    assert reward[-1] > reward[0] + 0.2
    assert abs(kl[0]) < 1e-5
    assert kl[-1] > 0.05
    assert entropy[-1] < entropy[0]
