"""The benchmark of functions of a linear head: implementations that agree, targets, one command."""

import json

import jax
import numpy as np
import pytest

from benchmarks.harness import cases, machine, report
from benchmarks.harness.baselines import NAIVE, OURS
from benchmarks.heads import benchmark, implementations
from benchmarks.heads.accuracy import errors_of
from benchmarks.heads.implementations import LOG_PROBS, SCAN
from benchmarks.linear.implementations import JAX_CCE, TOKAMAX
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, exit_code

CASE = cases.HeadCase((512, 4, 70), "float32")
OPERATIONS = {each.name: each for each in implementations.operations()}


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "sample"])
def test_implementations_agree_with_float64(name):
    """Two chunks of rows. Installed baselines that are wrong here are for the table to show."""
    found = errors_of(OPERATIONS[name], CASE)
    assert {OURS, NAIVE, SCAN} <= set(found)
    for implementation in set(found) - {*TOKAMAX, JAX_CCE}:
        value, *gradients = found[implementation]
        assert value is not None
        assert value < 5 * tolerances.VALUE["float32"]
        assert all(g is None or g < tolerances.GRADIENT["float32"] for g in gradients)
        assert (gradients[0] is None) == (OPERATIONS[name].mode == "forward")


def test_samples_have_the_log_probabilities_of_their_classes():
    operation, arrays = OPERATIONS["sample"], implementations.given(CASE.shape)
    logits = arrays[0].astype(np.float64) @ arrays[1].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for name, function in operation.functions.items():
        own = implementations.arguments(operation, name, CASE, arrays)
        drawn, log_prob = jax.jit(function)(*own)
        assert len(np.unique(drawn)) > 20
        of_drawn = np.take_along_axis(log_p, np.asarray(drawn)[:, None], 1)[:, 0]
        np.testing.assert_allclose(log_prob, of_drawn, rtol=1e-5, atol=1e-5)


def test_counted_operations_are_those_of_stored_logits():
    shape = (2, 4, 5)
    assert implementations.work(OPERATIONS["sample"], shape) == 2 * 40
    assert implementations.work(OPERATIONS["surrogate"], shape) == 6 * 40
    assert implementations.work(OPERATIONS["KL"], shape) == 6 * 40 + 2 * 60


def test_targets():
    cell = report.Cell(
        case="surrogate",
        mode="value_and_grad",
        seconds={OURS: [0.8], LOG_PROBS: [1.0], NAIVE: [1.0], SCAN: [0.5]},
        work=1.0,
        temp_bytes={OURS: 40_000_000, LOG_PROBS: 120_000_000},
    )
    large = cases.HeadCase((2048, 512, 32768), "float32")
    found = {
        t.name: (t.found, t.limit) for t in benchmark.targets(OPERATIONS["surrogate"], large, cell)
    }
    assert found == {
        f"{LOG_PROBS}: time / {SCAN}": (2.0, 1.0),
        f"{LOG_PROBS}: time / {NAIVE}": (1.0, 1.1),
        f"{OURS}: time / {LOG_PROBS}": (0.8, 0.85),
        f"{LOG_PROBS}: temp / 60 MB": (2.0, 1.0),
        f"{OURS}: temp / 80 MB": (0.5, 1.0),
    }
    assert len(benchmark.targets(OPERATIONS["surrogate"], CASE, cell)) == 3


def test_command_measures_without_any_baseline(tmp_path, monkeypatch, capsys):
    table = tuple(OPERATIONS[name] for name in ("log-probs", "log-probs, entropy"))
    monkeypatch.setattr(benchmark, "operations", lambda: table)
    monkeypatch.setattr(benchmark, "load_torch", lambda: None)
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    monkeypatch.setattr(cases, "HEADS_QUICK", (cases.HeadCase((6, 4, 11), "bfloat16"),))
    args = ["heads", "--quick", "--rounds", "1", "--markdown", "--output", str(tmp_path)]
    assert exit_code(args) == 0
    out = capsys.readouterr().out
    assert "| log-probs, 6 × 4 × 11 bf16, value_and_grad | torch chunked | not installed |" in out
    assert "| log-probs, entropy, 6 × 4 × 11 bf16, forward | scan + remat |" in out
    assert "entropy, 6 × 4 × 11 bf16, forward | torch" not in out
    assert "Targets" not in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("heads.json"))
    assert set(stored["cells"][1]["implementations"]) == {OURS, NAIVE, SCAN}
