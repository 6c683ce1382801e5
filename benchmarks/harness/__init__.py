"""Tools that the benchmarks share: turns, limits of the machine, cases, baselines, reports."""
