"""Sessions: progress messages, and the finished rounds after Ctrl-C."""

import io

import pytest
from rich.console import Console

from benchmarks.harness import session as sessions
from benchmarks.harness.session import Choice
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


def test_cases_are_chosen_by_their_names_and_the_rest_is_counted():
    chosen = session(choice=Choice(text="8X10 f", rivals=("optax",)))
    table = [(name, name) for name in ("8 × 10 forward", "8 × 10 SGD step", "18 × 10 F", "")]
    found = chosen.collect("things", table, lambda name: name)
    assert found == ["8 × 10 forward", "18 × 10 F"]
    assert chosen.extent == Extent(quick=True, cases=(2, 3), rivals=("optax",))
    assert not chosen.extent.whole
    assert chosen.choice.has_rival("optax integer")
    assert not chosen.choice.has_rival("torch eager")


def test_a_brief_run_leaves_out_what_takes_minutes():
    table = [("short", 1), ("long", 100)]
    for brief, expected in ((True, [1]), (False, [1, 100])):
        ours = session(choice=Choice(brief=brief))
        found = ours.collect("x", table, lambda n: n, takes_minutes=lambda n: n > 60)
        assert found == expected
        assert ours.extent.cases == ((1, 2) if brief else None)


def test_no_case_begins_when_the_time_is_over(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(sessions.time, "monotonic", lambda: now[0])
    ours = session(quick=False, choice=Choice(until=10.0))

    def measure(seconds):
        now[0] += seconds
        return seconds

    assert ours.collect("things", [("a", 6.0), ("b", 7.0), ("c", 8.0)], measure) == [6.0, 7.0]
    assert ours.collect("more", [("d", 1.0)], measure) == []
    assert ours.extent == Extent(cases=(2, 4))
    assert ours.interrupted is None


def test_what_fails_leaves_a_note_and_the_others_go_on():
    ours = session()
    table = [("one", 1), ("none", 0), ("two", 2)]
    found = ours.collect("parts", table, lambda n: ours.attempt("division", lambda: 1 / n))
    assert found == [1.0, None, 0.5]
    (note,) = ours.notes
    assert note.startswith("parts, case 2 of 3, none: division failed, ZeroDivisionError: ")


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
