"""Growth of time and scratch memory with rows and classes, beside theory."""

from benchmarks.growth.benchmark import run as run
