"""Counts whose samples lie on several devices, for use in `jax.shard_map`."""

from typing import SupportsIndex

from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Shaped

from xentjax._core.axis_name import AxisName, check_split
from xentjax.categorical import counts


def sharded_counts(
    samples_shard: ArrayLike,
    num_classes: SupportsIndex,
    *,
    axis_name: AxisName,
    weights: ArrayLike | None = None,
    where: ArrayLike | None = None,
) -> Shaped[Array, " k"]:
    """How often each class occurs in the samples of all devices; K numbers cross between them.

        c_k = sum_devices sum_n w_n [x_n = k]    (w_n = 1 without weights)

    Args:
        samples_shard: this device's samples, integers 0..K-1 of any shape. A sample outside is not
            counted.
        num_classes: K.
        axis_name: the mesh axis, or axes, that the samples are split over.
        weights: floating, >= 0, broadcast to this device's samples.
        where: bool, the samples to count, broadcast to this device's samples.

    Returns:
        [K], the same on every device: int32, exact up to 2^31 - 1 over all devices; with weights
        their dtype, float32 for half precision.

    Raises:
        ValueError: as `counts`, or a call outside of `shard_map`.
        TypeError: for samples that are not integers or weights that are not floating.

    Example:
        >>> from jax.sharding import Mesh, PartitionSpec as P
        >>> mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
        >>> count = jax.shard_map(
        ...     lambda x: sharded_counts(x, 4, axis_name="data"),
        ...     mesh=mesh,
        ...     in_specs=P("data"),
        ...     out_specs=P(),
        ... )
        >>> print(count(jnp.array([0, 2, 2, 1, 2])))
        [1 1 3 0]
    """
    check_split(axis_name, samples_shard=samples_shard)
    return lax.psum(counts(samples_shard, num_classes, weights=weights, where=where), axis_name)
