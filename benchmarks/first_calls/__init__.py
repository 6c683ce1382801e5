"""First calls of the statistics in fresh processes, beside scipy's and statsmodels'."""

from benchmarks.first_calls.benchmark import run

__all__ = ["run"]
