"""The table of cases that every implementation of the cross-entropies has to pass."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
import numpy as np

import xentjax

# Those that run on every backend; a kernel has a test file of its own.
IMPLEMENTATIONS = ("xla", "reference")
ROW = [0.5, -1.0, 2.0, 0.25]
WEIGHTS_7 = np.array([0.5, 2.0, 0.0, 1.0, 3.0, 0.25, 1.5], np.float32)
SCALARS: dict[str, Any] = {
    "label_smoothing": 0.15,
    "z_loss": 1e-2,
    "logit_soft_cap": 4.0,
    "temperature": 1.7,
}
EVERYTHING: dict[str, Any] = {"class_weights": WEIGHTS_7, **SCALARS}


@dataclass(frozen=True)
class Problem:
    """Arguments of one call. `scale` and `offset` shape the logits, `where` names the mask."""

    name: str
    shape: tuple[int, ...] = (6, 7)
    axis: int | tuple[int, ...] = -1
    soft: bool = False
    scale: float = 2.0
    offset: float = 0.0
    where: str | None = None
    keywords: dict[str, Any] = field(default_factory=dict)

    def arguments(self, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
        """Logits, labels and keywords; the same at every call."""
        rng = np.random.default_rng(sum(map(ord, self.name)))
        axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
        axes = tuple(a % len(self.shape) for a in axes)
        rows = tuple(n for i, n in enumerate(self.shape) if i not in axes)
        n_classes = int(np.prod([self.shape[a] for a in axes]))
        logits = (self.scale * rng.standard_normal(self.shape) + self.offset).astype(dtype)
        keywords = dict(self.keywords)
        if self.soft:
            mass = rng.gamma(0.5, size=self.shape)
            labels = (mass / mass.sum(axes, keepdims=True)).astype(np.float32)
        else:
            labels = rng.integers(0, n_classes, rows).astype(np.int32)
        if self.where == "classes":
            where = rng.random(self.shape) < 0.6
            # The label stays in, so that the loss is finite; the rows below lose every class.
            flat = np.moveaxis(where, axes, range(-len(axes), 0)).reshape(*rows, n_classes)
            if not self.soft:
                np.put_along_axis(flat, labels[..., None], True, -1)
            flat[(0,) * len(rows)] = False
            restored = flat.reshape(*rows, *(self.shape[a] for a in axes))
            keywords["where"] = np.moveaxis(restored, range(-len(axes), 0), axes)
        elif self.where == "rows":
            keywords["where"] = rng.random(rows) < 0.6
        elif self.where == "one mask for all rows":
            keywords["where"] = np.arange(n_classes)[None] % 3 != 2
            labels = labels - labels % 3 if not self.soft else labels
        if "ignore_index" in keywords:
            labels[..., ::3] = keywords["ignore_index"]
        if self.axis != -1:
            keywords["axis"] = self.axis
        return logits, labels, keywords


PROBLEMS = [
    Problem("plain"),
    Problem("one row", shape=(7,)),
    Problem("two classes", shape=(5, 2)),
    Problem("one class", shape=(5, 1)),
    Problem("three dimensions", shape=(2, 3, 7)),
    Problem("axis 1", shape=(2, 7, 3), axis=1),
    Problem("axis 0", shape=(7, 4), axis=0),
    Problem("axis -2", shape=(2, 7, 3), axis=-2),
    Problem("two axes", shape=(3, 2, 4), axis=(2, 0)),
    Problem("small logits", scale=0.02),
    # Folded into windows, the last one ragged: a padded column would show with small logits.
    Problem("long rows", shape=(2, 8269), scale=0.02),
    Problem("long rows, one value", shape=(2, 8192), scale=0.0, keywords={"label_smoothing": 0.1}),
    Problem("offset 1e5", offset=1e5),
    Problem("offset 1e5, temperature", offset=1e5, keywords={"temperature": 3.0}),
    Problem("logits of +-200", scale=100.0),
    Problem("weights", keywords={"class_weights": WEIGHTS_7}),
    Problem("smoothing", keywords={"label_smoothing": 0.2}),
    Problem("smoothing of 1", keywords={"label_smoothing": 1.0}),
    Problem("weights and smoothing", keywords={"class_weights": WEIGHTS_7, "label_smoothing": 0.2}),
    Problem("z-loss", keywords={"z_loss": 0.1}),
    Problem("soft cap", scale=20.0, keywords={"logit_soft_cap": 5.0}),
    Problem("temperature", keywords={"temperature": 0.3}),
    Problem("ignored", keywords={"ignore_index": -100}),
    Problem("ignored class", keywords={"ignore_index": 3}),
    Problem("class mask", where="classes"),
    Problem("class mask and smoothing", where="classes", keywords={"label_smoothing": 0.2}),
    Problem("row mask", where="rows"),
    Problem("shared mask", where="one mask for all rows"),
    Problem("mask on axis 1", shape=(2, 7, 3), axis=1, where="classes", keywords=EVERYTHING),
    Problem("mask on two axes", shape=(3, 2, 4), axis=(0, 2), where="classes"),
    Problem("everything", where="classes", keywords={**EVERYTHING, "ignore_index": -1}),
    Problem("soft", soft=True),
    Problem("soft on axis 1", shape=(2, 7, 3), axis=1, soft=True),
    Problem("soft, class mask", soft=True, where="classes"),
    Problem("soft, everything", soft=True, where="classes", keywords=EVERYTHING),
    Problem("soft, row mask", soft=True, where="rows", keywords={"label_smoothing": 0.2}),
]


def loss_of(labels):
    """The cross-entropy that takes such labels."""
    if jnp.issubdtype(labels.dtype, jnp.integer):
        return xentjax.softmax_cross_entropy_with_integer_labels
    return xentjax.softmax_cross_entropy
