"""The parts of a training step against NumPy, for a linear network of the mean colour."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.cifar10.backend import data_mesh
from experiments.cifar10.config import Config
from experiments.cifar10.data.augment import MEAN, STANDARD_DEVIATION, plan_epoch
from experiments.cifar10.state import TrainState
from experiments.cifar10.training.optimizer import lookahead
from experiments.cifar10.training.step import TrainStep, train_steps
from experiments.cifar10.training.steps import StepCount

N, B, K = 10, 4, 3
RATE = 0.5
CONFIG = Config(batch_size=B, shift=0, flip=False, label_smoothing=0.0, lookahead=False)
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
LABELS = RNG.integers(0, K, N, dtype=np.int32)
KERNEL = RNG.normal(size=(3, K)).astype(np.float32)


class MeanColour(nn.Module):
    """Logits that are linear in the mean colour; its batch statistics count the calls."""

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> jax.Array:
        calls = self.variable("batch_stats", "calls", jnp.zeros, ())
        if train:
            calls.value += 1.0
        return images.mean((1, 2)) @ self.param("kernel", nn.initializers.zeros, (3, K))


def make_step(config: Config = CONFIG) -> TrainStep:
    count = StepCount.of(config, N)
    return TrainStep(config, MeanColour(), optax.sgd(RATE), count, data_mesh(B, 1), 32)


def make_state(step: int = 0, slow: Any = None) -> TrainState:
    params = {"kernel": jnp.asarray(KERNEL)}
    return TrainState(
        step=jnp.int32(step),
        params=params,
        batch_stats={"calls": jnp.float32(0)},
        optimizer=optax.sgd(RATE).init(params),
        slow=slow,
        whitening=jnp.zeros((12, 24)),
        loss=jnp.float32(7),
        correct=jnp.float32(2),
    )


def normalized(images: np.ndarray) -> np.ndarray:
    return (images / 255 - np.array(MEAN)) / np.array(STANDARD_DEVIATION)


def numpy_gradient(images: np.ndarray, labels: np.ndarray) -> tuple[float, int, np.ndarray]:
    """Summed loss, number correct and gradient of normalised images, in float64."""
    features = images.astype(np.float64).mean((1, 2))
    logits = features @ KERNEL.astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    one_hot = np.eye(K)[labels]
    loss = -np.log(probs[np.arange(len(labels)), labels]).sum()
    return loss, int((logits.argmax(-1) == labels).sum()), features.T @ (probs - one_hot)


@pytest.mark.parametrize("step", [0, 1, 2, 3])
def test_a_batch_is_the_next_part_of_the_epochs_order(step):
    plan = plan_epoch(jax.random.key(0), 0, N, flip=False)
    batch, labels = make_step().batch(
        jnp.int32(step), jnp.asarray(IMAGES), jnp.asarray(LABELS), plan
    )
    start = B * (step % 2)  # of two batches an epoch
    chosen = np.asarray(plan.order)[start : start + B]
    np.testing.assert_array_equal(labels, LABELS[chosen])
    np.testing.assert_allclose(batch, normalized(IMAGES[chosen]), atol=1e-5)


def test_images_are_shrunk_to_the_steps_side():
    plan = plan_epoch(jax.random.key(0), 0, N, flip=False)
    step = dataclasses.replace(make_step(), image_side=9)
    batch, _ = step.batch(jnp.int32(0), jnp.asarray(IMAGES), jnp.asarray(LABELS), plan)
    assert batch.shape == (B, 9, 9, 3)


def test_the_gradient_is_that_of_the_summed_loss():
    images = normalized(IMAGES[:B]).astype(np.float32)
    labels = LABELS[:B]
    loss, batch_stats, correct, gradient = jax.jit(make_step().gradient)(
        make_state(), jnp.asarray(images), jnp.asarray(labels)
    )
    expected = numpy_gradient(images, labels)
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    assert (float(correct), float(batch_stats["calls"])) == (expected[1], 1)
    np.testing.assert_allclose(gradient["kernel"], expected[2], rtol=1e-4, atol=1e-5)


def test_an_update_applies_the_optimizer_and_counts_the_step():
    gradient = {"kernel": jnp.asarray(RNG.normal(size=(3, K)), jnp.float32)}
    state = make_state(step=3)
    updated = make_step().update(state, gradient, {"calls": jnp.float32(5)})
    assert int(updated.step) == 4
    np.testing.assert_allclose(
        updated.params["kernel"], KERNEL - RATE * np.asarray(gradient["kernel"]), rtol=1e-6
    )
    assert float(updated.batch_stats["calls"]) == 5
    assert (float(updated.loss), float(updated.correct), updated.slow) == (7, 2, None)


@pytest.mark.parametrize("step", [3, 4])
def test_lookahead_follows_the_optimizer_in_every_fifth_update(step):
    config = dataclasses.replace(CONFIG, lookahead=True)
    start = jax.tree.map(jnp.zeros_like, (make_state().params, make_state().batch_stats))
    state = make_state(step, slow=start)
    train_step = make_step(config)
    gradient = jax.tree.map(jnp.ones_like, state.params)
    updated = train_step.update(state, gradient, state.batch_stats)
    fast = (jax.tree.map(lambda p: p - RATE, state.params), state.batch_stats)
    slow, expected = lookahead(start, fast, jnp.int32(step + 1), train_step.count.total)
    jax.tree.map(np.testing.assert_array_equal, updated.slow, slow)
    jax.tree.map(np.testing.assert_array_equal, (updated.params, updated.batch_stats), expected)
    is_due = (step + 1) % 5 == 0
    assert (np.asarray(updated.params["kernel"]) == KERNEL - RATE).all() != is_due


@pytest.mark.parametrize(("step", "before"), [(0, 0), (1, 1), (2, 0)])
def test_the_sums_of_an_epoch_start_anew_with_its_first_step(step, before):
    plan = plan_epoch(jax.random.key(0), 0, N, flip=False)
    state, mean_loss = jax.jit(make_step())(
        make_state(step), jnp.asarray(IMAGES), jnp.asarray(LABELS), plan
    )
    start = B * (step % 2)
    chosen = np.asarray(plan.order)[start : start + B]
    loss, correct, _ = numpy_gradient(normalized(IMAGES[chosen]), LABELS[chosen])
    np.testing.assert_allclose(state.loss, 7 * before + loss, rtol=1e-5)
    assert float(state.correct) == 2 * before + correct
    np.testing.assert_allclose(mean_loss, loss / B, rtol=1e-5)


def test_two_steps_in_one_program_are_two_programs_of_one():
    plan = plan_epoch(jax.random.key(0), 0, N, flip=False)
    data = jnp.asarray(IMAGES), jnp.asarray(LABELS), plan
    step = make_step()
    together, losses = train_steps(make_state(), *data, step=step, num_steps=2)
    state, apart = make_state(), []
    for _ in range(2):
        state, loss = train_steps(state, *data, step=step, num_steps=1)
        apart.append(loss)
    np.testing.assert_allclose(losses, jnp.concatenate(apart), rtol=1e-5)
    np.testing.assert_allclose(together.params["kernel"], state.params["kernel"], rtol=1e-5)
    assert int(together.step) == int(state.step) == 2


def test_equal_steps_share_a_program():
    step, equal = make_step(), make_step()
    equal = dataclasses.replace(equal, optimizer=step.optimizer)
    assert (step, hash(step)) == (equal, hash(equal))
    assert step != dataclasses.replace(step, image_side=9)
