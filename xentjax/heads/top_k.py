"""The largest log-probabilities of a linear head and their classes."""

from functools import partial
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName
from xentjax._core.checks import check_index, raise_value_error
from xentjax.heads._arguments import (
    check_max_bytes,
    check_without_kernel,
    layer_rows,
    with_scalars,
)
from xentjax.heads._chosen import head_choice, without_masked_rows
from xentjax.losses._split import SplitClasses
from xentjax.ops import Implementation, Rows
from xentjax.ops.linear.top_k import LargestK


class TopK(NamedTuple):
    """The k most probable classes of each row, the most probable first.

    Attributes:
        log_probs: log p of each class, in nats.
        indices: The classes; -1 where the row has no more classes.
    """

    log_probs: Float[Array, "... k"]
    indices: Int32[Array, "... k"]


def linear_top_k(
    x: ArrayLike,
    kernel: ArrayLike,
    k: SupportsIndex,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    axis_name: AxisName | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: Implementation | None = None,
) -> TopK:
    """The k largest of log softmax(x @ kernel + bias) and their classes, tile by tile, in nats.

    With the logits a = x @ kernel + bias after soft cap and temperature, of each row::

        log_probs = a_c - log sum_k exp(a_k) for the k classes c of the largest a_c

    They are exact: the classes are those of `jax.lax.top_k` of all logits, in its order, of equal
    logits the smaller index first, and the log-probabilities are over all classes, not over the k.
    Only a tile of the logits is in memory at a time, and each is made once. The log-probabilities
    are differentiable in every mode and order: the derivative of a class's logit minus that of the
    log normaliser, from tiles that are made a second time. The indices have no derivative.

    A class whose logit is -inf has log-probability -inf and comes after all others, but before
    masked classes: where fewer than k classes are left, the other places have index -1 and
    log-probability -inf. In a row with a NaN logit, or with all logits -inf, every log-probability
    is NaN; a NaN logit comes first, as in `jax.lax.top_k`.

    Masked rows cost no matrix products on one device. With `axis_name` each device sends its k
    largest logits of a row to the others, then the classes of those that are among the k of all:
    8 k bytes a row in float32, beside 12 for the normaliser.

    Args:
        x: features, floating [..., D].
        kernel: floating [D, K].
        k: how many classes, 1..K.
        bias: floating [K], or None for no bias.
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
        `TopK(log_probs, indices)`, each [..., k]: float32 (float64 if x or kernel is) and int32. A
        masked row has log-probabilities 0 and indices -1.

    Raises:
        TypeError: an array of the wrong dtype, or a k that is no integer known under jit.
        NotImplementedError: the name of a kernel.
        ValueError: a shape, name or known scalar outside what is listed above, or `axis_name`
            outside of `shard_map`, or an array split over it that should not be, or the reverse.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.125, 0.375], [0.25, 0.5, 0.25]]))
        >>> log_probs, indices = xentjax.linear_top_k(x, kernel, 2)
        >>> print(indices.tolist(), jnp.exp(log_probs))
        [[0, 2], [1, 0]] [[0.5   0.375]
         [0.5   0.25 ]]

        The accuracy of the two best guesses:

        >>> labels = jnp.array([2, 2])
        >>> print(jnp.mean((indices == labels[:, None]).any(-1)))
        0.5

    Source: partial top-k of each tile, merged: Shanbhag, Pirk and Madden, Efficient Top-K Query
    Processing on Massively Parallel Hardware, SIGMOD (2018).
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, None)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    num_classes = rows.logits.shape[-1] if split is None else split.num_classes
    if not 1 <= (k := check_index("k", k)) <= num_classes:
        raise_value_error("k", f"an integer 1..{num_classes}, the number of classes", k)
    check_without_kernel(implementation)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        return _top_k(rows, split, k, implementation, max_bytes)
    return _jitted_top_k(rows, None, k, implementation, max_bytes)


def _top_k(
    rows: Rows,
    split: SplitClasses | None,
    k: int,
    implementation: str | None,
    max_bytes: int | None,
) -> TopK:
    chosen = head_choice(rows, split, (), (), LargestK(k), implementation, max_bytes)
    logits = jnp.where(chosen.indices < 0, -jnp.inf, chosen.logits)
    log_probs = logits - chosen.log_sum[..., None]
    indices, log_probs = without_masked_rows(rows, chosen.indices, log_probs)
    return TopK(log_probs, indices)


_jitted_top_k = partial(jax.jit, static_argnums=(1, 2, 3, 4))(_top_k)
