"""A process that runs cases for another one: JSON lines from standard input to standard output."""

import gc
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import jax

import xentjax
from benchmarks.compare.programs import programs
from benchmarks.harness import timing

MIN_SECONDS = 0.01


class Worker:
    """Client of a new process in a folder, which imports the folder's package.

    Args:
        folder: the tree, whose `xentjax` takes precedence.
        quick: small shapes.
    """

    def __init__(self, folder: Path, *, quick: bool) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        paths = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.compare.worker", *(["--quick"] if quick else [])],
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(paths), "JAX_ENABLE_COMPILATION_CACHE": "false"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C reaches only the parent, which ends its workers
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RuntimeError: the process has ended; the message has the end of its standard error.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._errors.seek(0)
            raise RuntimeError(f"a worker ended: {self._errors.read()[-2000:]}")
        return json.loads(line)


class Served:
    """The server's loaded case, and its answers to requests."""

    def __init__(self, *, quick: bool) -> None:
        self._programs = programs(quick=quick)
        self._thunk: timing.Thunk = lambda: None

    def hello(self) -> dict[str, Any]:
        """Name the package that was imported."""
        return {"package": str(Path(xentjax.__file__).parent)}

    def load(self, name: str) -> dict[str, Any]:
        """Compile a case, run it once, and once more to time a warm call."""
        self._thunk = lambda: None  # releases the arrays of the previous case
        gc.collect()
        try:
            function, args, donate = self._programs[name]()
            compiled = timing.compile_ahead_of_time(function, *args, donate=donate)
        except Exception as error:  # of any kind, if a revision does not support the case
            return {"reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"}
        if donate:
            self._thunk = timing.thread_state(lambda x: compiled.call(x, *args[1:]), args[0])
        else:
            self._thunk = lambda: compiled.call(*args)
        return {
            "compile": compiled.compile_seconds,
            "first": timing.once(self._thunk),
            "call": timing.once(self._thunk),
            "scratch": compiled.temp_bytes,
        }

    def run(self, repeats: int) -> dict[str, Any]:
        """Return the seconds per call, after an untimed call that restores the caches."""
        jax.block_until_ready(self._thunk())
        return {"seconds": timing.seconds_per_call(self._thunk, repeats)}


def main() -> None:
    """Answer requests until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # no other output among the answers
    served = Served(quick="--quick" in sys.argv[1:])
    gc.disable()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(served, request.pop("do"))(**request)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
