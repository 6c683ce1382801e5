"""Waiting: a log says what is being done before anyone wonders, and nothing else."""

import io
import subprocess
import sys
import time

import pytest
from rich.console import Console

from experiments.cifar10.training.progress import TrainingProgress
from experiments.common import waiting as module
from experiments.common.waiting import Log, waiting
from tests.support.paths import ROOT


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.05)


def wait_for(text: str, output: io.StringIO) -> None:
    end = time.monotonic() + 30
    while text not in output.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    assert text in output.getvalue()


def test_a_log_begins_with_the_activity_and_repeats_what_is_being_done(impatient):
    output = io.StringIO()
    with waiting(Console(file=output), "counting") as doing:
        assert output.getvalue().startswith("counting\n")
        wait_for("counting, 0:00:0", output)
        doing("drawing [bold]")
        wait_for("drawing [bold], 0:00:0", output)
    ended = output.getvalue()
    time.sleep(0.2)
    assert output.getvalue() == ended


def test_nothing_more_is_said_of_what_is_done_at_once():
    output = io.StringIO()
    with waiting(Console(file=output), "counting") as doing:
        doing("drawing")
        doing("case 2", log=True)
    with waiting(Console(file=output)):
        pass
    with waiting(Console(file=output, quiet=True), "nobody is told"):
        pass
    assert output.getvalue() == "counting\ncase 2\n"


def test_a_training_says_in_a_log_what_it_compiles(impatient):
    output = io.StringIO()
    with TrainingProgress(Console(file=output, width=300)) as progress:
        progress.plan(work=10.0, programs=2)
        with progress.compiling():
            wait_for("compiling 1 of 2, for 0:00:0", output)
        progress.worked(1.0)
        progress.doing("testing")
        wait_for("testing, ", output)


class Closed(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(text)


def test_a_reader_that_is_gone_ends_the_log_and_not_the_command(impatient):
    with Log(Console(file=Closed()), lambda: "still there") as log:
        log._thread.join(30)
        assert not log._thread.is_alive()


def test_the_first_word_comes_before_the_work(tmp_path):
    """Of a command whose output is not a terminal, in CPU seconds of the process."""
    code = (
        "import time; import experiments.divergences as d; run = d.run;"
        "d.run = lambda config: print('CPU', time.process_time()) or run(config);"
        f"d.main(['--runs-dir', {str(tmp_path)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    word, seconds, *_ = done.stdout.splitlines()
    assert word == "measuring and drawing"
    assert float(seconds.split()[1]) < 5
