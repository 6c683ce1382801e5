"""A model of the time that split losses take on many accelerators.

Its figures are assumptions, rounded from data sheets; none is measured.
"""

from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.scaling.collectives import Exchange
from benchmarks.scaling.split_losses import Request, Scheme, Shape, measure_in_subprocess


@dataclass(frozen=True)
class Link:
    """An assumed link between accelerators: bytes per second in one direction, seconds per hop."""

    name: str
    bandwidth: float
    latency: float

    def all_reduce(self, payload: float, devices: int, calls: int = 1) -> float:
        """Return seconds of ring all-reduces: reduce-scatter and all-gather, P - 1 steps each."""
        return 2 * self.all_gather(payload, devices, calls)

    def all_gather(self, payload: float, devices: int, calls: int = 1) -> float:
        """Return seconds of ring all-gathers that leave `payload` bytes in all on each device."""
        steps = devices - 1
        return steps * (calls * self.latency + payload / devices / self.bandwidth)


MODEL_DEVICES = (8, 64, 512, 4096)
MODEL_CLASSES = (131072, 1048576)
FLOPS = 4e14
MEMORY_BANDWIDTH = 3e12
LINKS = (
    Link("NVLink-class", bandwidth=400e9, latency=2e-6),
    Link("ICI-class", bandwidth=100e9, latency=1e-6),
)


class Modelled(NamedTuple):
    """Seconds that a scheme takes on many accelerators, according to the model."""

    classes: int
    devices: int
    scheme: str
    compute: float
    exchange: dict[str, float]  # by link


def model(shape: Shape, devices: int, vocab: Exchange, data: Exchange) -> list[Modelled]:
    """Model loss and gradients of a linear layer, with `shape.rows` rows on every device.

    Args:
        shape: rows of a device, features, all classes.
        devices: their number.
        vocab: collectives of `vocab-parallel linear` with this device's slice of the classes.
        data: collectives of `data-parallel linear`.
    """
    n, d, k = shape
    work = 2 * n * d * k / FLOPS
    logits, gradient = 4 * n * k, 4 * n * d

    def all_reduced(each: Exchange) -> dict[str, float]:
        return {
            link.name: link.all_reduce(each.total, devices, sum(each.calls.values()))
            for link in LINKS
        }

    gathered = {
        link.name: link.all_gather(logits, devices) + link.all_reduce(gradient, devices)
        for link in LINKS
    }
    found = {
        # The default computes the logits twice; gathered logits are computed once and then read.
        Scheme.VOCAB_LINEAR: (4 * work / devices, all_reduced(vocab)),
        Scheme.GATHERED: (3 * work / devices + logits / MEMORY_BANDWIDTH, gathered),
        Scheme.DATA_LINEAR: (4 * work, all_reduced(data)),
    }
    return [Modelled(k, devices, scheme, *times) for scheme, times in found.items()]


def model_all_sizes(shape: Shape) -> list[Modelled]:
    """Evaluate the model at all its sizes, with the collectives of 8 devices with equal slices."""
    n, d, _ = shape
    counted = 8  # devices
    cases = [(k, devices) for k in MODEL_CLASSES for devices in MODEL_DEVICES]
    slices = [(Scheme.VOCAB_LINEAR, Shape(n, d, counted * k // devices)) for k, devices in cases]
    kernels = [(Scheme.DATA_LINEAR, Shape(counted * n, d, k)) for k in MODEL_CLASSES]
    counts = measure_in_subprocess(counted, Request([*slices, *kernels])).exchanges
    data: dict[int, Exchange] = dict(zip(MODEL_CLASSES, counts[len(slices) :], strict=True))
    return [
        each
        for (k, devices), vocab in zip(cases, counts, strict=False)
        for each in model(Shape(n, d, k), devices, vocab, data[k])
    ]
