"""Strict settings for the whole suite: no silent promotion of dtypes or ranks."""

import os

os.environ.setdefault("MPLBACKEND", "agg")

import jax

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
