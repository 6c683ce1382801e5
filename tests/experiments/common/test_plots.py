"""The common look comes without global settings and without pyplot's list of open figures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.colors import to_rgb

from experiments.common import plots


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


def test_images_want_no_grid():
    _, with_grid = plots.subplots()
    _, without = plots.subplots(grid=False)
    assert with_grid[0, 0].get_xgridlines()[0].get_visible()
    assert not without[0, 0].get_xgridlines()[0].get_visible()


def test_a_character_without_a_glyph_is_written_as_python_does():
    assert plots.legible("naïve α→β\n2 % $x_1$") == "naïve α→β\n2 % $x_1$"
    assert plots.legible("你 and 好") == r"\u4f60 and \u597d"
