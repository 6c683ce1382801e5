"""Messages while the user waits: a line that is rewritten on a terminal, a log elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, Self

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

FIRST_SECONDS = 1.5
"""The time without a line in a log at first: importing packages has taken as long."""
QUIET_SECONDS = 4.0
"""The longest time without a line later on."""


class Doing(Protocol):
    """Names the current activity; with `log`, on a line at once if no line is rewritten."""

    def __call__(self, activity: str, *, log: bool = False) -> None: ...


class Log:
    """Prints a line from a thread whenever nothing was printed for a while.

    Args:
        console: where to print.
        line: returns the line.
    """

    def __init__(self, console: Console, line: Callable[[], str]) -> None:
        self._console = console
        self._line = line
        self._due = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._due = time.monotonic() + FIRST_SECONDS
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def restart(self) -> None:
        """Count the time without a line from now."""
        self._due = time.monotonic() + QUIET_SECONDS

    def _run(self) -> None:
        while not self._ended.wait(max(0.0, self._due - time.monotonic())):
            if time.monotonic() < self._due:
                continue
            try:
                # not console.print, which would end this thread if the reader is gone
                self._console.file.write(f"{self._line()}\n")
                self._console.file.flush()
            except (OSError, ValueError):  # the command gets the same error at its next line
                return
            self.restart()


@contextmanager
def waiting(console: Console, activity: str = "") -> Iterator[Doing]:
    """Show the current activity and the time since the beginning, until the block ends.

    Args:
        console: a terminal, where the line disappears at the end, or the file of a log.
        activity: the first one.
    """
    show = _in_a_log if not console.is_terminal else _on_a_terminal
    with show(console, activity) as doing:
        yield doing


@contextmanager
def _on_a_terminal(console: Console, activity: str) -> Iterator[Doing]:
    text = TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold"))
    with Progress(
        SpinnerColumn(),
        text,
        TimeElapsedColumn(),
        console=console,
        transient=True,
        refresh_per_second=2,  # drawing shares the cores with measurements
    ) as progress:
        task = progress.add_task(activity, total=None)
        yield lambda activity, *, log=False: progress.update(task, description=activity)


@contextmanager
def _in_a_log(console: Console, activity: str) -> Iterator[Doing]:
    if console.quiet:
        yield lambda activity, *, log=False: None
        return
    began = time.monotonic()
    current = activity

    def doing(activity: str, *, log: bool = False) -> None:
        nonlocal current
        current = activity
        if log:
            console.print(current, highlight=False, markup=False, soft_wrap=True)
            logged.restart()

    with Log(console, lambda: f"{current}, {clock(time.monotonic() - began)}") as logged:
        yield doing


def clock(seconds: float) -> str:
    """Format a time as 1:23:45."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}"
