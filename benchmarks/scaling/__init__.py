"""Collectives of losses that are split over devices, and a model of their cost."""

from benchmarks.scaling.benchmark import run as run
