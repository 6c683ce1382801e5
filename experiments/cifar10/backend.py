"""What the hardware decides; everything else is the same on CPU, GPU and TPU."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from experiments.cifar10.config import ConfigError

DATA = "data"  # the mesh axis along which a batch is split
CPU_DEVICES = 2
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
# Without XLA's YNNPACK kernels, whose convolutions and reductions are slower here: 2,880 images/s
# instead of 2,064 at 25 pixels, 2,453 instead of 2,376 at 32 (`tiny`, 2 cores, jax 0.10.2, before
# convolutions were filtered along both sides).
CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


@dataclass(frozen=True)
class Backend:
    """How to compute on this hardware.

    Attributes:
        name: as jax calls it.
        default_preset: the preset that suits its speed.
        dtype: of activations and of the kernels inside the step; master weights are float32.
        scans_epochs: run an epoch as one lax.scan rather than call the step in a Python loop.
            XLA's CPU convolutions are up to 70 times slower inside loops, and a step there takes
            so long that calling it costs nothing.
        test_batch: images that are predicted at a time. On CPU few enough that the memory for them
            stays below the 64 MiB that `_keep_memory` can keep: `small` takes 650 microseconds an
            image with 128, 850 with 200.
        compiler_options: for XLA, of training and prediction.
    """

    name: str
    default_preset: Literal["tiny", "airbench94"]
    dtype: DTypeLike
    scans_epochs: bool
    test_batch: int
    compiler_options: Mapping[str, str]


def current_backend() -> Backend:
    """The backend jax computes on."""
    name = jax.default_backend()
    if name == "cpu":
        return Backend(name, "tiny", jnp.float32, False, 128, CPU_OPTIONS)
    return Backend(name, "airbench94", jnp.bfloat16, True, 2048, {})


def prepare_cpu() -> None:
    """Make training on CPU fast, for the whole process; without it training is only slower.

    To be called before jax first computes.
    """
    _split_cpu()
    _keep_memory()


def _split_cpu() -> None:
    """Let jax see a CPU of several cores as two devices, each with half of every batch.

    Much of a training step is not parallel inside one device: 2,851 images/s against 2,055 for
    `tiny` on 2 cores, before convolutions were filtered along both sides.
    """
    if (os.cpu_count() or 1) >= CPU_DEVICES:
        with contextlib.suppress(RuntimeError):  # too late, jax has computed already
            jax.config.update("jax_num_cpu_devices", CPU_DEVICES)


def _keep_memory() -> None:
    """Let glibc keep the memory that a step frees for the next step.

    Else the system takes large blocks back, and clears their pages when it hands them out again:
    for `tiny` 16,455 pages a step instead of 418, which is 75 ms instead of 57. Blocks larger than
    64 MiB still go back.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, -1)  # never


def data_mesh(batch_size: int, devices: Sequence[Any] | int | None = None) -> Mesh:
    """The devices among which a batch is split.

    Args:
        batch_size: images a step.
        devices: which, or how many of all. None is all of all hosts, or of one host as many as
            divide the batch.

    Raises:
        ConfigError: there are fewer, or they do not divide the batch.
    """
    there = jax.devices()
    if devices is None and jax.process_count() == 1:
        devices = next(n for n in range(len(there), 0, -1) if batch_size % n == 0)
    if isinstance(devices, int):
        if devices > len(there):
            raise ConfigError(f"num_devices: expected at most {len(there)}, got {devices}")
        devices = there[:devices]
    chosen = there if devices is None else list(devices)
    if (hosts := len({device.process_index for device in chosen})) < jax.process_count():
        raise ConfigError(
            f"num_devices: expected devices of all {jax.process_count()} hosts, got {len(chosen)} "
            f"of {hosts}"
        )
    if batch_size % len(chosen):
        raise ConfigError(
            f"batch_size: expected a multiple of {len(chosen)}, the number of devices of "
            f"{jax.process_count()} hosts, got {batch_size}"
        )
    return Mesh(np.array(chosen), (DATA,))
