"""Statistics of a die, compared with NumPy, SciPy, statsmodels and torch."""

from benchmarks.categorical.benchmark import run as run
