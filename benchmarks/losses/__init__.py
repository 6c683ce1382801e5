"""Softmax cross-entropy, compared with optax, jax.nn, torch and the textbook formula."""

from benchmarks.losses.benchmark import run as run
