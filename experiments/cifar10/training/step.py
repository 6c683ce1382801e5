"""The training state, and the jitted step that moves it on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.cifar10.backend import DATA, Backend
from experiments.cifar10.config import Config, NetworkName
from experiments.cifar10.data.augment import (
    INITIAL,
    Epoch,
    normalize,
    plan_epoch,
    shrink,
    take_batch,
)
from experiments.cifar10.network.airbench import Network, whitening_filters
from experiments.cifar10.network.resnet import ResNet
from experiments.cifar10.state import TrainState
from experiments.cifar10.training.loss import summed_loss
from experiments.cifar10.training.optimizer import lookahead, make_optimizer
from experiments.cifar10.training.steps import Length

WHITENING_IMAGES = 5000
NETWORKS: Mapping[NetworkName, type[Network] | type[ResNet]] = {
    "airbench": Network,
    "resnet18": ResNet,
}


@dataclass(frozen=True)
class Training:
    """The functions of a run: how its state begins, how it moves on, and how it predicts.

    They serve every seed.

    Attributes:
        length: in steps.
        initial_state: `(seed, train_images uint8 [N, H, W, C]) -> TrainState`.
        plan_epoch: `(seed, epoch) -> Epoch`, how the images are visited.
        put: `(array) -> Array` on every device, for the images and labels of `advance`.
        advance: `(state, images, labels, plan, *, steps, side, train_whitening) -> (state, losses
            [steps])`, whose keywords are static and whose state is donated.
        predict: `(state, images uint8 [B, H, W, C], *, side) -> logits [B, K]`, whose keyword is
            static.
    """

    length: Length
    initial_state: Callable[[int, np.ndarray], TrainState]
    plan_epoch: Callable[[int, int], Epoch]
    put: Callable[[np.ndarray], Array]
    advance: Callable[..., Any]
    predict: Callable[..., Any]


def make_training(
    config: Config, backend: Backend, mesh: Mesh, num_images: int, num_classes: int
) -> Training:
    """The functions of a run with these settings, but for the seed, on this hardware.

    Raises:
        ConfigError: the images do not fill one batch.
    """
    length = Length.of(config, num_images)
    network = NETWORKS[config.network](config, num_classes, backend.dtype)
    whole, split = PartitionSpec(), PartitionSpec(DATA)
    optimizer = make_optimizer(config, length)

    everywhere = NamedSharding(mesh, whole)

    @partial(jax.jit, out_shardings=everywhere)
    def initial_state(seed: Array, images: Array) -> TrainState:
        normalized = normalize(images)
        whitening = whitening_filters(normalized)
        key = jax.random.fold_in(jax.random.key(seed), INITIAL)
        variables = network.init(key, normalized[:1], whitening, train=False)
        params, batch_stats = variables["params"], variables["batch_stats"]
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=batch_stats,
            optimizer=optimizer.init(params),
            slow=(params, batch_stats) if config.lookahead else None,
            whitening=whitening,
            loss=jnp.zeros(()),
            correct=jnp.zeros(()),
        )

    @partial(jax.jit, out_shardings=everywhere)
    def plan(seed: Array, epoch: Array) -> Epoch:
        return plan_epoch(jax.random.key(seed), epoch, num_images, flip=config.flip)

    def losses(
        params: Any, state: TrainState, images: Array, labels: Array, train_whitening: bool
    ) -> tuple[Array, Any]:
        """The loss of this device's part of the batch."""
        logits, updated = network.apply(
            {"params": params, "batch_stats": state.batch_stats},
            images,
            state.whitening,
            train=True,
            train_whitening=train_whitening,
            mutable=["batch_stats"],
        )
        loss = summed_loss(config, logits, labels)
        correct = (logits.argmax(axis=-1) == labels).sum().astype(jnp.float32)
        return loss, (updated["batch_stats"], correct)

    def gradients(
        state: TrainState, images: Array, labels: Array, train_whitening: bool
    ) -> tuple[Array, Any, Array, Any]:
        """Loss, batch statistics, number correct and gradients of a batch split over devices."""
        (loss, (batch_stats, correct)), gradient = jax.value_and_grad(losses, has_aux=True)(
            state.params, state, images, labels, train_whitening
        )
        loss, correct, gradient = lax.psum((loss, correct, gradient), DATA)
        return loss, batch_stats, correct, gradient

    def one_step(
        state: TrainState,
        images: Array,
        labels: Array,
        plan: Epoch,
        *,
        side: int,
        train_whitening: bool,
    ) -> tuple[TrainState, Array]:
        within = state.step % length.steps_per_epoch
        batch, indices = take_batch(
            images, plan, within, config.batch_size, shift=config.shift, cutout=config.cutout
        )
        batch = shrink(normalize(batch), side)
        loss, batch_stats, correct, gradient = jax.shard_map(
            partial(gradients, train_whitening=train_whitening),
            mesh=mesh,
            in_specs=(whole, split, split),
            out_specs=whole,
            check_vma=False,  # the sums over devices are written out
        )(state, batch, labels[indices])
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        fast = (optax.apply_updates(state.params, updates), batch_stats)
        slow = state.slow
        if config.lookahead:
            slow, fast = lookahead(slow, fast, state.step + 1, length.steps)
        is_first = within == 0
        return TrainState(
            step=state.step + 1,
            params=fast[0],
            batch_stats=fast[1],
            optimizer=optimizer_state,
            slow=slow,
            whitening=state.whitening,
            loss=jnp.where(is_first, 0.0, state.loss) + loss,
            correct=jnp.where(is_first, 0.0, state.correct) + correct,
        ), loss / config.batch_size

    @partial(jax.jit, donate_argnames="state", static_argnames=("steps", "side", "train_whitening"))
    def advance(
        state: TrainState,
        images: Array,
        labels: Array,
        plan: Epoch,
        *,
        steps: int,
        side: int,
        train_whitening: bool,
    ) -> tuple[TrainState, Array]:
        def step(state: TrainState, _: None) -> tuple[TrainState, Array]:
            return one_step(state, images, labels, plan, side=side, train_whitening=train_whitening)

        if steps == 1:  # not in a loop, where XLA's CPU convolutions are slow
            state, loss = step(state, None)
            return state, loss[None]
        return lax.scan(step, state, None, length=steps)

    @partial(jax.jit, static_argnames="side")
    def predict(state: TrainState, images: Array, *, side: int) -> Array:
        of_device = split if images.shape[0] % mesh.size == 0 else whole

        @partial(
            jax.shard_map,
            mesh=mesh,
            in_specs=(whole, of_device),
            out_specs=of_device,
            check_vma=False,
        )
        def logits(state: TrainState, images: Array) -> Any:
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            shrunk = shrink(normalize(images), side)
            return network.apply(variables, shrunk, state.whitening, train=False)

        return lax.with_sharding_constraint(logits(state, images), everywhere)

    return Training(
        length=length,
        initial_state=lambda seed, images: initial_state(
            np.uint32(seed), images[:WHITENING_IMAGES]
        ),
        plan_epoch=lambda seed, epoch: plan(np.uint32(seed), np.int32(epoch)),
        # not device_put, which would compare the array between hosts
        put=lambda array: jax.make_array_from_callback(
            array.shape, everywhere, lambda index: array[index]
        ),
        advance=advance,
        predict=predict,
    )
