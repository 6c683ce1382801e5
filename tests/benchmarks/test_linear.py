"""The benchmark of linear layers: baselines that compute the same, targets, honest reports."""

import dataclasses
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks.harness import baselines, cases, machine, output, report, tables, targets
from benchmarks.harness.baselines import NAIVE, OURS
from benchmarks.harness.figures import words
from benchmarks.linear import accuracy, benchmark as linear, implementations
from benchmarks.linear.implementations import (
    BASELINES,
    BUDGET,
    IN_FORWARD,
    JAX_CCE,
    TORCH_NAIVE,
)
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, exit_code
from tests.support.oracles import cross_entropy as oracles

SHAPE = (6, 4, 11)
JAX_IMPLEMENTATIONS = implementations.jax_implementations()
MIB = 2**20

# naive takes 2 s within every round and 100 MB.
CELL = report.Cell(
    case="6 × 4 × 11",
    mode="value_and_grad",
    seconds={
        OURS: [2.5, 25.0],
        IN_FORWARD: [2.0, 20.0],
        BUDGET: [3.0, 30.0],
        NAIVE: [2.0, 20.0],
        JAX_CCE: [1.0, 10.0],
        TORCH_NAIVE: [1.0, 10.0],
    },
    work=100.0,
    limit_seconds=[1.0, 10.0],
    temp_bytes={
        OURS: 15_000_000,
        IN_FORWARD: 16_000_000,
        BUDGET: 21 * MIB,
        NAIVE: 100_000_000,
        JAX_CCE: None,
    },
    compile_seconds=dict.fromkeys((OURS, NAIVE), 0.5),
)


@pytest.fixture(scope="module")
def truth():
    """A small problem with its loss and gradients, by the oracle of the losses."""
    given = implementations.problem(SHAPE)
    x, kernel = given.x.astype(np.float64), given.kernel.astype(np.float64)
    expected = oracles.cross_entropy(x @ kernel, given.labels)
    d_logits = expected.gradient / SHAPE[0]
    return given, accuracy.Derivatives(
        np.asarray(expected.mean), d_logits @ kernel.T, x.T @ d_logits
    )


def assert_mode(output, case, truth):
    """The output of an implementation is what its mode promises."""
    rtol = tolerances.GRADIENT["float32"]
    loss = output if case.mode == "loss" else output[0]
    np.testing.assert_allclose(loss, truth.loss, rtol=tolerances.VALUE["float32"])
    if case.mode == "value_and_grad":
        d_x, d_kernel = output[1]
        d_kernel = d_kernel if d_kernel.shape == truth.kernel.shape else d_kernel.T
        np.testing.assert_allclose(d_x, truth.x, rtol=rtol, atol=1e-7)
        np.testing.assert_allclose(d_kernel, truth.kernel, rtol=rtol, atol=1e-7)


@pytest.mark.parametrize("mode", cases.LINEAR_MODES)
@pytest.mark.parametrize("name", JAX_IMPLEMENTATIONS)
def test_jax_implementations_agree_with_float64(name, mode, truth):
    given, expected = truth
    case = cases.LinearCase(SHAPE, "float32", mode)
    implementation = JAX_IMPLEMENTATIONS[name]
    program = implementations.compile_for(implementation, case)
    output = implementations.jax_thunk(program, implementation, case, given)()
    assert_mode(output, case, expected)


@pytest.mark.parametrize("mode", cases.LINEAR_MODES)
def test_torch_agrees_with_float64(mode, truth):
    torch = baselines.load_torch()
    if torch is None:
        pytest.skip("torch is not installed")
    given, expected = truth
    case = cases.LinearCase(SHAPE, "float32", mode)
    for thunk in implementations.torch_thunks(torch, case, given).values():
        output = jax.tree.map(lambda tensor: tensor.detach().numpy(), thunk())
        assert_mode(output, case, expected)


def test_exact_is_the_oracle(truth):
    given, expected = truth
    x, kernel = given.x.astype(np.float64), given.kernel.astype(np.float64)
    for found, right in zip(accuracy.exact(x, kernel, given.labels), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-12, atol=1e-15)


def test_counted_operations_are_those_of_stored_logits():
    assert cases.LinearCase((2, 3, 5), "float32", "loss").flops == 2 * 30
    assert cases.LinearCase((2, 3, 5), "bfloat16", "value_and_grad").flops == 6 * 30


def test_targets_of_gradients():
    found = {target.name: target for target in linear.targets(CELL, logits_bytes=1)}
    assert found["time / naive"].found == 1.25
    assert found[f"{IN_FORWARD}: time / naive"].found == 1.0
    # It stores no logits either, so it must not be faster; torch naive stores them.
    assert found[f"{IN_FORWARD}: time / {JAX_CCE}"].found == 2.0
    assert not any(TORCH_NAIVE in name for name in found)
    assert found["temp / naive"].found == 0.15
    assert found[f"{BUDGET}: temp / budget"][1:] == (21 / 16, 1.25)
    table = targets.table_of_targets([("a case", target) for target in found.values()])
    assert [row[-1] for row in table.rows] == ["MISSED", "met", "MISSED", "met", "MISSED", "MISSED"]


def test_targets_of_the_loss_alone():
    cell = dataclasses.replace(CELL, mode="loss", temp_bytes=CELL.temp_bytes | {"naive": None})
    time, temp, budget = linear.targets(cell, logits_bytes=300_000_000)
    assert time.found == 1.25
    assert temp == ("temp / float32 logits", 0.05, 0.1)
    assert budget.found == 21 / 16


def test_unknown_memory_is_unknown():
    unknown = dataclasses.replace(CELL, temp_bytes=dict.fromkeys(CELL.temp_bytes))
    found = [("a case", target) for target in linear.targets(unknown, logits_bytes=1)]
    answers = [row[-1] for row in targets.table_of_targets(found).rows]
    assert answers[-3:] == ["unknown"] * 3


def test_report_has_a_row_for_each_implementation_and_fits_eighty_columns():
    result = report.Result(
        name="linear",
        ours=OURS,
        baselines=BASELINES,
        unit="GFLOP/s",
        cells=(CELL,),
        machine=MACHINE,
        row_per_implementation=True,
        tables=(tables.Table("More", ("case", "implementation", "error"), (("a", "b", 1.25e-7),)),),
    )
    text = output.markdown(result)
    case = "6 × 4 × 11, value_and_grad"
    # median 13.75 s, quartiles 8.125 and 19.375; 100 GFLOP in it; the limit is 40 % of each round
    assert f"| {case} | xentjax | 13750 | ±41% | 7.27 | 40% | 1.00× | 15.0 |" in text
    assert f"| {case} | jax-cce | 5500 | ±41% | 18.2 | 100% | 0.40× | unknown |" in text
    assert f"| {case} | tokamax xla | not installed |  |  |  |  |  |" in text
    assert "| a | b | 1.25e-07 |" in text
    assert "best: that of the fastest baseline" not in text
    stream = io.StringIO()
    output.print_terminal(result, Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    assert "…" not in stream.getvalue()
    assert result.as_json()["tables"] == [
        {"title": "More", "rows": [{"case": "a", "implementation": "b", "error": 1.25e-7}]}
    ]
    labels = result.figure().axes[0].get_legend_handles_labels()[1]
    assert labels == [words(name) for name in BASELINES if name in CELL.seconds]
    assert len(labels) < len(BASELINES)


def test_tokamax_without_an_implementation_is_absent(monkeypatch):
    class Tokamax:
        @staticmethod
        def linear_softmax_cross_entropy_loss(x, labels, kernel, *, reduction, implementation):
            if implementation != "xla":
                raise ValueError(f"Unsupported implementation: {implementation}")
            return jnp.sum(x @ kernel)

    class Flags:
        parsed = False

        def mark_as_parsed(self):
            self.parsed = True

    flags = Flags()
    modules = {"tokamax": Tokamax, "absl.flags": type("flags", (), {"FLAGS": flags})}

    def import_module(name):
        if name in modules:
            return modules[name]
        raise SyntaxError("a package that cannot be imported")

    monkeypatch.setattr(implementations.importlib, "import_module", import_module)
    found = implementations.jax_implementations()
    own = [OURS, IN_FORWARD, BUDGET, NAIVE]
    assert list(found) == [*own, "tokamax xla"]
    assert flags.parsed


def test_command_measures_without_any_baseline(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(linear, "load_torch", lambda: None)
    monkeypatch.setattr(implementations, "load_if_installed", lambda name: None)
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    product = machine.product
    monkeypatch.setattr(machine, "product", lambda dtype, quick: product(dtype, quick=True))
    monkeypatch.setattr(cases, "LINEAR_ACCURACY", cases.LINEAR_ACCURACY_QUICK)
    monkeypatch.setattr(cases, "LINEAR_BIG", cases.LinearCase(SHAPE, "bfloat16", "loss"))
    args = ["linear", "--rounds", "1", "--shapes", "6", "4", "11", "--accuracy", "--big"]
    assert exit_code([*args, "--dtype", "bfloat16", "--markdown", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| 6 × 4 × 11 bf16, value_and_grad | torch chunked | not installed |" in out
    assert "fails to import: tokamax xla, tokamax chunked_xla, jax-cce, torch naive" in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("linear.json"))
    targets, accuracy, big = stored["tables"]
    assert {row["case"] for row in targets["rows"]} == {
        f"6 × 4 × 11 bf16, {mode}" for mode in cases.LINEAR_MODES
    }
    for row in accuracy["rows"]:
        bound = tolerances.GRADIENT[row["dtype"]]
        assert 0 < row["gradient in x"] < bound
        assert 0 < row["gradient in kernel"] < bound
    ran = {row["implementation"]: row["s"] for row in big["rows"]}
    assert ran[NAIVE] is None
    assert ran[OURS] > 0
    assert f"| {OURS}: temp / 2 GiB |" in out


def test_quick_has_no_targets(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(linear, "load_torch", lambda: None)
    args = ["linear", "--quick", "--rounds", "1", "--shapes", "6", "4", "11", "--markdown"]
    assert exit_code([*args, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "**QUICK: Time, rate" in out
    assert "Targets" not in out
    assert "MISSED" not in out


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["losses", "--big"], "--big: expected with linear only, got losses"),
        (["training", "--dtype", "bfloat16"], "--dtype: expected with linear only"),
        (["linear", "--shapes", "1", "0", "3"], "--shapes: expected sizes >= 1, got ((1, 0, 3),)"),
    ],
)
def test_options_of_linear_are_refused_in_one_line(args, line, capsys):
    assert exit_code(args) == 2
    assert capsys.readouterr().err.startswith(f"error: {line}")
