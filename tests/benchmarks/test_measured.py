"""The quoted figures are those of the stored samples."""

import json
import re

import pytest

from benchmarks.harness import machine, output, report, timing
from benchmarks.harness.tables import NOT_INSTALLED
from tests.support.paths import ROOT

FOLDER = ROOT / "benchmarks" / "measured"
QUOTED = (FOLDER / "README.md").read_text()


def stored(name):
    """Load a stored result, rebuilt from its samples."""
    values = json.loads((FOLDER / f"{name}.json").read_text())
    cells = []
    for cell in values["cells"]:
        ran = {k: v for k, v in cell["implementations"].items() if v != NOT_INSTALLED}
        ours = ran[values["ours"]]
        cells.append(
            report.Cell(
                case=cell["case"],
                mode=cell["mode"],
                seconds={name: entry["samples"] for name, entry in ran.items()},
                work=ours["rate"] * ours["seconds"]["median"],
                limit_seconds=cell["limit_seconds"],
                again=cell.get("again", {}).get("samples"),
                temp_bytes={name: entry["temp_bytes"] for name, entry in ran.items()},
            )
        )
    names = list(values["cells"][0]["implementations"])
    result = report.Result(
        name=name,
        ours=values["ours"],
        baselines=tuple(name for name in names if name != values["ours"]),
        unit=values["unit"],
        cells=tuple(cells),
        machine=machine.Machine(**values["machine"]),
    )
    return values, result


@pytest.mark.parametrize("name", ["losses", "linear", "training"])
def test_stored_statistics_follow_from_the_samples(name):
    values, result = stored(name)
    derived = result.as_json()
    for old, new in zip(values["cells"], derived["cells"], strict=True):
        for implementation, entry in old["implementations"].items():
            if entry != NOT_INSTALLED:
                again = new["implementations"][implementation]
                assert entry["seconds"] == pytest.approx(again["seconds"])
                assert entry["ratio"] == pytest.approx(again["ratio"])
    for mode, means in values["geometric_mean_ratio"].items():
        assert means == pytest.approx(derived["geometric_mean_ratio"][mode])


def test_the_table_of_losses_is_that_of_the_report():
    _, result = stored("losses")
    text = output.markdown(result)
    rows = [line for line in text.splitlines() if re.match(r"\| (\d+ × \d+|geometric mean) ", line)]
    assert len(rows) == 4 * 3 + 3
    assert [row for row in rows if row not in QUOTED] == []


def test_the_headline_is_the_mean_over_the_shapes():
    _, result = stored("losses")
    readme = (ROOT / "README.md").read_text()
    optax, torch = (
        [result.mean_ratio(name, mode) for mode in ("forward", "value_and_grad", "SGD step")]
        for name in ("optax integer", "torch eager")
    )
    assert re.findall(r"(\d\.\d)×", readme.partition("**Fast**")[2])[:6] == [
        f"{ratio:.1f}" for ratio in (*optax, *torch)
    ]
    (row,) = (line for line in readme.splitlines() if "benchmarks losses`" in line)
    assert re.findall(r"(\d\.\d+)×", row) == [f"{ratio:.2f}" for ratio in optax]


def test_the_table_of_linear_layers_has_the_medians():
    _, result = stored("linear")
    order = ("xentjax", "gradients_in_forward", "max_bytes=16MiB", "naive", "jax-cce")
    for cell in result.cells:
        names = (*order, "torch naive", "torch chunked")
        medians = [1e3 * timing.quartiles(cell.seconds[name]).median for name in names]
        assert f" | {' | '.join(f'{ms:.0f}' for ms in medians)} |" in QUOTED
        memory = [temp / 1e6 for name in order if (temp := cell.temp_bytes[name]) is not None]
        assert f" | {' | '.join(f'{megabytes:.0f}' for megabytes in memory)} |" in QUOTED


def test_the_table_of_training_steps_has_medians_and_ratios():
    _, result = stored("training")
    table = QUOTED.partition("| training step |")[2].partition("\n\n")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.count("×") == 2]
    for cell, row in zip(result.cells, rows, strict=True):
        median = timing.quartiles(cell.seconds["xentjax"]).median
        ratio = result.ratio(cell, "torch eager")
        assert float(row[1]) == pytest.approx(1e3 * median, rel=5e-3)
        assert row[3:5] == [f"{cell.work / median:.0f}", f"{ratio:.2f}×"]
