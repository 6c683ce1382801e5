"""Pages and pictures are those of the stored results, and nothing measured is written by hand."""

import json
import math
import re

import matplotlib.image
import numpy as np
import pytest

from benchmarks.harness import timing
from benchmarks.harness.tables import NOT_INSTALLED
from benchmarks.render import command, pictures, runs, stored, tables
from tests.support.benchmarking import exit_code
from tests.support.paths import ROOT

RESULTS = sorted((ROOT / "docs" / "results").glob("*.md"))
READMES = (ROOT / "README.md", ROOT / "benchmarks" / "measured" / "README.md")
# A number with a unit of measurements; outside of the marked parts there is none.
MEASURED = re.compile(r"\d[\d.,]* ?(×(?! \w|\w)|%|ms\b|MB\b|GB/s|GFLOP/s|images/s|nats\b)")
PRIVATE = re.compile(r"/(work|tmp|root|home)/")


@pytest.mark.parametrize("name", ["losses", "linear", "heads", "training"])
def test_stored_statistics_follow_from_the_samples(name):
    values, result = stored.load(name), stored.result(name)
    derived = result.as_json()
    for old, new in zip(values["cells"], derived["cells"], strict=True):
        for implementation, entry in old["implementations"].items():
            if entry != NOT_INSTALLED:
                again = new["implementations"][implementation]
                assert entry["seconds"] == pytest.approx(again["seconds"])
                assert entry["ratio"] == pytest.approx(again["ratio"])
    for mode, means in values.get("geometric_mean_ratio", {}).items():
        known = {name: mean for name, mean in means.items() if mean is not None}
        assert known == pytest.approx(derived["geometric_mean_ratio"][mode])


@pytest.mark.parametrize("path", command.pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_shows_what_is_stored(path):
    text = path.read_text()
    assert command.render(text) == text, "python -m benchmarks render renews it"


@pytest.mark.parametrize("path", [*READMES, *RESULTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_measured_numbers_are_in_the_marked_parts_alone(path):
    by_hand = command.MARKED.sub("", path.read_text())
    prose = re.sub(r"```.*?```|`[^`]*`", "", by_hand, flags=re.DOTALL)
    known = ("95 %",)  # the level of all intervals
    assert [m[0] for m in MEASURED.finditer(prose) if m[0] not in known] == []


def test_every_stored_result_is_shown_and_names_its_command():
    pages = "".join(path.read_text() for path in command.pages())
    for path in stored.FOLDER.glob("*.json"):
        shown = "cifar10" if path.stem.startswith("cifar10-") else path.stem
        assert f"<!-- {shown}: " in pages, path.name
        assert not PRIVATE.search(path.read_text()), path.name
    for name, block in tables.BLOCKS.items():
        if "provenance" in block:
            values = stored.load(name)
            assert {"date", "processor", "versions"} <= values["machine"].keys()
            assert f"benchmarks {name}`" in block["provenance"]()


@pytest.mark.parametrize("name", pictures.PICTURES)
def test_a_picture_is_of_the_stored_figures(name):
    assert pictures.is_current(name, command.PICTURES), "python -m benchmarks render renews it"
    assert (command.PICTURES / f"{name}.png").stat().st_size < 100_000


def test_a_picture_of_other_figures_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setitem(pictures.PICTURES, "profile", (("losses",), pictures.profile))
    pictures.save("profile", tmp_path)
    assert pictures.is_current("profile", tmp_path)
    assert matplotlib.image.imread(tmp_path / "profile.png").shape[1] == 1600
    monkeypatch.setitem(pictures.PICTURES, "profile", (("linear",), pictures.profile))
    assert not pictures.is_current("profile", tmp_path)
    assert not pictures.is_current("roofline", tmp_path)


def test_the_profile_and_the_pareto_plot_have_what_ran_and_nothing_else():
    figure = pictures.profile()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == [
        "xentjax",
        "naive",
        "jax.nn",
        "optax one-hot",
        "optax integer",
        "PyTorch (eager)",
    ]
    # ours is within a factor of 1 of itself: its line begins at its share of fastest cases
    result = stored.result("losses")
    for ax, mode in zip(figure.axes, result.modes(), strict=True):
        cells = [cell for cell in result.cells if cell.mode == mode]
        fastest = sum(
            min(result.ratio(cell, name) or math.inf for name in result.baselines) >= 1
            for cell in cells
        )
        x, y = map(np.asarray, ax.get_lines()[0].get_data())
        assert max(share for factor, share in zip(x, y, strict=True) if factor == 1) == (
            fastest / len(cells)
        )
    figure = pictures.pareto()
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["xentjax", "naive", "jax-cce"]
    cell = stored.result("linear").cells[0]
    seconds = [np.asarray(line.get_ydata()) for line in figure.axes[0].get_lines()]
    assert timing.quartiles(cell.seconds["naive"]).median in seconds[1]


def test_a_mark_without_a_part_is_one_line(capsys, monkeypatch, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("<!-- losses: nothing --><!-- end -->")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    monkeypatch.setattr(command, "PICTURES", tmp_path)
    monkeypatch.setattr(pictures, "PICTURES", {})
    assert exit_code(["render"]) == 2
    assert "<!-- losses: nothing -->: expected a part of" in capsys.readouterr().err


def test_a_result_and_a_run_replace_the_stored_ones(tmp_path, monkeypatch):
    kept = {name: stored.load(name) for name in ("losses", "language_model")}
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    result = tmp_path / "results" / "losses-2026-01-02T03-04-05"
    result.mkdir(parents=True)
    (result / "losses.json").write_text(json.dumps(kept["losses"]))
    assert command.keep(result) == "losses"
    assert stored.load("losses") == kept["losses"]
    run = tmp_path / "runs" / "2026-01-02"
    run.mkdir(parents=True)
    record = kept["language_model"] | {
        "command": "/home/me/.venv/bin/python -m experiments.language_model --runs-dir /tmp/x",
        "config": {"steps": 3, "runs_dir": "/tmp/x"},
    }
    (run / "config.json").write_text(json.dumps(record))
    with pytest.raises(command.UserError, match="expected a finished run"):
        command.keep(run)
    (run / "summary.json").write_text(json.dumps(record.pop("summary")))
    assert command.keep(run) == "language_model"
    found = stored.load("language_model")
    assert found["command"] == "python -m experiments.language_model"
    assert found["config"] == {"steps": 3}
    assert found["summary"] == kept["language_model"]["summary"]
    assert "revision" in runs.provenance("language_model")
    with pytest.raises(command.UserError, match="expected the folder of a result or of a run"):
        command.keep(tmp_path)
