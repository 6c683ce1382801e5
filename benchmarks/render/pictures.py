"""Pictures of the pages, drawn from the stored results alone.

Each file contains the digest of the JSON it was drawn from, which tells whether it shows the latest
results.
"""

import io
import re
from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from benchmarks.harness import timing
from benchmarks.harness.baselines import OURS
from benchmarks.harness.figures import STYLES, add_title, words
from benchmarks.harness.report import Cell, Result
from benchmarks.render import stored
from experiments.common import plots
from experiments.common.estimates import Estimate
from experiments.loss_comparison import Result as Trained, draw as draw_losses

FARTHEST = 16.0  # end of the profile's horizontal axis
COLORS = 64  # enough for lines and text, at a third of the size
DIGEST = "measured"
"""Key of the digest within a file."""


def profile() -> Figure:
    """Plot the share of the losses' cases in which a library is within a factor of the fastest."""
    result = stored.result("losses")
    modes = result.modes()
    figure, (panels,) = plots.subplots(1, len(modes), height=3.6, sharey=True)
    every = [
        name for name in result.implementations if any(name in c.seconds for c in result.cells)
    ]
    for ax, mode in zip(panels, modes, strict=True):
        cells = [cell for cell in result.cells if cell.mode == mode]
        for name, (color, marker) in zip(every, STYLES, strict=False):
            factors = sorted(_factor(result, cell, name) for cell in cells if name in cell.seconds)
            shares = np.arange(1, len(factors) + 1) / len(cells)
            ax.step(
                [1.0, *factors, FARTHEST],
                [0.0, *shares, shares[-1]],
                where="post",
                color=color,
                linewidth=2.5 if name == OURS else 1.5,
            )
            ax.plot(
                factors, shares, marker, color=color, markersize=5, label=words(name), clip_on=False
            )
        ax.set_xscale("log", base=2)
        ax.set_xlim(1.0, FARTHEST)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_xlabel("time / the fastest's")
        plots.name_panel(ax, f"{words(mode)}, {len(cells)} shapes")
    panels[0].set_ylim(0, 1.03)
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    panels[0].set_ylabel("share of the shapes")
    plots.add_legend(figure)
    add_title(
        figure, result, "share of the shapes in which a library is within a factor of the fastest"
    )
    return figure


def pareto() -> Figure:
    """Plot time against scratch memory of linear losses; lines join the variants of a library."""
    result = stored.result("linear")
    count = len(result.cells)
    figure, axes = plots.subplots(-(-count // 2), 2, height=0.9 + 2.9 * -(-count // 2))
    libraries = dict.fromkeys(
        library(name) for cell in result.cells for name in cell.seconds if cell.temp_bytes.get(name)
    )
    styles = dict(zip(libraries, STYLES, strict=False))
    for ax, cell in zip(axes.flat, result.cells, strict=False):
        for name, (color, marker) in styles.items():
            points = sorted(
                (temp / 1e6, timing.quartiles(samples).median)
                for variant, samples in cell.seconds.items()
                if library(variant) == name and (temp := cell.temp_bytes.get(variant))
            )
            if points:
                ax.plot(*zip(*points, strict=True), marker + "-", color=color, label=name)
        _plain_log(ax.xaxis, ax.set_xscale)
        ax.set_ylim(0, 1.08 * ax.get_ylim()[1])
        ax.set_xlabel("scratch memory, MB")
        ax.set_ylabel("s")
        plots.name_panel(ax, f"{cell.case}, {words(cell.mode)}")
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    plots.add_legend(figure, columns=4)
    add_title(figure, result, "time and scratch memory: low and left is better")
    return figure


def roofline() -> Figure:
    """Plot operations per second over operations per byte, below the machine's two limits."""
    title = "Rates of all cases beside the limits of the machine"
    figure, (panels,) = plots.subplots(1, 2, height=4.4, title=title)
    styles: dict[str, tuple[str, str]] = {}
    for ax, name, intensity in zip(
        panels, ("losses", "linear"), (_intensity_of_loss, _intensity_of_layer), strict=True
    ):
        result = stored.result(name)
        machine = result.machine
        points: dict[str, list[tuple[float, float]]] = {}
        for cell in result.cells:
            operations, moved = intensity(cell)
            for each, samples in cell.seconds.items():
                rate = operations / timing.quartiles(samples).median / 1e9
                points.setdefault(library(each), []).append((operations / moved, rate))
        intensities = [x for pairs in points.values() for x, _ in pairs]
        x = np.geomspace(0.3 * min(intensities), 3 * max(intensities), 100)
        roof = np.minimum(x * machine.read_bandwidth, machine.gemm)
        ax.plot(x, roof, color="black", linewidth=1.5, label="limit: reading, matrix product")
        order = [OURS, *(each for each in points if each != OURS)]
        for each in order:
            color, marker = styles.setdefault(each, STYLES[len(styles) % len(STYLES)])
            size = 7 if each == OURS else 4
            ax.plot(
                *zip(*points[each], strict=True),
                marker,
                color=color,
                markersize=size,
                label=each,
                zorder=3 if each == OURS else 2,
            )
        _plain_log(ax.xaxis, ax.set_xscale)
        _plain_log(ax.yaxis, ax.set_yscale)
        ax.set_xlabel("operations a byte")
        plots.name_panel(ax, f"{name}: {machine.processor}, {machine.date[:10]}")
    panels[0].set_ylabel("GFLOP/s")
    plots.add_legend(figure, columns=4)
    return figure


def _intensity_of_loss(cell: Cell) -> tuple[float, float]:
    """Return operations (compare, subtract, exponential, add per logit and pass), and bytes."""
    passes = 1 if cell.mode == "forward" else 2
    moved = 1e9 * cell.work
    logits = moved / 4 / (1 if cell.mode == "forward" else 3)
    return 4 * passes * logits, moved


def _intensity_of_layer(cell: Cell) -> tuple[float, float]:
    """Return the operations of the matrix products, and the bytes of their arrays."""
    n, d, k = map(int, re.findall(r"\d+", cell.case)[:3])
    size = 2 if "bf16" in cell.case else 4
    return 1e9 * cell.work, size * (n * d + d * k) * (1 if cell.mode == "loss" else 3)


def _plain_log(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """Make an axis logarithmic, with numbers in plain notation."""
    set_scale("log")
    axis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def losses_compared() -> Figure:
    """Plot accuracy and calibration of a network trained with five losses."""

    def estimate(values: dict[str, Any]) -> Estimate:
        unknown: dict[str, Any] = dict.fromkeys(("sd", "standard_error", "lower", "upper"), nan)
        return Estimate(**unknown | values)

    summary = stored.load("loss_comparison")["summary"]
    return draw_losses(
        {
            loss: Trained(
                {name: estimate(each) for name, each in values["figures"].items()},
                estimate(values["difference"]),
            )
            for loss, values in summary.items()
        }
    )


def library(name: str) -> str:
    """Name the library of an implementation."""
    return re.split(r", | in | \(", words(name))[0]


def _factor(result: Result, cell: Cell, name: str) -> float:
    """Return the time over the fastest's of a cell, from ratios to ours within the rounds."""
    ratios = [result.ratio(cell, each) or 1.0 for each in cell.seconds]
    return (result.ratio(cell, name) or 1.0) / min(ratios)


PICTURES: dict[str, tuple[tuple[str, ...], Callable[[], Figure]]] = {
    "losses": (("losses",), lambda: stored.result("losses").figure()),
    "linear": (("linear",), lambda: stored.result("linear").figure()),
    "categorical": (("categorical",), lambda: stored.categorical().figure()),
    "training": (("training",), lambda: stored.result("training").figure()),
    "profile": (("losses",), profile),
    "pareto": (("linear",), pareto),
    "loss_comparison": (("loss_comparison",), losses_compared),
    "roofline": (("losses", "linear"), roofline),
}
"""Names of each picture's stored results, and the function that draws it."""


def save(name: str, folder: Path) -> None:
    """Draw a picture into a folder, with the digest of its stored results."""
    names, draw = PICTURES[name]
    drawn = io.BytesIO()
    draw().savefig(drawn, format="png")
    note = PngInfo()
    note.add_text(DIGEST, stored.digest(*names))
    with Image.open(drawn) as image:
        small = image.convert("RGB").quantize(COLORS)
    small.save(folder / f"{name}.png", optimize=True, pnginfo=note)


def is_current(name: str, folder: Path) -> bool:
    """Whether a picture was drawn from the present stored results."""
    path = folder / f"{name}.png"
    if not path.exists():
        return False
    with Image.open(path) as image:
        return image.info.get(DIGEST) == stored.digest(*PICTURES[name][0])
