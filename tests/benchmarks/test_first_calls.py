"""First calls: every function runs and agrees with its baselines; one in a process of its own."""

import json

import numpy as np
import pytest

from benchmarks.first_calls import benchmark, worker
from benchmarks.first_calls.calls import CALLS, SCIPY, STATSMODELS
from benchmarks.harness import machine
from benchmarks.harness.baselines import OURS
from tests.support.benchmarking import MACHINE, exit_code


def test_command_writes_first_and_warm_calls(tmp_path, monkeypatch, capsys):
    def times(name, package):
        assert name in CALLS
        return (0.5, 5e-4) if package == OURS else (0.25, 1e-3)

    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    monkeypatch.setattr(worker, "times", times)
    assert exit_code(["first_calls", "--markdown", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "| g_test, first call | scipy | 250 | ±0% | 4.00 | - | 0.50× | unknown |" in out
    assert "| g_test, warm call | xentjax / 0.001 s | 0.5 | 1 | met |" in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("first_calls.json"))
    assert len(stored["cells"]) == 2 * len(CALLS)
    tested = {cell["case"]: cell["implementations"] for cell in stored["cells"]}
    assert tested["power"].keys() == {OURS, STATSMODELS}


def test_a_call_is_timed_in_a_process_of_its_own():
    first, warm = worker.times("entropy", SCIPY)
    assert 0 < warm <= first < 60


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("entropy", SCIPY),
        ("kl_divergence", SCIPY),
        ("multinomial_log_likelihood", SCIPY),
        ("log_evidence", SCIPY),
    ],
)
def test_baselines_agree(name, package):
    ours, other = CALLS[name].make(OURS)(), CALLS[name].make(package)()
    np.testing.assert_allclose(ours(), other(), 1e-6)


def test_the_power_is_that_of_the_chi_squared_test():
    """Powers by Pearson's noncentrality, which is near that of G."""
    ours, other = (CALLS["power"].make(package)()() for package in (OURS, STATSMODELS))
    np.testing.assert_allclose(ours, other, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_every_call_runs(name):
    for package in (OURS, *CALLS[name].others):
        assert worker.measure(name, package)[0] > 0


def test_targets_are_a_second_and_a_millisecond():
    assert benchmark.SECONDS == {"first call": 1.0, "warm call": 1e-3}
