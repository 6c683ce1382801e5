"""The functions of a run: its first state, its epochs, its steps and its predictions."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.cifar10.backend import current_backend, data_mesh
from experiments.cifar10.config import PRESETS
from experiments.cifar10.data.augment import normalize, plan_epoch
from experiments.cifar10.network.airbench import whitening_filters
from experiments.cifar10.network.build import build_network
from experiments.cifar10.training.optimizer import make_optimizer
from experiments.cifar10.training.programs import TrainingPrograms, initial_state
from tests.support.tiny_training import BATCH, CONFIG, DATASET, HELD_OUT, differences

IMAGES = DATASET.train_images[:-HELD_OUT]


@pytest.fixture(scope="module")
def programs() -> TrainingPrograms:
    return TrainingPrograms(CONFIG, current_backend(), data_mesh(BATCH, 1), len(IMAGES), 3)


def test_the_first_state_is_a_function_of_the_seed(programs):
    first, again, other = (programs.initial_state(seed, IMAGES) for seed in (1, 1, 2))
    assert differences(first, again) == []
    changed = {name.split("'")[1] for name in differences(first, other)}
    assert changed == {"params", "slow"}
    assert (int(first.step), float(first.loss), float(first.correct)) == (0, 0, 0)
    filters = whitening_filters(normalize(jnp.asarray(IMAGES)), 12)
    np.testing.assert_allclose(first.whitening, filters, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("preset", ["cpu89", "resnet18"])
@pytest.mark.parametrize("lookahead", [True, False])
def test_every_network_starts_with_the_same_parts_of_a_state(preset, lookahead, programs):
    config = dataclasses.replace(PRESETS[preset], lookahead=lookahead)
    network = build_network(config, 10, jnp.float32)
    optimizer = make_optimizer(config, programs.count, data_mesh(BATCH, 1))
    state = jax.eval_shape(
        partial(initial_state, network, optimizer, components=12, lookahead=lookahead),
        jax.ShapeDtypeStruct((), np.uint32),
        jax.ShapeDtypeStruct((5, 32, 32, 3), np.uint8),
    )
    assert state.whitening.shape == (12, 24)
    slow = (state.params, state.batch_stats) if lookahead else None
    assert jax.tree.structure(state.slow) == jax.tree.structure(slow)


def test_a_step_is_made_for_the_side_and_the_trained_parameters_of_its_epoch(programs):
    first, second, third = (programs.step(epoch) for epoch in range(3))
    assert [step.image_side for step in (first, second)] == [9, 12]
    assert [step.network.train_whitening for step in (first, second)] == [True, False]
    assert second == third
    assert first != dataclasses.replace(first, network=second.network)


def test_whiten_bias_epochs_make_no_other_steps_where_nothing_is_whitened():
    config = dataclasses.replace(CONFIG, whiten=False, image_sides=(9,))
    programs = TrainingPrograms(config, current_backend(), data_mesh(BATCH, 1), len(IMAGES), 3)
    assert programs.step(0) == programs.step(1)


def test_an_epoch_is_planned_by_seed_and_number(programs):
    expected = plan_epoch(jax.random.key(3), 5, len(IMAGES), flip=CONFIG.flip)
    actual = programs.plan_epoch(3, 5)
    np.testing.assert_array_equal(actual.order, expected.order)
    np.testing.assert_array_equal(actual.flips, expected.flips)
    assert (actual.key == expected.key).all()


def test_a_replicated_array_is_the_array(programs):
    array = programs.replicate(IMAGES)
    np.testing.assert_array_equal(array, IMAGES)
    assert array.is_fully_replicated


def test_predictions_are_the_networks_logits_of_shrunk_images(programs):
    state = programs.initial_state(0, IMAGES)
    images = IMAGES[:7]
    actual = programs.predict(state, programs.replicate(images), side=32)
    network = programs.step(1).network
    expected = jax.jit(partial(network.apply, train=False))(
        state.variables, normalize(jnp.asarray(images))
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)
    assert programs.predict(state, programs.replicate(images), side=9).shape == (7, 3)
