"""A sample of categories, rolled or read from a file, and how it is shown."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

import xentjax
from experiments.common import plots
from experiments.common.columns import MISSING, read_column
from experiments.common.command import UserError, pmf_option, printable

SHOWN_CATEGORIES = 20


class Sample(NamedTuple):
    """The observations.

    Attributes:
        source: description for tables and figures.
        categories: K labels.
        counts: int32 [K].
        missing: number of rows without a label, which were left out.
        reference: float32 [K], the pmf that the fit is compared with.
    """

    source: str
    categories: tuple[str, ...]
    counts: jax.Array
    missing: int
    reference: jax.Array


def roll(
    probs: tuple[float, ...], num_rolls: int, seed: int, reference: tuple[float, ...] | None
) -> Sample:
    """Roll a die; its own pmf is the reference by default."""
    pmf = pmf_option("--probs", probs)
    rolls = xentjax.sample(jax.random.key(seed), pmf, (num_rolls,))
    return Sample(
        source=f"{num_rolls:,} rolls of a die (seed {seed})",
        categories=tuple(str(face) for face in range(1, len(probs) + 1)),
        counts=xentjax.counts(rolls, len(probs)),
        missing=0,
        reference=_reference(reference, pmf),
    )


def read(
    path: Path,
    column: str | None,
    max_categories: int,
    reference: tuple[float, ...] | None,
    *,
    encoding: str | None = None,
    missing: tuple[str, ...] = MISSING,
) -> Sample:
    """Read a column of a file, see `read_column`; the reference is uniform by default.

    Raises:
        UserError: the data cannot be read, or are not a column of labels.
    """
    labels = read_column(path, column, max_categories, encoding=encoding, missing=missing)
    num_categories = len(labels.categories)
    uniform = jnp.full(num_categories, 1 / num_categories, jnp.float32)
    return Sample(
        source=str(path) if column is None else f"{path}, column {column}",
        categories=labels.categories,
        counts=xentjax.counts(labels.codes, num_categories),
        missing=labels.missing,
        reference=_reference(reference, uniform),
    )


def _reference(given: tuple[float, ...] | None, default: jax.Array) -> jax.Array:
    if given is None:
        return default
    if len(given) != len(default):
        raise UserError(
            f"--reference: expected {len(default)} probabilities, one for each category, "
            f"got {len(given)}"
        )
    return pmf_option("--reference", given)


def shown(sample: Sample) -> NDArray[np.intp]:
    """Return the categories to show, at most 20: all of them, or the most frequent by rank."""
    if len(sample.categories) <= SHOWN_CATEGORIES:
        return np.arange(len(sample.categories))
    return np.argsort(-np.asarray(sample.counts), kind="stable")[:SHOWN_CATEGORIES]


def title(sample: Sample) -> str:
    """Return a title that says which part of the sample is shown."""
    source = printable(sample.source)
    if len(sample.categories) <= SHOWN_CATEGORIES:
        return source
    return f"{source}: the {SHOWN_CATEGORIES} most frequent of {len(sample.categories)}"


def short(label: str) -> str:
    """Shorten a label to one line of 24 characters."""
    label = printable(" ".join(label.split())) or "''"
    return label if len(label) <= 24 else label[:23] + "…"


def draw(sample: Sample, pmf: jax.Array, intervals: jax.Array, label: str) -> Figure:
    """Plot a fitted pmf as bars with intervals [K, 2], named `label`, beside the reference."""
    rows = shown(sample)
    places = np.arange(len(rows))
    bars = np.asarray(pmf)[rows]
    lower, upper = np.asarray(intervals)[rows].T
    source = title(sample)
    figure, axes = plots.subplots(height=1.9 + 0.3 * len(rows), title=source)
    ax = axes[0, 0]
    ax.barh(places, bars, height=0.7, color=plots.PALETTE[2], label="maximum likelihood")
    # Rounding may leave the fit outside its interval by an ulp, but lengths are not negative.
    lengths = np.maximum(np.stack([bars - lower, upper - bars]), 0)
    ax.errorbar(bars, places, xerr=lengths, fmt="none", color="black", capsize=4, label=label)
    reference = np.asarray(sample.reference)[rows]
    ax.plot(reference, places, "d", color=plots.PALETTE[1], markersize=6, label="reference")
    labels = [short(plots.legible(sample.categories[index])) for index in rows]
    ax.set_yticks(places, labels, parse_math=False)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("probability")
    ax.set_ylabel("category")
    plots.add_legend(figure)
    return figure
