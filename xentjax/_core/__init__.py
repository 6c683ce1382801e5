"""Foundations of every package: checks of arguments, dtypes, accurate sums, safe products."""
