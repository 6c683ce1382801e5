"""The training state, and the jitted step that moves it on."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec

from experiments.cifar10.augment import (
    INITIAL,
    Epoch,
    normalize,
    plan_epoch,
    shrink,
    take_batch,
)
from experiments.cifar10.backend import DATA, Backend, data_mesh
from experiments.cifar10.config import Config
from experiments.cifar10.model import Network, whitening_filters
from experiments.cifar10.optimizer import lookahead, make_optimizer
from xentjax import softmax_cross_entropy_with_integer_labels

WHITENING_IMAGES = 5000


class TrainState(NamedTuple):
    """All that a training step reads and writes but the data.

    Attributes:
        step: int32 scalar, steps taken so far; epoch and position in it follow from it.
        params: trained parameters.
        batch_stats: running statistics of batch normalisation.
        optimizer: momenta and step counts.
        slow: lookahead's average of (params, batch_stats); None without lookahead.
        whitening: the fixed filters.
        loss: sum of the losses of this epoch's images so far, in nats.
        correct: how many of them were classified correctly.
    """

    step: Array
    params: Any
    batch_stats: Any
    optimizer: Any
    slow: Any
    whitening: Array
    loss: Array
    correct: Array


@dataclass(frozen=True)
class Training:
    """The functions of one run: how its state begins, how it moves on, and how it predicts.

    Attributes:
        initial_state: `(train_images uint8 [N, H, W, C]) -> TrainState`.
        plan_epoch: `(epoch) -> Epoch`, how the images are visited.
        put: `(array) -> Array` on every device, for the images and labels of `advance`.
        advance: `(state, images, labels, plan, *, steps, side, train_whitening) -> (state, losses
            [steps])`, whose keywords are static and whose state is donated.
        predict: `(state, images uint8 [B, H, W, C], *, side, flip) -> logits [B, K]`, whose
            keywords are static; `flip` averages the logits of image and mirror image.
    """

    initial_state: Callable[[np.ndarray], TrainState]
    plan_epoch: Callable[[int], Epoch]
    put: Callable[[np.ndarray], Array]
    advance: Callable[..., Any]
    predict: Callable[..., Any]


def make_training(config: Config, backend: Backend, num_images: int, num_classes: int) -> Training:
    """The functions of a run with these settings on this hardware."""
    key = jax.random.key(config.seed)
    steps_per_epoch = num_images // config.batch_size
    total_steps = config.epochs * steps_per_epoch
    network = Network(config.widths, num_classes, backend.dtype)
    mesh = data_mesh(config.batch_size)
    whole, split = PartitionSpec(), PartitionSpec(DATA)
    optimizer = make_optimizer(config, steps_per_epoch)

    @jax.jit
    def initial_state(images: Array) -> TrainState:
        normalized = normalize(images)
        whitening = whitening_filters(normalized)
        variables = network.init(
            jax.random.fold_in(key, INITIAL), normalized[:1], whitening, train=False
        )
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
        loss = softmax_cross_entropy_with_integer_labels(
            logits, labels, label_smoothing=config.label_smoothing, reduction="sum"
        )
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
        within = state.step % steps_per_epoch
        batch, indices = take_batch(images, plan, within, config.batch_size, shift=config.shift)
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
            slow, fast = lookahead(slow, fast, state.step + 1, total_steps)
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

    @partial(jax.jit, static_argnames=("side", "flip"))
    def predict(state: TrainState, images: Array, *, side: int, flip: bool) -> Array:
        if images.shape[0] % mesh.size == 0:
            images = lax.with_sharding_constraint(images, NamedSharding(mesh, split))
        normalized = shrink(normalize(images), side)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        views = [normalized, normalized[:, :, ::-1]] if flip else [normalized]
        logits: list[Any] = [
            network.apply(variables, view, state.whitening, train=False) for view in views
        ]
        return jnp.mean(jnp.stack(logits), axis=0)

    everywhere = NamedSharding(mesh, whole)
    return Training(
        initial_state=lambda images: jax.device_put(
            initial_state(jnp.asarray(images[:WHITENING_IMAGES])), everywhere
        ),
        plan_epoch=jax.jit(
            lambda epoch: plan_epoch(key, epoch, num_images, flip=config.flip),
            out_shardings=everywhere,
        ),
        put=lambda array: jax.device_put(array, everywhere),
        advance=advance,
        predict=predict,
    )
