"""The network that the settings name."""

import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.cifar10.config import Config
from experiments.cifar10.network.airbench import Airbench
from experiments.cifar10.network.resnet import ResNet


def build_network(
    config: Config,
    num_classes: int,
    dtype: DTypeLike,
    *,
    factor_dtype: DTypeLike = jnp.float32,
    train_whitening: bool = False,
) -> Airbench | ResNet:
    """Build the network that the settings name; all of its settings are read here.

    Args:
        config: the settings.
        num_classes: K.
        dtype: dtype of the computation.
        factor_dtype: of factors in airbench's convolutions, where these use minimal filtering.
        train_whitening: let the gradient reach the bias of airbench's whitening.
    """
    match config.network:
        case "airbench":
            return Airbench(
                config.widths,
                num_classes,
                config.norm_momentum,
                dtype,
                convs=config.convs,
                whiten=config.whiten,
                whiten_components=config.whiten_components,
                identity_init=config.identity_init,
                train_whitening=config.whiten and train_whitening,
                factor_dtype=factor_dtype,
            )
        case "resnet18":
            return ResNet(config.widths, num_classes, config.norm_momentum, dtype)
