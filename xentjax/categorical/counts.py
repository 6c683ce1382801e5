"""Counts of samples, which hold all information about the pmf, from memory or from a stream."""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from xentjax._core.array_like import ArrayLike
from xentjax._core.axis_name import AxisName, check_split, parse_axis_name
from xentjax._core.checks import (
    check_bool,
    check_floating,
    check_index,
    concrete,
    is_known,
    naming_order,
    native_array,
    of_labels,
    raise_value_error,
    scalar_first,
)
from xentjax._core.dtypes import compute_dtype, in_float64, to_signed
from xentjax._core.labels import parse_indices
from xentjax._core.sums import accurate_segment_sum, add
from xentjax._core.varying import on_auto_axes
from xentjax.categorical._arguments import check_amounts, parse_counts

INT32_MAX = np.iinfo(np.int32).max
# A block of this many samples stays in the cache.
_HOST_BLOCK = 2**16
# Up to as many classes as a TPU's vector register is wide, one comparison takes all.
_FEW_CLASSES = 128


def counts(
    samples: ArrayLike,
    num_classes: SupportsIndex | None = None,
    *,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
    axis_name: AxisName | None = None,
) -> Shaped[Array, " k"]:
    """Count the samples of each class.

        c_k = sum_n [x_n = k]    or, with weights,    c_k = sum_n w_n [x_n = k]

    It passes once over the samples and stores K numbers. Integer counts are exact, even beyond
    2^24, where float32 stops counting. NumPy arrays without `weights` and `where` are counted on
    the host.

    Args:
        samples: N integers 0..K-1, of any shape. Under jit, where values are unknown, a sample
            outside is not counted.
        num_classes: K. None, for known samples: the largest of them plus 1.
        weights: floating, >= 0, broadcast to the samples.
        where: bool, the samples to count, broadcast to the samples; the others may be out of range.
        axis_name: inside `jax.shard_map`, the mesh axis or axes over which the samples are split.
            Every device gets the counts of all devices, which exchange K numbers. `weights` and
            `where` are broadcast to this device's samples.

    Returns:
        [K], int32; with weights their dtype, float32 for half precision, summed in float64.

    Raises:
        ValueError: for a concrete sample outside 0..K-1, a concrete weight that is negative or not
            finite, more than 2^31 - 1 samples (on a device), fewer than 1 class, an `axis_name`
            outside of `shard_map`, samples that are not split over it, or no `num_classes` where
            samples are unknown or there are none.
        TypeError: for samples that are not integers or weights that are not floating.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import numpy as np
        >>> import xentjax
        >>> rolls = jnp.array([0, 2, 2, 1, 2])
        >>> print(xentjax.counts(rolls), xentjax.counts(rolls, 4))
        [1 1 3] [1 1 3 0]
        >>> print(xentjax.counts(jnp.array([0, 2]), 3, weights=jnp.array([0.5, 2.0])))
        [0.5 0.  2. ]
        >>> from jax.sharding import Mesh, PartitionSpec as P
        >>> mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
        >>> count = jax.shard_map(
        ...     lambda x: xentjax.counts(x, 4, axis_name="data"),
        ...     mesh=mesh,
        ...     in_specs=P("data"),
        ...     out_specs=P(),
        ... )
        >>> print(count(jnp.array([0, 2, 2, 1, 2])))
        [1 1 3 0]
    """
    k = None
    with naming_order("counts(samples, num_classes)", lambda: scalar_first(samples, num_classes)):
        if num_classes is not None:
            k = check_num_classes("num_classes", num_classes)
    samples = parse_labels("samples", samples)
    if np.size(samples) > INT32_MAX:
        raise_value_error(
            "samples", f"at most {INT32_MAX} (stream_counts takes more)", np.size(samples)
        )
    if k is None:
        k = _known_num_classes(samples, where)
    plain = weights is None and where is None and axis_name is None
    if isinstance(samples, np.ndarray) and plain:
        return jnp.asarray(_host_counts("samples", samples, k), jnp.int32)
    labels = parse_indices("samples", samples)
    if axis_name is not None:
        axis_name = parse_axis_name(axis_name)
        check_split(axis_name, samples=labels)
    keep = None
    if where is not None:
        keep = _broadcast("where", check_bool("where", where), labels.shape)
    if weights is not None:
        weights = check_floating("weights", weights)
        if (known := concrete(weights)) is not None:
            check_amounts("weights", known)
        weights = weights.astype(compute_dtype(weights.dtype))
        weights = _broadcast("weights", weights, labels.shape)
    result = count_indices(labels, weights, keep, k)
    counted = False
    if weights is None:
        # The total shows whether a sample was outside, without a second pass.
        total, expected = concrete(result), labels.size if keep is None else concrete(keep.sum())
        counted = total is None or total.sum(dtype=np.int64) == expected
    if not counted:
        outside = (to_signed(labels) < 0) | (to_signed(labels) >= k)
        outside = concrete(outside if keep is None else outside & keep)
        if outside is not None and outside.any():
            raise_value_error("samples", f"integers 0..{k - 1}", np.asarray(samples)[outside][0])
    return result if axis_name is None else jax.lax.psum(result, axis_name)


def stream_counts(batches: Iterable[ArrayLike], num_classes: SupportsIndex) -> np.ndarray:
    """Count the samples of each class in a stream of batches of any length.

    It runs on the host in 64-bit integers and stores K numbers.

    Args:
        batches: arrays of integers 0..K-1, each of any shape.
        num_classes: K.

    Returns:
        NumPy int64 [K].

    Raises:
        ValueError: for a sample outside 0..K-1 or fewer than 1 class.
        TypeError: for a batch that is not an array of integers.

    Example:
        >>> import numpy as np
        >>> import xentjax
        >>> xentjax.stream_counts((np.arange(n) % 3 for n in (4, 5)), 3)
        array([4, 3, 2])
    """
    k = check_num_classes("num_classes", num_classes)
    total = np.zeros(k, np.int64)
    for batch in batches:
        total += _host_counts("batches", np.asarray(parse_labels("batches", batch)), k)
    return total


def empirical_pmf(counts: ArrayLike) -> Float[Array, "*batch k"]:
    """Compute the empirical pmf, which is also the maximum-likelihood pmf.

        p_k = c_k / N,    N = sum_k c_k

    Args:
        counts: [..., K], integer or floating.

    Returns:
        [..., K], c / N rounded once to float32, or float64 for integer and float64 counts under
        x64. NaN where N is 0 and unknown (under jit).

    Raises:
        ValueError: for concrete counts that are negative, not finite or all 0, or for 0 classes.

    Example:
        >>> import jax.numpy as jnp
        >>> import xentjax
        >>> print(xentjax.empirical_pmf(jnp.array([1, 1, 2])))
        [0.25 0.25 0.5 ]
    """
    return shares(parse_counts("counts", counts, some=True))


def shares_of(counts: Array) -> Array:
    """Compute c / N, exactly 1 where one class has all: XLA would multiply by a rounded 1 / N."""
    n = counts.sum(-1, keepdims=True)
    p = counts / n
    return p + jax.lax.stop_gradient(jnp.where(counts == n, 1 - p, 0))


shares = in_float64(shares_of)


class ComparedCounts(NamedTuple):
    """Counts of each class, of all others and of all: exact integers, rounded once."""

    own: Float[Array, "*batch k"]
    others: Float[Array, "*batch k"]
    """N - c."""
    n: Float[Array, "*batch k"]
    """N."""


def with_others_of(counts: Array) -> ComparedCounts:
    """Count the samples in each class, in all others and in all."""
    n = jnp.broadcast_to(counts.sum(-1, keepdims=True), counts.shape)
    # Sums over the classes before and after: the derivative of n - counts would be inf - inf
    # wherever that of the others is infinite.
    before, after = (jax.lax.cumsum(counts, axis=counts.ndim - 1, reverse=r) for r in (False, True))
    none = jnp.zeros_like(counts[..., :1])
    others = jnp.concatenate([none, before[..., :-1]], -1)
    return ComparedCounts(counts, others + jnp.concatenate([after[..., 1:], none], -1), n)


with_others = in_float64(with_others_of)


def parse_labels(name: str, labels: ArrayLike) -> Array | np.ndarray:
    """Check labels and return them as integers; host arrays stay on the host."""
    array = native_array(name, labels)
    if not jnp.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected an integer dtype, got {array.dtype}{of_labels(array)}")
    return array


def ends(labels: Array | np.ndarray) -> tuple[int, int] | None:
    """Return the smallest and the largest label, if there are any and they are known."""
    if not labels.size:
        return None
    least, most = concrete(labels.min()), concrete(labels.max())
    return None if least is None or most is None else (int(least), int(most))


def _known_num_classes(samples: Array | np.ndarray, where: ArrayLike | None) -> int:
    """Return the largest sample inside the mask, plus 1."""
    if where is not None and (keep := concrete(check_bool("where", where))) is not None:
        samples = samples[np.broadcast_to(keep, samples.shape)]
    found = ends(samples) if where is None or is_known(where) else None
    if found is None:
        why = "there are no samples" if not samples.size else "samples are unknown (under jit)"
        raise_value_error("num_classes", f"an integer where {why}", None)
    return max(found[1] + 1, 1)


def _host_counts(name: str, samples: np.ndarray, k: int) -> np.ndarray:
    """Count, as int64 [K], in blocks: each is read once for both the check and the count."""
    samples = samples.ravel()
    total = np.zeros(k, np.int64)
    size = max(_HOST_BLOCK, 4 * k)  # every block adds k additions
    for start in range(0, samples.size, size):
        block = samples[start : start + size]
        if block.min() < 0 or block.max() >= k:
            raise_value_error(name, f"integers 0..{k - 1}", block[(block < 0) | (block >= k)][0])
        total += np.bincount(block.astype(np.int64, copy=False), minlength=k)
    return total


@partial(jax.jit, static_argnames="k")
def count_indices(
    labels: Array, weights: Array | None, keep: Array | None, k: int
) -> Shaped[Array, " k"]:
    """Compute `counts` of checked arguments."""
    return on_auto_axes(partial(_count_indices, k=k))(labels, weights, keep)


def _count_indices(labels: Array, weights: Array | None, keep: Array | None, *, k: int) -> Array:
    index = to_signed(labels) if keep is None else jnp.where(keep, to_signed(labels), -1)
    index = index.ravel()
    if weights is not None:
        return accurate_segment_sum(weights.ravel(), index, k)

    def by_scatter(index: Array) -> Array:
        return add(jnp.zeros(k, jnp.int32), index, 1)

    if k > _FEW_CLASSES:
        return by_scatter(index)
    return jax.lax.platform_dependent(
        index, cpu=by_scatter, default=partial(_count_by_comparison, k=k)
    )


def _count_by_comparison(index: Array, k: int) -> Array:
    """Count by comparing with all classes: GPU and TPU scatters serialise equal samples.

    Tested for its values on CPU. It lowers for GPU and TPU, but was neither run nor timed there.
    """
    classes = jnp.arange(k, dtype=index.dtype)
    return (index[:, None] == classes[None, :]).sum(0, dtype=jnp.int32)


def _broadcast(name: str, array: Array, shape: tuple[int, ...]) -> Array:
    try:
        return jnp.broadcast_to(array, shape)
    except ValueError:
        raise_value_error(name, f"a shape that broadcasts to the samples' {shape}", array.shape)


def check_num_classes(name: str, num_classes: SupportsIndex) -> int:
    """Return a number of classes, or raise an error if it is none."""
    checked = check_index(name, num_classes)
    if not 1 <= checked <= INT32_MAX:
        raise_value_error(name, f"an integer 1..{INT32_MAX}", repr(num_classes))
    return checked
