"""Names, versions and limits of this machine, measured in the same run as the implementations."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.harness import timing
from experiments.common.environment import cores, processor, versions

PACKAGES = ("xentjax", "jax", "jaxlib", "optax", "flax", "numpy", "torch")


@dataclass(frozen=True)
class Machine:
    """Names, versions and limits of the machine a benchmark ran on.

    Bandwidths are in GB/s and count every byte read and every byte written; `gemm` is in GFLOP/s of
    a float32 matrix product.
    """

    date: str
    processor: str
    cores: int
    backend: str
    device: str
    versions: dict[str, str]
    read_bandwidth: float
    update_bandwidth: float
    fresh_bandwidth: float
    gemm: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, for JSON."""
        return asdict(self)

    def describe(self) -> list[str]:
        """Return the fields as readable lines of text."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        device = "" if self.backend == "cpu" else f", {self.device}"
        return [
            f"{self.date}: {self.processor}, {self.cores} cores{device} ({self.backend})",
            versions,
            f"limits: read {self.read_bandwidth:.1f} GB/s, "
            f"x + 1 in a donated buffer {self.update_bandwidth:.1f} GB/s, "
            f"into a fresh one {self.fresh_bandwidth:.1f} GB/s (read + write), "
            f"float32 GEMM {self.gemm:.0f} GFLOP/s",
        ]


def measure(*, quick: bool = False, packages: Sequence[str] = ()) -> Machine:
    """Name this machine and measure its limits on arrays far larger than the caches.

    Args:
        quick: small arrays and few rounds, for a trial run whose figures are not meaningful.
        packages: packages besides `PACKAGES` whose versions are recorded.
    """
    elements, rounds = (2**20, 2) if quick else (2**26, 7)
    gemm, flops = product(quick=quick)
    thunks = traffic((elements,)) | {"gemm": gemm}
    seconds = timing.interleave(thunks, rounds=rounds)
    median = {name: timing.quartiles(samples).median for name, samples in seconds.items()}
    gigabytes = elements * 4 / 1e9
    return Machine(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=processor(),
        cores=cores(),
        backend=jax.default_backend(),
        device=jax.devices()[0].device_kind,
        versions=versions((*PACKAGES, *packages)),
        read_bandwidth=gigabytes / median["read"],
        update_bandwidth=2 * gigabytes / median["update"],
        fresh_bandwidth=2 * gigabytes / median["fresh"],
        gemm=flops / median["gemm"] / 1e9,
    )


def product(dtype: str = "float32", *, quick: bool = False) -> tuple[timing.Thunk, int]:
    """Make a matrix product large enough to reach the peak rate; return its operations too."""
    size = 256 if quick else 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((size, size), dtype)
    gemm = timing.compile_ahead_of_time(lambda x: x @ x, a)
    return lambda: gemm.call(a), 2 * size**3


def traffic(shape: Sequence[int]) -> dict[str, timing.Thunk]:
    """Make thunks that only move a float32 array of this shape, as lower bounds of times.

    read: its sum (1 read). update: x + 1 written over x, in a donated buffer (1 read, 1 write).
    fresh: x + 1 in a new buffer (1 read, 1 write), whose pages the system may have to supply.
    """
    x = jnp.ones(shape, jnp.float32)
    # XLA's CPU backend splits work by rows of the output: a sum to one number would use one core.
    pieces = 64 if x.size % 64 == 0 else 1
    read = timing.compile_ahead_of_time(lambda x: jnp.sum(x.reshape(pieces, -1), axis=1), x)
    update = timing.compile_ahead_of_time(lambda x: x + 1.0, x, donate=(0,))
    fresh = timing.compile_ahead_of_time(lambda x: x + 1.0, x)
    return {
        "read": lambda: read.call(x),
        "update": timing.thread_state(update.call, jnp.ones(shape, jnp.float32)),
        "fresh": lambda: fresh.call(x),
    }
