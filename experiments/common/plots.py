"""The style of all figures, legible at a README's width of about 800 pixels.

Figures are made without pyplot, so no backend, window or global setting is involved.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

# Based on Okabe and Ito's colours, which colour-blind readers can tell apart. Each has a different
# lightness, so that they differ in grey too. Each colour has its own marker.
PALETTE = ("#003A80", "#D55E00", "#56B4E9", "#00784F", "#EEC900", "#882E72", "#000000")
MARKERS = ("o", "D", "^", "v", "s", "P", "X")
GREY = "#7F7F7F"
WIDTH = 8.0  # inches; text of 10 points is then 14 of 800 pixels high
DOTS_PER_INCH = 200

Entries = tuple[Sequence[Any], Sequence[str]]


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    title: str = "",
    height: float = 4.5,
    grid: bool = True,
    **options: Any,
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure and its axes [rows, columns] in the common style.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        title: what the whole figure shows; `$` starts no formula in it.
        height: height of the whole figure in inches; its width is WIDTH.
        grid: draw grid lines; not useful for images.
        **options: passed to `Figure.subplots`, such as `sharey=True`.
    """
    figure = empty(height)
    if title:
        add_title(figure, title)
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False, **options))
    for ax in axes.flat:
        _dress(ax, grid=grid)
    return figure, axes


def empty(height: float) -> Figure:
    """Make a figure without axes."""
    return Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")


def add_title(figure: Figure, text: str, color: str = "black") -> None:
    """Write above everything what the figure shows."""
    figure.suptitle(legible(text), fontsize=11, color=color, parse_math=False)


def name_panel(ax: Axes, text: str) -> None:
    """Write above axes what they show, where a figure has several or no title of its own."""
    ax.set_title(text, fontsize=10, loc="left")


def add_legend(
    figure: Figure, *, columns: int = 3, entries: Entries | None = None, title: str | None = None
) -> None:
    """Explain lines and colours below everything, where no data are.

    Args:
        figure: the figure that gets the legend.
        columns: largest number of entries side by side.
        entries: artists and their labels; by default all labels of the axes, each once.
        title: a line above the entries.
    """
    if entries is None:
        named = {
            label: handle
            for ax in figure.axes
            for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        entries = [*named.values()], [*named]
    figure.legend(
        *entries,
        loc="outside lower center",
        ncols=min(columns, len(entries[1])) or 1,
        frameon=False,
        title=title,
        title_fontsize="medium",
    )


def legible(text: str) -> str:
    """Escape characters that the font has no glyph for as Python does: 你 becomes \\u4f60.

    They would all be drawn as the same box. matplotlib's setting `font.family` can name fonts with
    more glyphs.
    """
    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    return "".join(
        character
        if character.isspace() or any(font.get_char_index(ord(character)) for font in fonts)
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _dress(ax: Axes, *, grid: bool) -> None:
    ax.set_prop_cycle(color=PALETTE)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(color="0.9", linewidth=0.8)
        ax.set_axisbelow(True)
