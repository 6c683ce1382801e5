"""The folder of a run: its configuration, measurements and figures.

    runs/<experiment>/<date>_<time>/
        config.json     experiment, configuration, and what else is needed to repeat the run
        metrics.jsonl   one line for each call of `log`
        summary.json    the final numbers
        <name>.png      figures

A folder is never reused, and a file appears under its name only once it is complete. If several
hosts run one experiment, only the first one writes; of several processes, only the one that holds
the folder's lock.
"""

import dataclasses
import json
import math
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import jax
import numpy as np

from experiments.common.command import UserError
from experiments.common.environment import environment
from experiments.common.hosts import is_writer, text_of_writer

if TYPE_CHECKING:  # matplotlib takes a while to import
    from matplotlib.figure import Figure

try:
    import fcntl
except ImportError:  # on Windows, where folders are not locked
    fcntl = None

RUNS = Path("runs")
LOCK = "lock"  # the name of a file in the run folder


class RunError(UserError):
    """A run folder that cannot be made, read or written; the message is one line."""


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of one run.

    Attributes:
        path: its path.
    """

    path: Path

    @classmethod
    def create(cls, experiment: str, config: Any, root: Path = RUNS) -> Self:
        """Make a new folder `root/experiment/<date>_<time>` and record `config` in it.

        Args:
            experiment: name of the experiment.
            config: the run's configuration, a dataclass.
            root: the folder of all runs.

        Raises:
            RunError: the folder or its first file cannot be written.
        """
        started = datetime.now().astimezone()
        parent = Path(root) / experiment
        path = parent
        if is_writer():
            with _writing(parent):
                parent.mkdir(parents=True, exist_ok=True)
                path = _new_folder(parent, started.strftime("%Y-%m-%d_%H-%M-%S"))
            try:
                cls(path)._start(experiment, config, started)
            except BaseException:
                with suppress(OSError):
                    path.rmdir()
                raise
        return cls(Path(text_of_writer(str(path))))

    def part(self, name: str, experiment: str, config: Any) -> Self:
        """Open the folder of a run that is part of this one, or make it if it does not exist.

        Raises:
            RunError: the folder or its first file cannot be written, or it holds a run with another
                configuration.
        """
        part = type(self)(self.path / name)
        if os.path.exists(part.path / "config.json"):
            if part.config() != plain(config):
                raise RunError(
                    f"{part.path}: expected a run with the requested settings, got one with others"
                )
            return part
        if is_writer():
            with _writing(part.path):
                part.path.mkdir(exist_ok=True)
            part._start(experiment, config, datetime.now().astimezone())
        return part

    @classmethod
    def open(cls, path: Path, *experiments: str) -> Self:
        """Open the folder of an earlier run.

        Args:
            path: the folder.
            *experiments: the run has to be of one of these, if any are named.

        Raises:
            RunError: there is no such run in `path`.
        """
        folder = cls(Path(path))
        found = folder._record().get("experiment")
        if experiments and found not in experiments:
            got = f"one of {found}" if found else "one that does not say of what"
            raise RunError(f"{path}: expected a run of {' or '.join(experiments)}, got {got}")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from this run; the lock ends with the block or the process.

        Raises:
            RunError: another process holds the lock, or the folder cannot be written.
        """
        if fcntl is None or not is_writer():
            yield
            return
        path = self.path / LOCK
        with _writing(path):
            file = path.open("ab+", buffering=0)
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.path}: expected no other process to use it, got {file.read().decode()}"
                ) from None
            except OSError:  # a file system without locks
                pass
            with suppress(OSError):  # a full disk; the name is only for the message above
                file.truncate(0)
                file.write(f"process {os.getpid()} of {platform.node()}".encode())
            yield

    def config(self) -> dict[str, Any]:
        """Return the configuration that the run was started with, as plain JSON values."""
        return self._record()["config"]

    def differences(self) -> list[str]:
        """List the differences from the run that may change the results of a repetition now."""
        record = self._record()
        now = plain(environment(datetime.now().astimezone()))
        return [
            f"{name} was {record.get(name)}, is {now[name]}"
            for name in ("revision", "versions", "device")
            # two modified trees of one revision may differ
            if record.get(name) != now[name] or str(now[name]).endswith("-dirty")
        ]

    def log(self, **metrics: Any) -> None:
        """Append one line to metrics.jsonl."""
        if not is_writer():
            return
        path = self.path / "metrics.jsonl"
        line = (json.dumps(plain(metrics)) + "\n").encode()
        with _writing(path), path.open("ab", buffering=0) as file:
            start = file.seek(0, os.SEEK_END)
            if file.write(line) != len(line):  # the disk is full: remove the partial line
                file.truncate(start)
                raise RunError(f"{path}: cannot write, no room for the whole line")

    def metrics(self) -> list[dict[str, Any]]:
        """Read the lines that `log` has written, without incomplete ones.

        Raises:
            RunError: the file cannot be read.
        """
        entries = (_parsed(line) for line in self._read("metrics.jsonl").splitlines())
        return [entry for entry in entries if entry is not None]

    def drop_torn_lines(self) -> int:
        """Remove incomplete lines from metrics.jsonl, so that `log` can append; return how many.

        A process or machine that crashes while writing leaves such lines. A last line that lacks
        only its newline is completed.

        Raises:
            RunError: the file cannot be read or written.
        """
        text = self._read("metrics.jsonl")
        lines = text.splitlines()
        whole = [line for line in lines if _parsed(line) is not None]
        if (kept := b"".join(line + b"\n" for line in whole)) != text:
            replace_file(
                self.path / "metrics.jsonl", lambda unfinished: unfinished.write_bytes(kept)
            )
        return len(lines) - len(whole)

    def summary(self, summary: Mapping[str, Any]) -> None:
        """Write summary.json, replacing an earlier one."""
        self._write_json("summary.json", summary)

    def read_summary(self) -> dict[str, Any] | None:
        """Read what `summary` has written; None if the run is not finished or the file incomplete.

        Raises:
            RunError: the file cannot be read.
        """
        return _parsed(self._read("summary.json"))

    def figure(self, name: str, figure: "Figure") -> Path:
        """Save `figure` as `<name>.png` and return the file's path."""
        path = self.path / f"{name}.png"
        replace_file(path, lambda unfinished: figure.savefig(unfinished, format="png"))
        return path

    def _record(self) -> dict[str, Any]:
        """Read config.json: the configuration, and what else is needed to repeat the run."""
        path = self.path / "config.json"
        try:
            record = _parsed(path.read_bytes())
        except OSError as error:
            missing = isinstance(error, FileNotFoundError) and self.path.is_dir()
            got = "a folder without it" if missing else error.strerror
            raise RunError(
                f"{self.path}: expected a run folder holding config.json, got {got}"
            ) from error
        if record is None or not isinstance(record.get("config"), dict):
            raise RunError(f"{path}: expected JSON with an entry 'config', got something else")
        return record

    def _read(self, name: str) -> bytes:
        """Read a file of the run; empty if there is no such file."""
        path = self.path / name
        if not os.path.isfile(path):  # also excludes devices, which may be endless
            return b""
        try:
            return path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot read, {error.strerror or error}") from error

    def _start(self, experiment: str, config: Any, started: datetime) -> None:
        """Write the first file of a new folder."""
        record = {"experiment": experiment, "config": config, **environment(started)}
        self._write_json("config.json", record)

    def _write_json(self, name: str, value: Any) -> None:
        text = json.dumps(plain(value), indent=2) + "\n"
        replace_file(
            self.path / name, lambda unfinished: unfinished.write_text(text, encoding="utf-8")
        )


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Report a value that a run's file lacks, or has in another form, in one line.

    Raises:
        RunError: a value is missing or has the wrong form.
    """
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: expected the contents that a run writes, got {error!r}") from error


def _parsed(text: bytes) -> dict[str, Any] | None:
    """Parse a JSON object; None if the bytes are not one."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def plain(value: Any) -> Any:
    """Convert a value to JSON's own types.

    JSON has no infinities and no NaN: they become the strings "inf", "-inf" and "nan", which
    `float` can read.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return plain(np.asarray(value).tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _new_folder(parent: Path, name: str) -> Path:
    """Make `parent/name`, or `parent/name-2`, `name-3`, ... if runs start in the same second."""
    count = 1
    while True:
        path = parent / (name if count == 1 else f"{name}-{count}")
        try:
            path.mkdir()
        except FileExistsError:
            count += 1
        else:
            return path


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Write to a temporary file and rename it, so that `path` is never half-written.

    Raises:
        RunError: it cannot be written.
    """
    if not is_writer():
        return
    unfinished = path.with_name(f"{path.name}.unfinished")
    with _writing(path):
        try:
            write(unfinished)
            with unfinished.open("rb+") as file:  # on the disk before it has the name
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Report in one line which file cannot be written, and why."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path}: cannot write, {error.strerror or error}") from error
