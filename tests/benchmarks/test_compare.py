"""Two revisions compared: the rule on simulated times, processes, worktrees, reports, Ctrl-C."""

import dataclasses
import json
import os
import shutil
import subprocess

import jax
import numpy as np
import pytest

from benchmarks import __main__ as benchmark_command
from benchmarks.compare import command, measure as measuring, report, trees
from benchmarks.compare.against import against
from benchmarks.compare.measure import Measured, Sample, measure
from benchmarks.compare.programs import programs
from benchmarks.compare.rule import LEVEL, NEEDED, verdicts
from tests.support.benchmarking import RESULT, exit_code

IN_GIT = shutil.which("git") is not None and (trees.ROOT / ".git").exists()


def simulated(rng, *, cases=8, generations=5, rounds=6, noise=0.03, slower=()):
    """Times with drift, outliers, and processes that are slow for as long as they live."""
    shape = (cases, generations, rounds, 3)
    log_times = rng.normal(0, noise, shape)
    log_times += rng.normal(0, 0.3, (*shape[:3], 1))  # the machine, the same for all three
    log_times += rng.normal(0, 0.005, (1, generations, 1, 3))  # a process
    log_times += rng.normal(0, 0.01, (cases, generations, 1, 3))  # a process in one case
    log_times += (rng.random(shape) < 0.03) * rng.exponential(0.5, shape)
    log_times *= np.linspace(0.7, 1.5, cases)[:, None, None, None]  # not all cases are as noisy
    for case, factor in slower:
        log_times[case, ..., 2] += np.log(factor)
    return np.exp(log_times)


def words(rng, runs, **options):
    return [[v.word for v in verdicts(simulated(rng, **options), 1.02)] for _ in range(runs)]


def test_the_same_code_is_called_changed_as_often_as_the_level_says():
    found = words(np.random.default_rng(0), 1500)
    alarms = sum(any(word != "tie" for word in run) for run in found)
    assert alarms <= 1500 * LEVEL + 3 * (1500 * LEVEL) ** 0.5


def test_ten_percent_in_one_case_is_found_and_nothing_else():
    found = words(np.random.default_rng(1), 300, slower=[(3, 1.1)])
    assert sum(run[3] == "slower" for run in found) >= 0.95 * 300
    others = sum(any(w != "tie" for i, w in enumerate(run) if i != 3) for run in found)
    assert others <= 0.02 * 300


def test_several_changes_are_all_found():
    found = words(np.random.default_rng(2), 100, slower=[(0, 1.3), (3, 1.12), (5, 0.85)])
    right = [(run[0], run[3], run[5]) == ("slower", "slower", "faster") for run in found]
    assert np.mean(right) >= 0.9


def test_a_change_is_the_ratio_and_few_generations_give_no_verdict():
    assert 3.0**-NEEDED <= LEVEL < 3.0 ** (1 - NEEDED)
    rng = np.random.default_rng(3)
    (found,) = verdicts(simulated(rng, cases=1, generations=4, noise=1e-3, slower=[(0, 1.5)]), 1.02)
    assert found.word == ""
    assert found.change == pytest.approx(1.5, rel=0.05)
    assert found.control == pytest.approx(1.0, rel=0.05)
    # far beyond the noise, and yet too small to matter
    exact = np.ones((1, 5, 3, 3))
    exact[..., 2] = 1.01
    assert verdicts(exact, 1.02)[0].word == "tie"
    exact[..., 2] = 1.03
    assert verdicts(exact, 1.02)[0].word == "slower"


class Stub:
    """A worker of a folder named after its speed, without a process."""

    def __init__(self, folder, *, quick):
        self.folder, self.calls = folder, 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, do, name="", repeats=0):
        if do == "hello":
            return {"package": str(self.folder / "xentjax")}
        if do == "load":
            if name == "new" and self.folder.name == "base":
                return {"reason": "AttributeError: no new"}
            self.name = name
            return {"compile": 1.0, "first": 0.1, "call": 0.004, "scratch": 1_000_000}
        assert repeats == 3  # 10 ms of calls of 4
        factor = 1.5 if self.folder.name == "head" and self.name == "slow" else 1.0
        return {"seconds": 0.004 * factor}


def compare(tmp_path, monkeypatch, names=("slow", "same", "new"), generations=5, say=print):
    monkeypatch.setattr(measuring, "Worker", Stub)
    found = measure(
        (tmp_path / "base", tmp_path / "head"),
        names,
        generations=generations,
        rounds=2,
        quick=False,
        say=say,
    )
    return report.comparison("abc", "def", found, generations)


def test_what_is_slower_is_one_line_and_what_is_missing_has_its_reason(tmp_path, monkeypatch):
    found = compare(tmp_path, monkeypatch)
    assert found.summary() == "slower: slow 1.50×"
    starts, calls = found.sheets()
    assert calls.title == "Calls: def beside abc"
    assert [row[-1] for row in calls.rows] == ["slower", "tie", "n/a"]
    assert calls.legend[-1] == "n/a, new: base: AttributeError: no new"
    assert calls.rows[0][2:6] == ["4", "6", "1.500×", "1.000×"]
    assert calls.rows[2][:2] == ["new", "n/a"]
    assert starts.rows[0][-3:] == ["1", "1", ""]
    stored = json.loads(json.dumps(found.as_json()))
    assert stored["n/a"] == {"new": "base: AttributeError: no new"}
    assert len(stored["cases"][0]["samples"]) == 5
    assert np.shape(stored["cases"][0]["samples"][0]["seconds"]) == (2, 3)


def test_ctrl_c_keeps_finished_generations_without_a_verdict(tmp_path, monkeypatch):
    said = []

    def say(text):
        said.append(text)
        if len(said) == 6:
            raise KeyboardInterrupt

    found = compare(tmp_path, monkeypatch, names=("slow", "same"), say=say)
    assert found.measured.interrupted
    assert found.generations == 2
    assert [row.run.word for row in found.rows] == ["", ""]
    assert found.summary() == "no verdict: it takes 5 generations of processes, got 2"
    said.clear()
    found = compare(tmp_path, monkeypatch, names=("slow", "same", "a", "b", "c", "d"), say=say)
    assert [row.name for row in found.rows] == ["slow", "same", "a", "b", "c"]


def test_orders_come_with_their_mirror_images():
    orders = measuring._orders(5, np.random.default_rng(0))
    assert len(orders) == 5
    np.testing.assert_array_equal(orders[0], orders[1][::-1])
    np.testing.assert_array_equal(orders[2], orders[3][::-1])


def test_memory_that_changed_is_said():
    sample = Sample([[1.0, 1.0, 1.0]], [1.0] * 3, [1.0] * 3, [10**6, 10**6, 2 * 10**6])
    found = report.comparison("abc", "def", Measured({"a": [sample]}, {}, 0), 1)
    assert found.sheets()[0].rows[0][-3:] == ["1", "2", "changed"]


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["no-such-revision"], "BASE: expected a revision of this git repository"),
        (["HEAD", "--filter", "bread"], "--filter: expected part of a case's name, got 'bread'"),
        (["HEAD", "--rounds", "0"], "--rounds: expected at least 1, got 0"),
    ],
)
@pytest.mark.skipif(not IN_GIT, reason="needs a git repository")
def test_bad_options_are_one_line(args, line, capsys):
    assert exit_code(["compare", *args]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def stored(result, ratio):
    """A result of optax at this multiple of ours in the first case."""
    cell = {"xentjax": {"samples": [1.0, 2.0]}, "optax": {"samples": [ratio, 2 * ratio]}}
    cells = [
        {"case": "8 × 4", "mode": "forward", "implementations": cell | {"torch": "not installed"}}
    ]
    return {
        "name": "losses",
        "ours": "xentjax",
        "machine": result.as_json()["machine"],
        "cells": cells,
    }


@pytest.mark.parametrize(
    ("then", "word"), [(3.0, "tie"), (3.5, "slower"), (2.5, "faster"), (3.2, "tie")]
)
def test_an_old_result_compares_ratios_and_needs_more_than_the_noise(then, word):
    """Optax takes three times ours now; the noise is 10 %."""
    noisy = dataclasses.replace(RESULT.cells[0], again=[0.0011, 0.0022, 0.0044])
    result = dataclasses.replace(RESULT, cells=(noisy, RESULT.cells[1]))
    found = against(stored(RESULT, then), result)
    assert (found.slower, found.faster) == (
        ["8 × 4 forward"] * (word == "slower"),
        ["8 × 4 forward"] * (word == "faster"),
    )
    first, second = found.table.rows
    assert first[:2] == ("8 × 4, forward", "optax")
    assert first[-2:] == (f"{then / 3:.2f}×", word)
    assert second[1:] == ("not in the old result", *["n/a"] * 4)


def test_an_old_result_decides_the_exit_status(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        benchmark_command, "_measure", lambda name, options, session: finished(session)
    )

    def finished(session):
        session.finished = 1
        return RESULT

    path = tmp_path / "old.json"
    for then, code in ((3.0, 0), (4.0, 1)):
        path.write_text(json.dumps(stored(RESULT, then)))
        output = str(tmp_path / str(then))
        assert exit_code(["compare", "--against", str(path), "--output", output]) == code
        assert len(list(tmp_path.glob(f"{then}/compare-*/compare.json"))) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "slower: 8 × 4 forward"
    path.write_text("[]")
    assert exit_code(["compare", "--against", str(path)]) == 2
    assert "--against: expected the JSON of a result" in capsys.readouterr().err


def test_every_program_is_a_function_of_its_arguments():
    for name, make in programs(quick=True).items():
        program = make()
        assert jax.tree.leaves(jax.eval_shape(program.function, *program.args)), name


def worktrees():
    done = subprocess.run(
        ["git", "worktree", "list"], cwd=trees.ROOT, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if f"{trees.PREFIX}{os.getpid()}-" in line]


@pytest.mark.skipif(not IN_GIT, reason="needs a git repository")
def test_processes_import_their_own_package_and_leave_nothing_behind(tmp_path, capsys):
    """One generation of three processes, at a size that shows nothing but that it works."""
    code = exit_code(
        [*("compare", "HEAD", "--quick", "--filter", "entropy 4 x 10", "--output", str(tmp_path))]
    )
    out = capsys.readouterr().out
    assert code == 0
    assert out.splitlines()[-1].endswith("no verdict: it takes 5 generations of processes, got 1")
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("compare.json"))
    (case,) = stored["cases"]
    assert case["name"] == "entropy 4 × 10"
    assert np.min(case["samples"][0]["seconds"]) > 0
    assert stored["fingerprint"]["cores"] >= 1
    assert stored["of_cases"] == [1, len(programs(quick=True))]
    assert worktrees() == []


@pytest.mark.skipif(not IN_GIT, reason="needs a git repository")
def test_ctrl_c_while_processes_run_leaves_no_worktree(tmp_path, monkeypatch, capsys):
    def interrupt(*_, **__):
        return Measured({"a": []}, {}, 0, interrupted=True)

    monkeypatch.setattr(command, "measure", interrupt)
    assert exit_code(["compare", "HEAD", "--quick", "--output", str(tmp_path)]) == 130
    assert worktrees() == []
    assert "no verdict" in capsys.readouterr().out
