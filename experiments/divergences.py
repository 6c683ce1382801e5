"""Cross-entropy and the divergences: the cost of a model q that is not p, in three units.

    H(p, q) = -sum_k p(k) log q(k) = H(p) + KL(p || q)
    KL(p || q) = sum_k p(k) log(p(k) / q(k)) >= 0, and 0 at q = p alone
    JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2,  m = (p + q) / 2

KL(p || q) penalises a model that gives little probability to outcomes that happen, KL(q || p) one
that gives much to outcomes that do not. The triangle of all pmfs of three outcomes shows where.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.tri import Triangulation
from numpy.typing import NDArray
from rich.console import Console

import xentjax
from experiments.common import plots
from experiments.common.command import (
    UserError,
    one_line_errors,
    parse_options,
    pmf_option,
    say,
)
from experiments.common.run_folder import RUNS, RunFolder
from experiments.common.tables import new_table, show as show_table
from experiments.common.waiting import waiting

NAME = "divergences"
UNITS = ("nats", "bits", "hartleys")
NUM_STEPS = 200  # along an axis of the plots
TOP = 2.0  # nats, where the colours end, since divergences are infinite on the triangle's edges
CORNERS = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, np.sqrt(0.75)]])

CROSS_ENTROPY = "H(p, q)"
FORWARD = "KL(p || q)"
REVERSE = "KL(q || p)"
JENSEN_SHANNON = "JS(p, q)"


@dataclass(frozen=True)
class Config:
    """The pmfs to compare."""

    p: tuple[float, float, float] = (0.6, 0.3, 0.1)
    """The true pmf over three outcomes; its probabilities sum to 1."""
    q: tuple[float, float, float] = (0.2, 0.3, 0.5)
    """The model that the table compares with p; the triangle shows all models."""
    bernoulli: float = 0.3
    """The true probability of the first of two outcomes, for the curves."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""

    def __post_init__(self) -> None:
        pmf_option("--p", self.p)
        if min(self.p) == 0:
            raise UserError("--p: expected probabilities > 0 (KL(q || p) is infinite), got a 0")
        pmf_option("--q", self.q)
        if not 0 < self.bernoulli < 1:
            raise UserError(f"--bernoulli: expected between 0 and 1, got {self.bernoulli}")


class Result(NamedTuple):
    """The measures, in nats where no unit is named.

    Attributes:
        config: the configuration.
        units: measure -> unit -> its value for the pair p, q of the configuration.
        thetas: float [T], the model's probability in `curves`.
        curves: measure -> float [T], of the Bernoulli pmfs.
        models: float [M, 3], the models in `triangle`, a grid over the simplex.
        triangle: measure -> float [M].
    """

    config: Config
    units: dict[str, dict[str, float]]
    thetas: NDArray[np.float32]
    curves: dict[str, NDArray[np.float32]]
    models: NDArray[np.float32]
    triangle: dict[str, NDArray[np.float32]]


def run(config: Config) -> Result:
    """Compare p with q and with all models of three outcomes, and a coin with all coins."""
    p, q = pmf_option("--p", config.p), pmf_option("--q", config.q)
    thetas = np.linspace(0, 1, NUM_STEPS + 1, dtype=np.float32)[1:-1]
    coin = np.array([1 - config.bernoulli, config.bernoulli], np.float32)
    models = _simplex_grid()
    return Result(
        config=config,
        units=_in_all_units(p, q),
        thetas=thetas,
        curves=_measure(coin, np.stack([1 - thetas, thetas], -1)),
        models=models,
        triangle=_measure(np.asarray(p), models),
    )


def _measure(p: NDArray[np.float32], models: NDArray[np.float32]) -> dict[str, NDArray]:
    """Compute each measure [M] of one p [K] and every model [M, K], in nats."""
    p = np.broadcast_to(p, models.shape)
    return {
        CROSS_ENTROPY: np.asarray(xentjax.cross_entropy(p, models)),
        FORWARD: np.asarray(xentjax.kl_divergence(p, models)),
        REVERSE: np.asarray(xentjax.kl_divergence(models, p)),
        JENSEN_SHANNON: np.asarray(xentjax.js_divergence(p, models)),
    }


def _in_all_units(p: jnp.ndarray, q: jnp.ndarray) -> dict[str, dict[str, float]]:
    """Compute every measure of a pair, in every unit."""
    measures = {
        "H(p)": lambda unit: xentjax.entropy(p, base=unit),
        "H(q)": lambda unit: xentjax.entropy(q, base=unit),
        CROSS_ENTROPY: lambda unit: xentjax.cross_entropy(p, q, base=unit),
        "H(q, p)": lambda unit: xentjax.cross_entropy(q, p, base=unit),
        FORWARD: lambda unit: xentjax.kl_divergence(p, q, base=unit),
        REVERSE: lambda unit: xentjax.kl_divergence(q, p, base=unit),
        JENSEN_SHANNON: lambda unit: xentjax.js_divergence(p, q, base=unit),
    }
    return {
        name: {unit: float(measure(unit)) for unit in UNITS} for name, measure in measures.items()
    }


def _simplex_grid() -> NDArray[np.float32]:
    """Return all pmfs [M, 3] whose probabilities are multiples of 1 / NUM_STEPS."""
    i, j = np.meshgrid(*[np.arange(NUM_STEPS + 1)] * 2, indexing="ij")
    inside = i + j <= NUM_STEPS
    i, j = i[inside], j[inside]
    return (np.stack([i, j, NUM_STEPS - i - j], -1) / NUM_STEPS).astype(np.float32)


def save(result: Result, folder: RunFolder) -> None:
    """Write the measurements, the summary and the figures of a run."""
    for index, theta in enumerate(result.thetas):
        folder.log(theta=theta, **{name: curve[index] for name, curve in result.curves.items()})
    folder.summary(result.units)
    folder.figure("bernoulli", _draw_curves(result))
    folder.figure("simplex", _draw_triangles(result))


def _draw_curves(result: Result) -> Figure:
    """Plot the measures of two coins, with an axis for each unit."""
    coin = result.config.bernoulli
    figure, axes = plots.subplots(height=4.8, title="Cost of a model q of a coin")
    ax = axes[0, 0]
    for (name, curve), style in zip(result.curves.items(), ("-", "-", "--", "-."), strict=True):
        ax.plot(result.thetas, curve, linestyle=style, linewidth=2, label=name)
    ax.axvline(coin, color=plots.GREY, linewidth=1)
    ax.annotate(
        "q = p", (coin, 0), (6, 6), textcoords="offset points", color="0.3", ha="left", va="bottom"
    )
    ax.set_xlim(0, 1)
    ax.set_ylim(0, TOP)
    ax.set_xlabel(f"q, the model's probability of the outcome; p = {coin:g}")
    ax.set_ylabel("nats")
    for position, unit in zip((1.0, 1.13), UNITS[1:], strict=True):
        axis = ax.secondary_yaxis(position, functions=_conversions(unit))
        axis.set_ylabel(unit)
    plots.add_legend(figure, columns=len(result.curves))
    return figure


def _conversions(unit: Any) -> tuple[Callable[[NDArray], NDArray], Callable[[NDArray], NDArray]]:
    """Convert nats to `unit` and back; H(1/2, 1/2) = log 2 nats gives the size of the unit."""
    coin = np.array([0.5, 0.5], np.float32)
    nats = np.log(2) / float(xentjax.entropy(coin, base=unit))
    return lambda y: y / nats, lambda y: y * nats


def _draw_triangles(result: Result) -> Figure:
    """Plot every model of three outcomes as a point of the triangle, coloured by its cost."""
    x, y = (result.models @ CORNERS.astype(np.float32)).T
    grid = Triangulation(x, y)
    values = result.triangle
    title = "Every point is a model q; its colour is its cost under the true p"
    figure, axes = plots.subplots(2, 2, height=6.7, grid=False, title=title)
    asymmetry = f"{FORWARD} − {REVERSE}"
    panels = {name: values[name] for name in (CROSS_ENTROPY, FORWARD, REVERSE)}
    panels[asymmetry] = values[FORWARD] - values[REVERSE]
    for ax, (title, costs) in zip(axes.flat, panels.items(), strict=True):
        if title == asymmetry:
            levels, colors, extend = np.linspace(-TOP / 4, TOP / 4, 11), "PuOr", "both"
        else:
            levels, colors, extend = np.linspace(0, TOP, 11), "viridis", "max"
        # Contours need finite numbers; all beyond the last level have one colour.
        finite = np.minimum(costs, 2 * TOP)
        filled = ax.tricontourf(grid, finite, levels, cmap=colors, extend=extend)
        ax.tricontour(grid, finite, levels, colors="black", linewidths=0.4, alpha=0.6)
        figure.colorbar(filled, ax=ax, label="nats", shrink=0.85)
        ax.set_title(title, loc="left", fontsize=11, pad=12)
        _mark_pmfs(ax, result.config)
    return figure


def _mark_pmfs(ax: Axes, config: Config) -> None:
    """Label each corner by its certain outcome, and mark the pair of the table."""
    ax.set_aspect("equal")
    ax.set_axis_off()
    for outcome, (corner, offset) in enumerate(
        zip(CORNERS, ((0, -14), (0, -14), (20, -6)), strict=True), start=1
    ):
        ax.annotate(
            f"k = {outcome}", tuple(corner), offset, textcoords="offset points", ha="center"
        )
    halo = [withStroke(linewidth=3, foreground="white")]
    for name, pmf in (("p", config.p), ("q", config.q)):
        point = tuple(np.asarray(pmf) @ CORNERS)
        ax.plot(*point, "o", color="white", markeredgecolor="black", markersize=6)
        ax.annotate(
            name, point, (6, 4), textcoords="offset points", weight="bold", path_effects=halo
        )


def show(result: Result, console: Console) -> None:
    """Print the measures of the pair in all units."""
    title = f"p = {_text(result.config.p)}, q = {_text(result.config.q)}"
    table = new_table(title, ["measure", *UNITS])
    for name, values in result.units.items():
        table.add_row(name, *(f"{values[unit]:.4f}" for unit in UNITS))
    show_table(console, table)


def _text(pmf: Sequence[float]) -> str:
    return "(" + ", ".join(f"{probability:g}" for probability in pmf) + ")"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    with one_line_errors():
        config = parse_options(
            Config, argv, prog=f"python -m experiments.{NAME}", description=__doc__
        )
        console = Console()
        folder = RunFolder.create(NAME, config, config.runs_dir)
        with waiting(console, "measuring and drawing"):
            result = run(config)
            save(result, folder)
        show(result, console)
        say(console, f"Plots and numbers: {folder.path}")


if __name__ == "__main__":
    main()
