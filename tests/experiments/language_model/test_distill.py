"""Distillation: the student's gradient alone, and the divergence of the definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.language_model.distill import distillation_loss
from experiments.language_model.model import LanguageModel, features, head, initial_params
from tests.support.tolerances import RANDOM_VALUE

TEACHER = LanguageModel(vocabulary=20, context=4, width=64, blocks=1)
STUDENT = LanguageModel(vocabulary=20, context=4, width=32, blocks=1)
TOKENS = np.random.default_rng(0).integers(0, 20, (2, 4)).astype(np.int32)


@pytest.fixture(scope="module")
def params():
    return tuple(
        initial_params(model, jax.random.key(seed)) for seed, model in enumerate((STUDENT, TEACHER))
    )


def test_the_gradient_reaches_every_parameter_of_the_student_and_none_of_the_teacher(params):
    def loss(student, teacher):
        return distillation_loss(student, STUDENT, teacher, TEACHER, TOKENS)

    student, teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(*params)
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(student))
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(teacher))


def test_the_loss_is_the_mean_divergence_from_the_teacher(params):
    def log_pmf(model, params):
        hidden = jax.jit(features, static_argnums=0)(model, params, TOKENS)
        logits = np.asarray(hidden @ head(params), np.float64)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    log_q, log_p = log_pmf(STUDENT, params[0]), log_pmf(TEACHER, params[1])
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    found = distillation_loss(params[0], STUDENT, params[1], TEACHER, TOKENS)
    np.testing.assert_allclose(found, expected, rtol=RANDOM_VALUE)
