"""Random linear heads: numbers, masks and scalars of one shape, as data of a compiled function."""

from typing import Any

import jax.numpy as jnp
import numpy as np

# Rows and classes are prime: in tiles of a few kilobytes both have blocks that overlap.
N, D, K = 131, 5, 41


def random_head(
    dtype: str, options: str, ignore_index: int | None, seed: int
) -> dict[str, np.ndarray]:
    """Arguments with logits of scales from 1e-3 to 30, by large features or a large kernel.

    Args:
        dtype: of x and kernel.
        options: words of "cap", "temperature", and "rows", "classes" or "shared" for a mask.
        ignore_index: what labels may be too.
        seed: of the draw.
    """
    words = options.split()
    rng = np.random.default_rng((seed, *options.encode()))
    scale, of_x = 10.0 ** rng.uniform(-3, 1.5), 10.0 ** rng.uniform(-1, 1)
    x = of_x * rng.standard_normal((N, D))
    kernel = scale / of_x * rng.standard_normal((D, K))
    bias = scale * rng.standard_normal(K)
    labels = rng.integers(0, K, N).astype(np.int32)
    arrays: dict[str, Any] = {"kernel": kernel.astype(jnp.dtype(dtype)), "labels": labels}
    arrays["bias"] = bias.astype(np.float32)
    if "temperature" in words:
        arrays["temperature"] = np.float32(rng.uniform(0.3, 3))
    if "cap" in words:
        arrays["logit_soft_cap"] = np.float32(rng.uniform(1, 30))
    if "rows" in words:
        arrays["where"] = rng.random(N) < 0.7
        x[~arrays["where"]] = np.nan
    if "classes" in words:
        where = rng.random((N, K)) < 0.7
        where[np.arange(N), labels] = True
        where[rng.random(N) < 0.1] = False
        x[~where.any(-1)] = np.inf
        arrays["where"] = where
    if "shared" in words:
        arrays["where"] = np.arange(K)[None] % 3 != 2
        labels -= labels % 3
    if ignore_index is not None:
        labels[rng.random(N) < 0.3] = ignore_index
        x[labels == ignore_index] = np.nan
    arrays["x"] = x.astype(jnp.dtype(dtype))
    return arrays
