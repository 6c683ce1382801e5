"""The categorical benchmark: baselines that compute the same, targets, a report that fits."""

import io
import json
from functools import partial

import numpy as np
import pytest
import scipy.special
import scipy.stats
from rich.console import Console

from benchmarks.categorical import (
    benchmark as bench,
    implementations as dice,
    report as categorical_report,
)
from benchmarks.harness import baselines, cases, output, timing
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, exit_code, session

SHAPE = (3, 5)
TORCH = baselines.load_torch()


def assert_all(thunks, expected, rtol=tolerances.VALUE["float32"], atol=0.0):
    for name, thunk in thunks.items():
        found = thunk()
        value = found[0] if isinstance(found, tuple) else found
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=atol, err_msg=name)


def test_all_count_the_same():
    samples = np.random.default_rng(0).integers(6, size=1000)
    expected = [np.sum(samples == k) for k in range(6)]
    assert_all(dice.count_thunks(cases.CountCase(1000, 6), TORCH), expected, rtol=0)


def test_all_measure_the_same():
    p, q = (x.astype(np.float64) for x in dice.pmfs(*SHAPE))
    assert_all(dice.entropy_thunks(SHAPE, TORCH), -np.sum(p * np.log(p), -1), rtol=2e-6)
    kl = np.sum(p * np.log(p / q), -1)
    assert_all(dice.kl_thunks(SHAPE, TORCH), kl, rtol=0, atol=5e-7)


def test_all_give_the_same_intervals():
    for method in ("sison_glaz", "goodman"):
        thunks = dice.interval_thunks(7, method)
        if dice.STATSMODELS not in thunks:
            pytest.skip("statsmodels is not installed")
        # statsmodels does not cut its intervals to [0, 1]
        assert_all(thunks, np.clip(thunks[dice.STATSMODELS](), 0, 1), rtol=1e-5)


def test_all_test_and_weigh_the_same():
    c, q = dice.roll(*SHAPE)
    n = c.sum(-1, keepdims=True)
    g = 2 * np.sum(scipy.special.xlogy(c, c / (n * q)), -1)
    assert_all(dice.g_test_thunks(SHAPE), g, rtol=1e-5)
    exact = scipy.stats.multinomial(n[:, 0], q).logpmf(c)
    # torch subtracts log-gammas of hundreds in float32
    assert_all(dice.likelihood_thunks(SHAPE, TORCH), exact, rtol=1e-4)


def test_estimates_are_near_the_entropy_of_the_die():
    _, q = dice.roll(*SHAPE)
    for method in bench.ESTIMATES:
        assert_all(dice.estimate_thunks(SHAPE, method), scipy.stats.entropy(q), rtol=0.1)


def timed(case, mode, **seconds):
    names = {"own": baselines.OURS, "eager": dice.EAGER, "numpy": dice.BINCOUNT, "jnp": dice.JNP}
    return categorical_report.Timed(
        case, mode, {names.get(name, name): s for name, s in seconds.items()}
    )


COUNTED = timed("10,000,000", "K = 6", own=[1.0, 2], eager=[2.0, 4], numpy=[4.0, 8], jnp=[1.6, 3.2])
BOXED = timed("K = 500", "Sison-Glaz", own=[0.001, 0.003], statsmodels=[0.25])


def test_targets_by_hand():
    assert bench.targets(COUNTED)[0].found == pytest.approx(1.25)  # the eager call; jnp is faster
    small = timed("50,000", "K = 6", own=[3.0], eager=[9.0], numpy=[2.0], jnp=[4.0])
    assert bench.targets(small)[0][1:] == (1.5, 1.5)
    assert bench.targets(BOXED)[0].found == pytest.approx(0.008)  # once, over the median
    assert bench.targets(timed("K = 500", "Sison-Glaz", own=[1.0]))[0].found is None
    assert bench.targets(timed("K = 500", "Goodman", own=[1.0])) == []


def test_report_fits_eighty_columns_and_names_the_absent(tmp_path):
    result = bench.report_of({"Counts": (COUNTED,), "Intervals": (BOXED,)}, MACHINE)
    text = output.markdown(result)
    assert "| 10,000,000, K = 6 | np.bincount | 6000 | ±17% | 4 |" in text
    assert "| K = 500, Sison-Glaz | statsmodels | 250 | one run | 125 |" in text
    assert "- not installed here: torch eager" in text.splitlines()
    stream = io.StringIO()
    output.print_terminal(result, Console(file=stream, width=80))
    assert max(map(len, stream.getvalue().splitlines())) <= 80
    stored = json.loads((output.save(result, tmp_path) / "categorical.json").read_text())
    assert [row["met"] for row in stored["tables"][-1]["rows"]] == ["MISSED", "met"]
    assert stored["samples"]["Intervals"][0]["seconds"]["statsmodels"] == [0.25]
    assert [axes.get_title("left") for axes in result.figure().axes] == ["Counts", "Intervals"]


def test_slow_intervals_run_once(monkeypatch):
    calls = []
    thunks = {baselines.OURS: lambda: None, dice.STATSMODELS: partial(calls.append, 0)}
    monkeypatch.setattr(bench, "interval_thunks", lambda *_: dict(thunks))
    size = cases.CATEGORICAL_QUICK._replace(intervals=(50,))
    box, goodman = bench.plan(size, None)["Simultaneous intervals of K classes"]
    timed = bench.measure(box, session())
    assert len(timed.seconds[dice.STATSMODELS]) == len(calls) == 1
    assert len(timed.seconds[baselines.OURS]) == 3
    assert goodman.once == ()


def test_ctrl_c_leaves_each_round_that_was_finished(monkeypatch):
    """The counts, the entropy and two rounds of the divergence, and nothing goes on."""
    monkeypatch.setattr(bench.machine, "measure", lambda **_: MACHINE)
    kept = iter((3, 3, 2))

    def interleave(thunks, *, rounds, **_):
        finished = next(kept)
        samples = {name: [0.5] * finished for name in thunks}
        if finished < rounds:
            raise timing.Interrupted(samples)
        return samples

    monkeypatch.setattr(timing, "interleave", interleave)
    result = bench.run(session())
    found = [
        (timed.mode, len(timed.seconds[baselines.OURS]))
        for group in result.groups.values()
        for timed in group
    ]
    assert found == [("K = 6", 3), ("entropy", 3), ("KL", 2)]
    assert result.extent.interrupted is not None
    assert result.extent.interrupted.endswith("4 × 10, KL, 2 of 3 rounds")


def test_command_measures_without_any_baseline(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "load_torch", lambda: None)
    monkeypatch.setattr(dice.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(bench, "ESTIMATES", ("plug_in",))
    interleave = partial(timing.interleave, min_seconds=0.0)
    monkeypatch.setattr(timing, "interleave", lambda thunks, **_: interleave(thunks, rounds=1))
    monkeypatch.setattr(bench.machine, "measure", lambda **_: MACHINE)
    small = cases.CATEGORICAL_QUICK._replace(counts=(cases.CountCase(50_000, 6),))
    monkeypatch.setattr(cases, "CATEGORICAL", small)
    args = ["categorical", "--rounds", "1", "--markdown", "--output", str(tmp_path)]
    assert exit_code(args) == 0
    out = capsys.readouterr().out
    assert "- not installed here: torch eager, statsmodels" in out.splitlines()
    assert "| 50,000, K = 6 | xentjax / faster of np.bincount, jnp.bincount |" in out
