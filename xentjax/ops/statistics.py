"""Row statistics: their types, their one derivative rule, and the choice of an implementation.

For a row of logits a, with m = max_k a_k and s = sum_k exp(a_k - m), every softmax loss is a short
expression in m, log s and inner products <t, a - m>. An implementation computes these numbers and
nothing else. The derivative rule is written once, here, and rebuilds softmax from (a, m, log s), so
reverse mode keeps the inputs and a few numbers a row, never another array of the logits' size.
"""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float, Integer, Shaped

from xentjax._checks import check_choice
from xentjax._dtypes import compute_dtype
from xentjax._special import nan_unless, scale_tangent
from xentjax._varying import varying_alike, varying_as
from xentjax.ops.choice import Case, with_the_fastest

IMPLEMENTATIONS = ("xla", "reference", "mosaic_tpu", "mosaic_gpu")

T = TypeVar("T")


class Rows(NamedTuple):
    """What the statistics are computed from. Classes lie on the last axis."""

    logits: Float[Array, "*rows K"]
    labels: Integer[Array, "*rows"] | None = None
    targets: Float[Array, "*rows K"] | None = None
    class_weights: Float[Array, " K"] | None = None
    class_mask: Bool[Array, "*#rows K"] | None = None
    """False takes a class out of the row's softmax and out of its targets."""
    row_mask: Bool[Array, "*rows"] | None = None
    """False makes every logit of the row 0, so that nothing in it can reach a result."""
    soft_cap: Float[Array, ""] | None = None
    temperature: Float[Array, ""] | None = None


class InnerProduct(NamedTuple):
    """Targets t against the logits; their cross-entropy is `total * log_sum - dot`."""

    dot: Float[Array, "*rows"]
    """<t, a - m> = sum_k t_k (a_k - m), over the classes of the mask."""
    total: Float[Array, "*rows"]
    """T = sum_k t_k, over the classes of the mask."""


class RowStatistics(NamedTuple):
    """Numbers of one row, where a are the logits after soft cap, temperature and mask.

    `shift` has a zero derivative by definition. That is exact for every expression that does not
    change when all logits move together, which holds for each of the others and for
    `log_normalizer`.
    """

    shift: Float[Array, "*rows"]
    """m times the temperature, with m = max_k a_k, or a number near it where `normalizer` is not
    wanted; 0 if that is infinite. Logits are shifted before they are divided by the temperature:
    the quotient of a large logit would be rounded."""
    log_sum: Float[Array, "*rows"]
    """log s = log sum_k exp(a_k - m)."""
    label_logit: Float[Array, "*rows"] | None
    """a_y - m; NaN for a label outside 0..K-1."""
    target: InnerProduct | None
    """Of the weighted targets w_k t_k."""
    uniform: InnerProduct | None
    """Of the class weights w_k alone (1 without them)."""
    mean_logit: Float[Array, "*rows"] | None
    """sum_k p_k (a_k - m) with p = softmax(a); the entropy of p is log s minus this."""
    predicted: Integer[Array, "*rows"] | None
    """argmax_k a_k."""


class Wanted(NamedTuple):
    """Statistics beyond those that the inputs ask for by being there, and who computes them."""

    uniform: bool = False
    mean: bool = False
    predicted: bool = False
    normalizer: bool = False
    implementation: str | None = None

    def of_part(self) -> "Wanted":
        """Of a part of the classes: it is merged by its maximum, whoever reads the normaliser."""
        return self._replace(normalizer=True)


def row_statistics(
    rows: Rows,
    *,
    uniform: bool = False,
    mean: bool = False,
    predicted: bool = False,
    normalizer: bool = False,
    implementation: str | None = None,
) -> RowStatistics:
    """The statistics of each row, differentiable in every floating input, in all modes and orders.

    Label and target statistics are computed where `rows` has labels or targets; `uniform`, `mean`
    and `predicted` ask for the others. What is not asked for is None. `normalizer` says that
    `log_normalizer` will be read, which has all its digits only if the shift is the maximum.
    """
    if implementation is not None:
        check_choice("implementation", implementation, IMPLEMENTATIONS)
    wanted = Wanted(uniform, mean, predicted, normalizer, implementation)
    return _jitted_statistics(rows, wanted)


def adjusted_logits(rows: Rows) -> Float[Array, "*rows K"]:
    """The logits after masks and soft cap, in float32 or 64; `shifted` divides by temperature."""
    mask = rows.class_mask
    row_mask = None if rows.row_mask is None else rows.row_mask[..., None]
    a = rows.logits.astype(compute_dtype(rows.logits.dtype))
    # Masked entries are replaced first, so that their NaN or inf cannot reach a derivative.
    if mask is not None:
        a = jnp.where(mask, a, 0)
    if row_mask is not None:
        a = jnp.where(row_mask, a, 0)
    if rows.soft_cap is not None:
        # -inf says that a class is impossible, and no cap makes it possible again.
        impossible = a == -jnp.inf
        capped = rows.soft_cap * jnp.tanh(jnp.where(impossible, 0, a) / rows.soft_cap)
        a = jnp.where(impossible, -jnp.inf, capped)
    if mask is not None:
        a = jnp.where(mask if row_mask is None else mask | ~row_mask, a, -jnp.inf)
    return a


def shifted(
    a: Float[Array, "*rows k"], shift: Float[Array, "*rows"], temperature: Float[Array, ""] | None
) -> Float[Array, "*rows k"]:
    """(a - shift) / temperature of adjusted logits, in which no common offset is left to round."""
    return over_temperature(a - shift[..., None], temperature)


def log_normalizer(stats: RowStatistics, rows: Rows) -> Float[Array, "*rows"]:
    """log sum_k exp(a_k)."""
    return over_temperature(stats.shift, rows.temperature) + stats.log_sum


def over_temperature(
    a: Float[Array, "*s"], temperature: Float[Array, ""] | None
) -> Float[Array, "*s"]:
    """a / temperature, which is 1 if None."""
    return a if temperature is None else _over_temperature(a, temperature)


def afresh(rows: Rows, after: Any) -> tuple[Rows, Any]:
    """Return rows whose adjusted logits are computed once more after `after`, not kept as an array.

    XLA takes numbers that a barrier has passed for new ones. It is scalars that pass, and a zero
    that is added to `after`: XLA still sees which of its rows are alike. Where whole rows passed,
    a reduction of one row broadcast to many, of scalars and vectors alone, was left to the CPU's
    `__ynn_fusion`, which reads beyond its inputs in jaxlib 0.10.2 (values of the wrong class, or a
    crash; jaxlib 0.9.2 to 0.10.1 are right).
    """
    zero = jnp.zeros((), compute_dtype(rows.logits.dtype))
    cap, temperature, zero = jax.lax.optimization_barrier((rows.soft_cap, rows.temperature, zero))
    after = jax.tree.map(lambda x: x + zero, after)
    return rows._replace(soft_cap=cap, temperature=temperature), after


@jax.custom_jvp
def _over_temperature(a: Float[Array, "*s"], temperature: Float[Array, ""]) -> Float[Array, "*s"]:
    """a / temperature, where -inf stays -inf at every temperature: its slope there is 0."""
    return a / temperature


@partial(_over_temperature.defjvp, symbolic_zeros=True)
def _over_temperature_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array | SymbolicZero, Array | SymbolicZero]
) -> tuple[Array, Array]:
    (a, temperature), (da, d_temperature) = primals, tangents
    result = _over_temperature(a, temperature)
    dot = jnp.zeros_like(a) if isinstance(da, SymbolicZero) else da / temperature
    if not isinstance(d_temperature, SymbolicZero):
        dot -= jnp.where(result == -jnp.inf, 0, result) * (d_temperature / temperature)
    return result, dot


def label_in_range(labels: Integer[Array, "*rows"], num_classes: int) -> Bool[Array, "*rows"]:
    """Whether each label names a class."""
    return (labels >= 0) & (labels < num_classes)


def at_label(
    x: Shaped[Array, "*rows K"], labels: Integer[Array, "*rows"]
) -> Shaped[Array, "*rows"]:
    """x_y of each row, one element read; that of class 0 where the label names none."""
    index = jnp.where(label_in_range(labels, x.shape[-1]), labels, 0)
    return jnp.take_along_axis(x, index[..., None], -1)[..., 0]


def is_label(labels: Integer[Array, "*rows"], num_classes: int) -> Bool[Array, "*rows K"]:
    """Whether each class is its row's label: a comparison that XLA fuses, never a scatter."""
    shape = (*labels.shape, num_classes)
    return jax.lax.broadcasted_iota(labels.dtype, shape, labels.ndim) == labels[..., None]


def weighted_targets(rows: Rows) -> Float[Array, "*rows K"]:
    """w_k t_k, without the mass on masked classes."""
    assert rows.targets is not None
    t = rows.targets.astype(compute_dtype(rows.logits.dtype))
    if rows.class_weights is not None:
        t = t * uniform_targets(rows)
    return t if rows.class_mask is None else jnp.where(rows.class_mask, t, 0)


def uniform_targets(rows: Rows) -> Float[Array, "*#rows K"]:
    """w_k (1 without class weights), without the mass on masked classes."""
    dtype = compute_dtype(rows.logits.dtype)
    shape = (1,) * (rows.logits.ndim - 1) + rows.logits.shape[-1:]
    weights = jnp.ones(shape, dtype)
    if rows.class_weights is not None:
        weights = rows.class_weights.astype(dtype).reshape(shape)
    return weights if rows.class_mask is None else jnp.where(rows.class_mask, weights, 0)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _statistics(rows: Rows, wanted: Wanted) -> RowStatistics:
    def by(rows: Rows, name: str) -> RowStatistics:
        return importlib.import_module(f"xentjax.ops.{name}").row_statistics(rows, wanted)

    if wanted.implementation is None:
        case = Case("logits", rows.logits.dtype, rows.logits.shape[-1])
        stats = with_the_fastest(by, rows, case)
    else:
        stats = by(rows, wanted.implementation)
    if rows.labels is None:
        return stats
    # A bad label makes every tangent NaN, so every statistic has to depend on the label as well:
    # vmap sums tangents over a batch that their primals do not have (jax-ml/jax#16374). XLA removes
    # a choice between the same two values.
    either = rows.labels == 0
    return jax.tree.map(lambda x: jnp.where(either, x, x), stats)


_jitted_statistics = jax.jit(_statistics, static_argnums=1)


@partial(_statistics.defjvp, symbolic_zeros=True)
def _statistics_jvp(
    wanted: Wanted, primals: tuple[Rows], tangents: tuple[Rows]
) -> tuple[RowStatistics, RowStatistics]:
    (rows,), (d_rows,) = primals, tangents
    stats = _jitted_statistics(rows, wanted)
    return stats, statistics_tangents(rows, stats, d_rows)


def statistics_tangents(rows: Rows, stats: RowStatistics, d_rows: Rows) -> RowStatistics:
    """The derivative of each statistic along `d_rows`: symbolic zeros and None do not move."""
    # Inputs that do not move are left out of the rule; the logits always belong to it.
    moving = moving_inputs(d_rows)
    if moving.logits is None:
        moving = moving._replace(logits=jnp.zeros_like(rows.logits))
    # Every statistic depends on these three. Alike, they meet in products that can be transposed.
    names = ("logits", "soft_cap", "temperature")
    adjusted, moved = varying_alike(
        tuple({name: getattr(x, name) for name in names} for x in (rows, moving))
    )
    rows, moving = rows._replace(**adjusted), moving._replace(**moved)
    d_stats = _jitted_tangents(rows, stats, moving)
    # What does not move has tangents that were made here, and not on every device apart.
    d_stats = varying_as(d_stats, stats._replace(predicted=None))
    return with_predicted(d_stats, stats)


def moving_inputs(tangents: T) -> T:
    """The tangents with None in place of those that are symbolic zeros."""
    return jax.tree.map(
        lambda t: None if isinstance(t, SymbolicZero) else t,
        tangents,
        is_leaf=lambda t: isinstance(t, SymbolicZero),
    )


def with_predicted(d_stats: RowStatistics, stats: RowStatistics) -> RowStatistics:
    """The derivative with what stands for that of a class, which has none."""
    if stats.predicted is None:
        return d_stats
    return d_stats._replace(predicted=SymbolicZero.from_primal_value(stats.predicted))


@jax.jit
@partial(jax.checkpoint, prevent_cse=False)  # softmax is rebuilt in the backward pass, not kept
def _jitted_tangents(rows: Rows, stats: RowStatistics, d_rows: Rows) -> RowStatistics:
    """The derivative of each statistic along `d_rows`, linear in it."""
    # Shared with the forward pass, a and z would be arrays.
    rows, shift = afresh(rows, stats.shift)
    z, dz = _value_and_tangent(
        lambda rows: shifted(adjusted_logits(rows), shift, rows.temperature),
        rows,
        d_rows,
        ("logits", "soft_cap", "temperature"),
    )
    log_sum = stats.log_sum
    d_label = d_target = d_uniform = d_mean = None
    if rows.labels is not None:
        # A bad label makes the whole row's derivative NaN: one operation a row, none an element.
        bad = nan_unless(label_in_range(rows.labels, z.shape[-1]), z.dtype)
        log_sum += bad
        d_label = jnp.sum(jnp.where(is_label(rows.labels, z.shape[-1]), dz, 0), -1)
        if rows.class_mask is not None or rows.soft_cap is not None:
            # The mask, or the cap of a logit -inf, stops `dz`; the NaN of a bad label passes.
            d_label += bad * jnp.sum(d_rows.logits.astype(dz.dtype), -1)
    p = jnp.exp(z - log_sum[..., None])
    if stats.target is not None:
        d_target = _inner_product_tangent(weighted_targets, rows, d_rows, z, dz)
    if stats.uniform is not None:
        d_uniform = _inner_product_tangent(uniform_targets, rows, d_rows, z, dz)
    if stats.mean_logit is not None:
        # 0 log 0 = 0: a class without probability has no slope, whatever its logit.
        slope = jnp.where(p > 0, 1 + z - stats.mean_logit[..., None], 0)
        d_mean = jnp.sum(p * slope * dz, -1)
    return RowStatistics(
        shift=jnp.zeros_like(stats.shift),
        log_sum=jnp.sum(p * dz, -1),
        label_logit=d_label,
        target=d_target,
        uniform=d_uniform,
        mean_logit=d_mean,
        predicted=None,
    )


def _value_and_tangent(
    function: Callable[[Rows], Array], rows: Rows, d_rows: Rows, names: tuple[str, ...]
) -> tuple[Array, Array]:
    """`function(rows)` and its derivative along those of the named inputs that move."""
    moving = {name: d for name in names if (d := getattr(d_rows, name)) is not None}
    return jax.jvp(
        lambda inputs: function(rows._replace(**inputs)),
        ({name: getattr(rows, name) for name in moving},),
        (moving,),
    )


def _inner_product_tangent(
    targets: Callable[[Rows], Float[Array, "*#rows K"]],
    rows: Rows,
    d_rows: Rows,
    z: Float[Array, "*rows K"],
    dz: Float[Array, "*rows K"],
) -> InnerProduct:
    """The derivative of the inner product of z with the targets that `targets` makes of rows."""
    if d_rows.targets is None and d_rows.class_weights is None:
        dot = jnp.sum(targets(rows) * dz, -1)
        return InnerProduct(dot, jnp.zeros_like(dot))
    t, dt = _value_and_tangent(targets, rows, d_rows, ("targets", "class_weights"))
    # A class of logit -inf has an infinite slope; a target that stays 0 there adds nothing.
    product = t * dz + scale_tangent(z, jnp.broadcast_to(dt, z.shape))
    dot = jnp.sum(product, -1)
    return InnerProduct(dot, jnp.sum(dt, -1) + jnp.zeros_like(dot))
