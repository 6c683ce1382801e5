"""A training step: from the stored images to the updated state."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from experiments.cifar10.backend import DATA
from experiments.cifar10.config import Config
from experiments.cifar10.data.augment import EpochPlan, normalize, shrink, take_batch
from experiments.cifar10.loss import summed_loss
from experiments.cifar10.state import TrainState
from experiments.cifar10.training.optimizer import lookahead
from experiments.cifar10.training.steps import StepCount


@dataclass(frozen=True)
class TrainStep:
    """A training step: take a batch, sum the gradients over the devices, update the state.

    Equal steps share a compiled program.

    Attributes:
        config: the settings, of which those of batches, loss and lookahead are read.
        network: computes the logits, and decides which parameters the gradient reaches.
        optimizer: updates the parameters.
        count: the steps of the run.
        mesh: the devices among which a batch is split.
        image_side: in pixels; images are shrunk to it.
    """

    config: Config
    network: nn.Module
    optimizer: optax.GradientTransformation
    count: StepCount
    mesh: Mesh
    image_side: int

    def __call__(
        self, state: TrainState, images: Array, labels: Array, plan: EpochPlan
    ) -> tuple[TrainState, Array]:
        """Take the step.

        Args:
            state: before the step.
            images: uint8 [N, H, W, C], all training images.
            labels: int32 [N].
            plan: of the epoch that the step is in.

        Returns:
            The new state, and the mean loss of the batch.
        """
        batch, batch_labels = self.batch(state.step, images, labels, plan)
        loss, batch_stats, correct, gradient = self.gradient(state, batch, batch_labels)
        updated = self.update(state, gradient, batch_stats)
        is_first = state.step % self.count.per_epoch == 0
        return updated._replace(
            loss=jnp.where(is_first, 0.0, state.loss) + loss,
            correct=jnp.where(is_first, 0.0, state.correct) + correct,
        ), loss / self.config.batch_size

    def batch(
        self, step: Array, images: Array, labels: Array, plan: EpochPlan
    ) -> tuple[Array, Array]:
        """Take the augmented and normalised images of a step, [B, side, side, C], and labels."""
        settings = self.config
        batch, indices = take_batch(
            images,
            plan,
            step % self.count.per_epoch,
            settings.batch_size,
            shift=settings.shift,
            cutout=settings.cutout,
        )
        return shrink(normalize(batch), self.image_side), labels[indices]

    def gradient(
        self, state: TrainState, batch: Array, labels: Array
    ) -> tuple[Array, Any, Array, Any]:
        """Compute the gradient of the loss of a batch that is split over the devices.

        Returns:
            The summed loss, the batch statistics, the number of images classified correctly and
            the gradient.
        """
        whole, split = PartitionSpec(), PartitionSpec(DATA)

        @partial(
            jax.shard_map,
            mesh=self.mesh,
            in_specs=(whole, split, split),
            out_specs=whole,
            check_vma=False,  # the sums over devices are explicit
        )
        def summed_over_devices(
            state: TrainState, batch: Array, labels: Array
        ) -> tuple[Array, Any, Array, Any]:
            (loss, (batch_stats, correct)), gradient = jax.value_and_grad(self.loss, has_aux=True)(
                state.params, state, batch, labels
            )
            loss, correct, gradient = lax.psum((loss, correct, gradient), DATA)
            return loss, batch_stats, correct, gradient

        return summed_over_devices(state, batch, labels)

    def loss(
        self, params: Any, state: TrainState, batch: Array, labels: Array
    ) -> tuple[Array, tuple[Any, Array]]:
        """Compute the loss of one device's part of a batch.

        It has to be called inside the `shard_map` or `vmap` that names the axis `DATA`.

        Returns:
            The summed loss, and the batch statistics and number of images classified correctly.
        """
        logits, updated = self.network.apply(
            state._replace(params=params).variables, batch, train=True, mutable=["batch_stats"]
        )
        loss = summed_loss(
            self.config.loss, logits, labels, label_smoothing=self.config.label_smoothing
        )
        correct = (logits.argmax(axis=-1) == labels).sum().astype(jnp.float32)
        return loss, (updated["batch_stats"], correct)

    def update(self, state: TrainState, gradient: Any, batch_stats: Any) -> TrainState:
        """Apply the gradient, and every few steps the lookahead; count the step."""
        updates, optimizer = self.optimizer.update(gradient, state.optimizer, state.params)
        fast = (optax.apply_updates(state.params, updates), batch_stats)
        slow = state.slow
        if self.config.lookahead:
            slow, fast = lookahead(slow, fast, state.step + 1, self.count.total)
        return state._replace(
            step=state.step + 1,
            params=fast[0],
            batch_stats=fast[1],
            optimizer=optimizer,
            slow=slow,
        )


@partial(jax.jit, donate_argnames="state", static_argnames=("step", "num_steps"))
def train_steps(
    state: TrainState,
    images: Array,
    labels: Array,
    plan: EpochPlan,
    *,
    step: TrainStep,
    num_steps: int,
) -> tuple[TrainState, Array]:
    """Take several steps of one epoch in one program; the state is donated.

    Returns:
        The new state, and the mean losses of the batches, [num_steps].
    """

    def one(state: TrainState, _: None) -> tuple[TrainState, Array]:
        return step(state, images, labels, plan)

    if num_steps == 1:  # not in a loop, where XLA's CPU convolutions are slow
        state, loss = one(state, None)
        return state, loss[None]
    return lax.scan(one, state, None, length=num_steps)
