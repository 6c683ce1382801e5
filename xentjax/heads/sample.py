"""Samples of a linear head's softmax, with their log-probabilities."""

import math
from functools import partial
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, PRNGKeyArray, UInt32

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_whole
from xentjax._core.checks import check_array, check_index, raise_value_error
from xentjax._core.multiply_no_nan import nan_unless
from xentjax.heads._arguments import (
    check_max_bytes,
    check_without_kernel,
    layer_rows,
    with_scalars,
)
from xentjax.heads._chosen import head_choice, without_masked_rows
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Rows
from xentjax.ops.linear.gumbel import LargestWithNoise


class Sample(NamedTuple):
    """Classes drawn for each row.

    Attributes:
        indices: The classes; -1 in masked rows and where the row has no softmax.
        log_probs: log p of each class drawn, in nats.
    """

    indices: Int32[Array, "..."]
    log_probs: Float[Array, "..."]


def linear_sample(
    key: PRNGKeyArray,
    x: ArrayLike,
    kernel: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    num_samples: SupportsIndex | None = None,
    where: ArrayLike | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> Sample:
    """Draw classes from softmax(x @ kernel + bias), and their log-probabilities, tile by tile.

    With the logits a = x @ kernel + bias after soft cap and temperature, of each row::

        c = argmax_k (a_k + g_k),    log_prob = a_c - log sum_k exp(a_k),    g_k = -log(-log u_k)

    with u uniform in (0, 1). The draw is exact: c has probability exp(log_prob). Only a tile of the
    logits is in memory at a time and each is made once, for all of `num_samples` (under `vmap` over
    keys, once for each key). The log-probabilities come from the same pass and are differentiable
    in every mode and order, as those of `linear_log_probs` are; the indices have no derivative.

    The noise g is a function of the key, the number of the sample, the number of the row (the flat
    index over the leading axes of x) and the class. So a key gives the same draw whatever
    `max_bytes`, the number of devices and the split of rows or classes over them, as far as the
    logits are the same numbers: matrix products of other shapes may round otherwise, which changes
    the draw of a row only where two noisy logits agree to rounding, about one in a million. Sample
    i is the same for every `num_samples` over i, and without it sample 0 is drawn. Inside
    `jax.shard_map` each device counts its rows from 0: where rows are split there, give each device
    a key of its own, `jax.random.fold_in(key, jax.lax.axis_index(name))`.

    A class of logit -inf is never drawn, nor is a masked one. A row with a NaN logit, or with all
    logits -inf, gives index -1 and log-probability NaN. Masked rows cost no matrix products on one
    device. With `axis_name` devices exchange a few numbers for each row and sample.

    Args:
        key: random key, of any implementation.
        x: features, floating [..., D].
        kernel: floating [D, K].
        bias: floating [K], or None for no bias.
        num_samples: S, the number of draws of each row, independent of each other; None for one
            draw without an axis of samples.
        where: bool. [..., K] masks classes, [...] masks rows.
        logit_soft_cap: c > 0, or None for no cap.
        temperature: > 0, applied after the soft cap.
        axis_name: the mesh axis (or axes, the last one fastest) over whose devices the classes are
            split inside `jax.shard_map`: each passes its slice of kernel, bias and `where`. None if
            each has the whole kernel. Where the last slices are padded, `where` masks the padding.
        max_bytes: about how many bytes tiles may take. None takes a tenth of the logits, a quarter
            for gradients, but 16 MiB to 256 MiB.
        implementation: "xla" or "reference" (which stores the logits); None is "xla".

    Returns:
        `Sample(indices, log_probs)`, each [...] or [S, ...]: int32 and float32 (float64 if x or
        kernel is). A masked row has index -1 and log-probability 0.

    Raises:
        TypeError: an array of the wrong dtype, or a `num_samples` that is no integer known under
            jit.
        NotImplementedError: the name of a kernel.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]))
        >>> key = jax.random.key(0)
        >>> indices, log_probs = xentjax.linear_sample(key, x, kernel)
        >>> print(indices, jnp.exp(log_probs))
        [0 0] [0.5  0.25]
        >>> indices, log_probs = xentjax.linear_sample(key, x, kernel, num_samples=10_000)
        >>> print(jnp.mean(indices == 0, 0).round(2))
        [0.5  0.25]

    Source: Gumbel, Statistical Theory of Extreme Values (1954); Maddison, Tarlow and Minka, A*
    Sampling, NeurIPS (2014), arXiv:1411.0030; noise by counter: Salmon et al., Parallel Random
    Numbers: As Easy as 1, 2, 3, SC (2011).
    """
    key = _check_key(key)
    rows, split = layer_rows(x, kernel, bias, where, axis_name, None)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    if num_samples is not None and (num_samples := check_index("num_samples", num_samples)) < 1:
        raise_value_error("num_samples", "an integer >= 1 or None", num_samples)
    check_without_kernel(implementation)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        check_whole(split.axis_name, key=jax.random.key_data(key))
        return _sample(key, rows, split, num_samples, implementation, max_bytes)
    return _jitted_sample(key, rows, None, num_samples, implementation, max_bytes)


def _check_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Return the argument as one key of the new kind."""
    key = check_array("key", key)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        if key.dtype != jnp.uint32 or key.ndim == 0:
            raise TypeError(f"key: expected a random key, got {key.dtype} of shape {key.shape}")
        key = jax.random.wrap_key_data(key)
    if key.ndim != 0:
        raise_value_error("key", "one random key", f"shape {key.shape}")
    return key


def _sample(
    key: PRNGKeyArray,
    rows: Rows,
    split: SplitClasses | None,
    num_samples: int | None,
    implementation: str | None,
    max_bytes: int | None,
) -> Sample:
    row_shape = rows.logits.shape[:-1]
    numbers = jnp.arange(math.prod(row_shape), dtype=jnp.uint32).reshape(row_shape)
    keys = _sample_keys(key, num_samples or 1)
    chooser = LargestWithNoise()
    chosen = head_choice(rows, split, (numbers,), (keys,), chooser, implementation, max_bytes)
    indices, drawn = chosen.indices, chosen.indices >= 0
    log_probs = chosen.logits - chosen.log_sum[..., None]
    log_probs += nan_unless(drawn, log_probs.dtype)
    indices, log_probs = without_masked_rows(rows, indices, log_probs)
    if num_samples is None:
        return Sample(indices[..., 0], log_probs[..., 0])
    return Sample(jnp.moveaxis(indices, -1, 0), jnp.moveaxis(log_probs, -1, 0))


_jitted_sample = partial(jax.jit, static_argnums=(2, 3, 4, 5))(_sample)


def _sample_keys(key: PRNGKeyArray, samples: int) -> UInt32[Array, "1 s 2"]:
    """Return two words for each sample, which no number of samples changes."""
    each = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(samples, dtype=jnp.uint32))
    return jax.vmap(lambda key: jax.random.bits(key, (2,), jnp.uint32))(each)[None]
