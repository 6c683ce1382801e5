"""Ctrl-C, SIGTERM and SIGHUP as a wish to stop, which the training grants between two steps."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from experiments.common.command import printable
from experiments.common.hosts import on_any_host

STDOUT, STDERR = 1, 2
# SIGHUP, which Windows lacks: the terminal is gone
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
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
            go_on = f"{program} {shlex.join(options)}"
            print(printable(f"{stopped}; go on with: {go_on}"), file=sys.stderr)
            raise SystemExit(stop.exit_code) from None


class StopRequest:
    """Within the context a first signal is noted; a second one acts as usual.

    One that the process was told to ignore, as nohup does, stays ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        heeded = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in heeded}
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
        """What a shell reports of a process that ended by the signal: 130, 143 or 129.

        A host that stops because another one got a signal says 143.
        """
        return 128 + (self.signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        try:
            os.write(STDERR, NOTED)  # not print, which the signal may have interrupted
        except OSError:  # there is no terminal any more, so nothing can be said on it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):
                if os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR)):
                    os.dup2(nowhere, STDOUT)
            os.dup2(nowhere, STDERR)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
