"""Cross-entropy of a linear layer beside stored logits, tokamax, jax-cce and torch."""

from benchmarks.linear.benchmark import LinearOptions as LinearOptions, run as run
