"""Fit a categorical distribution to the rolls of a die or to a column of data."""
