"""Parts of plots that the reports share: styles, readable names, axes of ratios, titles."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.harness.tables import Report
from experiments.common import methods, plots

STYLES = (*zip(plots.PALETTE, plots.MARKERS, strict=True), ("#A6A6A6", "*"), ("#5C5C5C", "h"))
"""A colour and a marker for each line."""
NAMES = {
    "value_and_grad": "with gradient",
    "SGD step": "descent step",
    "torch eager": "PyTorch (eager)",
    "torch naive": "PyTorch, stored logits",
    "torch chunked": "PyTorch, chunks",
    "gradients_in_forward": "xentjax, gradients with the loss",
    "linear_log_probs": "xentjax, by log-probabilities",
}
"""Words for identifiers of modes and implementations."""


def words(name: str) -> str:
    """Name a mode or an implementation for people."""
    if name.startswith("max_bytes="):
        return f"xentjax in {name.removeprefix('max_bytes=').replace('MiB', ' MiB')}"
    return (NAMES | methods.NAMES).get(name, name)


def draw_ratio_axis(axes: Axes, base: int) -> None:
    """Make the horizontal axis show ratios to our time on a log scale, with a line at 1."""
    axes.axvline(1.0, color="black", linewidth=1.5)
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    low, high = axes.get_xlim()
    if base == 10 and high < 100 * low:
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
    axes.set_axisbelow(True)


def label_ratio_axis(axes: Axes, ours: str) -> None:
    """Label an axis of ratios."""
    axes.set_xlabel(f"time / {ours}'s time, log scale (right of 1×: {ours} is faster)")


def add_title(drawing: Figure, result: Report, text: str) -> None:
    """Add the benchmark, the machine and the date; in red if the run is incomplete."""
    machine = result.machine
    plots.add_title(
        drawing,
        f"{result.extent.mark}{result.name}, {text}\n"
        f"{machine.processor}, {machine.cores} cores, {machine.date[:10]}",
        color="black" if result.extent.whole else "#B00020",
    )
