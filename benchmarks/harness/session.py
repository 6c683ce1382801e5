"""A run of a benchmark: choice of cases, time limits, progress messages and Ctrl-C."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple, Self, TypeVar

from rich.console import Console

from benchmarks.harness import noise, timing
from benchmarks.harness.tables import Extent
from experiments.common.waiting import Doing, waiting

Case = TypeVar("Case")
Found = TypeVar("Found")


class Choice(NamedTuple):
    """The part of a benchmark to run.

    Attributes:
        text: a case's name contains this; × may be typed as x, spaces do not count.
        rivals: a baseline's name contains one of these; empty for all baselines.
        brief: whether to leave out the cases that take minutes.
        until: latest start of a case, as a time of `time.monotonic`.
    """

    text: str = ""
    rivals: tuple[str, ...] = ()
    brief: bool = False
    until: float = math.inf

    def has_case(self, name: str) -> bool:
        """Whether a case is chosen."""
        return _plain(self.text) in _plain(name)

    def has_rival(self, name: str) -> bool:
        """Whether a baseline is chosen."""
        return not self.rivals or any(_plain(each) in _plain(name) for each in self.rivals)


EVERYTHING = Choice()


def _plain(text: str) -> str:
    return text.lower().replace("×", "x").replace(" ", "")


class Session:
    """Runner of the cases of a benchmark, one after the other, which reports the progress.

    On a terminal one line is rewritten; elsewhere each case has a line of its own, and more if
    it is long.

    Args:
        quick: small shapes, for a trial run whose figures are not representative.
        rounds: the largest number of runs of every implementation.
        console: shows the progress.
        seconds: the time for the rounds of a case, which limits their number.
        choice: the cases and the baselines to run.
    """

    def __init__(
        self,
        *,
        quick: bool,
        rounds: int,
        console: Console,
        seconds: float = math.inf,
        choice: Choice = EVERYTHING,
    ) -> None:
        self.quick, self.rounds, self.console = quick, rounds, console
        self.seconds, self.choice = seconds, choice
        self.interrupted: str | None = None
        self.finished = 0
        self.notes: list[str] = []
        self._cases = self._left_out = 0
        self._place = ""
        self._stack = ExitStack()
        self._show: Doing = lambda activity, *, log=False: None

    def __enter__(self) -> Self:
        self._show = self._stack.enter_context(waiting(self.console))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def extent(self) -> Extent:
        """The part of the benchmark that was run so far."""
        run = (self._cases - self._left_out, self._cases) if self._left_out else None
        return Extent(self.quick, self.interrupted, run, self.choice.rivals)

    def say(self, text: str, *, log: bool = True) -> None:
        """Show the current activity; with `log`, also where no line can be rewritten."""
        self._show(f"{self._place}: {text}" if self._place else text, log=log)

    def collect(
        self,
        title: str,
        table: Iterable[tuple[str, Case]],
        measure: Callable[[Case], Found],
        *,
        takes_minutes: Callable[[Case], bool] = lambda case: False,
    ) -> list[Found]:
        """Measure each case and return the results; after Ctrl-C, those of the finished cases.

        Args:
            title: the name of this group of cases in messages.
            table: the cases with their names; one without a name does not count as a case, and is
                left out if cases are chosen by name.
            measure: measures a case, usually by one call of `interleave`; with several calls,
                Ctrl-C discards the case.
            takes_minutes: whether a case is left out of a brief run.
        """
        found: list[Found] = []
        every = list(table)
        cases = [
            (name, case)
            for name, case in every
            if self.choice.has_case(name) and not (self.choice.brief and takes_minutes(case))
        ]
        named = [sum(name != "" for name, _ in several) for several in (every, cases)]
        self._cases += named[0]
        self._left_out += named[0] - named[1]
        for number, (name, case) in enumerate(cases, 1):
            if self.interrupted is not None:
                break
            if time.monotonic() >= self.choice.until:
                self._left_out += len(cases) - number + 1
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

    def attempt(self, name: str, work: Callable[[], Found]) -> Found | None:
        """Return `work()`; if it fails, add a note and return None, so that other work goes on."""
        try:
            return work()
        except Exception as error:  # of any kind, from a device or another package
            reason = str(error).strip().partition("\n")[0][:200]
            where = f"{self._place}: {name}" if self._place else name
            self.notes.append(f"{where} failed, {type(error).__name__}: {reason}")
            return None

    def interleave(
        self, thunks: Mapping[str, timing.Thunk], *, ours: str | None = None, **options: Any
    ) -> timing.Samples:
        """Run `timing.interleave`; after Ctrl-C, return the samples of the finished rounds.

        Args:
            thunks: the calls to time, by name.
            ours: the thunk to run a second time in every round, as `noise.AGAIN`.
            **options: passed on to `timing.interleave`.

        Raises:
            KeyboardInterrupt: no round was finished, or an earlier call was interrupted.
        """
        if self.interrupted is not None:
            raise KeyboardInterrupt
        if ours is not None:
            # It runs between the others, as far from its first turn as the baselines.
            names = list(thunks)
            names.insert(len(names) // 2 + 1, noise.AGAIN)
            thunks = {name: thunks[ours if name == noise.AGAIN else name] for name in names}

        def turn(number: int, name: str) -> None:
            round_ = f"round {number} of {self.rounds}" if number else "warming up"
            self.say(f"{round_}, {name}", log=False)

        try:
            seconds = min(self.seconds, self.choice.until - time.monotonic())
            return timing.interleave(
                thunks, rounds=self.rounds, seconds=seconds, on_turn=turn, **options
            )
        except timing.Interrupted as ended:
            done = len(next(iter(ended.samples.values())))
            if not done:
                raise
            self.interrupted = f"{self._place}, {done} of {self.rounds} rounds"
            return ended.samples
