"""Ctrl-C and SIGTERM as a wish to stop, which the training grants between two steps."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from experiments._hosts import on_any_host

STDERR = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM)
NOTED = (
    b"stopping after the steps in progress, unless the training ends with them; "
    b"once more interrupts them\n"
)


class TrainingStopped(Exception):
    """Training was asked to stop; its state is saved."""


@contextmanager
def resumable(program: str, folder: Path, data_dir: Path | None) -> Iterator[Callable[[], bool]]:
    """What trainings ask between calls of the step: whether they should stop, on any host.

    Where one stops, the command ends with one line, the command that goes on from the folder, and
    the shell's code for the signal.
    """
    with StopRequest() as stop:
        try:
            yield on_any_host(stop.requested)
        except TrainingStopped as stopped:
            options = ["--resume", str(folder)]
            if data_dir is not None:
                options += ["--data-dir", str(data_dir)]
            print(f"{stopped}; go on with: {program} {shlex.join(options)}", file=sys.stderr)
            raise SystemExit(stop.exit_code) from None


class StopRequest:
    """Within the context a first signal is noted; a second one acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def requested(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """What a shell reports of a process that ended by the signal: 130 or 143.

        A host that stops because another one got a signal says 143.
        """
        return 128 + (self.signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        with suppress(OSError):  # not print, which the signal may have interrupted
            os.write(STDERR, NOTED)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
