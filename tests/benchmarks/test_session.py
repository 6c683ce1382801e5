"""Sessions: progress messages, and the finished rounds after Ctrl-C."""

import io

import pytest
from rich.console import Console

from benchmarks.harness.tables import Extent
from tests.support.benchmarking import interrupting, session


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
