"""Checks of the arguments of this package: predictions and their labels."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from xentjax._core.array_like import ArrayLike
from xentjax._core.checks import (
    check_bool,
    check_floating,
    concrete,
    naming_order,
    raise_value_error,
)
from xentjax._core.dtypes import compute_dtype
from xentjax._core.labels import check_row_labels, parse_row_labels
from xentjax.information.arguments import check_sums

_LOGITS = "; logits go through softmax"


class Predictions(NamedTuple):
    """N rows with a label each."""

    rows: Float[Array, "n k"]
    """Probabilities or logits, float32 or float64."""
    labels: Int[Array, " n"]
    keep: Bool[Array, " n"]

    @property
    def bad(self) -> Bool[Array, " n"]:
        """Kept rows that contain a NaN or whose label is no class."""
        outside = (self.labels < 0) | (self.labels >= self.rows.shape[-1])
        return self.keep & (outside | jnp.isnan(self.rows).any(-1))


def parse_probabilities(
    probs: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> Predictions:
    """Check that the kept rows, where they are known, are pmfs; return the predictions."""
    with naming_order("this function (probs, labels)", lambda: _are_swapped(probs, labels)):
        array = check_floating("probs", probs)
        predictions = _parse("probs", array, labels, where)
    check_sums("probs", array, keep=predictions.keep[:, None], hint=_LOGITS)
    return predictions


def parse_logits(logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None) -> Predictions:
    """Check that the kept rows, where they are known, are logits; return the predictions.

    NaN and +inf are errors, and so is -inf at the label.
    """
    with naming_order("this function (logits, labels)", lambda: _are_swapped(logits, labels)):
        predictions = _parse("logits", check_floating("logits", logits), labels, where)
    rows, indices, keep = map(concrete, predictions)
    if rows is None or indices is None or keep is None:
        return predictions
    rows = rows[keep]
    bad = np.isnan(rows) | (rows == np.inf)
    if bad.any():
        raise_value_error("logits", "finite numbers or -inf", rows[bad][0])
    if np.isinf(np.take_along_axis(rows, indices[keep, None], 1)).any():
        raise_value_error("logits", "finite numbers at the labels", "-inf")
    return predictions


def _are_swapped(rows: ArrayLike, labels: ArrayLike) -> bool:
    return np.ndim(rows) == 1 and np.ndim(labels) == 2


def _parse(name: str, rows: Array, labels: ArrayLike, where: ArrayLike | None) -> Predictions:
    """Check shapes and dtypes, and the range of labels that are known."""
    if rows.ndim != 2 or 0 in rows.shape:
        raise_value_error(name, "shape [N, K] with N >= 1 and K >= 1", f"shape {rows.shape}")
    n, k = rows.shape
    indices = parse_row_labels(labels, n, name)
    if where is None:
        keep = jnp.ones(n, bool)
    else:
        keep = check_bool("where", where)
        if keep.shape != (n,):
            raise_value_error(
                "where", f"shape {(n,)}, one for each row of {name}", f"shape {keep.shape}"
            )
    mask = concrete(keep)
    if mask is not None and not mask.any():
        raise_value_error("where", "at least one row to keep", "all False")
    check_row_labels(labels, indices, k, mask)
    return Predictions(rows.astype(compute_dtype(rows.dtype)), indices, keep)
