"""A graceful stop on Ctrl-C, SIGTERM and SIGHUP, honoured between two steps."""

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, Self

from experiments.common.command import printable
from experiments.common.hosts import on_any_host

STDOUT, STDERR = 1, 2
# SIGHUP, which Windows lacks: the terminal was closed
SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
NOTED = (
    b"stopping after the current steps, unless they are the last; a second signal interrupts them\n"
)


class TrainingStopped(Exception):
    """The run was asked to stop; its state is saved."""


@contextmanager
def resumable(program: str, folder: Path, data_dir: Path | None) -> Iterator[Callable[[], bool]]:
    """Yield a function that tells a run, between calls of the step, whether to stop on any host.

    If it stops, the command ends with one line that has the command to resume it, and with the
    shell's exit code for the signal.
    """
    with StopRequest() as stop:
        try:
            yield on_any_host(stop.requested)
        except TrainingStopped as stopped:
            options = ["--resume", str(folder)]
            if data_dir is not None:
                options += ["--data-dir", str(data_dir)]
            command = f"{program} {shlex.join(options)}"
            print(printable(f"{stopped}; resume with: {command}"), file=sys.stderr)
            raise SystemExit(stop.exit_code) from None


class StopRequest:
    """A context in which a first signal is recorded; a second one has its usual effect.

    Signals that the process was told to ignore, as nohup does, stay ignored.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handled = [number for number in SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._note) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def requested(self) -> bool:
        """Whether a signal was received."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The shell's exit code for the signal: 130, 143 or 129.

        For a host that stops because another one received a signal it is 143.
        """
        return 128 + (self.signal or signal.SIGTERM)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()
        try:
            os.write(STDERR, NOTED)  # not print, which the signal may have interrupted
        except OSError:  # the terminal is gone, so nothing can be printed on it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            with suppress(OSError):
                if os.path.samestat(os.fstat(STDOUT), os.fstat(STDERR)):
                    os.dup2(nowhere, STDOUT)
            os.dup2(nowhere, STDERR)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
