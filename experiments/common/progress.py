"""The progress of a run, as the user sees it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from experiments.common.waiting import Log, clock

NARROW = 66  # columns; with fewer there is no room for a bar beside the status


class TrainingProgress:
    """A line with the current activity and the remaining time, and lines above it that stay.

    If lines cannot be rewritten, the activity is printed on a new line every few seconds.

    The remaining time is estimated from the rate of the work so far, and from the mean time to
    compile a program.

    Args:
        console: where to draw; None draws nothing.
        without_bar: the line that says what to wait for if no bar can be drawn.
    """

    def __init__(self, console: Console | None, without_bar: str = "") -> None:
        width = 80 if console is None else console.width
        columns: list[str | ProgressColumn] = [
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=9 if width < NARROW else min(40, width - 59)),
            _TimeLeft(self),
        ]
        if width >= NARROW:
            columns.insert(2, TextColumn("{task.fields[status]}", markup=False))
        self._console = console
        self._without_bar = without_bar
        hidden = console is None or not console.is_terminal
        self._progress = Progress(*columns, console=console, disable=hidden, transient=True)
        self._log = None
        if console is not None and hidden and not console.quiet:
            self._log = Log(console, self._activity)
        self._task = self._progress.add_task("preparing", total=None, status="")
        self._work = self._done = 0.0
        self._programs = self._compiled = 0
        self._working_seconds = self._compiling_seconds = 0.0
        self._since = self._last = time.monotonic()

    def __enter__(self) -> Self:
        if self._console is not None and self._log is not None:
            self._console.print(self._without_bar)
            self._log.__enter__()
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()
        if self._log is not None:
            self._log.__exit__(*error)

    def plan(self, work: float, programs: int) -> None:
        """Set the work to do, in any unit, and the number of programs to compile."""
        self._work, self._programs = work, programs
        self._last = time.monotonic()
        self._progress.update(self._task, total=work)

    def doing(self, activity: str) -> None:
        """Name the current activity."""
        if activity != self._progress.tasks[0].description:
            self._since = time.monotonic()
            self._progress.update(self._task, description=activity)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Show that a program is being compiled while the block runs."""
        before = self._progress.tasks[0].description
        self._compiled += 1
        self.doing(f"compiling {self._compiled} of {max(self._programs, self._compiled)}")
        started = time.monotonic()
        yield
        seconds = time.monotonic() - started
        self._compiling_seconds += seconds
        self._last += seconds
        self.doing(before)

    def worked(self, work: float, status: str | None = None) -> None:
        """Add finished work; the status is shown until the next one."""
        now = time.monotonic()
        self._working_seconds += now - self._last
        self._last = now
        self._done += work
        self._progress.update(self._task, completed=self._done)
        if status is not None:
            self._progress.update(self._task, status=status)

    def left(self) -> str:
        """Format the remaining time, or if it is unknown, the time of this activity so far."""
        now = time.monotonic()
        programs = max(0, self._programs - self._compiled)
        if self._done and (self._compiled or not programs):
            left = (self._work - self._done) * self._working_seconds / self._done
            left += programs * self._compiling_seconds / max(1, self._compiled)
            if (left := left - (now - self._last)) >= 1:
                return f"left {clock(left)}"
        return f"for {clock(now - self._since)}"

    def line(self, text: str) -> None:
        """Print a line that stays above the bar."""
        if self._console is not None:
            self._console.print(text, highlight=False)
        if self._log is not None:
            self._log.restart()

    def _activity(self) -> str:
        """Format the current activity as a line of a log."""
        return f"{self._progress.tasks[0].description}, {self.left()}"


class _TimeLeft(ProgressColumn):
    """A column with the remaining time."""

    def __init__(self, progress: TrainingProgress) -> None:
        super().__init__()
        self._shown = progress

    def render(self, task: Task) -> Text:
        return Text(self._shown.left(), no_wrap=True)
