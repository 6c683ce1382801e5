"""The benchmark of losses: baselines that compute the same, and a report without torch."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import baselines, cases, modes
from benchmarks.losses import benchmark as losses, implementations
from tests.support import tolerances
from tests.support.benchmarking import exit_code


@pytest.fixture(scope="module")
def small_case():
    """Logits and labels of 5 rows and 7 classes, their mean loss and gradient in float64."""
    case = cases.LossCase("5 × 7", (5, 7), "float32", "forward")
    logits, labels = implementations.problem(case)
    exact = logits.astype(np.float64)
    probs = np.exp(exact) / np.sum(np.exp(exact), axis=1, keepdims=True)
    one_hot = np.eye(7)[labels]
    loss = -np.mean(np.log(np.sum(probs * one_hot, axis=1)))
    return logits, labels, loss, (probs - one_hot) / 5


def assert_mode(mode, output, logits, loss, gradient):
    """The output of an implementation in a mode is what the mode promises."""
    rtol = tolerances.VALUE["float32"]
    gradient_rtol = tolerances.GRADIENT["float32"]
    match mode:
        case "forward":
            np.testing.assert_allclose(output, loss, rtol=rtol)
        case "value_and_grad":
            np.testing.assert_allclose(output[0], loss, rtol=rtol)
            np.testing.assert_allclose(output[1], gradient, rtol=gradient_rtol, atol=1e-8)
        case "SGD step":
            moved = logits.astype(np.float64) - np.asarray(output, np.float64)
            # 0.1 * gradient, up to the rounding of logits of size 1
            np.testing.assert_allclose(moved, 0.1 * gradient, rtol=0, atol=3e-7)
            assert np.max(np.abs(moved)) > 1e-3


@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("name", implementations.JAX_LOSSES)
def test_jax_losses_agree_with_float64(name, mode, small_case):
    logits, labels, loss, gradient = small_case
    function = modes.jax_function(implementations.JAX_LOSSES[name], mode)
    output = jax.jit(function)(jnp.asarray(logits), jnp.asarray(labels))
    assert_mode(mode, output, logits, loss, gradient)


@pytest.mark.parametrize("mode", cases.MODES)
def test_torch_agrees_with_float64(mode, small_case):
    torch = baselines.load_torch()
    if torch is None:
        pytest.skip("torch is not installed")
    logits, labels, loss, gradient = small_case
    thunk = implementations.torch_thunk(torch, logits, labels, mode)
    output = jax.tree.map(lambda tensor: tensor.detach().numpy().copy(), thunk())
    assert_mode(mode, output, logits, loss, gradient)
    if mode == "SGD step":  # in place: the second step starts where the first one ended
        assert not np.array_equal(thunk().detach().numpy(), output)


def test_modes_have_one_name_each():
    assert {case.mode for case in cases.LOSSES} == set(cases.MODES)
    with pytest.raises(ValueError, match="mode: expected one of"):
        modes.jax_function(implementations.naive_loss, "backward")


def test_a_missing_torch_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert baselines.load_torch() is None


def test_command_measures_and_reports_without_torch(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(losses, "load_torch", lambda: None)
    table = tuple(case for case in cases.LOSSES_QUICK if case.mode == "SGD step")[:1]
    monkeypatch.setattr(cases, "LOSSES_QUICK", table)
    assert exit_code(["losses", "--quick", "--markdown", "--output", str(tmp_path)]) == 0
    out, err = capsys.readouterr()
    assert "cross-entropy, case 1 of 1, 512 × 10 SGD step: preparing\n" in err
    assert "| not installed |" in out
    assert "5.5 GB" in out  # what the extra would bring
    assert "| 512 × 10 | SGD step |" in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("losses.json"))
    (cell,) = stored["cells"]
    assert cell["implementations"]["torch eager"] == "not installed"
    for name in implementations.JAX_LOSSES:
        assert len(cell["implementations"][name]["samples"]) == 3
        assert cell["implementations"][name]["seconds"]["median"] > 0
