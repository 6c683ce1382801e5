"""Distillation: the student's gradient alone, and the divergence of the definition."""

from typing import Any

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
def params() -> dict[LanguageModel, Any]:
    return {
        model: initial_params(model, jax.random.key(model.width)) for model in (STUDENT, TEACHER)
    }


@pytest.fixture(scope="module")
def found(params) -> Any:
    """The loss, and its gradients in the parameters of student and teacher."""

    def loss(student: Any, teacher: Any) -> jax.Array:
        return distillation_loss(student, STUDENT, teacher, TEACHER, TOKENS)

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(params[STUDENT], params[TEACHER])


def test_the_gradient_reaches_every_parameter_of_the_student_and_none_of_the_teacher(found):
    _, (student, teacher) = found
    assert all(jnp.any(leaf != 0) for leaf in jax.tree.leaves(student))
    assert not any(jnp.any(leaf != 0) for leaf in jax.tree.leaves(teacher))


def test_the_loss_is_the_mean_divergence_from_the_teacher(found, params):
    def log_pmf(model):
        hidden = jax.jit(features, static_argnums=0)(model, params[model], TOKENS)
        logits = np.asarray(hidden, np.float64) @ np.asarray(head(params[model]), np.float64)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    log_p, log_q = log_pmf(TEACHER), log_pmf(STUDENT)
    expected = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1).mean()
    np.testing.assert_allclose(found[0], expected, rtol=RANDOM_VALUE)
