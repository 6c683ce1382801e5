"""Small calls: every mode once, and imports in processes of their own."""

import json

from benchmarks import small
from benchmarks.harness import machine
from tests.support.benchmarking import MACHINE, exit_code


def test_command_measures_every_mode_and_the_imports(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    monkeypatch.setattr(small, "MIN_SECONDS", 0.0)
    monkeypatch.setattr(small, "_import", {"xentjax": 0.25, "optax": 0.5}.__getitem__)
    assert exit_code(["small", "--quick", "--markdown", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| 8 × 10 | eager value_and_grad |" in out
    assert "| import | optax | 500 | ±0% | 2 | 2.00–2.00 |" in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("small.json"))
    assert [cell["mode"] for cell in stored["cells"]] == [
        f"{how} {mode}" for how in ("jit", "eager") for mode in ("forward", "value_and_grad")
    ]
    jit, *_, eager = (cell["implementations"]["xentjax"] for cell in stored["cells"])
    assert jit["compile_seconds"] > 0
    assert eager["compile_seconds"] is None


def test_an_import_is_timed_without_jax():
    assert 0 < small._import("json") < 1
