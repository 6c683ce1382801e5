"""The transformer sees no later token, and drawing token by token computes the same features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model.model import (
    LanguageModel,
    empty_cache,
    features,
    head,
    initial_params,
)
from tests.support.tolerances import TRANSFORMED

MODEL = LanguageModel(vocabulary=50, context=6, width=64, blocks=2)
TOKENS = np.random.default_rng(0).integers(0, 50, (3, 6)).astype(np.int32)

jitted_features = jax.jit(features, static_argnums=0)


@pytest.fixture(scope="module")
def params():
    return initial_params(MODEL, jax.random.key(0))


@pytest.fixture(scope="module")
def whole(params) -> np.ndarray:
    return np.asarray(jitted_features(MODEL, params, TOKENS))


def test_a_later_token_changes_no_earlier_feature(params, whole):
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 50
    other = np.asarray(jitted_features(MODEL, params, changed))
    np.testing.assert_array_equal(other[:, :4], whole[:, :4])
    assert (other[:, 4:] != whole[:, 4:]).any(axis=-1).all()


def test_with_a_cache_features_are_those_of_the_whole_text(params, whole):
    one = jax.jit(lambda cache, tokens, at: MODEL.apply({"params": params}, tokens, cache, at))
    cache = empty_cache(MODEL, 3)
    for position in range(6):
        found, cache = one(cache, TOKENS[:, position : position + 1], jnp.int32(position))
        np.testing.assert_allclose(
            found[:, 0], whole[:, position], rtol=TRANSFORMED, atol=TRANSFORMED
        )


def test_the_head_is_the_embedding_turned_around(params):
    assert head(params).shape == (64, 50)
    np.testing.assert_array_equal(head(params).T, params["tokens"]["embedding"])
