"""Compiled programs kept for the next run, in JAX's persistent compilation cache.

They are in the user's cache, or where --compile-cache or $XENTJAX_COMPILE_CACHE says; "off" keeps
none. A folder that jax itself was given ($JAX_COMPILATION_CACHE_DIR) is left to it. Programs are
native code: a folder is for people who trust each other.
"""

import os
import re
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from experiments.common.command import printable
from experiments.common.user_cache import cache_folder

ENVIRONMENT_VARIABLE = "XENTJAX_COMPILE_CACHE"
OFF = "off"
MAX_BYTES = 2**28
"""Total size beyond which the least recently used programs are removed."""
LEAST_SECONDS = 0.02
"""Programs that compile faster are not kept, since reading one takes milliseconds."""
FOLDER = "jax_compilation_cache_dir"
OPTIONS: dict[str, Any] = {
    "jax_compilation_cache_max_size": MAX_BYTES,
    "jax_persistent_cache_min_compile_time_secs": LEAST_SECONDS,
    "jax_persistent_cache_min_entry_size_bytes": 0,
}
# names of jax's cache: a program, when it was last used, and what keeps processes apart
PROGRAM, USED, LOCK = "-cache", "-atime", ".lockfile"
LOCK_SECONDS = 10.0
# jax warns of an entry that it cannot read or write, and continues without the cache
TROUBLE = r"Error (reading|writing) persistent compilation cache entry for '(.*)': "
# XLA for CPU cannot store programs whose temporary memory is in several blocks
NEVER_STORED = TROUBLE + r".*Multiple temp buffer allocations"


@contextmanager
def compile_cache(place: Path | None = None) -> Iterator[None]:
    """Keep the programs compiled in the block, and reuse the programs of earlier runs.

    A folder that cannot be used, a damaged entry or a full disk is one line on stderr; the programs
    are then compiled as without the cache.

    Args:
        place: the folder, or "off"; None: $XENTJAX_COMPILE_CACHE, or in the user's cache.
    """
    named = os.environ.get(ENVIRONMENT_VARIABLE) if place is None else str(place)
    if named == OFF or getattr(jax.config, FOLDER) is not None:
        yield
        return
    folder = Path(os.path.expanduser(named)) if named else cache_folder() / "compiled"
    try:
        _prepare(folder)
    except (OSError, filelock.Timeout) as error:
        _say(folder, f"cannot be used, {getattr(error, 'strerror', None) or error}")
        yield
        return
    settings = OPTIONS | {FOLDER: str(folder)}
    before = {name: getattr(jax.config, name) for name in settings}
    with warnings.catch_warnings():
        warnings.filterwarnings("always", TROUBLE)
        warnings.filterwarnings("ignore", NEVER_STORED)
        warnings.showwarning = _Report(folder, warnings.showwarning)
        try:
            _configure(settings)
            yield
        finally:
            _configure(before)


def _configure(settings: dict[str, Any]) -> None:
    compilation_cache.reset_cache()  # jax reads the settings once
    for name, value in settings.items():
        jax.config.update(name, value)


def _prepare(folder: Path) -> None:
    """Make the folder, and remove programs that a killed process or a full disk left incomplete.

    jax writes a program, then the file with the time of its last use. If the second file is
    missing, the first may be incomplete, and older versions of jax fail whenever they read it.

    Raises:
        OSError: the folder cannot be made, or nothing can be written to it.
        filelock.Timeout: another process holds the lock for long.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The lock alone does not show that files can be written.
    tempfile.TemporaryFile(dir=folder).close()
    with filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS):
        for program in folder.glob(f"*{PROGRAM}"):
            if not program.with_name(program.name.removesuffix(PROGRAM) + USED).exists():
                program.unlink()


class _Report:
    """A `warnings.showwarning` that prints one line for the cache's first problem, then no more.

    Entries that cannot be read are removed, so that they are written again.
    """

    def __init__(self, folder: Path, earlier: Callable[..., None]) -> None:
        self._folder = folder
        self._earlier = earlier
        self._said = threading.Event()

    def __call__(self, message: Warning | str, *args: Any, **keywords: Any) -> None:
        text = str(message)
        found = re.match(TROUBLE, text)
        if found is None:
            self._earlier(message, *args, **keywords)
            return
        action, module = found.groups()
        with suppress(OSError, filelock.Timeout):
            if action == "reading":
                for program in self._folder.glob(f"{module}-*{PROGRAM}"):
                    program.unlink(missing_ok=True)
            _prepare(self._folder)
        if not self._said.is_set():
            self._said.set()
            reason = text[found.end() :].partition("\n")[0]
            _say(self._folder, f"trouble {action} a program, {reason}")


def _say(folder: Path, problem: str) -> None:
    line = f"warning: compile cache {folder}: {problem}; programs are compiled without it"
    print(printable(line), file=sys.stderr)
