"""Growth: exponents by hand, and every operation once at tiny sizes."""

import json

import pytest

from benchmarks.growth import benchmark as growth
from benchmarks.growth.report import Growth, Line, Point
from benchmarks.harness import machine, timing
from tests.support.benchmarking import MACHINE, exit_code


def test_exponents_by_hand():
    """Time grows as N^1.5 in every round, whatever its speed; memory as N."""
    speeds = (1.0, 3.0, 2.0)
    points = [Point(n, [s * n**1.5 for s in speeds], 4 * n) for n in (8, 16, 64)]
    line = Line("an operation", "N", points, "K = 10")
    assert line.exponent() == pytest.approx((1.5, 1.5, 1.5))
    assert line.scratch_exponent() == pytest.approx(1.0)
    assert line._replace(points=[Point(8, [1.0], 0)] * 2).scratch_exponent() is None
    assert line._replace(points=[Point(8, [1.0], None)] * 2).scratch_exponent() is None
    (row,) = Growth((line,), MACHINE).table().rows
    assert row[:2] == ("an operation", "in N, 8 to 64, K = 10")
    assert row[2:5] == (pytest.approx(1.5), "1.50–1.50", 1.0)


def test_command_measures_every_operation(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    interleave = timing.interleave
    monkeypatch.setattr(
        timing, "interleave", lambda thunks, **_: interleave(thunks, rounds=2, min_seconds=0.0)
    )
    assert exit_code(["growth", "--quick", "--markdown", "--output", str(tmp_path)]) == 0
    assert "time exponent" in capsys.readouterr().out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("growth.json"))
    names = [each.name for each in growth.operations(quick=True)]
    assert [line["name"] for line in stored["lines"]] == [name for name in names for _ in "NK"]
    assert all(len(point["seconds"]) == 2 for line in stored["lines"] for point in line["points"])
    assert len(list(tmp_path.rglob("*.png"))) == 1
