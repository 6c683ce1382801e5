"""KL divergence of a student's softmax(logits) from a teacher's.

It is the Bregman divergence of the negative entropy: never negative, and 0 only for equal pmfs. It
is computed as a sum of terms >= 0 over the classes: if the two pmfs are close, the difference of
two cross-entropies loses all digits.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import raise_value_error
from xentjax._core.choices import Reduction
from xentjax._core.dtypes import compute_dtype
from xentjax._core.varying import pvary_like
from xentjax.information.log_pmf import divergence, log_ratio, times_exp
from xentjax.losses._arguments import Axis, logits_rows
from xentjax.losses._formula import (
    mask_rows,
    promote,
    reduce_losses,
)
from xentjax.losses._keywords import (
    TEMPERATURE,
    check_names,
    scalar_keywords,
)
from xentjax.ops import Implementation, Requested, Rows, RowStatistics, Scalars, row_statistics
from xentjax.ops.derivative import log_probability_and_tangent, moving_inputs, vary_alike
from xentjax.ops.rows import log_probabilities


def kl_divergence_with_logits(
    target_logits: ArrayLike,
    logits: ArrayLike,
    temperature: ArrayLike = 1.0,
    *,
    axis: Axis = -1,
    where: ArrayLike | None = None,
    reduction: Reduction = "none",
    implementation: Implementation | None = None,
) -> Float[Array, "..."]:
    """KL divergence of softmax(logits / T) from softmax(target_logits / T), in nats.

        loss = sum_k p_k log(p_k / q_k),    p = softmax(target_logits / T), q = softmax(logits / T)

    The loss is exactly 0 for equal logits, never negative, and for close logits as accurate as
    their own rounding allows. The gradient flows to both arguments; to freeze the teacher, use
    `jax.lax.stop_gradient`.

    This is the divergence itself. Its gradient in the logits shrinks as 1 / T^2; Hinton et al.
    multiply it by T^2 when they add it to a loss without temperature. Here the caller has to do so.

    A class whose logit is -inf on both sides contributes 0; one with p_k > 0 = q_k makes the loss
    +inf.

    Args:
        target_logits: the teacher's; real array of the logits' shape.
        logits: the student's; real array, K classes along `axis`. Half precision is computed in
            float32.
        temperature: T > 0.
        axis: the class axis, or a tuple of axes that together hold the classes.
        where: bool. With the logits' number of dimensions it masks classes (a masked class is left
            out of both pmfs), with the rows' number of dimensions it masks rows. A masked row, or
            one with no class left, has loss 0 and is left out of the mean.
        reduction: "none", "sum", or "mean" over the rows kept (0 if there is none).
        implementation: "xla", "mosaic_gpu", "mosaic_tpu" or "reference"; None is XLA so far.

    Returns:
        The divergence, float32 (float64 if either argument is): one per row, or a scalar.

    Raises:
        TypeError: an array of the wrong dtype.
        NotImplementedError: a kernel's name on another platform, or a dtype that it does not take.
        ValueError: a shape, name or known scalar outside what is listed above.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> teacher, student = jnp.log(jnp.array([0.5, 0.5])), jnp.log(jnp.array([0.25, 0.75]))
        >>> print(xentjax.kl_divergence_with_logits(teacher, student))
        0.1438...

    Source: Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015),
    arXiv:1503.02531.
    """
    target, of_target = logits_rows(target_logits, axis, None, "target_logits")
    prediction, classes = logits_rows(logits, axis, where)
    if of_target.shape != classes.shape:
        raise_value_error("target_logits", f"the logits' shape {classes.shape}", of_target.shape)
    dtypes = target.logits.dtype, prediction.logits.dtype
    if compute_dtype(dtypes[0]) != compute_dtype(dtypes[1]):
        target, prediction = (
            rows._replace(logits=rows.logits.astype(compute_dtype(*dtypes)))
            for rows in (target, prediction)
        )
    dtype = prediction.logits.dtype
    (divisor,) = scalar_keywords(dtype, (TEMPERATURE, temperature))
    prediction = prediction._replace(scalars=Scalars(temperature=divisor))
    target = prediction._replace(logits=target.logits)
    check_names(reduction, implementation)
    return _kl_divergence(target, prediction, reduction=reduction, implementation=implementation)


@partial(jax.jit, static_argnames=("reduction", "implementation"))
def _kl_divergence(
    target: Rows, prediction: Rows, *, reduction: str, implementation: str | None
) -> Float[Array, "..."]:
    target, prediction = promote(target), promote(prediction)
    loss = mask_rows(_divergence(target, prediction, implementation), prediction)
    return reduce_losses(loss, reduction, None, prediction.mask.rows)


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _divergence(
    target: Rows, prediction: Rows, implementation: str | None
) -> Float[Array, "*rows"]:
    stats = _statistics((target, prediction), implementation)
    return divergence(*map(log_probabilities, (target, prediction), stats))


@partial(_divergence.defjvp, symbolic_zeros=True)
def _(
    implementation: str | None, primals: tuple[Rows, Rows], tangents: tuple[Rows, Rows]
) -> tuple[Float[Array, "*rows"], Float[Array, "*rows"]]:
    loss = _divergence(*primals, implementation)
    stats = _statistics(primals, implementation)
    pair, d_pair = vary_alike(primals, moving_inputs(tangents))
    return loss, pvary_like(_tangent(pair, d_pair, stats, loss), loss)


def _statistics(pair: tuple[Rows, Rows], implementation: str | None) -> list[RowStatistics]:
    requested = Requested(normalizer=True)
    return [row_statistics(rows, requested, implementation) for rows in pair]


@jax.jit
@partial(jax.checkpoint, prevent_cse=False)  # the backward pass recomputes both softmaxes
def _tangent(
    pair: tuple[Rows, Rows],
    d_pair: tuple[Rows, Rows],
    stats: list[RowStatistics],
    loss: Float[Array, "*rows"],
) -> Float[Array, "*rows"]:
    """Return sum_k p_k (log(p_k / q_k) - loss) da_k + (q_k - p_k) db_k for logits a and b."""
    (log_p, da), (log_q, db) = map(log_probability_and_tangent, pair, d_pair, stats)
    dot = jnp.zeros_like(loss)
    if da is not None:
        dot += jnp.sum(times_exp(log_ratio(log_p, log_q) - loss[..., None], log_p) * da, -1)
    if db is not None:
        dot += jnp.sum((jnp.exp(log_q) - jnp.exp(log_p)) * db, -1)
    return dot
