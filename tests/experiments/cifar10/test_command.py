"""The command: one line for every mistake, and a signal after which the printed command goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import pytest

from experiments.cifar10 import __main__ as command
from experiments.cifar10.__main__ import main, parse
from experiments.cifar10.config import PRESETS
from experiments.cifar10.training.run import TrainingStopped
from experiments.common.interrupt import StopRequest
from tests.support.paths import ROOT
from tests.support.run_folders import (
    check_figures,
    error_line,
    only_run,
    read_metrics,
    read_summary,
)

TIMEOUT = 300  # seconds; a few on an idle machine
DIGITS = ("--dataset", "digits")


@pytest.fixture(autouse=True)
def started_jax() -> None:
    """Computing has begun, so the command cannot split this process's CPU for other tests."""
    jax.devices()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "epochs: expected a positive number, got 0.0"),
        (["--epochs", "1e308"], "epochs: expected a number that float32 can represent, got 1e+308"),
        (["--epochs", "1e20"], "epochs: expected 1 to 2147483647 steps, 20 an epoch, got 1e+20"),
        (["--epochs", "1e-9"], "epochs: expected 1 to 2147483647 steps, 20 an epoch, got 1e-09"),
        (["--widths", "1000000000", "2", "2"], "widths: expected at most 8192 each, got (10000"),
        (
            ["--label-smoothing", "1e-40"],
            "label_smoothing: expected a number that float32 can represent",
        ),
        (["--seeds", "0:99999999999"], "--seeds: expected at most 10000, got 99999999999"),
        (
            ["--seeds", "9" * 5000],
            "--seeds: expected FIRST:END or a list such as 1,4,7, got '99999",
        ),
        (["--resume", "r" * 300], "expected a run folder holding config.json, got File name too"),
        (["--batch-size", "1"], "batch_size: expected at least 2"),
        (["--widths", "4", "0", "4"], "widths: expected 3 numbers, at least 1, got (4, 0, 4)"),
        (["--image-sides", "8"], "image_sides: expected 9 to 32 pixels each, got (8,)"),
        (["--image-sides"], "image_sides: expected 9 to 32 pixels each, got ()"),
        (["--learning-rate", "nan"], "learning_rate: expected a positive number, got nan"),
        (["--momentum", "1"], "momentum: expected 0 to below 1, got 1.0"),
        (["--label-smoothing", "1.5"], "label_smoothing: expected 0 to 1, got 1.5"),
        (["--shift", "9"], "shift: expected 0 to 8 pixels, got 9"),
        (["--network", "resnet18"], "widths: expected 4 numbers, at least 1, got (16, 32, 64)"),
        (["--convs", "4"], "convs: expected 2 or 3, got 4"),
        (["--cutout", "33"], "cutout: expected 0 to 32 pixels, got 33"),
        (["--num-devices", "0"], "num_devices: expected at least 1, got 0"),
        (["--held-out", "-1"], "held_out: expected 0 or more, got -1"),
        (["--norm-momentum", "1"], "norm_momentum: expected 0 to below 1, got 1.0"),
        (["--muon-rate", "0"], "muon_rate: expected a positive number, got 0.0"),
        (["--seeds", "2:1"], "--seeds: expected FIRST:END or a list such as 1,4,7, got '2:1'"),
        (["--seed", "-1"], "seed: expected 0 to 4294967295, got -1"),
        (["--resume", "a", "--replay", "b"], "--replay: expected no --resume with it, got a"),
        (["--resume", "no/such/run"], "no/such/run: expected a run folder holding config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_value_is_one_line_and_no_run(tmp_path, capsys, arguments, message):
    runs = tmp_path / "runs"
    line = error_line(main, [*DIGITS, *arguments, "--runs-dir", str(runs)], capsys)
    assert message in line
    assert not runs.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held-out", "1400"], "batch_size: expected at most 37, the number of training images"),
        (["--held-out", "1437"], "held_out: expected less than 1437, the number of training"),
        (["--num-devices", "999"], "num_devices: expected at most"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("seeds", [[], ["--seeds", "0:2"]], ids=["one", "seeds"])
def test_settings_that_do_not_suit_the_images_are_one_line_and_no_run(
    tmp_path, capsys, arguments, message, seeds
):
    runs = tmp_path / "runs"
    line = error_line(main, [*DIGITS, *arguments, *seeds, "--runs-dir", str(runs)], capsys)
    assert message in line
    assert not runs.exists()


def test_a_folder_of_no_run_is_said_to_be_one(tmp_path, capsys):
    line = error_line(main, [*DIGITS, "--resume", str(tmp_path)], capsys)
    assert line.endswith("expected a run folder holding config.json, got a folder without it")


def test_a_preset_that_does_not_exist_is_told_the_others_in_order(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--preset", "huge"])
    assert caught.value.code == 2
    printed = re.sub(r"[^A-Za-z0-9, -]|\n", "", capsys.readouterr().err)
    assert "None" not in printed
    places = [printed.index(name) for name in ("cpu89", "cpu92", "airbench93", "resnet18")]
    assert places == sorted(places)


def test_an_option_that_does_not_exist_ends_with_code_2(capsys):
    with pytest.raises(SystemExit) as caught:
        main([*DIGITS, "--nonsense"])
    assert caught.value.code == 2
    assert "--nonsense" in capsys.readouterr().err


def test_missing_data_is_one_line_and_no_run(tmp_path, capsys):
    arguments = ["--dataset", "cifar10", "--data-dir", str(tmp_path / "nowhere")]
    line = error_line(main, [*arguments, "--runs-dir", str(tmp_path / "runs")], capsys)
    assert str(tmp_path / "nowhere") in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "preset"),
    [
        (DIGITS, "digits"),
        (("--preset", "airbench94"), "airbench94"),
        (("--preset", "tour"), "tour"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_preset_is_what_the_options_start_from(arguments, preset):
    given, seeds = parse(arguments)
    assert (given.settings, seeds) == (PRESETS[preset], None)
    changed = parse([*arguments, "--epochs", "3"])[0].settings
    assert changed.epochs == 3
    assert PRESETS[preset].changes(changed) == ["epochs"]


def test_the_printed_command_quotes_the_folder_as_a_shell_needs(tmp_path, capsys, monkeypatch):
    def stopped_at_once(*args: Any, **kwargs: Any) -> None:
        raise TrainingStopped("stopped after step 0 of 9")

    monkeypatch.setattr(command, "run", stopped_at_once)
    runs = tmp_path / "my runs"
    with pytest.raises(SystemExit):
        main([*DIGITS, "--runs-dir", str(runs)])
    _, printed = capsys.readouterr().err.split("resume with: ")
    assert shlex.split(printed)[-2:] == ["--resume", str(only_run(runs, "cifar10"))]


def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | {"MPLBACKEND": "agg"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGHUP")
def test_a_closed_terminal_is_a_wish_to_stop_unless_the_process_ignores_it():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested()
        assert stop.exit_code == 129
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGTERM")
def test_sigterm_saves_and_the_printed_command_goes_on_to_the_end(tmp_path, capsys):
    runs = tmp_path / "runs"
    options = "--dataset digits --widths 4 4 4 --image-sides 9 --epochs 8 --batch-size 64"
    process = start(["-m", "experiments.cifar10", *options.split(), "--runs-dir", os.fspath(runs)])
    try:
        deadline = time.monotonic() + TIMEOUT
        while not list(runs.glob("cifar10/*/metrics.jsonl")):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 143, errors
    noted, line = errors.splitlines()
    assert noted.startswith("stopping after the current steps, unless they are the last")
    folder = only_run(runs, "cifar10")
    assert not (folder / "summary.json").exists()
    stopped = re.fullmatch(r"stopped after step (\d+) of 160; resume with: python (.+)", line)
    assert stopped is not None, line
    step = int(stopped[1])
    assert 20 <= step < 160

    go_on = shlex.split(stopped[2])
    other = error_line(main, [*go_on[2:], "--epochs", "9"], capsys)  # without python's -m NAME
    assert "expected the settings of" in other
    assert other.endswith("got other values of epochs")

    process = start(go_on)
    output, errors = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, errors) == (0, "")
    assert str(folder) in output.replace("\n", "")
    assert only_run(runs, "cifar10") == folder
    assert [m["epoch"] for m in read_metrics(folder)] == list(range(1, 9))
    assert read_summary(folder)["steps"] == 160
    check_figures(folder, ("curves", "confusion", "reliability", "risk_coverage", "misclassified"))
