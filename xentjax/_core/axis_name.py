"""The argument `axis_name`: a mesh axis over which arrays are split, inside `jax.shard_map`."""

from typing import Any

from jax import lax

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import in_one_line, raise_value_error
from xentjax._core.varying import varying_axes

AxisName = str | tuple[str, ...]


def parse_axis_name(axis_name: AxisName) -> AxisName:
    """Return the name of a mesh axis, or a tuple of names, of the `shard_map` around this call."""
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not _are_axes(names):
        expected = "a mesh axis of the shard_map around this call, or a tuple of distinct ones"
        raise_value_error("axis_name", expected, in_one_line(axis_name))
    return axis_name if isinstance(axis_name, str) else tuple(names)


def _are_axes(names: Any) -> bool:
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        return False
    try:
        lax.axis_size(tuple(names))
    except NameError:
        return False
    return 0 < len(set(names)) == len(names)


def check_split(axis_name: AxisName, **arrays: ArrayLike | None) -> None:
    """Check that the arrays may differ between the devices of the axis, as far as is known."""
    axes = _known_axes(axis_name)
    for name, x in arrays.items():
        if x is not None and not axes <= varying_axes(x):
            raise_value_error(
                name, f"an array split over {axis_name!r} by in_specs", "the same on its devices"
            )


def check_whole(axis_name: AxisName, **arrays: ArrayLike | None) -> None:
    """Check that the arrays are the same on all devices of the axis, as far as is known."""
    axes = _known_axes(axis_name)
    for name, x in arrays.items():
        if x is not None and axes & varying_axes(x):
            raise_value_error(
                name, f"the same array on all devices of {axis_name!r}", "one split over it"
            )


def _known_axes(axis_name: AxisName) -> set[str]:
    """Return the axes over which `shard_map` tracks what varies: none with `check_vma=False`."""
    axes = {axis_name} if isinstance(axis_name, str) else set(axis_name)
    if lax.axis_size(axis_name) == 1 or not axes & varying_axes(lax.axis_index(axis_name)):
        return set()
    return axes
