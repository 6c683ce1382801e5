"""Seconds by activity: they add up, in memory and in print."""

import re
import time
from contextlib import suppress

import pytest

from experiments.common import stopwatch
from experiments.common.stopwatch import Stopwatch, adding_up, process_start


def test_an_inner_activity_interrupts_the_outer_one(monkeypatch):
    now = [10.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])
    watch = Stopwatch(began=8.0, activity="starting")
    with watch.during("training"):
        now[0] += 3
        with suppress(ValueError), watch.during("compiling"):
            now[0] += 5
            raise ValueError
        now[0] += 1
    watch.switch("other")
    now[0] += 0.5
    assert watch.seconds() == {"starting": 2, "training": 4, "compiling": 5, "other": 0.5}
    now[0] += 0.5
    assert sum(watch.seconds().values()) == now[0] - 8


def test_the_process_began_before_its_tests_and_not_long_ago():
    age = time.monotonic() - process_start()
    assert time.process_time() / 64 < age < 24 * 3600


@pytest.mark.parametrize(
    "seconds",
    [
        {"starting": 1.25, "a": 0.04, "b": 0.25, "c": 33.149},
        dict.fromkeys("abcdefgh", 0.149),
        {"other": 0.26, "a": 3.0},
        {"a": 0.01},
    ],
)
def test_the_printed_parts_are_the_printed_total(seconds):
    text = adding_up(seconds)
    total, *parts = (float(number) for number in re.findall(r"\d+\.\d", text))
    assert round(sum(parts), 1) == total == round(sum(seconds.values()), 1)
    assert "other" in text
    assert all(part >= 0 for part in parts)
