"""The commands besides a single run: many seeds, comparisons, predictions."""
