"""The command: a list of benchmarks, reports after Ctrl-C, errors of one line."""

import io
import json
import os
import subprocess
import sys

import pytest

import benchmarks.losses
from benchmarks import __main__ as command, training
from benchmarks.categorical import benchmark as categorical
from benchmarks.harness import cases, machine, timing
from benchmarks.linear import benchmark as linear
from benchmarks.losses import benchmark as losses
from tests.support.benchmarking import MACHINE, RESULT, exit_code
from tests.support.paths import ROOT


def test_every_benchmark_leaves_a_report_of_what_ctrl_c_left(tmp_path, monkeypatch, capsys):
    """Each is interrupted in the second case; nothing may rest on what was not measured."""
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    for module in (losses, linear, categorical, training):
        monkeypatch.setattr(module, "load_torch", lambda: None)
    quick = cases.CATEGORICAL_QUICK._replace(counts=(cases.CountCase(50_000, 6),) * 2)
    monkeypatch.setattr(cases, "CATEGORICAL_QUICK", quick)
    monkeypatch.setattr(cases, "TRAINING_QUICK", cases.TRAINING[:2])
    samples = iter(())

    def interleave(thunks, *, rounds, **_):
        kept = next(samples)
        if kept < rounds:
            raise timing.Interrupted({name: [0.5] * kept for name in thunks})
        return {name: [0.5] * rounds for name in thunks}

    monkeypatch.setattr(timing, "interleave", interleave)
    monkeypatch.setattr(training, "xentjax_step", lambda *_, **__: None)
    for name, kept in {"losses": 2, "linear": 0, "categorical": 2, "training": 0}.items():
        samples = iter((3, kept))
        folder = tmp_path / name
        assert exit_code([name, "--quick", "--output", str(folder)]) == 130
        assert "INTERRUPTED" in capsys.readouterr().out
        (stored,) = (json.loads(path.read_text()) for path in folder.rglob("*.json"))
        ended = "2 of 3 rounds" if kept else "before its first round ended"
        assert ended in stored["interrupted"]
        assert len(list(folder.rglob("*.png"))) == 1


def test_nothing_finished_is_one_line(tmp_path, monkeypatch, capsys):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "measure", interrupt)
    assert exit_code(["losses", "--quick", "--output", str(tmp_path)]) == 130
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_help_lists_the_benchmarks(capsys):
    assert exit_code(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in command.BENCHMARKS)


def test_command_alone_runs_every_benchmark_briefly(monkeypatch):
    begun = []

    def run(name, _, session):
        begun.append((name, session.choice.brief, session.seconds))
        return 1

    monkeypatch.setattr(command, "_run", run)
    assert exit_code([]) == 0
    names = [name for name, each in command.BENCHMARKS.items() if each.anywhere]
    assert [name for name, *_ in begun] == names
    assert {"kernels", "device"}.isdisjoint(names)
    assert all(brief for _, brief, _ in begun)
    assert [seconds for *_, seconds in begun] == [
        command.BENCHMARKS[name].seconds / command.BRIEF for name in names
    ]
    begun.clear()
    assert exit_code(["linear", "losses", "--rounds", "4"]) == 0
    assert begun == [("linear", False, float("inf")), ("losses", False, float("inf"))]


def test_a_filter_that_leaves_nothing_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    args = ["losses", "training", "--quick", "--filter", "bread", "--output", str(tmp_path)]
    assert exit_code(args) == 2
    line = "error: --filter bread: expected to leave a case of losses, training, got none"
    assert capsys.readouterr().err.splitlines()[-1] == line
    assert list(tmp_path.iterdir()) == []


def test_some_cases_and_rivals_are_marked_and_have_their_fingerprint(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    monkeypatch.setattr(
        timing, "interleave", lambda thunks, **_: {key: [1.0, 1.0] for key in thunks}
    )
    args = ["losses", "--quick", "--filter", "16x1000 forward", "--rivals", "optax"]
    assert exit_code([*args, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "QUICK, 1 of 7 cases, only optax: Time of xentjax" in " ".join(out.split())
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("*.json"))
    assert (stored["cases"], stored["rivals"]) == ([1, 7], ["optax"])
    (cell,) = stored["cells"]
    assert {*cell["implementations"]} == {"xentjax", "optax one-hot", "optax integer"}
    assert {*stored["fingerprint"]} == {
        *("processor", "cores", "load_at_start", "load_at_end", "huge_pages", "governor"),
        *("jax", "xla_flags", "revision", "clean", "command"),
    }


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["bread"], "NAME: expected one of losses"),
        (["losses", "--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["losses", "--minutes", "0"], "--minutes: expected more than 0, got 0"),
        (["losses", "--big"], "--big: expected with linear only, got losses"),
        (["losses", "--output", __file__], "--output: expected a folder that can be created"),
    ],
    ids=["unknown name", "no rounds", "no time", "not of losses", "output is a file"],
)
def test_command_refuses_in_one_line(args, line, capsys):
    assert exit_code(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {line}")
    assert captured.err.count("\n") == 1


def command_line(*args, **environment):
    """The command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *args],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


def test_a_platform_that_is_not_there_is_one_line(tmp_path):
    done = command_line("losses", "--quick", "--output", str(tmp_path), JAX_PLATFORMS="nonsense")
    said, error = done.stderr.splitlines()
    assert said.startswith("loading")
    assert error.startswith("error: JAX_PLATFORMS=nonsense: expected an available platform, got")
    assert (done.returncode, done.stdout) == (2, "")


def test_tables_are_printed_in_any_encoding(tmp_path, monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))

    def run(session):
        session.finished = 1
        return RESULT

    monkeypatch.setattr(benchmarks.losses, "run", run)
    assert exit_code(["losses", "--output", str(tmp_path)]) == 0
    sys.stdout.flush()
    assert b"Time of xentjax" in output.getvalue()


def test_help_into_a_pipe_that_closes_is_silent():
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks", "--help"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
