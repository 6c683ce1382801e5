"""A run of a benchmark: its progress messages, and its partial results after Ctrl-C."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console

from benchmarks.harness import timing
from benchmarks.harness.tables import Extent
from experiments.common.waiting import Doing, waiting

Case = TypeVar("Case")
Found = TypeVar("Found")


class Session:
    """Runs the cases of a benchmark one after the other and reports the progress.

    On a terminal one line is rewritten; elsewhere each case has a line of its own, and more if
    it is long.

    Args:
        quick: small shapes, for a trial run whose figures are not representative.
        rounds: how often every implementation runs.
        console: where the progress is printed.
    """

    def __init__(self, *, quick: bool, rounds: int, console: Console) -> None:
        self.quick, self.rounds, self.console = quick, rounds, console
        self.interrupted: str | None = None
        self.finished = 0
        self._place = ""
        self._stack = ExitStack()
        self._show: Doing = lambda activity, *, log=False: None

    def __enter__(self) -> Self:
        self._show = self._stack.enter_context(waiting(self.console))
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
        """The part of the benchmark that was run so far."""
        return Extent(self.quick, self.interrupted)

    def say(self, text: str, *, log: bool = True) -> None:
        """Show the current activity; with `log`, also where no line can be rewritten."""
        self._show(f"{self._place}: {text}" if self._place else text, log=log)

    def collect(
        self,
        title: str,
        table: Iterable[tuple[str, Case]],
        measure: Callable[[Case], Found],
    ) -> list[Found]:
        """Measure each case and return the results, after Ctrl-C those of the finished cases.

        Args:
            title: the name of this group of cases in messages.
            table: the cases with their names.
            measure: measures a case, usually by one call of `interleave`; if it makes several,
                Ctrl-C discards the case.
        """
        found: list[Found] = []
        cases = list(table)
        for number, (name, case) in enumerate(cases, 1):
            if self.interrupted is not None:
                break
            self._place = f"{title}, case {number} of {len(cases)}{', ' * bool(name)}{name}"
            try:
                self.say("preparing")
                found.append(measure(case))
                self.finished += 1
            except KeyboardInterrupt:
                self.interrupted = f"{self._place}, before its first round ended"
        self._place = ""
        return found

    def interleave(self, thunks: Mapping[str, timing.Thunk], **options: Any) -> timing.Samples:
        """Run `timing.interleave`; after Ctrl-C, return the samples of the finished rounds.

        Raises:
            KeyboardInterrupt: no round was finished, or an earlier call was interrupted.
        """
        if self.interrupted is not None:
            raise KeyboardInterrupt

        def turn(number: int, name: str) -> None:
            round_ = f"round {number} of {self.rounds}" if number else "warming up"
            self.say(f"{round_}, {name}", log=False)

        try:
            return timing.interleave(thunks, rounds=self.rounds, on_turn=turn, **options)
        except timing.Interrupted as ended:
            done = len(next(iter(ended.samples.values())))
            if not done:
                raise
            self.interrupted = f"{self._place}, {done} of {self.rounds} rounds"
            return ended.samples
