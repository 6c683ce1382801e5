"""Random layouts of classes, masks, and the rounding that a comparison allows for."""

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Layout:
    """Places of the classes in an array that is passed; in rows, they are last."""

    rows: tuple[int, ...]
    classes: tuple[int, ...]
    axes: tuple[int, ...]
    axis: int | tuple[int, ...]

    @property
    def num_classes(self) -> int:
        return math.prod(self.classes)

    def array(self, x: np.ndarray) -> np.ndarray:
        """[*rows, K] (or sizes of 1) with the classes on their axes."""
        ones = (1,) * len(self.classes)
        classes = self.classes if x.shape[-1] == self.num_classes else ones
        split = x.reshape(*x.shape[:-1], *classes)
        return np.moveaxis(split, range(-len(self.axes), 0), self.axes)


def single(x: float) -> float:
    """The float32 nearest to x, which both sides then take."""
    return float(np.float32(x))


def random_where(kind: str | None, layout: Layout, rng: Any) -> np.ndarray | None:
    """A mask of the kind named, in rows; the last size is that of the classes if it has one."""
    k, ones = layout.num_classes, (1,) * len(layout.rows)
    shape = {
        "classes": (*layout.rows, k),
        "shared": (*ones, k),
        "size 1": (*layout.rows, 1),
        "rows": layout.rows,
        "one row": ones,
    }.get(kind or "")
    return None if shape is None else np.asarray(rng.random(shape) < 0.7)


def spoil(x: np.ndarray, mask: np.ndarray, rng: Any) -> None:
    """Sets what is masked to anything, and one class of some rows, not their last, to -inf."""
    if rng.random() < 0.7:
        x[~mask] = rng.choice([np.nan, np.inf, -np.inf, 1e4])
    if rng.random() < 0.5:
        first = np.arange(x.shape[-1]) == mask.argmax(-1)[..., None]
        impossible = (
            first & (mask.sum(-1, keepdims=True) > 1) & (rng.random(x.shape[:-1]) < 0.5)[..., None]
        )
        x[impossible] = -np.inf


def rounding(dtype: str) -> float:
    """Relative rounding of a gradient to its dtype."""
    return float(jnp.finfo(dtype).eps) if dtype in ("bfloat16", "float16") else 0.0


def assert_within(got: Any, expected: Any, bound: Any) -> None:
    """NaN and infinities in the same places, and errors up to `bound` elsewhere."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(got[~finite], expected[~finite])
    error = np.abs(got[finite] - expected[finite])
    bound = np.broadcast_to(bound, expected.shape)[finite]
    assert (error <= bound).all(), (got, expected, float(np.max(error / np.maximum(bound, 1e-300))))
