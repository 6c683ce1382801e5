"""Parts of plots that the reports share: colours, axes of ratios, titles."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.harness.tables import Report

# Okabe and Ito's colours, distinct for colour-blind readers, each with a marker for grey prints.
STYLES = (
    ("#999999", "s"),
    ("#56B4E9", "^"),
    ("#009E73", "v"),
    ("#0072B2", "o"),
    ("#D55E00", "D"),
    ("#CC79A7", "P"),
    ("#E69F00", "X"),
    ("#000000", "*"),
)


def draw_ratio_axis(axes: Axes, base: int) -> None:
    """Make the horizontal axis one of ratios to our time, logarithmic, with a line at 1."""
    axes.axvline(1.0, color="black", linewidth=1.5)
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_axisbelow(True)


def label_ratio_axis(axes: Axes, ours: str) -> None:
    """Label that axis."""
    axes.set_xlabel(f"time / {ours}'s time, log scale (right of 1×: {ours} is faster)")


def add_title(drawing: Figure, result: Report, text: str) -> None:
    """Add the benchmark, the machine and the date; in red if the run is not whole."""
    machine = result.machine
    drawing.suptitle(
        f"{result.extent.mark}{result.name}, {text}\n"
        f"{machine.processor}, {machine.cores} cores, {machine.date[:10]}",
        fontsize=10,
        color="black" if result.extent.whole else "#B00020",
    )
