"""Losses split over virtual CPU devices: the programs, their collectives and their time.

The number of devices is fixed when jax starts, so each number needs a new process:
`python -m benchmarks.scaling.split_losses` reads a `Request` and prints a `Finding`, both JSON.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from benchmarks.harness import timing
from benchmarks.scaling.collectives import Exchange, exchange
from xentjax import (
    linear_softmax_cross_entropy,
    softmax_cross_entropy_with_integer_labels,
)

AXIS = "devices"


class Scheme(StrEnum):
    """Ways to split a loss; the `linear` ones compute their logits."""

    VOCAB = "vocab-parallel"
    VOCAB_LINEAR = "vocab-parallel linear"
    DATA = "data-parallel"
    DATA_LINEAR = "data-parallel linear"
    DATA_LINEAR_JIT = "data-parallel linear, jit"
    GATHERED = "gathered logits"


class Shape(NamedTuple):
    """Rows, features and classes on all devices together."""

    rows: int
    features: int
    classes: int

    def __str__(self) -> str:
        return " × ".join(map(str, self))


class Program(NamedTuple):
    """A mean loss of arrays split over the devices, differentiated in all but the labels."""

    loss: Callable[..., jax.Array]
    shapes: tuple[tuple[int, ...], ...]
    specs: tuple[P, ...]

    def arguments(self, mesh: Mesh) -> list[jax.ShapeDtypeStruct]:
        """Return abstract arrays: int32 for the labels, float32 for the others."""
        dtypes = [jnp.float32] * (len(self.shapes) - 1) + [jnp.int32]
        return [
            jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))
            for shape, dtype, spec in zip(self.shapes, dtypes, self.specs, strict=True)
        ]

    def compile(self, mesh: Mesh) -> jax.stages.Compiled:
        """Compile the loss with its gradients."""
        step = jax.jit(jax.value_and_grad(self.loss, tuple(range(len(self.shapes) - 1))))
        return step.lower(*self.arguments(mesh)).compile()


def program(scheme: str, mesh: Mesh, shape: Shape) -> Program:
    """Make the program of a scheme, as users would write it."""
    n, d, k = shape
    rows, classes, whole = P(AXIS), P(None, AXIS), P()
    of_logits = partial(Program, shapes=((n, k), (n,)))
    of_layer = partial(Program, shapes=((n, d), (d, k), (n,)))

    def split(loss: Callable[..., jax.Array], specs: tuple[P, ...], result: P) -> Any:
        inner = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=result)
        return lambda *arrays: jnp.mean(inner(*arrays))

    def gathered(logits: jax.Array, labels: jax.Array) -> jax.Array:
        logits = jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, whole))
        return mean_loss(logits, labels)

    mean_loss = partial(softmax_cross_entropy_with_integer_labels, reduction="mean")
    match scheme:
        case Scheme.VOCAB:
            specs = (classes, whole)
            loss = partial(softmax_cross_entropy_with_integer_labels, axis_name=AXIS)
            return of_logits(split(loss, specs, whole), specs=specs)
        case Scheme.VOCAB_LINEAR:
            specs = (whole, classes, whole)
            loss = partial(linear_softmax_cross_entropy, axis_name=AXIS)
            return of_layer(split(loss, specs, whole), specs=specs)
        case Scheme.DATA:
            return of_logits(mean_loss, specs=(rows, rows))
        case Scheme.DATA_LINEAR:
            specs = (rows, whole, rows)
            return of_layer(split(linear_softmax_cross_entropy, specs, rows), specs=specs)
        case Scheme.DATA_LINEAR_JIT:
            loss = partial(linear_softmax_cross_entropy, reduction="mean")
            return of_layer(loss, specs=(rows, whole, rows))
        case Scheme.GATHERED:
            return of_logits(gathered, specs=(classes, whole))
    raise ValueError(f"scheme: expected one of {[*Scheme]}, got {scheme!r}")


@dataclass(frozen=True)
class Request:
    """Work of a process: schemes and shapes to count, and a shape at which to time all schemes."""

    counted: list[tuple[str, Shape]]
    timed: Shape | None = None
    rounds: int = 0


@dataclass(frozen=True)
class Finding:
    """Exchanges in the order of the request, and the seconds of each scheme."""

    exchanges: list[Exchange]
    seconds: timing.Samples


def measure(request: Request) -> Finding:
    """Count and time on all devices of this process."""
    mesh = Mesh(np.array(jax.devices()), (AXIS,))
    exchanges = []
    for scheme, shape in request.counted:
        compiled = program(scheme, mesh, shape).compile(mesh)
        exchanges.append(exchange(compiled.as_text() or ""))
    if request.timed is None:
        return Finding(exchanges, {})
    thunks: dict[str, timing.Thunk] = {
        scheme: _thunk(program(scheme, mesh, request.timed), mesh) for scheme in Scheme
    }
    return Finding(exchanges, timing.interleave(thunks, rounds=request.rounds))


def _thunk(each: Program, mesh: Mesh) -> timing.Thunk:
    """Make a call of the compiled program on random floats and labels."""
    rng = np.random.default_rng(0)
    classes = each.shapes[-2][-1]
    arrays = [
        jax.device_put(
            rng.integers(classes, size=a.shape, dtype=np.int32)
            if a.dtype == jnp.int32
            else rng.standard_normal(a.shape, dtype=np.float32),
            a.sharding,
        )
        for a in each.arguments(mesh)
    ]
    return partial(each.compile(mesh), *arrays)


def measure_in_subprocess(devices: int, request: Request) -> Finding:
    """Count and time in a new process with this number of virtual CPU devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling.split_losses"],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=Path(__file__).parents[2],
        input=json.dumps(asdict(request)),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"split_losses: the process with {devices} devices failed\n{done.stderr}"
        )
    found = json.loads(done.stdout)
    return Finding([Exchange(**each) for each in found["exchanges"]], found["seconds"])


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    counted = [(scheme, Shape(*shape)) for scheme, shape in request["counted"]]
    timed = request["timed"] and Shape(*request["timed"])
    found = measure(Request(counted, timed, request["rounds"]))
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
