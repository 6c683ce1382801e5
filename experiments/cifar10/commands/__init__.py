"""Commands beyond a single run: several seeds, comparisons, predictions."""
