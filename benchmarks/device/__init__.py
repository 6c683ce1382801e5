"""Everything that an accelerator has to show, in one command."""

from benchmarks.device.benchmark import run as run
