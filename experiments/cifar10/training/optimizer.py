"""Stochastic gradient descent in airbench's units, with a learning rate per kind of parameter."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from experiments.cifar10.config import Config
from experiments.cifar10.training.muon import muon
from experiments.cifar10.training.steps import StepCount

WARMUP_START = 0.2  # relative to the peak
LOOKAHEAD_PERIOD = 5  # steps
LOOKAHEAD_DECAY = 0.95**LOOKAHEAD_PERIOD


def schedule(step: ArrayLike, *, total_steps: int, warmup: float, final: float) -> Array:
    """Return the learning rate relative to its peak: linearly from 0.2 to 1, then to `final`."""
    peak = int(warmup * total_steps)
    times = jnp.asarray([0, peak, total_steps], jnp.float32)
    values = jnp.asarray([WARMUP_START, 1.0, final], jnp.float32)
    return jnp.interp(jnp.asarray(step, jnp.float32), times, values)


def make_optimizer(config: Config, count: StepCount, mesh: Mesh) -> optax.GradientTransformation:
    """Make Nesterov momentum in PyTorch's form, for gradients of the loss summed over the batch.

        g <- g + (decay / rate) p,   m <- momentum m + g,   p <- p - rate (g + momentum m)

    There are three kinds of parameters: biases of batch normalisation have a rate that is
    `norm_bias_scale` times larger, the rate of the whitening's bias falls to 0 within
    `whiten_bias_epochs`, and all others have the plain rate. The decay is the same for all, so it
    is divided by each rate. With Muon the convolution kernels are a fourth kind, and all biases
    have the larger rate.

    Args:
        config: the settings, of which those of the optimizer and the batch size are read.
        count: the steps of the run.
        mesh: the devices, which share Muon's work.
    """
    # a momentum m multiplies a constant step by 1 / (1 - m), and Nesterov adds one more
    per_image = 1 / (1024 * (1 + 1 / (1 - config.momentum)))
    rate = config.learning_rate * per_image
    bias_rate = rate * config.norm_bias_scale
    decay = config.weight_decay * config.batch_size * per_image
    by_muon = config.optimizer == "muon"

    def falling(step: ArrayLike) -> Array:
        return schedule(
            step, total_steps=count.total, warmup=config.warmup, final=config.final_rate
        )

    def until_frozen(step: ArrayLike) -> Array:
        left = 1 - jnp.asarray(step, jnp.float32) / max(count.whitening, 1)
        return jnp.where(count.whitening > 0, jnp.maximum(left, 0.0), 0.0)

    def descent(rate: float, factor: optax.Schedule) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(decay / rate),
            optax.sgd(lambda step: rate * factor(step), config.momentum, nesterov=True),
        )

    other = descent(rate, falling)
    return optax.partition(
        {
            "norm_bias": descent(bias_rate, falling),
            "whitening_bias": descent(bias_rate if by_muon else rate, until_frozen),
            "kernel": muon(
                lambda step: config.muon_rate * falling(step), config.muon_momentum, mesh
            )
            if by_muon
            else other,
            "other": other,
        },
        kinds,
    )


def kinds(params: Any) -> Any:
    """Label each parameter with its kind, in a tree like `params`."""

    def kind(path: tuple[Any, ...], parameter: Array) -> str:
        names = [entry.key for entry in path]
        if "whitening_bias" in names:
            return "whitening_bias"
        if jnp.ndim(parameter) == 4:
            return "kernel"
        is_of_norm = names[-1] == "bias" and "norm" in names[-2]
        return "norm_bias" if is_of_norm else "other"

    return jax.tree_util.tree_map_with_path(kind, params)


def lookahead(slow: Any, fast: Any, step: Array, total_steps: int) -> tuple[Any, Any]:
    """Return the slow average and the parameters to continue with, after `step` steps.

    Every 5 steps, slow <- d slow + (1 - d) fast and fast <- slow, with d = 0.95^5 (step / total)^3.
    The last step also sets fast <- slow.

    Source: M. R. Zhang et al., Lookahead Optimizer, arXiv 1907.08610, as in airbench.
    """
    decay = LOOKAHEAD_DECAY * (step.astype(jnp.float32) / total_steps) ** 3
    due = step % LOOKAHEAD_PERIOD == 0
    slow = jax.tree.map(lambda s, f: jnp.where(due, decay * s + (1 - decay) * f, s), slow, fast)
    resets = due | (step == total_steps)
    return slow, jax.tree.map(lambda s, f: jnp.where(resets, s, f), slow, fast)
