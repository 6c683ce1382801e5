"""Steps against PyTorch's form of Nesterov's momentum, written out in NumPy float64."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.cifar10.backend import data_mesh
from experiments.cifar10.config import PRESETS, Config
from experiments.cifar10.training.muon import muon
from experiments.cifar10.training.optimizer import kinds, lookahead, make_optimizer, schedule
from experiments.cifar10.training.steps import StepCount

FINAL = 0.1
CONFIG = Config(
    epochs=5,
    final_rate=FINAL,
    batch_size=256,
    learning_rate=8.0,
    weight_decay=0.5,
    momentum=0.8,
    norm_bias_scale=64.0,
    warmup=0.4,
    whiten_bias_epochs=2,
)
STEPS_PER_EPOCH, TOTAL = 2, 10
MESH = data_mesh(1, 1)
COUNT = StepCount.of(CONFIG, STEPS_PER_EPOCH * CONFIG.batch_size)
PLACES = {  # where the network has them -> times the plain rate
    ("group0_norm0", "bias"): 64.0,
    ("whitening_bias",): 1.0,
    ("group0_conv0",): 1.0,
}


def tree(values: list[Any]) -> Any:
    """The parameters' tree with these leaves, in the order of PLACES."""
    norm_bias, whitening_bias, kernel = values
    return {
        "group0_norm0": {"bias": norm_bias},
        "whitening_bias": whitening_bias,
        "group0_conv0": kernel,
    }


def leaves(params: Any) -> list[np.ndarray]:
    return [
        np.asarray(params["group0_norm0"]["bias"], np.float64),
        np.asarray(params["whitening_bias"], np.float64),
        np.asarray(params["group0_conv0"], np.float64),
    ]


def factor(place: tuple[str, ...], step: int) -> float:
    """The rate relative to its peak: of the whitening's bias until it is frozen, of the others."""
    if place == ("whitening_bias",):
        return max(0.0, 1 - step / (2 * STEPS_PER_EPOCH))
    peak = 4  # 0.4 of 10 steps
    if step < peak:
        return 0.2 + 0.8 * step / peak
    return 1 - (1 - FINAL) * (step - peak) / (TOTAL - peak)


def numpy_descent(
    place: tuple[str, ...], start: np.ndarray, gradients: list[np.ndarray]
) -> list[np.ndarray]:
    """torch.optim.SGD(nesterov=True, weight_decay=...), as its documentation has it."""
    # airbench's units: per 1024 images, and over what a steady gradient is multiplied by
    unit = 1 / (1024 * (1 + 1 / (1 - 0.8)))
    peak = 8.0 * unit * PLACES[place]
    decay = 0.5 * 256 * unit / peak
    p, m, path = start, np.zeros_like(start), []
    for step, gradient in enumerate(gradients):
        g = gradient + decay * p
        m = 0.8 * m + g
        p = p - peak * factor(place, step) * (g + 0.8 * m)
        path.append(p)
    return path


@pytest.fixture(scope="module")
def paths() -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """The parameters after each of all steps: actual and expected, [step][kind]."""
    rng = np.random.default_rng(0)
    starts = [rng.normal(size=size).astype(np.float32) for size in (3, 4, (2, 5))]
    gradients = [
        [100 * rng.normal(size=start.shape).astype(np.float32) for start in starts]
        for _ in range(TOTAL)
    ]
    optimizer = make_optimizer(CONFIG, COUNT, MESH)

    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = tree([jnp.asarray(start) for start in starts])
    state = optimizer.init(params)
    actual = []
    for gradient in gradients:
        params, state = step(params, state, tree([jnp.asarray(g) for g in gradient]))
        actual.append(leaves(params))
    expected = [
        numpy_descent(place, start.astype(np.float64), [g[k] for g in gradients])
        for k, (place, start) in enumerate(zip(PLACES, starts, strict=True))
    ]
    return actual, [list(row) for row in zip(*expected, strict=True)]


@pytest.mark.parametrize("kind", range(3), ids=["norm bias", "whitening bias", "kernel"])
@pytest.mark.parametrize("steps", [1, 2, TOTAL])
def test_steps_are_nesterovs_in_pytorchs_form(paths, kind, steps):
    actual, expected = paths
    np.testing.assert_allclose(actual[steps - 1][kind], expected[steps - 1][kind], rtol=2e-5)


def test_the_whitening_bias_stays_once_frozen(paths):
    actual, _ = paths
    frozen = 2 * STEPS_PER_EPOCH
    assert (actual[frozen - 1][1] != actual[frozen - 2][1]).all()
    for step in range(frozen, TOTAL):
        np.testing.assert_array_equal(actual[step][1], actual[frozen - 1][1])


def one_step(gradient: float, config: Config = CONFIG) -> list[np.ndarray]:
    """Return the updates of the first step, for parameters of value 1."""
    optimizer = make_optimizer(
        config, StepCount.of(config, STEPS_PER_EPOCH * config.batch_size), MESH
    )
    params = tree([jnp.ones(2), jnp.ones(2), jnp.ones(2)])
    gradients = jax.tree.map(lambda p: jnp.full_like(p, gradient), params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    return leaves(updates)


def test_norm_biases_have_64_times_the_rate_and_the_same_decay():
    decay_only = one_step(0.0)
    np.testing.assert_allclose(decay_only[0], decay_only[2], rtol=1e-6)
    by_gradient = [a - b for a, b in zip(one_step(100.0), decay_only, strict=True)]
    np.testing.assert_allclose(by_gradient[0], 64 * by_gradient[2], rtol=1e-3)


def test_the_rate_is_divided_by_airbenchs_measure_of_the_momentum():
    first = {
        m: one_step(1.0, dataclasses.replace(CONFIG, momentum=m, weight_decay=0.0))[2]
        for m in (0.0, 0.5)
    }
    # the measure, 1 + 1 / (1 - m), is 2 and 3; the first step is (1 + m) g
    np.testing.assert_allclose(first[0.5] * 3 / 1.5, first[0.0] * 2, rtol=1e-6)


def test_without_epochs_for_it_the_whitening_bias_never_moves():
    config = dataclasses.replace(CONFIG, whiten_bias_epochs=0)
    np.testing.assert_array_equal(one_step(1.0, config)[1], 0.0)


def test_kinds_follow_names_and_dimensions():
    kernel = jnp.zeros((3, 3, 2, 2))
    assert kinds(tree([0, 0, kernel])) == tree(["norm_bias", "whitening_bias", "kernel"])
    others = {
        "head": {"kernel": jnp.zeros((2, 3)), "bias": 0},
        "first": jnp.zeros((12, 24)),
        "first_bias": 0,
        "norm": {"scale": 0},
    }
    assert set(jax.tree.leaves(kinds(others))) == {"other"}


def test_with_muon_all_biases_have_the_larger_rate():
    """0.053 in airbench94_muon, whose head has 0.67."""
    config = dataclasses.replace(PRESETS["airbench94-muon"], weight_decay=0.0)
    count = StepCount.of(config, 2 * config.batch_size)
    params = tree([jnp.zeros(2), jnp.zeros(2), jnp.zeros((3, 3, 2, 2))]) | {"head": jnp.zeros(2)}
    optimizer = make_optimizer(config, count, MESH)
    gradients = jax.tree.map(jnp.ones_like, params)
    updates: Any = optimizer.update(gradients, optimizer.init(params), params)[0]
    first_step = -(1 + config.momentum)
    for bias in (updates["group0_norm0"]["bias"], updates["whitening_bias"]):
        np.testing.assert_allclose(bias / first_step, 0.053, rtol=2e-3)


def test_with_muon_the_kernels_alone_are_its_own():
    config = dataclasses.replace(CONFIG, optimizer="muon", muon_rate=0.3, muon_momentum=0.7)
    rng = np.random.default_rng(1)

    def random_tree() -> Any:
        return tree(
            [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (3, 4, (3, 3, 2, 5))]
        ) | {"head": jnp.asarray(rng.normal(size=(5, 2)), jnp.float32)}

    params, gradients = random_tree(), random_tree()

    def first_step(config: Config) -> Any:
        optimizer = make_optimizer(config, COUNT, MESH)
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    actual, descent = first_step(config), first_step(CONFIG)
    kernel = params["group0_conv0"]
    alone = muon(
        lambda step: 0.3 * schedule(step, total_steps=TOTAL, warmup=0.4, final=FINAL), 0.7, MESH
    )
    of_kernel: Any = alone.update(gradients["group0_conv0"], alone.init(kernel), kernel)[0]
    np.testing.assert_allclose(actual["group0_conv0"], of_kernel, rtol=1e-6)
    for name in ("group0_norm0", "head"):
        jax.tree.map(np.testing.assert_array_equal, actual[name], descent[name])


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.2), (10, 0.6), (20, 1.0), (60, 0.55), (99, 0.1 + 0.9 / 80), (100, 0.1), (101, 0.1)],
)
def test_schedule_rises_to_its_peak_and_falls_to_the_final_rate(step, expected):
    actual = schedule(step, total_steps=100, warmup=0.2, final=0.1)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("step", [1, 50, 100])
def test_schedule_without_warmup_only_falls(step):
    actual = schedule(step, total_steps=100, warmup=0.0, final=0.0)
    np.testing.assert_allclose(actual, 1 - step / 100, rtol=1e-6)


@pytest.mark.parametrize("warmup", [0.0, 0.1], ids=["none", "less than a step"])
def test_schedule_is_finite_in_the_shortest_training(warmup):
    values = [float(schedule(step, total_steps=2, warmup=warmup, final=0.0)) for step in range(3)]
    assert 0 < values[0] <= 1
    np.testing.assert_allclose(values[1:], [0.5, 0.0])


def averaged(step: int, total: int = 20) -> tuple[Any, Any]:
    slow = {"a": jnp.asarray([2.0, -4.0]), "b": (jnp.asarray(1.0),)}
    fast = {"a": jnp.asarray([10.0, 4.0]), "b": (jnp.asarray(-3.0),)}
    return lookahead(slow, fast, jnp.int32(step), total)


@pytest.mark.parametrize("step", [1, 4, 6, 19])
def test_lookahead_does_nothing_between_its_periods(step):
    slow, fast = averaged(step)
    np.testing.assert_array_equal(slow["a"], [2.0, -4.0])
    np.testing.assert_array_equal(fast["a"], [10.0, 4.0])
    assert (float(slow["b"][0]), float(fast["b"][0])) == (1.0, -3.0)


def test_the_training_ends_at_the_slow_average():
    slow, fast = averaged(19, total=19)
    np.testing.assert_array_equal(slow["a"], [2.0, -4.0])
    np.testing.assert_array_equal(fast["a"], [2.0, -4.0])
    assert float(fast["b"][0]) == 1.0


@pytest.mark.parametrize("step", [5, 10, 20])
def test_lookahead_averages_every_five_steps(step):
    d = 0.95**5 * (step / 20) ** 3
    slow, fast = averaged(step)
    np.testing.assert_allclose(slow["a"], [2 * d + 10 * (1 - d), -4 * d + 4 * (1 - d)], rtol=1e-6)
    np.testing.assert_allclose(slow["b"][0], d - 3 * (1 - d), rtol=1e-6)
    np.testing.assert_array_equal(fast["a"], slow["a"])
    np.testing.assert_array_equal(fast["b"][0], slow["b"][0])
