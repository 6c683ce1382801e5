"""The style of all figures, legible at a README's width of about 800 pixels.

Figures are made without pyplot, so no backend, window or global setting is involved.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

# Okabe and Ito's colours, which colour-blind readers can tell apart, without the pale yellow.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#7F7F7F"
WIDTH = 8.0  # inches; text of 10 points is then 14 of 800 pixels high
DOTS_PER_INCH = 200


def subplots(
    rows: int = 1, columns: int = 1, *, height: float = 4.5, grid: bool = True, **options: Any
) -> tuple[Figure, NDArray[Any]]:
    """Make a figure and its axes [rows, columns] in the common style.

    Args:
        rows: rows of axes.
        columns: columns of axes.
        height: height of the whole figure in inches; its width is WIDTH.
        grid: draw grid lines; not useful for images.
        **options: passed to `Figure.subplots`, such as `sharey=True`.
    """
    figure = Figure(figsize=(WIDTH, height), dpi=DOTS_PER_INCH, layout="constrained")
    axes = np.asarray(figure.subplots(rows, columns, squeeze=False, **options))
    for ax in axes.flat:
        _dress(ax, grid=grid)
    return figure, axes


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
