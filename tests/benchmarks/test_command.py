"""Benchmarks: fair turns, right arithmetic, honest reports, rivals that compute the same thing."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

from benchmarks import (
    __main__ as command,
    cases,
    categorical,
    linear,
    losses,
    machine,
    report,
    timing,
    training,
)
from benchmarks.tables import Extent
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, exit_code, interrupting, session
from tests.support.paths import ROOT

# Within every round optax takes 3 times as long in the first cell, half as long in the second.
RESULT = report.Result(
    name="demo",
    subject="xentjax",
    rivals=("optax", "torch"),
    unit="GB/s",
    cells=(
        report.Cell(
            case="8 × 4",
            mode="forward",
            seconds={"xentjax": [0.001, 0.002, 0.004], "optax": [0.003, 0.006, 0.012]},
            work=0.02,
            limit_seconds=[0.0005, 0.001, 0.002],
            temp_bytes={"xentjax": 0, "optax": 2_500_000},
            compile_seconds={"xentjax": 0.25, "optax": 0.5},
        ),
        report.Cell(
            case="8 × 4",
            mode="value_and_grad",
            seconds={"xentjax": [0.004] * 3, "optax": [0.002] * 3},
            work=0.02,
            temp_bytes={"xentjax": 1_000, "optax": None},
            compile_seconds={"xentjax": 0.25, "optax": 0.5},
        ),
    ),
    machine=MACHINE,
    notes=("a note",),
)


class Workshop:
    """Thunks that cost what they say on a clock of their own, and a diary of their calls."""

    def __init__(self, **costs: float):
        self.now = 0.0
        self.calls: list[str] = []
        self.thunks = {name: lambda name=name: self._work(name, costs[name]) for name in costs}

    def _work(self, name: str, cost: float) -> None:
        self.calls.append(name)
        self.now += cost

    def clock(self) -> float:
        return self.now


def test_interleave_takes_turns_in_mirrored_and_moving_order():
    shop = Workshop(a=1.0, b=1.0, c=1.0)
    timing.interleave(shop.thunks, rounds=4, min_seconds=0.0, clock=shop.clock)
    warm_up, turns = shop.calls[:6], shop.calls[6:]
    assert warm_up == ["a", "a", "b", "b", "c", "c"]
    assert turns[::2] == turns[1::2]  # each turn: one call not timed, one timed
    assert "".join(turns[::2]) == "abc" + "cba" + "bca" + "acb"


def test_interleave_puts_every_rival_equally_often_in_every_place():
    shop = Workshop(a=1.0, b=1.0, c=1.0, d=1.0)
    timing.interleave(shop.thunks, rounds=8, min_seconds=0.0, clock=shop.clock)
    rounds = np.array(shop.calls[8::2]).reshape(8, 4)
    for name in shop.thunks:
        np.testing.assert_array_equal(np.sum(rounds == name, axis=0), 2)


def test_interleave_repeats_short_calls_and_keeps_one_sample_a_round():
    shop = Workshop(short=0.25, long=2.0)
    samples = timing.interleave(shop.thunks, rounds=3, min_seconds=0.9, clock=shop.clock)
    assert samples == {"short": [0.25] * 3, "long": [2.0] * 3}
    assert shop.calls.count("short") == 2 + 3 * (1 + 4)
    assert shop.calls.count("long") == 2 + 3 * (1 + 1)


def test_interleave_does_not_time_the_warm_up():
    costs = iter([100.0, 1.0, 50.0, 1.0, 50.0, 2.0])
    shop = Workshop(a=0.0)

    def thunk():
        shop.now += next(costs)

    samples = timing.interleave({"a": thunk}, rounds=2, min_seconds=0.0, clock=shop.clock)
    assert samples == {"a": [1.0, 2.0]}


@pytest.mark.parametrize(("thunks", "rounds"), [({}, 1), ({"a": lambda: None}, 0)])
def test_interleave_refuses_nothing_to_do(thunks, rounds):
    with pytest.raises(ValueError, match="interleave: expected a thunk and a round"):
        timing.interleave(thunks, rounds=rounds)


def test_ratio_is_the_median_within_rounds():
    slow_hour = 10.0
    subject = [1.0, 1.0 * slow_hour, 1.0]
    rival = [2.0, 3.0 * slow_hour, 4.0]
    assert timing.ratio(rival, subject) == 3.0
    with pytest.raises(ValueError, match="as many rounds of both, got 2 and 3"):
        timing.ratio(rival[:2], subject)


def test_quartiles_and_geometric_mean():
    assert timing.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert timing.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert timing.geometric_mean([1.0, 8.0, 1.0]) == pytest.approx(2.0)


def test_thread_state_feeds_a_donating_step_its_own_output():
    step = timing.compile_apart(lambda x: x + 1.0, jnp.zeros(3), donate=(0,))
    thunk = timing.thread_state(step.call, jnp.zeros(3))
    thunk()
    thunk()
    np.testing.assert_array_equal(thunk(), 3.0)


def test_compile_apart_times_compilation_and_counts_scratch_memory():
    ticks = iter([1.0, 3.5])
    compiled = timing.compile_apart(
        lambda x: jnp.sort(x)[::-1] @ jnp.sin(x), jnp.ones(1000), clock=lambda: next(ticks)
    )
    assert compiled.compile_seconds == 2.5
    assert compiled.temp_bytes is not None
    assert compiled.temp_bytes >= 4000  # the sorted copy has to live somewhere


def test_compile_apart_where_the_backend_does_not_tell_its_memory(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    assert timing.compile_apart(jnp.sin, jnp.ones(3)).temp_bytes is None


def test_machine_limits_count_every_byte_and_operation(monkeypatch):
    seconds = {"read": [0.5, 1.0, 9.0], "update": [2.0], "fresh": [4.0], "gemm": [0.5]}
    monkeypatch.setattr(timing, "interleave", lambda thunks, rounds: seconds)
    found = machine.measure(quick=True)
    gigabytes = 2**20 * 4 / 1e9
    assert found.read_bandwidth == pytest.approx(gigabytes / 1.0)
    assert found.update_bandwidth == pytest.approx(2 * gigabytes / 2.0)
    assert found.fresh_bandwidth == pytest.approx(2 * gigabytes / 4.0)
    assert found.gemm == pytest.approx(2 * 256**3 / 0.5 / 1e9)
    assert found.backend == jax.default_backend()
    assert found.versions["jax"] == jax.__version__
    assert found.processor
    assert found.cores >= 1


@pytest.mark.parametrize("shape", [(8, 16), (3, 5)], ids=["in pieces", "whole"])
def test_machine_traffic_moves_what_it_says(shape):
    thunks = machine.traffic(shape)
    assert float(jnp.sum(thunks["read"]())) == np.prod(shape)
    for name, values in {"update": (2.0, 3.0), "fresh": (2.0, 2.0)}.items():
        for value in values:
            np.testing.assert_array_equal(thunks[name](), np.full(shape, value))


def test_versions_name_what_is_not_installed():
    assert machine.versions(["no-such-package"]) == {"no-such-package": "not installed"}


def test_result_ratios():
    first, second = RESULT.cells
    assert RESULT.ratio(first, "optax") == pytest.approx(3.0)
    assert RESULT.ratio(first, "torch") is None
    assert RESULT.fastest_rival(second) == ("optax", 0.5)
    cells = (first, dataclasses.replace(second, mode="forward"), second)
    result = dataclasses.replace(RESULT, cells=cells)
    assert result.mean_ratio("optax", "forward") == pytest.approx(1.5**0.5)
    assert result.mean_ratio("optax", "value_and_grad") == pytest.approx(0.5)
    assert result.mean_ratio("torch", "forward") is None


def test_markdown_holds_the_figures():
    text = report.markdown(RESULT)
    assert "| case | mode | ms | ± | GB/s | limit | optax | torch | best |" in text
    # median 2 ms, quartiles 1.5 and 3: half their distance is 37.5 %; 0.02 GB in 2 ms is 10 GB/s
    assert "| 8 × 4 | forward | 2.00 | ±38% | 10.0 | 50% | 3.00× | not installed | 3.00× |" in text
    assert "| 8 × 4 | value_and_grad | 4.00 | ±0% | 5.00 | - | 0.50× | not installed |" in text
    assert "| geometric mean | forward |  |  |  |  | 3.00× | not installed |  |" in text
    assert "| geometric mean | value_and_grad |  |  |  |  | 0.50× | not installed |  |" in text
    assert "| 8 × 4 | forward | 0 | 2.50 |" in text
    assert "| 8 × 4 | value_and_grad | 0.00100 | unknown |" in text
    assert "compilation of all cells: xentjax 0.5 s, optax 1.0 s" in text
    assert "Abacus 3000, 2 cores (cpu)" in text
    assert text.endswith("- a note\n")


def terminal(result, width):
    """What is printed on a terminal that wide."""
    stream = io.StringIO()
    report.print_terminal(result, Console(file=stream, width=width))
    return stream.getvalue()


@pytest.mark.parametrize("missing", ["nothing", losses.TORCH])
def test_terminal_tables_fit_eighty_columns(missing):
    # The real benchmark's columns.
    names = (*losses.JAX_LOSSES, losses.TORCH)
    times = {name: [0.0123] * 3 for name in names if name != missing}
    compiled = dict.fromkeys(losses.JAX_LOSSES, 0.1)
    cell = dataclasses.replace(
        RESULT.cells[1], seconds=times, limit_seconds=[0.01] * 3, compile_seconds=compiled
    )
    rivals = tuple(name for name in names if name != losses.SUBJECT)
    result = dataclasses.replace(RESULT, cells=(cell,), rivals=rivals)
    text = terminal(result, 80)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in text
    assert ("installed" in text) == (missing == losses.TORCH)
    assert any(line.split()[:3] == ["value_and_grad", "12.3", "±0%"] for line in lines)
    # one table, the last of all, with what its columns mean beneath it
    assert sum(line.startswith("value_and_grad") for line in lines) == 3  # memory, time, mean
    after = text[text.index("Time of xentjax") :]
    assert "- ms: median" in after
    assert "best: that of the fastest rival" in after


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
def test_no_width_cuts_a_word_or_a_number(width):
    names = (*losses.JAX_LOSSES, losses.TORCH)
    times = {name: [k + 1.125, k + 1.25, k + 2.0] for k, name in enumerate(names)}
    cells = [
        dataclasses.replace(RESULT.cells[0], mode=mode, seconds=times, limit_seconds=[0.5] * 3)
        for mode in cases.MODES
    ]
    rivals = tuple(name for name in names if name != losses.SUBJECT)
    result = dataclasses.replace(RESULT, cells=tuple(cells), rivals=rivals)
    text = terminal(result, width)
    lines = text.splitlines()
    assert "…" not in text
    assert max(map(len, lines)) <= max(width, 26)  # a name and the longest number
    words = text.split()
    (sheet,) = (sheet for sheet in result.sheets() if sheet.title.startswith("Time"))
    for row in sheet.rows:
        for number in row[2:]:
            assert all(part in words for part in number.split())
    for part in ("value_and_grad", "one-hot", "integer", "eager", "Abacus"):
        assert part in words


@pytest.mark.parametrize(
    ("extent", "mark"),
    [
        (Extent(quick=True), "QUICK"),
        (Extent(interrupted="losses, case 2 of 3, 4 of 15 rounds"), "INTERRUPTED"),
    ],
)
def test_less_than_a_whole_run_says_so_everywhere_and_has_no_means(extent, mark, tmp_path):
    result = dataclasses.replace(RESULT, extent=extent)
    text = report.markdown(result)
    assert text.count(f"**{mark}: ") == len(result.sheets()) == 2
    assert "geometric mean" not in text
    assert f"- {extent.lines()[0]}" in text
    printed = terminal(result, 80)
    assert printed.startswith(f"- {mark}")
    assert printed.count(f"\n{mark}: ") == 2
    assert "geometric mean" not in printed
    assert result.figure().get_suptitle().startswith(f"{mark}: demo")
    stored = json.loads((report.save(result, tmp_path) / "demo.json").read_text())
    assert (stored["quick"], stored["interrupted"]) == extent
    assert "geometric_mean_ratio" not in stored


def test_interrupted_rounds_leave_the_finished_ones():
    # 2 calls warm it up, each of its turns is 2 more: the fifth turn's call does not end
    thunks = {"a": lambda: None, "b": interrupting(2 + 4 * 2 + 2), "c": lambda: None}
    with pytest.raises(timing.Interrupted) as caught:
        timing.interleave(thunks, rounds=9, min_seconds=0.0)
    assert {name: len(each) for name, each in caught.value.samples.items()} == dict.fromkeys(
        thunks, 4
    )
    assert isinstance(caught.value, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("calls", "finished", "where"),
    [
        (2 + 2 * 2, {"first": 3, "second": 1}, "things, case 2 of 3, second, 1 of 3 rounds"),
        (2, {"first": 3}, "things, case 2 of 3, second, before its first round ended"),
    ],
    ids=["after a round", "in the warm-up"],
)
def test_a_session_keeps_the_finished_rounds_and_goes_no_further(calls, finished, where):
    thunks = {"first": lambda: None, "second": interrupting(calls), "third": lambda: None}
    ours = session()

    def measure(name):
        samples = ours.interleave({name: thunks[name]}, min_seconds=0.0)
        return name, len(samples[name])

    assert dict(ours.collect("things", [(name, name) for name in thunks], measure)) == finished
    assert ours.extent == Extent(quick=True, interrupted=where)
    assert ours.finished == len(finished)
    assert ours.collect("more", [("x", "first")], measure) == []


def test_ctrl_c_ends_a_case_of_several_interleaves():
    ours, begun = session(), []

    def measure(_):
        ours.interleave({"a": interrupting(2 + 2 * 2)}, min_seconds=0.0)
        ours.interleave({"b": lambda: begun.append("b")}, min_seconds=0.0)

    assert ours.collect("things", [("one", 1), ("two", 2)], measure) == []
    assert begun == []
    assert ours.interrupted == "things, case 1 of 2, one, before its first round ended"


def test_a_session_says_on_a_terminal_and_in_a_log_what_it_does():
    for terminal in (False, True):
        stream = io.StringIO()
        console = Console(file=stream, width=100, force_terminal=terminal)
        with session(console=console) as ours:
            ours.collect(
                "things", [("one", 1), ("two", 2)], lambda _: ours.say("compiling it", log=True)
            )
        text = stream.getvalue()
        assert "things, case 2 of 2, two: compiling it" in text
        if not terminal:
            assert "things, case 1 of 2, one: preparing\n" in text


def test_every_subject_leaves_a_report_of_what_ctrl_c_left(tmp_path, monkeypatch, capsys):
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


def test_save_writes_json_and_png_once(tmp_path):
    folder = report.save(RESULT, tmp_path / "results")
    assert folder == tmp_path / "results" / "demo-2026-01-02T03-04-05"
    assert sorted(path.name for path in folder.iterdir()) == ["demo.json", "demo.png"]
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG\r\n")
    stored = json.loads((folder / "demo.json").read_text())
    assert stored["machine"] == MACHINE.as_dict()
    assert stored["geometric_mean_ratio"] == {
        "forward": {"optax": pytest.approx(3.0), "torch": None},
        "value_and_grad": {"optax": pytest.approx(0.5), "torch": None},
    }
    cell = stored["cells"][0]
    assert cell["rivals"]["torch"] == "not installed"
    optax = cell["rivals"]["optax"]
    assert optax["samples"] == [0.003, 0.006, 0.012]
    assert optax["seconds"]["median"] == 0.006
    assert optax["ratio"] == pytest.approx(3.0)
    assert optax["rate"] == pytest.approx(0.02 / 0.006)
    assert optax["share_of_limit"] == pytest.approx(1 / 6)
    assert optax["temp_bytes"] == 2_500_000
    with pytest.raises(FileExistsError):
        report.save(RESULT, tmp_path / "results")


def test_save_leaves_no_half_written_file_behind_a_good_name(tmp_path, monkeypatch):
    def interrupted(path, text):
        path.write_bytes(text[:10].encode())
        raise KeyboardInterrupt

    monkeypatch.setattr(report.Path, "write_text", interrupted)
    with pytest.raises(KeyboardInterrupt):
        report.save(RESULT, tmp_path)
    assert not list(tmp_path.rglob("*.json"))


def test_figure_draws_every_ratio_and_names_what_is_missing():
    drawing = report.figure(RESULT)
    (axes,) = drawing.axes
    points = {c.get_label(): np.asarray(c.get_offsets()) for c in axes.collections}
    np.testing.assert_allclose(points["optax"][:, 0], [3.0, 0.5])
    assert len(points["torch (not installed)"]) == 0
    assert axes.get_xscale() == "log"
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["8 × 4  forward", "8 × 4  value_and_grad"]


@pytest.fixture(scope="module")
def small_case():
    """Logits and labels of 5 rows and 7 classes, their mean loss and gradient in float64."""
    case = cases.LossCase("5 × 7", (5, 7), "float32", "forward")
    logits, labels = losses.problem(case)
    exact = logits.astype(np.float64)
    probs = np.exp(exact) / np.sum(np.exp(exact), axis=1, keepdims=True)
    one_hot = np.eye(7)[labels]
    loss = -np.mean(np.log(np.sum(probs * one_hot, axis=1)))
    return logits, labels, loss, (probs - one_hot) / 5


def assert_mode(mode, output, logits, loss, gradient):
    """The output of a rival in a mode is what the mode promises."""
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
@pytest.mark.parametrize("name", losses.JAX_LOSSES)
def test_jax_rivals_agree_with_float64(name, mode, small_case):
    logits, labels, loss, gradient = small_case
    function = losses.jax_function(losses.JAX_LOSSES[name], mode)
    output = jax.jit(function)(jnp.asarray(logits), jnp.asarray(labels))
    assert_mode(mode, output, logits, loss, gradient)


@pytest.mark.parametrize("mode", cases.MODES)
def test_torch_agrees_with_float64(mode, small_case):
    torch = losses.load_torch()
    if torch is None:
        pytest.skip("torch is not installed")
    logits, labels, loss, gradient = small_case
    thunk = losses.torch_thunk(torch, logits, labels, mode)
    output = jax.tree.map(lambda tensor: tensor.detach().numpy().copy(), thunk())
    assert_mode(mode, output, logits, loss, gradient)
    if mode == "SGD step":  # in place: the second step starts where the first one ended
        assert not np.array_equal(thunk().detach().numpy(), output)


def test_modes_have_one_name_each():
    assert {case.mode for case in cases.LOSSES} == set(cases.MODES)
    with pytest.raises(ValueError, match="mode: expected one of"):
        losses.jax_function(losses.naive_loss, "backward")


def test_a_missing_torch_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert losses.load_torch() is None


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
    assert cell["rivals"]["torch eager"] == "not installed"
    for name in losses.JAX_LOSSES:
        assert len(cell["rivals"][name]["samples"]) == 3
        assert cell["rivals"][name]["seconds"]["median"] > 0


def test_command_alone_lists_the_subjects(capsys):
    assert exit_code([]) == 0
    out = capsys.readouterr().out
    assert all(f"python -m benchmarks {name}" in out for name in command.SUBJECTS)


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["bread"], "NAME: expected one of losses"),
        (["losses", "--rounds", "0"], "--rounds: expected at least 1, got 0"),
        (["losses", "--output", __file__], "--output: expected a folder that can be made"),
    ],
    ids=["unknown subject", "no rounds", "output is a file"],
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
    assert error.startswith("error: JAX_PLATFORMS=nonsense: expected a platform that is here, got")
    assert (done.returncode, done.stdout) == (2, "")


def test_tables_are_printed_in_any_encoding(tmp_path, monkeypatch):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding="ascii"))

    def run(session):
        session.finished = 1
        return RESULT

    monkeypatch.setattr(losses, "run", run)
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
