"""What `implementation=None` stands for: the fastest that was measured on a device of this kind.

A kernel becomes the default of a device only after it ran there and `python -m benchmarks kernels`
measured it. Everywhere else, for every case without a row in the table, and where arrays may lie on
several devices outside of `shard_map`, that is "xla"; so it is in a program lowered for a platform
that is not the kernel's.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType
from jax.typing import DTypeLike

from xentjax._core.varying import varying_alike

S = TypeVar("S")
T = TypeVar("T")


class Case(NamedTuple):
    """What is to be computed."""

    operation: Literal["logits", "linear"]
    """The statistics of logits in memory, or of a linear layer."""
    dtype: DTypeLike
    """Of logits or features."""
    num_classes: int


class Measured(NamedTuple):
    """A kernel that was faster than XLA wherever it was measured between two numbers of classes."""

    device_kind: str
    """As `jax.Device.device_kind` says it."""
    operation: Literal["logits", "linear"]
    dtype: str
    fewest_classes: int
    most_classes: int
    implementation: str
    times_as_fast: float
    """As XLA, loss and gradient together."""

    def holds_for(self, case: Case) -> bool:
        """Whether the case is one of those on this device."""
        return (
            self.device_kind == default_device().device_kind
            and self.operation == case.operation
            and self.dtype == jnp.dtype(case.dtype).name
            and self.fewest_classes <= case.num_classes <= self.most_classes
        )


def default_device() -> Any:
    """What computes where nothing else is said."""
    device: Any = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if isinstance(device, str):
        return jax.local_devices(backend=device)[0]
    return device or jax.local_devices()[0]


def is_on_one_device() -> bool:
    """Whether XLA has nothing to partition, which it cannot do with a kernel."""
    types = jax.sharding.get_abstract_mesh().axis_types
    inside_shard_map = bool(types) and all(t == AxisType.Manual for t in types)
    return inside_shard_map or jax.device_count() == 1


MEASURED: tuple[Measured, ...] = ()
"""No GPU or TPU has been at hand."""


def fastest(case: Case) -> str:
    """Return the name of the implementation that was the fastest on the default device."""
    rows = [row for row in MEASURED if row.holds_for(case)]
    if not (rows and is_on_one_device()):
        return "xla"
    return max(rows, key=lambda row: row.times_as_fast).implementation


_PLATFORM = {"mosaic_gpu": "cuda", "mosaic_tpu": "tpu"}


def with_the_fastest(compute: Callable[[S, str], T], inputs: S, case: Case) -> T:
    """Return `compute(inputs, name)` for the fastest; where that cannot, for "xla", with a warning.

    `compute` is traced for both: what the program is lowered for may be another machine. For
    several platforms at once jax lowers no kernel, and raises NotImplementedError.
    """
    name = fastest(case)
    if name != "xla":
        inputs = varying_alike(inputs)  # as the results of both have to
        by_kernel = {_PLATFORM[name]: lambda inputs: compute(inputs, name)}
        try:
            return lax.platform_dependent(
                inputs, **by_kernel, default=lambda inputs: compute(inputs, "xla")
            )
        except NotImplementedError as error:
            _warn_once(f"implementation: {name!r} is the fastest here, but {error}; used 'xla'")
    return compute(inputs, "xla")


@functools.cache
def _warn_once(line: str) -> None:
    warnings.warn(line, stacklevel=3)
