"""Names of features and classes, from the arguments or the columns of a table."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from xentjax._core.checks import raise_value_error


@jax.tree_util.register_static
@dataclass(frozen=True)
class Names:
    """Names of a regression's features and classes. It holds no arrays: a tree with no leaves."""

    features: tuple[str, ...]
    """Names of the D features; x1, x2, ... if none were given."""
    classes: tuple[str, ...]
    """Names of the K classes; their indices if none were given."""
    label: str
    """Name of the labels; y if none was given."""
    baseline: int
    """Index of the class to which coefficients are relative."""


def names_of_features(x: Any, given: Sequence[str] | None, d: int) -> tuple[str, ...]:
    """Return the D names that are given, those of the columns of a table, or x1, x2, ..."""
    if given is None:
        given = getattr(x, "columns", None)
    if given is None:
        return tuple(f"x{i + 1}" for i in range(d))
    return _names("feature_names", given, d, "feature")


def names_of_classes(given: Sequence[Any] | np.ndarray | None, k: int) -> tuple[str, ...]:
    """Return the K names that are given, or the indices."""
    return _names("class_names", range(k) if given is None else given, k, "class")


def label_name(labels: Any) -> str:
    """Return the name of a column of labels, or y."""
    name = getattr(labels, "name", None)
    return name if isinstance(name, str) else "y"


def _names(argument: str, given: Any, size: int, one: str) -> tuple[str, ...]:
    if isinstance(given, str) or not hasattr(given, "__iter__"):
        raise TypeError(f"{argument}: expected a sequence of names, got {given!r}")
    names = tuple(map(str, given))
    if len(names) != size:
        raise_value_error(argument, f"{size} names, one for each {one}", str(len(names)))
    return names
