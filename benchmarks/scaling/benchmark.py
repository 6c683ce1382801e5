"""Losses split over devices: the collectives of their programs, and a model of their cost.

The collectives are counted in the compiled programs, on 1 to 8 virtual CPU devices.
"""

from benchmarks.harness import machine
from benchmarks.harness.session import Session
from benchmarks.scaling.model import model_all_sizes
from benchmarks.scaling.report import Counted, Scaling
from benchmarks.scaling.split_losses import Request, Scheme, Shape, measure_in_subprocess

DEVICES = (1, 2, 4, 8)
# The head of a language model with the tokens of a step, and a shape that two cores run fast.
COUNTED, COUNTED_QUICK = Shape(8192, 4096, 131072), Shape(256, 64, 8192)
TIMED, TIMED_QUICK = Shape(1024, 128, 16384), Shape(64, 16, 512)


def run(session: Session) -> Scaling:
    """Count and time on every number of devices, then evaluate the model."""
    limits = machine.measure(quick=session.quick)
    shape, timed = (COUNTED_QUICK, TIMED_QUICK) if session.quick else (COUNTED, TIMED)
    programs: list[tuple[str, Shape]] = [(scheme, shape) for scheme in Scheme]

    def measure(devices: int) -> list[Counted]:
        session.say("compiling and timing in a process of its own", log=False)
        found = measure_in_subprocess(devices, Request(programs, timed, session.rounds))
        return [
            Counted(devices, scheme, each, found.seconds[scheme])
            for scheme, each in zip(Scheme, found.exchanges, strict=True)
        ]

    groups = session.collect("virtual devices", [(str(n), n) for n in DEVICES], measure)
    counted = tuple(each for group in groups for each in group)
    model = session.collect("model", [(str(shape), shape)], model_all_sizes)
    times = tuple(each for group in model for each in group)
    return Scaling(shape, timed, counted, times, limits, session.extent)
