"""Fit a categorical distribution: to the rolls of a die, or to a column of your own data.

    l(q) = sum_k c_k log q_k = -N H(p, q),    p_k = c_k / N

The likelihood is largest at q = p. That is shown twice: by the closed form, whose optimality the
Karush-Kuhn-Tucker conditions certify, and by optimizers that know nothing but the gradient.

    python -m experiments.categorical_mle --probs 0.1 0.2 0.7 --num-rolls 5000
    python -m experiments.categorical_mle --data flowers.csv --column species

Empty entries, NA and the like are no labels: they are left out, and their number is reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

import xentjax
from experiments import _plots
from experiments._columns import read_column
from experiments._command import UserError, check_seed, one_line_errors, pmf_option
from experiments._records import RUNS, RunFolder

NAME = "categorical_mle"
MOST_ROLLS = 10**8  # the rolls are held in memory at once
SHOWN_CATEGORIES = 20
UNITS = ("nats", "bits", "hartleys")

# Gradient descent is slow where a category is rare, its gradient being as small as its probability;
# Rprop, which goes by the gradient's signs, is not.
SOLVERS = {
    "gradient descent": optax.sgd(1.0),
    "Adam": optax.adam(0.1),
    "Rprop": optax.rprop(0.1),
}
MAX_STEPS = 1000
CONDITIONS = (
    "multiplier",
    "stationarity",
    "primal_residual",
    "dual_residual",
    "complementarity",
    "duality_gap",
)
TOLERANCE = 1e-8  # duality gap in nats a sample


@dataclass(frozen=True)
class Config:
    """What the distribution is fitted to."""

    probs: tuple[float, ...] = (0.05, 0.1, 0.15, 0.15, 0.2, 0.35)
    """Probability of each face of the die that is rolled; they sum to 1. Unused with --data."""
    num_rolls: int = 10_000
    """How often the die is rolled. Unused with --data."""
    seed: int = 0
    """Seed of the rolls. Unused with --data."""
    data: Path | None = None
    """Your labels instead: a .csv, .parquet, one-dimensional .npy, or .txt of a label a line."""
    column: str | None = None
    """Which column of a .csv or .parquet: strings, integers, booleans, dates or times."""
    reference: tuple[float, ...] | None = None
    """A pmf to compare the fit with; by default the true die for rolls, the uniform for data."""
    max_categories: int = 1000
    """More distinct labels than this are refused: they are hardly categories."""
    runs_dir: Path = RUNS
    """Folder that the new run folder goes to."""

    def __post_init__(self) -> None:
        pmf_option("--probs", self.probs)
        if self.reference is not None:
            pmf_option("--reference", self.reference)
        if not 1 <= self.num_rolls <= MOST_ROLLS:
            raise UserError(f"--num-rolls: expected 1 to {MOST_ROLLS}, got {self.num_rolls}")
        check_seed("--seed", self.seed)
        if self.max_categories < 1:
            raise UserError(f"--max-categories: expected 1 or more, got {self.max_categories}")
        if self.column is not None and self.data is None:
            raise UserError(f"--column: expected --data with it, got '{self.column}' alone")


class Sample(NamedTuple):
    """What was observed.

    Attributes:
        source: where it comes from, for the reader of a table.
        categories: K labels.
        counts: int32 [K].
        missing: number of rows that had no label and were left out.
        reference: float32 [K], the pmf that the fit is compared with.
    """

    source: str
    categories: tuple[str, ...]
    counts: jax.Array
    missing: int
    reference: jax.Array


class Result(NamedTuple):
    """The fits of a sample.

    Attributes:
        sample: what was observed.
        closed_form: q = counts / N.
        by_gradient: solver -> its fit, by steps on the logits.
    """

    sample: Sample
    closed_form: xentjax.CategoricalFit
    by_gradient: dict[str, xentjax.CategoricalFit]


def run(config: Config) -> Result:
    """Observe, and fit in each way.

    Raises:
        UserError: the data cannot be read, or is no column of labels.
    """
    sample = _roll(config) if config.data is None else _read(config, config.data)
    fit = partial(xentjax.fit_categorical, sample.counts)
    return Result(
        sample=sample,
        closed_form=fit(),
        by_gradient={
            name: fit(solver=solver, max_steps=MAX_STEPS, tol=TOLERANCE)
            for name, solver in SOLVERS.items()
        },
    )


def _roll(config: Config) -> Sample:
    probs = pmf_option("--probs", config.probs)
    rolls = xentjax.sample(jax.random.key(config.seed), probs, (config.num_rolls,))
    return Sample(
        source=f"{config.num_rolls:,} rolls of a die (seed {config.seed})",
        categories=tuple(str(face) for face in range(1, len(config.probs) + 1)),
        counts=xentjax.counts(rolls, len(config.probs)),
        missing=0,
        reference=_reference(config, probs),
    )


def _read(config: Config, path: Path) -> Sample:
    column = read_column(path, config.column, config.max_categories)
    num_categories = len(column.categories)
    uniform = jnp.full(num_categories, 1 / num_categories, jnp.float32)
    return Sample(
        source=str(path) if config.column is None else f"{path}, column {config.column}",
        categories=column.categories,
        counts=xentjax.counts(column.codes, num_categories),
        missing=column.missing,
        reference=_reference(config, uniform),
    )


def _reference(config: Config, default: jax.Array) -> jax.Array:
    if config.reference is None:
        return default
    if len(config.reference) != len(default):
        raise UserError(
            f"--reference: expected {len(default)} probabilities, one for each category, "
            f"got {len(config.reference)}"
        )
    return pmf_option("--reference", config.reference)


def summarize(result: Result) -> dict[str, Any]:
    """The numbers of a run, by name and unit."""
    sample, best, _ = result
    return {
        "source": sample.source,
        "samples": int(sample.counts.sum()),
        "missing": sample.missing,
        "categories": sample.categories,
        "counts": sample.counts,
        "pmf": best.pmf,
        "reference": sample.reference,
        **_in_all_units(result),
        "perplexity": xentjax.perplexity(best.pmf),
        "fits": {
            name: {
                "steps": fit.steps,
                "converged": fit.converged,
                "kl_from_closed_form": xentjax.kl_divergence(best.pmf, fit.pmf),
                "certificate": fit.certificate._asdict(),
            }
            for name, fit in _fits(result).items()
        },
    }


def _fits(result: Result) -> dict[str, xentjax.CategoricalFit]:
    return {"closed form": result.closed_form, **result.by_gradient}


def _in_all_units(result: Result) -> dict[str, dict[str, float]]:
    """Measure -> unit -> value."""
    p, counts, reference = result.closed_form.pmf, result.sample.counts, result.sample.reference
    measures = {
        "log_likelihood": partial(xentjax.log_likelihood, p, counts),
        "entropy": partial(xentjax.entropy, p),
        "cross_entropy_to_reference": partial(xentjax.cross_entropy, p, reference),
        "kl_to_reference": partial(xentjax.kl_divergence, p, reference),
    }
    return {
        name: {unit: float(measure(base=unit)) for unit in UNITS}
        for name, measure in measures.items()
    }


def save(result: Result, folder: RunFolder) -> None:
    """Write the optimizers' paths, the summary and the figures of a run."""
    for name, fit in result.by_gradient.items():
        for step, divergence in enumerate(_path(fit), start=1):
            folder.log(solver=name, step=step, kl_from_closed_form=divergence)
    folder.summary(summarize(result))
    folder.figure("pmf", _draw_pmf(result))
    folder.figure("optimizers", _draw_paths(result))


def _path(fit: xentjax.CategoricalFit) -> NDArray[np.float32]:
    """KL(counts / N || q) after each step that was taken, in nats."""
    return np.asarray(fit.history[: int(fit.steps)])


def _shown(sample: Sample) -> NDArray[np.intp]:
    """The categories that a table or a figure has room for: all, or the most frequent by rank."""
    if len(sample.categories) <= SHOWN_CATEGORIES:
        return np.arange(len(sample.categories))
    return np.argsort(-np.asarray(sample.counts), kind="stable")[:SHOWN_CATEGORIES]


def _title(sample: Sample) -> str:
    """What is shown of the sample."""
    if len(sample.categories) <= SHOWN_CATEGORIES:
        return sample.source
    return f"{sample.source}: the {SHOWN_CATEGORIES} most frequent of {len(sample.categories)}"


def _short(label: str) -> str:
    label = " ".join(label.split())
    return label if len(label) <= 24 else label[:23] + "…"


def _draw_pmf(result: Result) -> Figure:
    """The fitted pmf as bars, beside the reference."""
    sample, best, _ = result
    shown = _shown(sample)
    places = np.arange(len(shown))
    figure, axes = _plots.subplots(height=1.5 + 0.3 * len(shown))
    ax = axes[0, 0]
    ax.barh(places, np.asarray(best.pmf)[shown], height=0.7, label="maximum likelihood")
    reference = np.asarray(sample.reference)[shown]
    ax.plot(reference, places, "d", color="black", markersize=6, label="reference")
    labels = [_short(sample.categories[index]) for index in shown]
    ax.set_yticks(places, labels, parse_math=False)
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.set_xlim(left=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("probability")
    ax.set_ylabel("category")
    ax.set_title(_title(sample), fontsize=10, loc="left", parse_math=False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_paths(result: Result) -> Figure:
    """How each optimizer comes down to the closed form."""
    figure, axes = _plots.subplots(height=4)
    ax = axes[0, 0]
    for (name, fit), style in zip(result.by_gradient.items(), ("-", "--", "-."), strict=True):
        path = _path(fit)
        ax.plot(np.arange(1, len(path) + 1), path, style, linewidth=2, label=name)
    ax.axhline(TOLERANCE, color=_plots.GREY, linewidth=1)
    ax.annotate("stops here", (1, TOLERANCE), (4, 4), textcoords="offset points", color="0.3")
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(1, max(10, *(2 * int(fit.steps) for fit in result.by_gradient.values())))
    ax.set_xlabel("steps on the logits, from the uniform pmf")
    ax.set_ylabel("KL(counts / N || q), nats")
    ax.legend(frameon=False)
    return figure


def show(result: Result, console: Console) -> None:
    """Print the numbers of a run."""
    sample, best, _ = result
    total = int(sample.counts.sum())
    table = Table(title=Text(_title(sample)))
    table.add_column("category")
    for heading in ("count", "counts / N", "reference"):
        table.add_column(heading, justify="right")
    for index in _shown(sample):
        table.add_row(
            Text(_short(sample.categories[index])),
            f"{int(sample.counts[index]):,}",
            f"{best.pmf[index]:.5f}",
            f"{sample.reference[index]:.5f}",
        )
    console.print(table)
    console.print(f"N = {total:,} samples; {sample.missing:,} missing values were left out.")

    table = Table(title="Maximum likelihood, p = counts / N")
    table.add_column("")
    for unit in UNITS:
        table.add_column(unit, justify="right")
    names = ("log-likelihood", "entropy H(p)", "H(p, reference)", "KL(p || reference)")
    for name, values in zip(names, _in_all_units(result).values(), strict=True):
        table.add_row(name, *(f"{values[unit]:,.7g}" for unit in UNITS))
    console.print(table)

    fits = _fits(result)
    table = Table(title=f"Karush-Kuhn-Tucker conditions, in counts: multiplier {total:,}, rest 0")
    table.add_column("")
    for name in fits:
        table.add_column(name, justify="right")
    for condition in CONDITIONS:
        values = (getattr(fit.certificate, condition) for fit in fits.values())
        table.add_row(condition.replace("_", " "), *(f"{value:.6g}" for value in values))
    table.add_row("steps", *(str(fit.steps) for fit in fits.values()))
    table.add_row("converged", *("yes" if fit.converged else "no" for fit in fits.values()))
    console.print(table)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    with one_line_errors():
        config = tyro.cli(
            Config, args=argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        with console.status("counting and fitting"):
            result = run(config)
        folder = RunFolder.create(NAME, config, config.runs_dir)
        save(result, folder)
        show(result, console)
        console.print(f"Plots and numbers: {folder.path}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
