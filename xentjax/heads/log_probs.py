"""Log-probabilities of labels under a linear head, and the entropy of each row's softmax."""

from functools import partial
from typing import Literal, SupportsIndex, overload

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from xentjax._core.axis_name import AxisName
from xentjax._core.checks import check_flag
from xentjax.heads._arguments import check_max_bytes, layer_rows, with_labels, with_scalars
from xentjax.heads._statistics import head_statistics
from xentjax.losses._formula import mask_rows
from xentjax.losses._keywords import check_implementation
from xentjax.losses._split import SplitClasses
from xentjax.ops import Requested, Rows

LogProbs = Float[Array, "..."]


# fmt: off
@overload
def linear_log_probs(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    return_entropy: Literal[False] = False, axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: str | None = None,
) -> LogProbs: ...
@overload
def linear_log_probs(
    x: ArrayLike, kernel: ArrayLike, labels: ArrayLike, bias: ArrayLike | None = None, *,
    where: ArrayLike | None = None, ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None, temperature: ArrayLike = 1.0,
    return_entropy: Literal[True], axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None, max_bytes: SupportsIndex | None = None,
    implementation: str | None = None,
) -> tuple[LogProbs, LogProbs]: ...
# fmt: on
def linear_log_probs(
    x: ArrayLike,
    kernel: ArrayLike,
    labels: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    where: ArrayLike | None = None,
    ignore_index: int | None = None,
    logit_soft_cap: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    return_entropy: bool = False,
    axis_name: AxisName | None = None,
    num_classes: SupportsIndex | None = None,
    max_bytes: SupportsIndex | None = None,
    implementation: str | None = None,
) -> LogProbs | tuple[LogProbs, LogProbs]:
    """Log-probability of each row's label under softmax(x @ kernel + bias), in nats.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
        >>> kernel = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.2, 0.3, 0.5]]))
        >>> print(linear_log_probs(x, kernel, jnp.array([0, 2])).round(4))
        [-0.6931 -0.6931]
    """
    rows, split = layer_rows(x, kernel, bias, where, axis_name, num_classes)
    rows = with_labels(rows, split, labels, ignore_index)
    rows = with_scalars(rows, split, logit_soft_cap, temperature)
    check_flag("return_entropy", return_entropy)
    check_implementation(implementation)
    max_bytes = check_max_bytes(max_bytes)
    if split is not None:
        return _log_probs(rows, split, return_entropy, implementation, max_bytes)
    return _of_whole_rows(rows, None, return_entropy, implementation, max_bytes)


def _log_probs(
    rows: Rows,
    split: SplitClasses | None,
    return_entropy: bool,
    implementation: str | None,
    max_bytes: int | None,
) -> LogProbs | tuple[LogProbs, LogProbs]:
    requested = Requested(mean=return_entropy)
    stats = head_statistics(rows, split, requested, implementation, max_bytes)
    assert stats.label_logit is not None
    log_probs = mask_rows(stats.label_logit - stats.log_sum, rows)
    if stats.mean_logit is None:
        return log_probs
    return log_probs, mask_rows(stats.log_sum - stats.mean_logit, rows)


_of_whole_rows = partial(jax.jit, static_argnums=(1, 2, 3, 4))(_log_probs)
