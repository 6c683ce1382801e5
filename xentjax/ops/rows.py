"""Rows of logits, requests for statistics, and the statistics that every back-end returns.

For a row of logits a, with m = max_k a_k and s = sum_k exp(a_k - m), every softmax loss is a short
expression in m, log s and inner products <t, a - m>. A back-end computes only these numbers.
`derivative` has their single derivative rule, and `dispatch` chooses the back-end.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer, Shaped

from xentjax._core.dtypes import compute_dtype
from xentjax._core.varying import explicit_spec, sharded_alike


class Layer(NamedTuple):
    """The logits x @ kernel + bias of a linear layer, which are never all stored at once."""

    x: Float[Array, "n d"]
    kernel: Float[Array, "d K"]
    bias: Float[Array, " K"] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the logits."""
        return *self.x.shape[:-1], self.kernel.shape[-1]

    @property
    def ndim(self) -> int:
        """Number of dimensions of the logits."""
        return self.x.ndim

    @property
    def dtype(self) -> DTypeLike:
        """Dtype of the logits and of sums over blocks of them: float32 or 64."""
        return compute_dtype(self.x.dtype, self.kernel.dtype)


class Target(NamedTuple):
    """The target of each row: the index of a class, a pmf over the classes, or nothing."""

    labels: Integer[Array, "*rows"] | None = None
    pmf: Float[Array, "*rows K"] | None = None


class Mask(NamedTuple):
    """The rows and classes that are kept; None keeps all."""

    rows: Bool[Array, "*rows"] | None = None
    """False makes every logit of the row 0, so that no value in it affects a result."""
    classes: Bool[Array, "*#rows K"] | None = None
    """False takes a class out of the row's softmax and out of its target."""


class Scalars(NamedTuple):
    """Scalars applied to every logit before the softmax: the soft cap, then the temperature."""

    soft_cap: Float[Array, ""] | None = None
    temperature: Float[Array, ""] | None = None


class Rows(NamedTuple):
    """The inputs of the statistics. Classes lie on the last axis.

    Logits, target and mask have an entry for each row; logits, the pmf, the mask of classes and the
    class weights have one for each class.
    """

    logits: Any
    """Float[Array, "*rows K"], or the `Layer` that computes them, with their shape and dtype."""
    target: Target = Target()
    mask: Mask = Mask()
    class_weights: Float[Array, " K"] | None = None
    scalars: Scalars = Scalars()


def map_rows(function: Callable[..., Any], rows: Rows, *others: Rows) -> Rows:
    """Apply `function` to every array whose first axis is the rows.

    As in `jax.tree.map`, the counterparts in `others` are passed too.
    """

    def by_row(rows: Rows) -> tuple[Any, Target, Mask]:
        logits = rows.logits
        return logits.x if isinstance(logits, Layer) else logits, rows.target, rows.mask

    logits, target, mask = jax.tree.map(function, *map(by_row, (rows, *others)))
    if isinstance(rows.logits, Layer):
        logits = rows.logits._replace(x=logits)
    return rows._replace(logits=logits, target=target, mask=mask)


class InnerProduct(NamedTuple):
    """Inner product of a target t with the logits; the cross-entropy is `total * log_sum - dot`."""

    dot: Float[Array, "*rows"]
    """<t, a - m> = sum_k t_k (a_k - m), over the classes of the mask."""
    total: Float[Array, "*rows"]
    """T = sum_k t_k, over the classes of the mask."""


class RowStatistics(NamedTuple):
    """Numbers of one row, where a are the logits after soft cap, temperature and mask.

    The derivative of `shift` is defined as 0. This is exact for expressions that do not change when
    all logits move together, such as every other statistic, and for `log_normalizer`.
    """

    shift: Float[Array, "*rows"]
    """m times the temperature, with m = max_k a_k, or a number near it if `normalizer` is not
    requested; 0 if m is infinite. Logits are shifted before the division by the temperature, since
    the quotient of a large logit would be rounded."""
    log_sum: Float[Array, "*rows"]
    """log s = log sum_k exp(a_k - m)."""
    label_logit: Float[Array, "*rows"] | None
    """a_y - m; NaN for a label outside 0..K-1."""
    target: InnerProduct | None
    """The inner product of the weighted target w_k t_k."""
    uniform: InnerProduct | None
    """The inner product of the class weights w_k alone (1 without them)."""
    mean_logit: Float[Array, "*rows"] | None
    """sum_k p_k (a_k - m) with p = softmax(a); the entropy of p is log s minus this."""
    predicted: Integer[Array, "*rows"] | None
    """argmax_k a_k."""


class Requested(NamedTuple):
    """Statistics to compute in addition to those that the rows' target needs."""

    uniform: bool = False
    mean: bool = False
    """`mean_logit`."""
    predicted: bool = False
    normalizer: bool = False
    """Whether `log_normalizer` will be used, which is precise only if the shift is the maximum."""

    def for_shard(self) -> "Requested":
        """Return the request for a shard of the classes, whose exact maximum the merge needs."""
        return self._replace(normalizer=True)


def adjusted_logits(rows: Rows) -> Float[Array, "*rows K"]:
    """Apply masks and soft cap, in float32 or 64; `shifted` divides by the temperature."""
    classes, soft_cap = rows.mask.classes, rows.scalars.soft_cap
    row_mask = None if rows.mask.rows is None else rows.mask.rows[..., None]
    a = rows.logits.astype(compute_dtype(rows.logits.dtype))
    # Masked entries are replaced first, so that their NaN or inf cannot reach a derivative.
    if classes is not None:
        a = jnp.where(classes, a, 0)
    if row_mask is not None:
        a = jnp.where(row_mask, a, 0)
    if soft_cap is not None:
        # A class of logit -inf is impossible and stays so after the cap.
        impossible = a == -jnp.inf
        capped = soft_cap * jnp.tanh(jnp.where(impossible, 0, a) / soft_cap)
        a = jnp.where(impossible, -jnp.inf, capped)
    if classes is not None:
        a = jnp.where(classes if row_mask is None else classes | ~row_mask, a, -jnp.inf)
    return a


def shifted(
    a: Float[Array, "*rows k"], shift: Float[Array, "*rows"], temperature: Float[Array, ""] | None
) -> Float[Array, "*rows k"]:
    """Compute (a - shift) / temperature of adjusted logits, without rounding a common offset."""
    z = a - shift[..., None]
    return z if temperature is None else _over_temperature(z, temperature)


def log_probabilities(rows: Rows, stats: RowStatistics) -> Float[Array, "*rows K"]:
    """Compute log-softmax of each row: -inf at masked classes, and of zeros in masked rows."""
    # Subtracting the shift first keeps digits that a_k - lse loses at a large common offset.
    z = shifted(adjusted_logits(rows), stats.shift, rows.scalars.temperature)
    return z - stats.log_sum[..., None]


def log_normalizer(stats: RowStatistics, rows: Rows) -> Float[Array, "*rows"]:
    """Compute log sum_k exp(a_k)."""
    return over_temperature(stats.shift, rows.scalars.temperature) + stats.log_sum


def over_temperature(
    a: Float[Array, "*s"], temperature: Float[Array, ""] | None
) -> Float[Array, "*s"]:
    """Compute a / temperature; None means 1."""
    return a if temperature is None else _over_temperature(a, temperature)


@jax.custom_jvp
def _over_temperature(a: Float[Array, "*s"], temperature: Float[Array, ""]) -> Float[Array, "*s"]:
    """Compute a / temperature; at a = -inf, its derivative in the temperature is 0."""
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


def recompute_after(rows: Rows, after: Any) -> tuple[Rows, Any]:
    """Return rows whose adjusted logits are computed again after `after`, not kept as an array.

    XLA cannot tell that the output of a barrier equals its input. Only scalars pass the barrier,
    and a zero that is added to `after`, so that XLA still sees which rows are equal. If whole rows
    passed, XLA would use `__ynn_fusion` on CPU to reduce one row that is broadcast to many. In
    jaxlib 0.10.2 that reads beyond its inputs (wrong values, or a crash; 0.9.2 to 0.10.1 do not).
    """
    zero = jnp.zeros((), jax.tree.leaves(after)[0].dtype)
    scalars, zero = jax.lax.optimization_barrier((rows.scalars, zero))
    return rows._replace(scalars=scalars), jax.tree.map(partial(jnp.add, zero), after)


def label_in_range(labels: Integer[Array, "*rows"], num_classes: int) -> Bool[Array, "*rows"]:
    """Whether each label is a class index."""
    return (labels >= 0) & (labels < num_classes)


def at_label(
    x: Shaped[Array, "*rows K"], labels: Integer[Array, "*rows"], in_range: Bool[Array, "*rows"]
) -> Shaped[Array, "*rows"]:
    """Read x_y of each row, one element; that of class 0 where the label is not in range."""
    index, spec = jnp.where(in_range, labels, 0), explicit_spec(x)
    if any(spec[-1:]):  # each device has some of the classes
        if x.dtype != jnp.bool_:
            return sum_at_label(x, index)
        return sum_at_label(x.astype(jnp.int32), index) > 0
    index = index[..., None]
    if spec:
        x, index = sharded_alike(x, index)
    return jnp.take_along_axis(x, index, -1)[..., 0]


def sum_at_label(
    x: Shaped[Array, "*rows K"], labels: Integer[Array, "*rows"]
) -> Shaped[Array, "*rows"]:
    """Compute sum_k [k = y] x_k: as `at_label`, but 0 where the label is not in range.

    Its transpose is a comparison too, not a scatter.
    """
    here, x = sharded_alike(is_label(labels, x), x)
    return jnp.sum(jnp.where(here, x, 0), -1)


def is_label(
    labels: Integer[Array, "*rows"], like: Shaped[Array, "*rows K"]
) -> Bool[Array, "*rows K"]:
    """Whether each class is its row's label: a comparison that XLA fuses."""
    sharding = jax.typeof(like).sharding if explicit_spec(like) else None
    classes = jax.lax.broadcasted_iota(labels.dtype, like.shape, labels.ndim, out_sharding=sharding)
    return classes == labels[..., None]


def weighted_targets(rows: Rows) -> Float[Array, "*rows K"]:
    """Compute w_k t_k, without the mass on masked classes."""
    assert rows.target.pmf is not None
    t = rows.target.pmf.astype(compute_dtype(rows.logits.dtype))
    if rows.class_weights is not None:
        t = t * uniform_targets(rows)
    return t if rows.mask.classes is None else jnp.where(rows.mask.classes, t, 0)


def uniform_targets(rows: Rows) -> Float[Array, "*#rows K"]:
    """Return w_k (1 without class weights), without the mass on masked classes."""
    dtype = compute_dtype(rows.logits.dtype)
    shape = (1,) * (rows.logits.ndim - 1) + rows.logits.shape[-1:]
    weights = jnp.ones(shape, dtype)
    if rows.class_weights is not None:
        weights = rows.class_weights.astype(dtype).reshape(shape)
    return weights if rows.mask.classes is None else jnp.where(rows.mask.classes, weights, 0)
