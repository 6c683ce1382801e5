"""First calls of the statistics in new processes, compared with scipy's and statsmodels'."""

from benchmarks.first_calls.benchmark import run

__all__ = ["run"]
