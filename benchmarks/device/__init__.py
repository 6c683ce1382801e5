"""All measurements for an accelerator, in one command."""

from benchmarks.device.benchmark import run as run
