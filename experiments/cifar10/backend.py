"""What the hardware decides; everything else is the same on CPU, GPU and TPU."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from experiments.cifar10.conv import Convolution, conv3x3, conv3x3_cpu


@dataclass(frozen=True)
class Backend:
    """How to compute on this hardware.

    Attributes:
        name: as jax calls it.
        default_preset: the preset that suits its speed.
        dtype: of activations and of the kernels inside the step; master weights are float32.
        convolution: the 3x3 convolution.
        scans_epochs: run an epoch as one lax.scan rather than call the step in a Python loop.
            XLA's CPU convolutions are up to 70 times slower inside loops, and a step there takes
            so long that calling it costs nothing.
    """

    name: str
    default_preset: str
    dtype: DTypeLike
    convolution: Convolution
    scans_epochs: bool


def current_backend() -> Backend:
    """The backend jax computes on."""
    name = jax.default_backend()
    if name == "cpu":
        return Backend(name, "tiny", jnp.float32, conv3x3_cpu, scans_epochs=False)
    return Backend(name, "airbench94", jnp.bfloat16, conv3x3, scans_epochs=True)
