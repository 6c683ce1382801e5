"""Fit a categorical distribution: to the rolls of a die, or to a column of your own data.

    l(q) = sum_k c_k log q_k = -N H(p, q),    p_k = c_k / N

The likelihood is largest at q = p. This is shown twice: by the closed form, whose optimality the
Karush-Kuhn-Tucker conditions certify, and by iterative solvers, which converge to it at the rates
that theory predicts. Confidence intervals show the uncertainty of the fit, the G-test whether a
reference pmf is consistent with the counts, and ten estimators the entropy of the true pmf.

    python -m experiments.categorical_mle --probs 0.1 0.2 0.7 --num-rolls 5000
    python -m experiments.categorical_mle --data flowers.csv --column species

Empty entries, NA and the like count as missing: they are left out, and their number is reported.
The columns of a .csv may be separated by commas, semicolons, tabs or bars, as in its header.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
from rich.console import Console
from rich.text import Text

import xentjax
from experiments.categorical_mle import samples, solver_rates
from experiments.categorical_mle.samples import Sample
from experiments.common.columns import MISSING
from experiments.common.command import (
    LEAST_ALPHA,
    UserError,
    check_seed,
    one_line_errors,
    parse_options,
    pmf_option,
    printable,
    say,
)
from experiments.common.methods import ENTROPY_ESTIMATORS
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

NAME = "categorical_mle"
MOST_ROLLS = 10**8  # the rolls are held in memory at once
NSB_DEVIATION = "nsb, standard deviation"
UNITS = ("nats", "bits", "hartleys")

# A literal rather than the lists of common.methods, so that the command line shows the choices.
Intervals = Literal[
    "goodman", "quesenberry_hurst", "sison_glaz", "wald", "wilson", "agresti_coull", "jeffreys"
]


@dataclass(frozen=True)
class Config:
    """The data, and how to fit them."""

    probs: tuple[float, ...] = (0.05, 0.1, 0.15, 0.15, 0.2, 0.35)
    """Probability of each face of the die that is rolled; they sum to 1. Unused with --data."""
    num_rolls: int = 10_000
    """Number of rolls of the die. Unused with --data."""
    seed: int = 0
    """Seed of the rolls. Unused with --data."""
    data: Path | None = None
    """Your labels instead: a .csv, .parquet, one-dimensional .npy, or .txt with a label a line."""
    column: str | None = None
    """Column of a .csv or .parquet file: strings, integers, booleans, dates or times."""
    encoding: str | None = None
    """Encoding of a .csv or .txt, such as cp1252; default: UTF-8, or its byte order mark's."""
    missing: tuple[str, ...] = MISSING
    """Texts that mean a missing label: --missing '' keeps NA. The default is for text files."""
    reference: tuple[float, ...] | None = None
    """A pmf to compare the fit with; default: the true one for rolls, the uniform one for data."""
    intervals: Intervals = "goodman"
    """Confidence intervals of the probabilities; the first three methods are simultaneous."""
    alpha: float = 0.05
    """Probability that an interval, or any of the simultaneous ones, does not cover."""
    max_categories: int = 1000
    """The largest number of distinct labels to accept as categories."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""

    def __post_init__(self) -> None:
        pmf_option("--probs", self.probs)
        if self.reference is not None:
            pmf_option("--reference", self.reference)
        if not 1 <= self.num_rolls <= MOST_ROLLS:
            raise UserError(f"--num-rolls: expected 1 to {MOST_ROLLS}, got {self.num_rolls}")
        check_seed("--seed", self.seed)
        if not 0 < self.alpha < 1:
            raise UserError(f"--alpha: expected between 0 and 1, got {self.alpha}")
        if self.alpha < LEAST_ALPHA:
            raise UserError(f"--alpha: expected at least {LEAST_ALPHA}, got {self.alpha}")
        if self.max_categories < 1:
            raise UserError(f"--max-categories: expected 1 or more, got {self.max_categories}")
        if self.data is None:
            for option, given, default in (
                ("--column", self.column, None),
                ("--encoding", self.encoding, None),
                ("--missing", self.missing, MISSING),
            ):
                if given != default:
                    raise UserError(f"{option}: expected --data with it, got {given!r} alone")


class Result(NamedTuple):
    """The fits of a sample, and the inference about the true pmf.

    Attributes:
        config: the configuration.
        sample: the observations.
        closed_form: q = counts / N.
        by_steps: iterative solver -> its fit.
        intervals: float32 [K, 2], lower and upper ends.
        g_test: of the reference pmf.
        entropies: estimator -> unit -> estimate, and NSB_DEVIATION -> unit -> its value.
    """

    config: Config
    sample: Sample
    closed_form: xentjax.CategoricalFit
    by_steps: dict[str, xentjax.CategoricalFit]
    intervals: jax.Array
    g_test: xentjax.TestResult
    entropies: dict[str, dict[str, float]]


def run(config: Config) -> Result:
    """Obtain the sample, and fit it with every solver.

    Raises:
        UserError: the data cannot be read, or are not a column of labels.
    """
    if config.data is None:
        sample = samples.roll(config.probs, config.num_rolls, config.seed, config.reference)
    else:
        sample = samples.read(
            config.data,
            config.column,
            config.max_categories,
            config.reference,
            encoding=config.encoding,
            missing=config.missing,
        )
    counts = sample.counts
    return Result(
        config=config,
        sample=sample,
        closed_form=xentjax.fit_categorical(counts),
        by_steps=solver_rates.fit_by_steps(counts),
        intervals=xentjax.confidence_intervals(counts, method=config.intervals, alpha=config.alpha),
        g_test=xentjax.g_test(counts, sample.reference),
        entropies=_estimate_entropies(counts),
    )


def _estimate_entropies(counts: jax.Array) -> dict[str, dict[str, float]]:
    """Estimate the entropy, by estimator and unit; NSB has a posterior standard deviation too."""
    posterior = {unit: xentjax.nsb_entropy(counts, base=unit) for unit in UNITS}
    return {
        **{
            method: _in_units(partial(xentjax.entropy_estimate, counts, method=method))
            for method in ENTROPY_ESTIMATORS
            if method != "nsb"
        },
        "nsb": {unit: float(posterior[unit].mean) for unit in UNITS},
        NSB_DEVIATION: {unit: float(posterior[unit].standard_deviation) for unit in UNITS},
    }


def summarize(result: Result) -> dict[str, Any]:
    """Collect the numbers of a run, by name and unit."""
    sample, best = result.sample, result.closed_form
    expected = solver_rates.theory(sample.counts)
    return {
        "source": sample.source,
        "samples": int(sample.counts.sum()),
        "missing": sample.missing,
        "categories": sample.categories,
        "counts": sample.counts,
        "pmf": best.pmf,
        "reference": sample.reference,
        "intervals": {
            "method": result.config.intervals,
            "alpha": result.config.alpha,
            "ends": result.intervals,
        },
        "g_test": result.g_test._asdict(),
        **_in_all_units(result),
        "entropy_estimates": result.entropies,
        "perplexity": xentjax.perplexity(best.pmf),
        "fits": {
            name: {
                "steps": fit.steps,
                "converged": fit.converged,
                "kl_from_closed_form": xentjax.kl_divergence(best.pmf, fit.pmf),
                "kl_factor_per_step": {
                    "theory": expected.get(name),
                    "measured": solver_rates.measured(fit),
                },
                "certificate": fit.certificate._asdict(),
            }
            for name, fit in _fits(result).items()
        },
    }


def _fits(result: Result) -> dict[str, xentjax.CategoricalFit]:
    return {"closed form": result.closed_form, **result.by_steps}


def _in_all_units(result: Result) -> dict[str, dict[str, float]]:
    """Compute every measure in every unit."""
    p, counts, reference = result.closed_form.pmf, result.sample.counts, result.sample.reference
    measures = {
        "log_likelihood": partial(xentjax.log_likelihood, p, counts),
        "entropy": partial(xentjax.entropy, p),
        "reference_entropy": partial(xentjax.entropy, reference),
        "cross_entropy_to_reference": partial(xentjax.cross_entropy, p, reference),
        "kl_to_reference": partial(xentjax.kl_divergence, p, reference),
    }
    return {name: _in_units(measure) for name, measure in measures.items()}


def _in_units(measure: Callable[..., jax.Array]) -> dict[str, float]:
    return {unit: float(measure(base=unit)) for unit in UNITS}


def save(result: Result, folder: RunFolder) -> None:
    """Write the solvers' paths, the summary and the figures of a run."""
    for name, fit in result.by_steps.items():
        for step, divergence in enumerate(solver_rates.path(fit), start=1):
            folder.log(solver=name, step=step, kl_from_closed_form=divergence)
    folder.summary(summarize(result))
    ends, label = result.intervals, _intervals(result)
    folder.figure("pmf", samples.draw(result.sample, result.closed_form.pmf, ends, label))
    folder.figure("solvers", solver_rates.draw(result.sample.counts, result.by_steps))


def _intervals(result: Result) -> str:
    return f"{100 * (1 - result.config.alpha):g} % intervals ({result.config.intervals})"


def show(result: Result, console: Console) -> None:
    """Print the numbers of a run, the fit last; the entropy estimates are in summary.json."""
    sample, best = result.sample, result.closed_form
    total = int(sample.counts.sum())
    show_table(console, solver_rates.table(sample.counts, result.by_steps))

    table = new_table("Maximum likelihood, p = counts / N", ["", *UNITS])
    names = ("log-likelihood", "H(p)", "H(reference)", "H(p, reference)", "KL(p || reference)")
    for name, values in zip(names, _in_all_units(result).values(), strict=True):
        table.add_row(name, *(f"{values[unit]:,.7g}" for unit in UNITS))
    show_table(console, table)

    say(console, samples.title(sample))
    table = new_table(None, ["category", "count", "counts / N", "lower", "upper", "reference"])
    for index in samples.shown(sample):
        lower, upper = result.intervals[index]
        table.add_row(
            Text(printable(samples.short(sample.categories[index]))),
            f"{int(sample.counts[index]):,}",
            f"{best.pmf[index]:.5f}",
            f"{lower:.5f}",
            f"{upper:.5f}",
            f"{sample.reference[index]:.5f}",
        )
    show_table(console, table)
    console.print(f"N = {total:,} samples; missing values left out: {sample.missing:,}.")
    console.print(f"Lower and upper: {_intervals(result)}.")
    test = result.g_test
    console.print(
        f"G-test of the reference: G = {test.statistic:.4g}, {test.dof} degrees of freedom, "
        f"p-value {test.p_value:.3g}."
    )
    kkt = best.certificate
    console.print(
        f"Karush-Kuhn-Tucker conditions at counts / N: stationarity {kkt.stationarity:.2g} "
        f"counts, duality gap {kkt.duality_gap:.2g} nats."
    )
    if "nsb" in result.entropies:
        entropy, sd = (result.entropies[name]["nats"] for name in ("nsb", NSB_DEVIATION))
        console.print(
            f"Entropy of the true pmf (NSB): {entropy:.4f} nats, standard deviation {sd:.4f}; "
            f"{len(ENTROPY_ESTIMATORS) - 1} other estimates are in summary.json."
        )


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        config = parse_options(
            Config, argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        with waiting(console, "counting and fitting") as doing:
            result = run(config)
            folder = RunFolder.create(NAME, config, config.runs_dir)
            doing("drawing")
            save(result, folder)
        show(result, console)
        say(console, f"Plots and numbers: {folder.path}")


if __name__ == "__main__":
    main()
