"""Stored measurements: results of benchmarks, rebuilt from their samples, and runs."""

import hashlib
import json
from pathlib import Path
from typing import Any

from benchmarks.categorical.benchmark import report_of
from benchmarks.categorical.report import Categorical, Timed
from benchmarks.harness import noise
from benchmarks.harness.machine import Machine
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.tables import NOT_INSTALLED, Extent, Table

FOLDER = Path(__file__).parents[1] / "measured"


def load(name: str) -> dict[str, Any]:
    """Read the stored result of a name."""
    return json.loads((FOLDER / f"{name}.json").read_text())


def digest(*names: str) -> str:
    """Return the digest of these results, from which a picture is drawn."""
    text = b"".join((FOLDER / f"{name}.json").read_bytes() for name in names)
    return hashlib.sha256(text).hexdigest()


def result(name: str) -> Result:
    """Rebuild a result of cells; baselines that were not installed are left out."""
    values = load(name)
    cells = [_cell(cell, values["ours"]) for cell in values["cells"]]
    seen = {name for cell in cells for name in cell.seconds}
    named = dict.fromkeys(name for cell in values["cells"] for name in cell["implementations"])
    return Result(
        name=name,
        ours=values["ours"],
        baselines=tuple(name for name in named if name in seen and name != values["ours"]),
        unit=values["unit"],
        cells=tuple(cells),
        machine=Machine(**values["machine"]),
        extent=extent(values),
        tables=tuple(map(_table, values["tables"])),
        floor=noise.NONE,
    )


def categorical() -> Categorical:
    """Rebuild the result of `categorical`."""
    values = load("categorical")
    groups = {
        title: tuple(Timed(**timed) for timed in group)
        for title, group in values["samples"].items()
    }
    return report_of(groups, Machine(**values["machine"]), extent(values))


def extent(values: dict[str, Any]) -> Extent:
    """Return the part of a benchmark that was run."""
    cases = values.get("cases")
    return Extent(
        quick=values["quick"],
        interrupted=values["interrupted"],
        cases=None if cases is None else (cases[0], cases[1]),
        rivals=tuple(values.get("rivals", ())),
    )


def _cell(values: dict[str, Any], ours: str) -> Cell:
    every = values["implementations"]
    ran = {name: entry for name, entry in every.items() if entry != NOT_INSTALLED}
    return Cell(
        case=values["case"],
        mode=values["mode"],
        seconds={name: entry["samples"] for name, entry in ran.items()},
        work=ran[ours]["rate"] * ran[ours]["seconds"]["median"],
        limit_seconds=values["limit_seconds"],
        temp_bytes={name: entry["temp_bytes"] for name, entry in ran.items()},
        compile_seconds={
            name: entry["compile_seconds"]
            for name, entry in ran.items()
            if entry["compile_seconds"] is not None
        },
        offered=tuple(every),
        again=values.get("again", {}).get("samples"),
    )


def _table(values: dict[str, Any]) -> Table:
    rows = values["rows"]
    return Table(values["title"], tuple(rows[0]), tuple(tuple(row.values()) for row in rows))
