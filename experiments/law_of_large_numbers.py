"""Roll a die again and again: the empirical pmf converges to the true one as N^(-1/2).

    p_N(k) = (1/N) sum_n [X_n = k] -> q(k),    standard deviation sqrt(q(k) (1 - q(k)) / N)

Each seed gives one sequence of rolls, and p_N is the share of each face among the first N of them,
for N evenly spaced on a logarithmic axis.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

import xentjax
from experiments.common import plots
from experiments.common.command import (
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

NAME = "law_of_large_numbers"
FIRST_ROLLS = 10  # with fewer the band is wider than the probabilities themselves
MOST_ROLLS = 10**8  # the rolls of a seed are held in memory at once
NUM_POINTS = 200
SHOWN_FACES = 6
MOST_DEVIATIONS = 1000  # the band is then wider than any plot


@dataclass(frozen=True)
class Config:
    """The die, and how often it is rolled."""

    probs: tuple[float, ...] = (0.05, 0.1, 0.15, 0.15, 0.2, 0.35)
    """Probability of each face; they sum to 1."""
    num_rolls: int = 1_000_000
    """Rolls for each seed."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Each seed is one independent sequence of rolls."""
    z: float = 1.96
    """Half width of the band in standard deviations; 95 % of all p_N(k) are within 1.96."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""

    def __post_init__(self) -> None:
        pmf_option("--probs", self.probs)
        if np.count_nonzero(self.probs) < 2:
            raise UserError("--probs: expected at least two faces with probabilities > 0, got one")
        if not 10 * FIRST_ROLLS <= self.num_rolls <= MOST_ROLLS:
            raise UserError(
                f"--num-rolls: expected {10 * FIRST_ROLLS} to {MOST_ROLLS}, got {self.num_rolls}"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds: expected one or more, all different, got {self.seeds}")
        for seed in self.seeds:
            check_seed("--seeds", seed)
        if not self.z > 0:
            raise UserError(f"--z: expected a number > 0, got {self.z}")
        if self.z > MOST_DEVIATIONS:
            raise UserError(f"--z: expected at most {MOST_DEVIATIONS}, got {self.z}")


class Result(NamedTuple):
    """The shares of K faces among the first N rolls of S seeds, for T values of N.

    Attributes:
        config: the configuration.
        rolls: int [T], the values of N.
        pmfs: float [S, T, K], p_N for each seed.
        deviations: float [S, T], max_k |p_N(k) - q(k)|.
        slope: of log(mean deviation) against log N; the law predicts -1/2.
        inside_band: share of all p_N(k) within z standard deviations of q(k).
    """

    config: Config
    rolls: NDArray[np.int64]
    pmfs: NDArray[np.float64]
    deviations: NDArray[np.float64]
    slope: float
    inside_band: float


def run(config: Config, *, progress: Callable[[Sequence[int]], Iterable[int]] = iter) -> Result:
    """Roll the die for every seed.

    Args:
        config: the die and the seeds.
        progress: wraps the seeds, to show the progress of the run.
    """
    pmf = pmf_option("--probs", config.probs)
    rolls = np.unique(np.geomspace(FIRST_ROLLS, config.num_rolls, NUM_POINTS).astype(np.int64))
    pmfs = np.stack([_empirical_pmfs(seed, pmf, rolls) for seed in progress(config.seeds)])
    q = np.asarray(config.probs)
    deviations = np.abs(pmfs - q).max(-1)
    half_width = config.z * _standard_deviation(q, rolls[:, None])
    return Result(
        config=config,
        rolls=rolls,
        pmfs=pmfs,
        deviations=deviations,
        slope=_slope(rolls, deviations.mean(0)),
        inside_band=float((np.abs(pmfs - q) <= half_width).mean()),
    )


def _empirical_pmfs(seed: int, pmf: jax.Array, rolls: NDArray[np.int64]) -> NDArray[np.float64]:
    """The empirical pmf [T, K] of the first N rolls of one sequence, for each N in `rolls`.

    Every roll is counted once, its class being its face and the first of the N that include it; the
    counts up to each N are then a cumulative sum.
    """
    num_faces = len(pmf)
    faces = xentjax.sample(jax.random.key(seed), pmf, (int(rolls[-1]),))
    first = np.repeat(np.arange(len(rolls), dtype=np.int32), np.diff(rolls, prepend=0))
    classes = jnp.asarray(first) * num_faces + faces
    counts = xentjax.counts(classes, len(rolls) * num_faces).reshape(len(rolls), num_faces)
    return np.asarray(xentjax.empirical_pmf(jnp.cumsum(counts, axis=0)), np.float64)


def _slope(rolls: NDArray[np.int64], deviations: NDArray[np.float64]) -> float:
    """Fit log deviation against log N, leaving out points where p_N happens to equal q."""
    seen = deviations > 0
    return float(np.polyfit(np.log(rolls[seen]), np.log(deviations[seen]), 1)[0])


def _standard_deviation(
    q: NDArray[np.float64] | float, rolls: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Compute the standard deviation of p_N(k) if X_n = k has probability q(k)."""
    return np.sqrt(q * (1 - np.asarray(q)) / rolls)


def save(result: Result, folder: RunFolder) -> None:
    """Write the measurements, the summary and the figures of a run."""
    for index, rolls in enumerate(result.rolls):
        folder.log(rolls=rolls, max_deviation=result.deviations[:, index])
    folder.summary(
        {
            "pmf": result.config.probs,
            "empirical_pmf": dict(zip(result.config.seeds, result.pmfs[:, -1], strict=True)),
            "max_deviation": dict(zip(result.config.seeds, result.deviations[:, -1], strict=True)),
            "slope": result.slope,
            "inside_band": result.inside_band,
        }
    )
    folder.figure("empirical_pmf", _draw_faces(result))
    folder.figure("deviation", _draw_deviation(result))


def _draw_faces(result: Result) -> Figure:
    """Plot p_N(k) of every seed, and the band around q(k), for the most probable faces."""
    config = result.config
    q = np.asarray(config.probs)
    shown = np.sort(np.argsort(-q, stable=True)[:SHOWN_FACES])
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plots.subplots(
        rows,
        columns,
        height=1.1 + 2.2 * rows,
        sharex=True,
        title="Shares of a die's faces approach their probabilities",
    )
    for ax, face in zip(axes.flat, shown, strict=False):
        half_width = config.z * _standard_deviation(float(q[face]), result.rolls)
        ax.fill_between(
            result.rolls,
            np.maximum(q[face] - half_width, 0),
            np.minimum(q[face] + half_width, 1),
            color=plots.GREY,
            alpha=0.25,
            linewidth=0,
            label=rf"$q(k) \pm {config.z:g}\sqrt{{q(k)\,(1-q(k))/N}}$",
        )
        ax.axhline(q[face], color="black", linewidth=1.2, label="$q(k)$")
        for seed, pmf in zip(config.seeds, result.pmfs[:, :, face], strict=True):
            label = "$p_N(k)$, a line for each seed" if seed == config.seeds[0] else None
            ax.plot(result.rolls, pmf, linewidth=1, alpha=0.9, label=label)
        ax.set_xscale("log")
        plots.name_panel(ax, f"face {face + 1}: $q$ = {q[face]:g}")
    for ax in axes.flat[len(shown) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("rolls $N$")
    for ax in axes[:, 0]:
        ax.set_ylabel("share of face $k$")
    plots.add_legend(figure)
    return figure


def _draw_deviation(result: Result) -> Figure:
    """Plot the largest deviation against N, and the law."""
    q = np.asarray(result.config.probs)
    title = "Largest deviation of a share from its probability"
    figure, axes = plots.subplots(height=4.6, title=title)
    ax = axes[0, 0]
    for deviations in result.deviations:
        ax.plot(result.rolls, deviations, color=plots.GREY, linewidth=0.9, alpha=0.55)
    ax.plot(
        result.rolls,
        result.deviations.mean(0),
        color=plots.PALETTE[0],
        linewidth=2.5,
        label=f"mean over seeds: slope ${result.slope:.2f}$",
    )
    spread = np.sqrt((q * (1 - q)).max())
    ax.plot(
        result.rolls,
        spread / np.sqrt(result.rolls),
        color="black",
        linestyle="--",
        linewidth=1.5,
        label=f"${spread:.2f}\\,N^{{-1/2}}$: standard deviation of the noisiest face",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("rolls $N$")
    ax.set_ylabel(r"$\max_k\,|p_N(k) - q(k)|$")
    plots.add_legend(figure, columns=2)
    return figure


def show(result: Result, console: Console) -> None:
    """Print the numbers of a run."""
    config = result.config
    final = result.pmfs[:, -1]
    title = f"After {config.num_rolls:,} rolls, {len(config.seeds)} seeds"
    headings = ["face k", "q(k)", "mean p_N(k)", "largest\n|p_N(k) - q(k)|", "band ±"]
    table = new_table(title, headings)
    for face, q in enumerate(config.probs):
        deviation = np.abs(final[:, face] - q).max()
        half_width = config.z * _standard_deviation(q, result.rolls[-1:])[0]
        table.add_row(
            str(face + 1),
            f"{q:g}",
            f"{final[:, face].mean():.5f}",
            f"{deviation:.1e}",
            f"{half_width:.1e}",
        )
    show_table(console, table)
    console.print(
        f"The largest deviation falls as N^({result.slope:.2f}); the law predicts N^(-0.5).\n"
        f"{result.inside_band:.1%} of all p_N(k) lie within {config.z:g} standard deviations."
    )


def run_and_save(config: Config, folder: RunFolder, console: Console) -> Result:
    """Run, show the progress, and write the results."""
    with waiting(console, "rolling a die") as doing:

        def seeds(values: Sequence[int]) -> Iterator[int]:
            for number, seed in enumerate(values, start=1):
                doing(f"rolling a die, seed {seed} ({number}/{len(values)})")
                yield seed

        result = run(config, progress=seeds)
        doing("drawing")
        save(result, folder)
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        config = parse_options(
            Config, argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        folder = RunFolder.create(NAME, config, config.runs_dir)
        result = run_and_save(config, folder, console)
        show(result, console)
        say(console, f"Plots and numbers: {folder.path}")


if __name__ == "__main__":
    main()
