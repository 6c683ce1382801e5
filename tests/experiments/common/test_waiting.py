"""Waiting: a log says what is being done before anyone wonders, and nothing else."""

import io
import time

import pytest
from rich.console import Console

from experiments.common import waiting as module
from experiments.common.progress import TrainingProgress
from experiments.common.waiting import Log, waiting


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(module, "FIRST_SECONDS", 0.05)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.05)


def wait_for(text: str, output: io.StringIO) -> None:
    end = time.monotonic() + 30
    while text not in output.getvalue() and time.monotonic() < end:
        time.sleep(0.01)
    assert text in output.getvalue()


def test_a_log_repeats_what_is_being_done(impatient):
    output = io.StringIO()
    with waiting(Console(file=output), "counting") as doing:
        wait_for("counting, 0:00:0", output)
        doing("drawing [bold]")
        wait_for("drawing [bold], 0:00:0", output)
    ended = output.getvalue()
    time.sleep(0.2)
    assert output.getvalue() == ended


def test_lines_come_before_five_seconds_have_passed():
    imports = 3.0  # CPU seconds before the first activity of the slowest command
    assert imports + module.FIRST_SECONDS < 5
    assert module.QUIET_SECONDS < 5


def test_nothing_is_said_of_what_is_done_at_once():
    output = io.StringIO()
    with waiting(Console(file=output), "counting") as doing:
        doing("drawing")
        doing("case 2", log=True)
    with waiting(Console(file=output)):
        pass
    with waiting(Console(file=output, quiet=True), "nobody is told"):
        pass
    assert output.getvalue() == "case 2\n"


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
