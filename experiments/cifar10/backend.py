"""Choices that depend on the hardware; everything else is the same on CPU, GPU and TPU."""

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
from experiments.common.environment import processor_flags

DATA = "data"  # the mesh axis along which a batch is split
CPU_DEVICES = 2
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # of glibc's malloc.h
HEAP = 64 << 20  # bytes; the largest heap of a thread that is not the main one
BLOCK = HEAP - (4 << 20)  # bytes; leaves room for the header of the heap
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"  # operations that this library computes
MULTIPLY_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # flags of processors
IN_BLOCKS = {"xla_multiheap_size_constraint_per_heap": str(BLOCK)}


@dataclass(frozen=True)
class Backend:
    """Settings of the computation for a kind of hardware.

    Attributes:
        name: jax's name of it.
        default_preset: a preset for its speed.
        dtype: of activations and of the kernels inside the step; master weights are float32.
        factor_dtype: of factors in convolutions by minimal filtering. On a CPU that multiplies
            bfloat16 a step is about 1.15 times as fast with it.
        scans_epochs: run an epoch as one lax.scan rather than call the step in a Python loop.
            On CPU, XLA's convolutions are up to 70 times slower inside loops, and the overhead of
            a call is negligible.
        test_batch: images per batch of predictions. On CPU so few that their memory stays below
            the 64 MiB that `_keep_memory` can keep; larger batches take longer per image.
        compiler_options: options of XLA, for training and prediction.
    """

    name: str
    default_preset: Literal["cpu89", "airbench94"]
    dtype: DTypeLike
    factor_dtype: DTypeLike
    scans_epochs: bool
    test_batch: int
    compiler_options: Mapping[str, str]

    def step_options(self, largest: int) -> Mapping[str, str]:
        """Return the options of XLA for a training step whose largest array has `largest` bytes.

        On CPU, XLA then splits temporary memory into blocks that `_keep_memory` can keep, which
        makes a step up to 1.5 times as fast. XLA cannot store a program with several blocks for the
        next run, and would warn of each array larger than a block.
        """
        fits = self.name == "cpu" and largest <= BLOCK
        return {**self.compiler_options, **IN_BLOCKS} if fits else self.compiler_options


def current_backend() -> Backend:
    """Return the backend on which jax computes."""
    name = jax.default_backend()
    if name != "cpu":
        return Backend(name, "airbench94", jnp.bfloat16, jnp.float32, True, 2048, {})
    # YNNPACK's convolutions and reductions are slower here, and so are its float32 products.
    factor_dtype, kernels = jnp.float32, ""
    if MULTIPLY_BFLOAT16 & processor_flags():
        factor_dtype, kernels = jnp.bfloat16, "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return Backend(name, "cpu89", jnp.float32, factor_dtype, False, 128, {YNNPACK: kernels})


def prepare_cpu() -> None:
    """Make training on CPU fast, for the whole process.

    It has to be called before jax first computes; otherwise training is merely slower.
    """
    _split_cpu()
    _keep_memory()


def _split_cpu() -> None:
    """Split a CPU with several cores into two devices, each with half of every batch.

    Much of a training step is not parallel within one device; two make it about 1.4 times as fast.
    """
    if (os.cpu_count() or 1) >= CPU_DEVICES:
        with contextlib.suppress(RuntimeError):  # too late, jax has already computed
            jax.config.update("jax_num_cpu_devices", CPU_DEVICES)


def _keep_memory() -> None:
    """Let glibc keep the memory that a step frees for the next step.

    Otherwise large blocks are returned to the system, which clears their pages when it allocates
    them again: a step takes about 1.3 times as long. The threshold is that of the main thread;
    other threads unmap a free heap unless that would leave less than the padding. Memory larger
    than their heaps is still returned, see `Backend.step_options`.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TRIM_THRESHOLD, -1)  # never
            mallopt(M_TOP_PAD, HEAP + 1)


def data_mesh(batch_size: int, devices: Sequence[Any] | int | None = None) -> Mesh:
    """Make the mesh of the devices among which a batch is split.

    Args:
        batch_size: images per step.
        devices: the devices, or how many of the available ones. None: all devices of all hosts; on
            one host, the largest number that divides the batch.

    Raises:
        ConfigError: there are fewer, or they do not divide the batch.
    """
    available = jax.devices()
    if devices is None and jax.process_count() == 1:
        devices = next(n for n in range(len(available), 0, -1) if batch_size % n == 0)
    if isinstance(devices, int):
        if devices > len(available):
            raise ConfigError(f"num_devices: expected at most {len(available)}, got {devices}")
        devices = available[:devices]
    chosen = available if devices is None else list(devices)
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
