"""Statistics of a die beside NumPy, SciPy, statsmodels and torch."""

from benchmarks.categorical.benchmark import run as run
