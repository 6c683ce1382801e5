"""The large-sample theory of a die's empirical pmf, compared with very many dice.

Roll a die of pmf p N times and count its K faces: c. Then

    E KL(c / N || p) = (K - 1) / (2N) + (sum_k 1 / p_k - 1) / (12 N^2) + O(N^-3)
    E H(c / N) = H(p) - E KL(c / N || p),  exactly: the plug-in entropy is biased downwards
    G = 2 N KL(c / N || p)  ->  chi-squared of K - 1 degrees of freedom  (Wilks)
    P(an interval covers p_k)  ->  1 - alpha,  P(a test rejects what is true)  ->  alpha

Every mean over the dice is printed with its standard error.

    python -m experiments.asymptotics --probs 0.5 0.25 0.25 --num-rolls 10 100 1000
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.asymptotics import plots
from experiments.asymptotics.dice import NSB_DICE, Mean, Measurement, measure, roll
from experiments.asymptotics.sizes import SIMULATED_DICE, Sizes, measure_sizes
from experiments.common.command import (
    LEAST_ALPHA,
    UserError,
    check_seed,
    one_line_errors,
    parse_options,
    pmf_option,
    say,
)
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

NAME = "asymptotics"
FEWEST_DICE = 100  # for meaningful standard errors
MOST_DICE = 10**6
MOST_ROLLS = 10**5
LEAST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class Config:
    """The dice, and the number of rolls of each."""

    probs: tuple[float, ...] = (0.05, 0.1, 0.15, 0.15, 0.2, 0.35)
    """Probability of each face, all > 0; they sum to 1."""
    num_rolls: tuple[int, ...] = (10, 30, 100, 300, 1000)
    """Each N, the rolls of a die. New dice are rolled for each N."""
    num_dice: int = 100_000
    """Dice for each N. The slower NSB entropy uses the first 5,000 of them."""
    alpha: float = 0.05
    """Level of the tests, and probability that an interval does not cover."""
    seed: int = 0
    """Seed of the rolls."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""

    def __post_init__(self) -> None:
        pmf_option("--probs", self.probs)
        if len(self.probs) < 2 or min(self.probs) == 0:
            raise UserError(
                f"--probs: expected two probabilities or more, all > 0, got {self.probs}"
            )
        if min(self.probs) < LEAST_PROBABILITY:  # theory squares its inverse
            raise UserError(
                f"--probs: expected at least {LEAST_PROBABILITY} each, got {min(self.probs)}"
            )
        if not self.num_rolls or sorted(set(self.num_rolls)) != list(self.num_rolls):
            raise UserError(f"--num-rolls: expected one or more, ascending, got {self.num_rolls}")
        for num_rolls in (self.num_rolls[0], self.num_rolls[-1]):
            if not 1 <= num_rolls <= MOST_ROLLS:
                raise UserError(f"--num-rolls: expected 1 to {MOST_ROLLS}, got {num_rolls}")
        if not FEWEST_DICE <= self.num_dice <= MOST_DICE:
            raise UserError(
                f"--num-dice: expected {FEWEST_DICE} to {MOST_DICE}, got {self.num_dice}"
            )
        if not 0 < self.alpha < 1:
            raise UserError(f"--alpha: expected between 0 and 1, got {self.alpha}")
        if self.alpha < LEAST_ALPHA:
            raise UserError(f"--alpha: expected at least {LEAST_ALPHA}, got {self.alpha}")
        check_seed("--seed", self.seed)


class Result(NamedTuple):
    """The measurements of a run.

    Attributes:
        config: the configuration.
        measurements: one for each N, in ascending order.
        sizes: of the tests, likewise.
    """

    config: Config
    measurements: tuple[Measurement, ...]
    sizes: tuple[Sizes, ...]


def run(config: Config, *, progress: Callable[[Sequence[int]], Iterable[int]] = iter) -> Result:
    """Roll all dice for each N.

    Args:
        config: the dice.
        progress: wraps the values of N, to show the progress of the run.
    """
    key, pmf = jax.random.key(config.seed), pmf_option("--probs", config.probs)
    measurements, sizes = [], []
    for num_rolls in progress(config.num_rolls):
        own = jax.random.fold_in(key, num_rolls)
        counts = roll(own, pmf, num_rolls=num_rolls, num_dice=config.num_dice)
        measurements.append(measure(counts, pmf, num_rolls=num_rolls, alpha=config.alpha))
        of_tests = jax.random.fold_in(own, 1)
        sizes.append(measure_sizes(of_tests, counts, pmf, alpha=config.alpha))
    return Result(config, tuple(measurements), tuple(sizes))


def save(result: Result, folder: RunFolder) -> None:
    """Write the measurements and the figures of a run."""
    lines = [
        _summarize(measurement) | sizes._asdict()
        for measurement, sizes in zip(result.measurements, result.sizes, strict=True)
    ]
    for line in lines:
        folder.log(**line)
    folder.summary({"pmf": result.config.probs, "measurements": lines})
    pmf, alpha, found = np.asarray(result.config.probs), result.config.alpha, result.measurements
    folder.figure("expected_kl", plots.draw_kl(found, pmf))
    folder.figure("entropy", plots.draw_entropy(found))
    folder.figure("wilks", plots.draw_wilks(found, len(pmf) - 1, alpha))
    folder.figure("coverage", plots.draw_coverage(found, alpha))
    folder.figure("sizes", plots.draw_sizes(result.config.num_rolls, result.sizes, alpha))


def _summarize(measurement: Measurement) -> dict[str, Any]:
    """Name the numbers of one N, each mean as [value, standard error]."""
    return {
        name: value._asdict() if name == "theory" else value
        for name, value in measurement._asdict().items()
        if name != "statistics"
    }


def show(result: Result, console: Console) -> None:
    """Print theory and measurement, number by number."""
    config, found = result.config, result.measurements
    console.print(
        f"{config.num_dice:,} dice for each N. Standard errors are in brackets, in units of the "
        "last digits."
    )
    table = new_table(
        "E KL(c / N || p), nats", ["N", "(K-1)/(2N)", "2nd order", "exact", "measured"]
    )
    for m in found:
        theory = (m.theory.first_order, m.theory.second_order, m.theory.kl)
        table.add_row(f"{m.num_rolls:,}", *(f"{x:.5g}" for x in theory), _text(m.kl))
    show_table(console, table)

    dof = len(config.probs) - 1
    table = new_table(
        "Wilks: G = 2 N KL(c / N || p) of the true pmf",
        ["N", "mean", "variance", f"rejected at {config.alpha:g}"],
    )
    table.add_row("theory", f"{dof}", f"{2 * dof}", f"{config.alpha:g}")
    for m, sizes in zip(found, result.sizes, strict=True):
        mean = Mean(2 * m.num_rolls * m.kl.value, 2 * m.num_rolls * m.kl.error)
        rejected = sizes.rejected["g_test"]
        table.add_row(f"{m.num_rolls:,}", _text(mean), _text(m.variance), _text(rejected))
    show_table(console, table)

    headings = ["", *(f"N = {size:,}" for size in config.num_rolls)]

    def by_method(
        title: str,
        measured: Sequence[Mapping[str, Mean]],
        theory: Sequence[Mapping[str, float]],
        scale: float,
        digits: int,
    ) -> Table:
        """Make a table of each method's measurements and, where known, the exact values."""
        table = new_table(title, headings)
        for method in measured[0]:
            values = (_text(_times(scale, m[method])) for m in measured)
            table.add_row(method.replace("_", " "), *values)
            if theory and method in theory[0]:
                exact = (f"{scale * t[method]:.{digits}f}" for t in theory)
                table.add_row("  exact", *exact, style="dim")
        return table

    title = f"Bias of the entropy estimators, 10^-3 nats (nsb: {NSB_DICE:,} dice at most)"
    exact = [m.theory.bias for m in found]
    show_table(console, by_method(title, [m.bias for m in found], exact, 1e3, 3))
    title = f"Coverage of intervals, %; nominal {100 * (1 - config.alpha):g}"
    exact = [m.theory.coverage for m in found]
    show_table(console, by_method(title, [m.coverage for m in found], exact, 100, 2))
    title = (
        f"Rejections of what is true, %; nominal {100 * config.alpha:g} (multinomial_test: exact, "
        f"or {SIMULATED_DICE:,} dice by simulated tables)"
    )
    show_table(console, by_method(title, [s.rejected for s in result.sizes], (), 100, 2))
    title = f"Coverage of intervals of mutual information, %; nominal {100 * (1 - config.alpha):g}"
    show_table(console, by_method(title, [s.held for s in result.sizes], (), 100, 2))


def _times(factor: float, mean: Mean) -> Mean:
    return Mean(factor * mean.value, factor * mean.error)


def _text(mean: Mean) -> str:
    """Format a mean and its standard error: 0.02481(12) is 0.02481 ± 0.00012.

    The error has two digits if they are below 20, otherwise one. It is 0 if all dice agree.
    """
    if mean.error == 0:
        return f"{mean.value:g}(0)"
    decimals = -math.floor(math.log10(mean.error))
    if mean.error * 10**decimals < 2:
        decimals += 1
    decimals = max(0, decimals)
    return f"{mean.value:.{decimals}f}({mean.error * 10**decimals:.0f})"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        config = parse_options(
            Config, argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        folder = RunFolder.create(NAME, config, config.runs_dir)
        with waiting(console, "rolling dice") as doing:

            def sizes(values: Sequence[int]) -> Iterator[int]:
                for number, size in enumerate(values, start=1):
                    doing(
                        f"rolling {config.num_dice:,} dice, N = {size:,} ({number}/{len(values)})"
                    )
                    yield size

            result = run(config, progress=sizes)
            doing("drawing")
            save(result, folder)
        show(result, console)
        say(console, f"Plots and numbers: {folder.path}")


if __name__ == "__main__":
    main()
