"""A run of a benchmark: what it says while it works, and what is kept when Ctrl-C ends it."""

import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Column

from benchmarks import timing
from benchmarks.tables import Extent

Case = TypeVar("Case")
Found = TypeVar("Found")

QUIET_SECONDS = 4.0
"""How long a log says nothing while the rounds of a case go on."""


class Session:
    """Runs the cases of a benchmark one after the other and says which.

    On a terminal one line tells what is being done; elsewhere each case is a line of its own.

    Args:
        quick: small shapes, for a trial run whose figures mean little.
        rounds: how often every rival runs.
        console: where to say what is being done.
    """

    def __init__(self, *, quick: bool, rounds: int, console: Console) -> None:
        self.quick, self.rounds, self.console = quick, rounds, console
        self.interrupted: str | None = None
        self.finished = 0
        self._place = ""
        self._said = time.monotonic()
        self._line = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False, table_column=Column(overflow="fold")),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            refresh_per_second=2,  # a timed call has the cores to itself
        )
        self._task = self._line.add_task("", total=None)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.console.is_terminal:
            self._line.stop()

    @property
    def extent(self) -> Extent:
        """How much was run so far."""
        return Extent(self.quick, self.interrupted)

    def say(self, text: str, *, log: bool = True) -> None:
        """Tell what is being done now; `log` says it also where no line can be rewritten."""
        text = f"{self._place}: {text}" if self._place else text
        if self.console.is_terminal:
            self._line.update(self._task, description=text)
        elif log or time.monotonic() - self._said > QUIET_SECONDS:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._said = time.monotonic()

    def collect(
        self,
        subject: str,
        table: Iterable[tuple[str, Case]],
        measure: Callable[[Case], Found],
    ) -> list[Found]:
        """What `measure` finds for each case, until Ctrl-C: those that were finished till then.

        Args:
            subject: what is measured.
            table: the cases with their names.
            measure: finds something for a case, most often by `interleave`.
        """
        found: list[Found] = []
        cases = list(table)
        for number, (name, case) in enumerate(cases, 1):
            if self.interrupted is not None:
                break
            self._place = f"{subject}, case {number} of {len(cases)}{', ' * bool(name)}{name}"
            try:
                self.say("preparing")
                found.append(measure(case))
                self.finished += 1
            except KeyboardInterrupt:
                self.interrupted = f"{self._place}, before its first round ended"
        self._place = ""
        return found

    def interleave(self, thunks: Mapping[str, timing.Thunk], **options: Any) -> timing.Samples:
        """`timing.interleave` for the rounds of this run, or those that Ctrl-C leaves of them."""

        def turn(number: int, who: str) -> None:
            round_ = f"round {number} of {self.rounds}" if number else "warming up"
            self.say(f"{round_}, {who}", log=False)

        try:
            return timing.interleave(thunks, rounds=self.rounds, on_turn=turn, **options)
        except timing.Interrupted as ended:
            done = len(next(iter(ended.samples.values())))
            if not done:
                raise
            self.interrupted = f"{self._place}, {done} of {self.rounds} rounds"
            return ended.samples
