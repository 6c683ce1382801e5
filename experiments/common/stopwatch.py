"""Seconds of a command by activity, from the start of its process on."""

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

_IMPORTED = time.monotonic()


class Stopwatch:
    """Seconds by activity, which add up to the time since `began`.

    There is one activity at a time: an inner one interrupts the outer one.

    Args:
        began: start in the time of `time.monotonic`; None is now.
        activity: the first one.
    """

    def __init__(self, began: float | None = None, activity: str = "other") -> None:
        self._since = time.monotonic() if began is None else began
        self._activity = activity
        self._seconds = {activity: 0.0}

    @contextmanager
    def during(self, activity: str) -> Iterator[None]:
        """Count the seconds of the block for an activity."""
        outer = self.switch(activity)
        try:
            yield
        finally:
            self.switch(outer)

    def switch(self, activity: str) -> str:
        """Begin an activity; return the one that it ends."""
        now = time.monotonic()
        before = self._activity
        self._seconds[before] += now - self._since
        self._seconds.setdefault(activity, 0.0)
        self._since, self._activity = now, activity
        return before

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each activity so far, in the order in which they first began."""
        self.switch(self._activity)
        return dict(self._seconds)


def process_start() -> float:
    """Return when this process began, in the time of `time.monotonic`.

    Python does not record it. If the system does not either, the time is that of the import of this
    module.
    """
    if sys.platform != "linux":
        return _IMPORTED
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        ticks = int(fields[19])  # after the system's start, field 22 of the line
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return _IMPORTED
    return min(_IMPORTED, time.monotonic() - age)


def adding_up(seconds: Mapping[str, float], least: float = 0.05) -> str:
    """Format seconds by activity, rounded so that the parts add up to the total.

    Args:
        seconds: activity -> seconds.
        least: an activity that took less is counted with "other".
    """
    parts = {name: value for name, value in seconds.items() if value >= least and name != "other"}
    total = sum(seconds.values())
    parts["other"] = total - sum(parts.values())
    shown, exact, rounded = [], 0.0, 0.0
    for name, value in parts.items():
        exact += value
        part = round(exact, 1) - rounded
        rounded = round(exact, 1)
        shown.append(f"{name} {part:.1f}")
    return f"{total:.1f} s in all: {', '.join(shown)}"
