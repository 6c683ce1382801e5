"""A run of a benchmark: what it says while it works, and what is kept when Ctrl-C ends it."""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console

from benchmarks import timing
from benchmarks.tables import Extent
from experiments.common.command import waiting

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
        self._stack = ExitStack()
        self._show: Callable[[str], None] = lambda what: None

    def __enter__(self) -> Self:
        self._show = self._stack.enter_context(waiting(self.console, ""))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def extent(self) -> Extent:
        """How much was run so far."""
        return Extent(self.quick, self.interrupted)

    def say(self, text: str, *, log: bool = True) -> None:
        """Tell what is being done now; `log` says it also where no line can be rewritten."""
        text = f"{self._place}: {text}" if self._place else text
        if self.console.is_terminal:
            self._show(text)
        elif log or time.monotonic() - self._said > QUIET_SECONDS:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)
            self._said = time.monotonic()

    def collect(
        self,
        subject: str,
        table: Iterable[tuple[str, Case]],
        measure: Callable[[Case], Found],
    ) -> list[Found]:
        """Return what `measure` finds for each case, or for those that were done before Ctrl-C.

        Args:
            subject: what is measured.
            table: the cases with their names.
            measure: finds something for a case, most often by one call of `interleave`; where it
                makes several, Ctrl-C leaves nothing of the case.
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
        """Run `timing.interleave` and return its samples, or those that Ctrl-C leaves of them.

        Raises:
            KeyboardInterrupt: no round was finished, or an earlier call was interrupted.
        """
        if self.interrupted is not None:
            raise KeyboardInterrupt

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
