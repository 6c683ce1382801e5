"""The common look comes without global settings and without pyplot's list of open figures."""

from itertools import pairwise

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from experiments.common import plots


def lightness(color):
    """Return CIE L*, 0 for black and 100 for white, after IEC 61966-2-1."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    y = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * y ** (1 / 3) - 16 if y > 0.008856 else 903.3 * y


def test_a_figure_changes_no_global_setting():
    before = dict(mpl.rcParams)
    figure, axes = plots.subplots(2, 3, height=5, sharex=True)
    assert dict(mpl.rcParams) == before
    assert plt.get_fignums() == []
    assert axes.shape == (2, 3)
    assert figure.get_size_inches().tolist() == [plots.WIDTH, 5]


def test_lines_take_the_palette_in_turn():
    _, axes = plots.subplots()
    lines = [axes[0, 0].plot([0, 1])[0] for _ in plots.PALETTE]
    assert [to_rgb(line.get_color()) for line in lines] == [to_rgb(c) for c in plots.PALETTE]


def test_colours_differ_in_grey_too():
    levels = sorted(map(lightness, plots.PALETTE))
    assert min(b - a for a, b in pairwise(levels)) > 8
    assert levels[-1] < 85  # visible on white


def test_a_legend_is_below_the_axes_and_names_each_label_once():
    figure, axes = plots.subplots(1, 2, title="100 $ and %")
    for ax in axes[0]:
        ax.plot([0, 1], label="a line")
    plots.add_legend(figure)
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a line"]
    assert legend.get_window_extent().y1 < axes[0, 0].get_window_extent().y0


def test_images_want_no_grid():
    _, with_grid = plots.subplots()
    _, without = plots.subplots(grid=False)
    assert with_grid[0, 0].get_xgridlines()[0].get_visible()
    assert not without[0, 0].get_xgridlines()[0].get_visible()


def test_a_character_without_a_glyph_is_written_as_python_does():
    assert plots.legible("naïve α→β\n2 % $x_1$") == "naïve α→β\n2 % $x_1$"
    assert plots.legible("你 and 好") == r"\u4f60 and \u597d"
