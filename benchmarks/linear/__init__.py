"""Cross-entropy of a linear layer, compared with stored logits, tokamax, jax-cce and torch."""

from benchmarks.linear.benchmark import LinearOptions as LinearOptions, run as run
