"""The jitted functions of a run: initial state, steps and predictions."""

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.cifar10.backend import DATA, Backend
from experiments.cifar10.config import Config
from experiments.cifar10.data.augment import INITIAL, EpochPlan, normalize, plan_epoch, shrink
from experiments.cifar10.network.airbench import whitening_filters
from experiments.cifar10.network.build import build_network
from experiments.cifar10.state import TrainState
from experiments.cifar10.training.optimizer import make_optimizer
from experiments.cifar10.training.step import TrainStep, train_steps
from experiments.cifar10.training.steps import StepCount
from experiments.common.compiled import CompiledFunction

WHITENING_IMAGES = 5000
SIDE = 32  # of stored images, in pixels


class TrainingPrograms:
    """The functions of a run, shared by all runs whose settings differ only in the seed.

    Attributes:
        count: the steps of a run.
        train_steps: `step.train_steps`, compiled ahead.
        predict: `predict` of the network, compiled ahead; called as
            `predict(state, images uint8 [B, H, W, C], side=...)`.

    Args:
        config: the settings; the seed is not read.
        backend: the hardware.
        mesh: the devices among which a batch is split.
        num_images: number of training images.
        num_classes: K.

    Raises:
        ConfigError: the images do not fill one batch.
    """

    def __init__(
        self, config: Config, backend: Backend, mesh: Mesh, num_images: int, num_classes: int
    ) -> None:
        self.count = StepCount.of(config, num_images)
        self._config = config
        self._mesh = mesh
        # a network whose whitening is trained, and one whose whitening is not
        self._networks = {
            trained: build_network(
                config,
                num_classes,
                backend.dtype,
                factor_dtype=backend.factor_dtype,
                train_whitening=trained,
            )
            for trained in (False, True)
        }
        network = self._networks[False]
        self._optimizer = make_optimizer(config, self.count, mesh)
        self._replicated = NamedSharding(mesh, PartitionSpec())
        self._num_images = num_images
        self._jitted_initial_state = jax.jit(
            partial(
                initial_state,
                network,
                self._optimizer,
                components=config.whiten_components,
                lookahead=config.lookahead,
            ),
            out_shardings=self._replicated,
        )
        self._jitted_plan_epoch = jax.jit(
            partial(_plan_epoch_of_seed, num_images=num_images, flip=config.flip),
            out_shardings=self._replicated,
        )
        self._initial_state = CompiledFunction(self._jitted_initial_state)
        self._plan_epoch = CompiledFunction(self._jitted_plan_epoch)
        # bytes of the float32 activations of the first group of convolutions, on one device
        largest = 4 * (config.batch_size // mesh.size) * SIDE**2 * config.widths[0]
        self.train_steps = CompiledFunction(train_steps, backend.step_options(largest))
        self.predict = CompiledFunction(
            jax.jit(partial(predict, network, mesh), static_argnames="side"),
            backend.compiler_options,
        )

    def with_new_clock(self, compiling: Callable[[], AbstractContextManager[None]]) -> Self:
        """Share the programs, and count their seconds from here.

        Args:
            compiling: entered while a program is compiled.
        """
        new = copy.copy(self)
        for name in ("_initial_state", "_plan_epoch", "train_steps", "predict"):
            setattr(new, name, getattr(self, name).with_new_clock(compiling))
        return new

    @property
    def number_compiled(self) -> int:
        """Number of programs compiled so far."""
        functions = self._initial_state, self._plan_epoch, self.train_steps, self.predict
        return sum(map(len, functions))

    def step(self, epoch: int) -> TrainStep:
        """Return the step of an epoch, for its image side and its trained parameters."""
        return TrainStep(
            self._config,
            self._networks[epoch < self._config.whiten_bias_epochs],
            self._optimizer,
            self.count,
            self._mesh,
            self._config.image_side(epoch),
        )

    def initial_state(self, seed: int, images: np.ndarray) -> TrainState:
        """Return the state before the first step, on every device.

        Args:
            seed: of the run.
            images: uint8 [N, H, W, C], the training images.
        """
        return self._initial_state(np.uint32(seed), images[:WHITENING_IMAGES])

    def shapes_of_state(self) -> TrainState:
        """Return the shapes of a state, `jax.ShapeDtypeStruct`s; nothing is computed."""
        images = jax.ShapeDtypeStruct((1, SIDE, SIDE, 3), np.uint8)
        return self._on_every_device(
            jax.eval_shape(self._jitted_initial_state, np.uint32(0), images)
        )

    def compile_plan(self) -> None:
        """Compile what `plan_epoch` needs."""
        self._plan_epoch.compile(np.uint32(0), np.int32(0))

    def compile_steps(self, epoch: int, num_steps: int) -> None:
        """Compile a program that takes this many steps of an epoch."""
        seed, first = np.uint32(0), np.int32(0)
        plan = self._on_every_device(jax.eval_shape(self._jitted_plan_epoch, seed, first))
        images = jax.ShapeDtypeStruct((self._num_images, SIDE, SIDE, 3), np.uint8)
        labels = jax.ShapeDtypeStruct((self._num_images,), np.int32)
        self.train_steps.compile(
            self.shapes_of_state(),
            *self._on_every_device((images, labels)),
            plan,
            step=self.step(epoch),
            num_steps=num_steps,
        )

    def compile_prediction(self, batch: int, side: int) -> None:
        """Compile the prediction of this many images of this side."""
        images = jax.ShapeDtypeStruct((batch, SIDE, SIDE, 3), np.uint8)
        self.predict.compile(self.shapes_of_state(), self._on_every_device(images), side=side)

    def _on_every_device(self, shapes: Any) -> Any:
        def replicated(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=self._replicated, weak_type=leaf.weak_type
            )

        return jax.tree.map(replicated, shapes)

    def plan_epoch(self, seed: int, epoch: int) -> EpochPlan:
        """Plan the order and the flips of the images of an epoch."""
        return self._plan_epoch(np.uint32(seed), np.int32(epoch))

    def replicate(self, array: np.ndarray) -> Array:
        """Put an array on every device."""
        # not device_put, which would compare the array between hosts
        return jax.make_array_from_callback(
            array.shape, self._replicated, lambda index: array[index]
        )


def initial_state(
    network: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: Array,
    images: Array,
    *,
    components: int,
    lookahead: bool,
) -> TrainState:
    """Return the state before the first step.

    Args:
        network: the network whose parameters are drawn.
        optimizer: the optimizer, whose momenta start at 0.
        seed: seed of the run.
        images: uint8 [N, H, W, C], whose patches the whitening decorrelates.
        components: number of components of the patches that the whitening keeps.
        lookahead: whether to keep a slow average of the parameters.
    """
    normalized = normalize(images)
    key = jax.random.fold_in(jax.random.key(seed), INITIAL)
    variables = network.init(key, normalized[:1], train=False)
    params, batch_stats = variables["params"], variables["batch_stats"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        optimizer=optimizer.init(params),
        slow=(params, batch_stats) if lookahead else None,
        whitening=whitening_filters(normalized, components),
        loss=jnp.zeros(()),
        correct=jnp.zeros(()),
    )


def predict(
    network: nn.Module, mesh: Mesh, state: TrainState, images: Array, *, side: int
) -> Array:
    """Compute the logits [B, K] of images, which are split over the devices if they divide them.

    Args:
        network: the trained network.
        mesh: the devices.
        state: the state of the run.
        images: uint8 [B, H, W, C].
        side: in pixels; images are shrunk to it.
    """
    whole = PartitionSpec()
    split = PartitionSpec(DATA) if images.shape[0] % mesh.size == 0 else whole

    @partial(jax.shard_map, mesh=mesh, in_specs=(whole, split), out_specs=split, check_vma=False)
    def logits(state: TrainState, images: Array) -> Any:
        return network.apply(state.variables, shrink(normalize(images), side), train=False)

    return lax.with_sharding_constraint(logits(state, images), NamedSharding(mesh, whole))


def _plan_epoch_of_seed(seed: Array, epoch: Array, *, num_images: int, flip: bool) -> EpochPlan:
    return plan_epoch(jax.random.key(seed), epoch, num_images, flip=flip)
