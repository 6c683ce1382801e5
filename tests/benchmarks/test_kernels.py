"""The benchmark of kernels: what it refuses, and its arithmetic on a backend without any."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from benchmarks import kernels
from benchmarks.harness import cases, report
from benchmarks.harness.baselines import NAIVE
from benchmarks.linear import benchmark as linear
from benchmarks.linear.implementations import Implementation
from tests.support.benchmarking import exit_code, session


def test_a_backend_without_kernels_is_refused_in_one_line(tmp_path, capsys):
    assert exit_code(["kernels", "--quick", "--output", str(tmp_path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\nerror: kernels: expected a backend among gpu, tpu, got cpu\n")
    assert captured.err.count("\n") == 2  # after "loading"


def test_command_measures_what_the_backend_has(tmp_path, monkeypatch, capsys):
    """The reference stands in for a kernel."""
    monkeypatch.setattr(kernels, "KERNELS", {"cpu": "reference"})
    monkeypatch.setattr(cases, "KERNELS_QUICK", cases.KERNELS_QUICK[2:])
    assert exit_code(["kernels", "--quick", "--markdown", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| 64 × 10 bf16 | value_and_grad |" in out
    assert "| 64 × 32 × 128 bf16, value_and_grad | kernel |" in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("kernels.json"))
    for cell in stored["cells"]:
        assert cell["implementations"]["liger"] == "not installed"
        for name in (kernels.OURS, kernels.XLA, kernels.OPTAX):
            assert len(cell["implementations"][name]["samples"]) == 3
    layers, heads, defaults = stored["tables"]
    names = [kernels.OURS, "kernel, in forward", kernels.XLA, "xla, in forward", NAIVE]
    assert [row["implementation"] for row in layers["rows"]] == names
    assert {row["implementation"] for row in heads["rows"]} >= {kernels.OURS, kernels.XLA, NAIVE}
    assert len(defaults["rows"]) == len(stored["cells"]) + 1 + 2
    assert {row["faster"] for row in defaults["rows"]} <= {kernels.OURS, kernels.XLA, "tie"}


@pytest.mark.parametrize(("mode", "passes"), [("forward", 1), ("value_and_grad", 3)])
def test_bytes_and_limit_count_passes_over_the_logits(mode, passes, monkeypatch):
    """A loss as fast as half a copy for each pass is at the limit."""
    names = (kernels.OURS, kernels.XLA, kernels.OPTAX)
    seconds = {name: [passes / 2, passes] for name in names} | {"copy": [1.0, 2.0]}
    monkeypatch.setattr(kernels.timing, "interleave", lambda thunks, **_: seconds)
    case = cases.LossCase("8 × 4 bf16", (8, 4), "bfloat16", mode)
    cell = kernels.measure(case, "reference", None, session(rounds=2))
    assert cell.work == passes * 64 / 1e9
    assert cell.limit_seconds == cell.seconds[kernels.OURS]


@pytest.mark.parametrize("mode", cases.LINEAR_MODES)
def test_the_kernel_is_in_what_is_compiled_for_layers(mode, monkeypatch):
    case = cases.LinearCase((64, 64, 128), "bfloat16", mode)
    found = []

    def keep(_: Any, implementations: dict[str, Implementation], *rest: Any, **more: Any):
        found.append(implementations[kernels.OURS])

    monkeypatch.setattr(linear, "measure", keep)
    kernels.measure_layer(case, "mosaic_gpu", None, session(rounds=1))
    (ours,) = found
    shapes = [((64, 64), jnp.bfloat16), ((64, 128), jnp.bfloat16), ((64,), jnp.int32)]
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    text = jax.jit(ours.loss).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text


def test_layers_by_hand():
    cell = report.Cell(
        case="a layer",
        mode="loss",
        seconds={kernels.OURS: [0.1, 0.2, 0.3], "xla": [0.2, 0.4, 0.6]},
        work=2e3,
        limit_seconds=[0.05, 0.1, 0.15],
        temp_bytes={kernels.OURS: 3_000_000},
    )
    table = kernels.table_of_layers([cell])
    assert table.rows[0] == ("a layer, loss", "kernel", 200.0, 10.0, 0.5, 1.0, 3.0)
    assert table.rows[1] == ("a layer, loss", "xla", 400.0, 5.0, 0.25, 2.0, None)
