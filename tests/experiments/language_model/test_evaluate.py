"""Bits per byte of models whose probabilities are known."""

import jax
import numpy as np

from experiments.language_model.evaluate import Score, batches, evaluate, make_window_nats
from experiments.language_model.model import LanguageModel, features, head, initial_params
from tests.support.tolerances import VALUE

MODEL = LanguageModel(vocabulary=8, context=4, width=32, blocks=1)
WINDOWS = np.random.default_rng(0).integers(0, 8, (5, 5)).astype(np.int32)
LENGTHS = np.array([0, 1, 1, 2, 3, 4, 5, 9], np.int32)


def test_a_model_that_knows_nothing_needs_log2_k_bits_a_token():
    params = jax.tree.map(np.zeros_like, initial_params(MODEL, jax.random.key(0)))
    seen = []
    score = evaluate(make_window_nats(MODEL), params, WINDOWS, LENGTHS, 2, seen.append)
    assert seen == [2, 2, 2]
    np.testing.assert_allclose(score.bits, np.full(5, 4 * 3.0), rtol=VALUE["float32"])
    predicted = WINDOWS[:, 1:]
    np.testing.assert_array_equal(score.bytes, LENGTHS[predicted].sum(axis=1))
    np.testing.assert_allclose(
        score.bits_per_byte, predicted.size * 3.0 / LENGTHS[predicted].sum(), rtol=VALUE["float32"]
    )


def test_the_bits_are_those_of_the_softmax_of_the_logits():
    params = initial_params(MODEL, jax.random.key(1))
    score = evaluate(make_window_nats(MODEL), params, WINDOWS, LENGTHS, 5)
    hidden = jax.jit(features, static_argnums=0)(MODEL, params, WINDOWS[:, :-1])
    logits = np.asarray(hidden, np.float64) @ np.asarray(head(params), np.float64)
    log_pmf = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -np.take_along_axis(log_pmf, WINDOWS[:, 1:, None], axis=-1).sum(axis=(1, 2))
    np.testing.assert_allclose(score.bits, expected / np.log(2), rtol=VALUE["float32"])


def test_a_difference_is_that_of_the_bits_per_byte():
    rng = np.random.default_rng(2)
    sizes = rng.integers(50, 150, 40)
    one, other = (Score(sizes * rng.uniform(1, 2, 40), sizes) for _ in range(2))
    difference = one.difference(other)
    np.testing.assert_allclose(difference.mean, one.bits_per_byte - other.bits_per_byte)
    assert difference.lower < difference.mean < difference.upper


def test_the_last_batch_is_as_large_as_the_others():
    shapes = [batch.shape for batch in batches(WINDOWS, 3)]
    assert shapes == [(3, 5), (3, 5)]
