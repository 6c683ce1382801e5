"""The argument `axis_name`: a mesh axis over which arrays are split, inside `jax.shard_map`."""

from jax import lax
from jax.typing import ArrayLike

from xentjax._core.checks import raise_value_error
from xentjax._core.varying import varying_axes

AxisName = str | tuple[str, ...]


def axis_size(axis_name: AxisName) -> int:
    """Return the number of devices of the mesh axis or axes, inside `shard_map`."""
    try:
        return lax.axis_size(axis_name)
    except (NameError, TypeError):  # no such axis, or no name
        raise_value_error(
            "axis_name", "a mesh axis of the shard_map around this call", repr(axis_name)
        )


def check_split(axis_name: AxisName, **arrays: ArrayLike | None) -> None:
    """Check that the arrays differ between the devices of the axis, as far as `shard_map` knows."""
    axes = _known_axes(axis_name)
    for name, x in arrays.items():
        if x is not None and not axes <= varying_axes(x):
            raise_value_error(
                name, f"an array split over {axis_name!r} by in_specs", "the same on its devices"
            )


def check_whole(axis_name: AxisName, **arrays: ArrayLike) -> None:
    """Check that the arrays are the same on all devices of the axis, as far as is known."""
    axes = _known_axes(axis_name)
    for name, x in arrays.items():
        if axes & varying_axes(x):
            raise_value_error(
                name, f"the same array on all devices of {axis_name!r}", "one split over it"
            )


def _known_axes(axis_name: AxisName) -> set[str]:
    """Return the axes whose arrays can be told apart: none with `check_vma=False`."""
    axes = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    if axis_size(axis_name) == 1 or not axes & varying_axes(lax.axis_index(axis_name)):
        return set()
    return axes
