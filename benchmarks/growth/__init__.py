"""Growth of time and scratch memory with rows and classes, compared with theory."""

from benchmarks.growth.benchmark import run as run
