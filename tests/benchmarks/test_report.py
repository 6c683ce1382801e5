"""Reports: figures by hand, tables that fit the screen, marks of partial runs, files."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from benchmarks.harness import baselines, cases, output
from benchmarks.harness.tables import Extent
from benchmarks.losses import implementations
from tests.support.benchmarking import MACHINE, RESULT


def test_result_ratios():
    first, second = RESULT.cells
    assert RESULT.ratio(first, "optax") == pytest.approx(3.0)
    assert RESULT.ratio(first, "torch") is None
    assert RESULT.fastest_baseline(second) == ("optax", 0.5)
    cells = (first, dataclasses.replace(second, mode="forward"), second)
    result = dataclasses.replace(RESULT, cells=cells)
    assert result.mean_ratio("optax", "forward") == pytest.approx(1.5**0.5)
    assert result.mean_ratio("optax", "value_and_grad") == pytest.approx(0.5)
    assert result.mean_ratio("torch", "forward") is None


def test_markdown_holds_the_figures():
    text = output.markdown(RESULT)
    assert "| case | mode | ms | ± | GB/s | limit | optax | torch | best |" in text
    # median 2 ms, quartiles 1.5 and 3: half their distance is 37.5 %; 0.02 GB in 2 ms is 10 GB/s
    assert "| 8 × 4 | forward | 2.00 | ±38% | 10.0 | 50% | 3.00× | not installed | 3.00× |" in text
    assert "| 8 × 4 | value_and_grad | 4.00 | ±0% | 5.00 | - | 0.50× | not installed |" in text
    assert "| geometric mean | forward |  |  |  |  | 3.00× | not installed |  |" in text
    assert "| geometric mean | value_and_grad |  |  |  |  | 0.50× | not installed |  |" in text
    assert "| 8 × 4 | forward | 0 | 2.50 |" in text
    assert "| 8 × 4 | value_and_grad | 0.00100 | unknown |" in text
    assert "compilation of all cells: xentjax 0.5 s, optax 1.0 s" in text
    assert "Abacus 3000, 2 cores (cpu)" in text
    assert text.endswith("- a note\n")


def terminal(result, width):
    """Print a result on a terminal of that width, and return the text."""
    stream = io.StringIO()
    output.print_terminal(result, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("missing", ["nothing", baselines.TORCH])
def test_terminal_tables_fit_eighty_columns(missing):
    # The real benchmark's columns.
    names = (*implementations.JAX_LOSSES, baselines.TORCH)
    times = {name: [0.0123] * 3 for name in names if name != missing}
    compiled = dict.fromkeys(implementations.JAX_LOSSES, 0.1)
    cell = dataclasses.replace(
        RESULT.cells[1], seconds=times, limit_seconds=[0.01] * 3, compile_seconds=compiled
    )
    others = tuple(name for name in names if name != baselines.OURS)
    result = dataclasses.replace(RESULT, cells=(cell,), baselines=others)
    text = terminal(result, 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert ("installed" in text) == (missing == baselines.TORCH)
    assert any(line.split()[:3] == ["value_and_grad", "12.3", "±0%"] for line in lines)
    # one table, the last of all, with what its columns mean beneath it
    assert sum(line.startswith("value_and_grad") for line in lines) == 3  # memory, time, mean
    after = text[text.index("Time of xentjax") :]
    assert "- ms: median" in after
    assert "best: that of the fastest baseline" in after


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_no_width_cuts_a_word_or_a_number(width):
    names = (*implementations.JAX_LOSSES, baselines.TORCH)
    times = {name: [k + 1.125, k + 1.25, k + 2.0] for k, name in enumerate(names)}
    cells = [
        dataclasses.replace(RESULT.cells[0], mode=mode, seconds=times, limit_seconds=[0.5] * 3)
        for mode in cases.MODES
    ]
    others = tuple(name for name in names if name != baselines.OURS)
    result = dataclasses.replace(RESULT, cells=tuple(cells), baselines=others)
    text = terminal(result, width)
    lines = text.splitlines()
    assert "…" not in text
    assert max(map(len, lines)) <= max(width, 26)  # a name and the longest number
    words = text.split()
    (sheet,) = (sheet for sheet in result.sheets() if sheet.title.startswith("Time"))
    for row in sheet.rows:
        for number in row[2:]:
            assert all(part in words for part in number.split())
    for part in ("value_and_grad", "one-hot", "integer", "eager", "Abacus"):
        assert part in words


@pytest.mark.parametrize(
    ("extent", "mark"),
    [
        (Extent(quick=True), "QUICK"),
        (Extent(interrupted="losses, case 2 of 3, 4 of 15 rounds"), "INTERRUPTED"),
        (Extent(cases=(3, 12)), "3 of 12 cases"),
        (Extent(rivals=("optax",)), "only optax"),
    ],
)
def test_less_than_a_whole_run_says_so_everywhere_and_has_no_means(extent, mark, tmp_path):
    result = dataclasses.replace(RESULT, extent=extent)
    text = output.markdown(result)
    assert text.count(f"**{mark}: ") == len(result.sheets()) == 2
    assert "geometric mean" not in text
    assert f"- {extent.lines()[0]}" in text
    printed = terminal(result, 80)
    assert printed.startswith(f"- {mark}")
    assert printed.count(f"\n{mark}: ") == 2
    assert "geometric mean" not in printed
    assert result.figure().get_suptitle().startswith(f"{mark}: demo")
    stored = json.loads((output.save(result, tmp_path) / "demo.json").read_text())
    assert (stored["quick"], stored["interrupted"]) == extent[:2]
    assert stored["cases"] == (extent.cases and list(extent.cases))
    assert "geometric_mean_ratio" not in stored


def test_save_writes_json_and_png_once(tmp_path):
    folder = output.save(RESULT, tmp_path / "results", fingerprint={"cores": 2})
    assert folder == tmp_path / "results" / "demo-2026-01-02T03-04-05"
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "demo.png"]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG\r\n")
    stored = json.loads((folder / "demo.json").read_text())
    assert stored["machine"] == MACHINE.as_dict()
    assert stored["fingerprint"] == {"cores": 2}
    assert stored["geometric_mean_ratio"] == {
        "forward": {"optax": pytest.approx(3.0), "torch": None},
        "value_and_grad": {"optax": pytest.approx(0.5), "torch": None},
    }
    cell = stored["cells"][0]
    assert cell["implementations"]["torch"] == "not installed"
    optax = cell["implementations"]["optax"]
    assert optax["samples"] == [0.003, 0.006, 0.012]
    assert optax["seconds"]["median"] == 0.006
    assert optax["ratio"] == pytest.approx(3.0)
    assert optax["rate"] == pytest.approx(0.02 / 0.006)
    assert optax["share_of_limit"] == pytest.approx(1 / 6)
    assert optax["temp_bytes"] == 2_500_000
    with pytest.raises(FileExistsError):
        output.save(RESULT, tmp_path / "results")


def test_save_leaves_no_half_written_file_behind_a_good_name(tmp_path, monkeypatch):
    def interrupted(path, text):
        path.write_bytes(text[:10].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(output.Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output.save(RESULT, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_figure_draws_every_ratio_and_nothing_that_is_missing():
    drawing = RESULT.figure()
    (axes,) = drawing.axes
    points = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections}
    np.testing.assert_allclose(points["optax"][:, 0], [3.0, 0.5])
    assert not any("torch" in str(label) for label in points)
    assert axes.get_xscale() == "log"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["8 × 4, forward", "8 × 4, with gradient"]
