"""Checkpoints: whole, one at a time, and one line for each way in which they can fail."""

import errno
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from experiments.cifar10.state import TrainState
from experiments.common import checkpoint
from experiments.common.checkpoint import CheckpointError
from experiments.common.command import UserError, one_line_errors as one_line_errors
from tests.support.paths import ROOT
from tests.support.tiny_training import differences


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    (line,) = str(error.value).splitlines()
    return line


def small_state(step: int = 3, size: int = 2) -> TrainState:
    values = jnp.arange(size, dtype=jnp.float32)
    return TrainState(
        step=jnp.int32(step),
        params={"head": values},
        batch_stats={"norm": {"mean": values + 1.0}},
        optimizer=(values + 2.0,),
        slow=None,
        whitening=values + 3.0,
        loss=jnp.float32(0.25),
        correct=jnp.float32(5),
    )


def test_a_checkpoint_restores_every_part_and_replaces_the_one_before(tmp_path):
    checkpoint.save(tmp_path, small_state(3))
    checkpoint.save(tmp_path, small_state(4))
    like = jax.tree.map(jnp.zeros_like, small_state())
    assert differences(checkpoint.restore(tmp_path, like), small_state(4)) == []
    assert [p.name for p in (tmp_path / checkpoint.FOLDER).iterdir()] == ["4"]


def empty_all_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")


def remove_all_files(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.unlink()


def flip_a_bit(folder: Path) -> None:
    path = max(
        (path for path in folder.rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [empty_all_files, remove_all_files, flip_a_bit], ids=lambda f: f.__name__
)
def test_a_damaged_checkpoint_is_one_line(tmp_path, damage: Callable[[Path], Any]):
    checkpoint.save(tmp_path, small_state())
    damage(tmp_path / checkpoint.FOLDER)
    with pytest.raises(CheckpointError) as caught:
        checkpoint.restore(tmp_path, small_state())
    assert str(tmp_path) in one_line(caught)


RESTORE = """
import sys, pathlib, tests.experiments.common.test_checkpoint as t
try:
    t.checkpoint.restore(pathlib.Path(sys.argv[1]), t.small_state(size=int(sys.argv[2])))
except Exception as error:
    print(f"{type(error).__module__}.{type(error).__qualname__}: {error}")
    sys.exit(1)
"""


@pytest.mark.parametrize("damage", ["half the numbers", "another network"])
def test_numbers_that_cannot_be_read_are_one_line(tmp_path, damage):
    checkpoint.save(tmp_path, small_state(size=2))
    if damage == "half the numbers":
        for path in (tmp_path / checkpoint.FOLDER).rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        (tmp_path / checkpoint.DIGEST).unlink()  # as if the process was killed before it wrote it
    # in a process of its own: orbax leaves coroutines unawaited, which would fail a later test
    done = subprocess.run(
        [sys.executable, "-c", RESTORE, str(tmp_path), "5" if damage == "another network" else "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    expected = f"experiments.common.checkpoint.CheckpointError: {tmp_path}"
    # on stdout: on stderr orbax's threads may write into the midst of a line
    (line,) = done.stdout.splitlines()
    assert line.startswith(expected)
    assert "cannot be read: " in line


def test_an_empty_checkpoint_folder_is_one_line(tmp_path):
    (tmp_path / checkpoint.FOLDER).mkdir()
    with pytest.raises(CheckpointError, match="expected a checkpoint, got none"):
        checkpoint.restore(tmp_path, small_state())


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / checkpoint.FOLDER).iterdir())


KILLED = """
import os, signal, sys, pathlib, tests.experiments.common.test_checkpoint as t
rename, left = os.rename, int(sys.argv[2])
def rename_or_die(*arguments, **keywords):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    rename(*arguments, **keywords)
os.rename = rename_or_die
t.checkpoint.save(pathlib.Path(sys.argv[1]), t.small_state(4))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
@pytest.mark.parametrize("renamed", [0, 1], ids=["in the middle", "just before its end"])
def test_a_save_that_is_killed_leaves_the_checkpoint_before_it(tmp_path, renamed):
    checkpoint.save(tmp_path, small_state(3))
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), str(renamed)], cwd=ROOT)
    assert done.returncode == -9
    assert len(names(tmp_path)) == 2  # the good one, and an unfinished one
    assert checkpoint.latest_step(tmp_path) == 3
    assert differences(checkpoint.restore(tmp_path, small_state(0)), small_state(3)) == []
    # the next one can even have the same step
    checkpoint.save(tmp_path, small_state(4))
    assert names(tmp_path) == ["4"]
    assert differences(checkpoint.restore(tmp_path, small_state(0)), small_state(4)) == []


@pytest.mark.parametrize("fails", [False, True])
def test_what_keeps_a_save_quiet_is_put_back(tmp_path, monkeypatch, fails):
    if fails:
        (tmp_path / checkpoint.FOLDER).write_text("no folder")
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    logging.disable(logging.INFO)
    try:
        with suppress(CheckpointError):
            checkpoint.save(tmp_path, small_state())
        error: Any = SimpleNamespace(exc_value=ValueError("unseen"))
        thread = threading.Thread(target=sys.unraisablehook, args=[error])
        thread.start()
        thread.join()
        assert seen == [error]
        assert logging.root.manager.disable == logging.INFO
        assert not logging.getLogger("asyncio").disabled
    finally:
        logging.disable(logging.NOTSET)


def test_a_read_only_folder_is_one_line_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, small_state(3))
    mkdir = os.mkdir

    def refuse(path: Any, *arguments: Any, **keywords: Any) -> None:
        if tmp_path in Path(os.fspath(path)).parents:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        mkdir(path, *arguments, **keywords)

    monkeypatch.setattr(os, "mkdir", refuse)  # permissions are nothing to a root user
    with pytest.raises(CheckpointError) as caught:
        checkpoint.save(tmp_path, small_state(4))
    expected = f"{tmp_path / checkpoint.FOLDER}: cannot write step 4, Read-only file system"
    assert one_line(caught) == expected
    assert checkpoint.latest_step(tmp_path) == 3
    assert differences(checkpoint.restore(tmp_path, small_state(0)), small_state(3)) == []


FULL = """
import resource, sys, pathlib, tests.experiments.common.test_checkpoint as t
state = t.small_state(4)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
with t.one_line_errors():
    t.checkpoint.save(pathlib.Path(sys.argv[1]), state)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("room", [20, 300], ids=["for no file", "for small files"])
def test_a_full_disk_is_one_line_and_keeps_the_checkpoint(tmp_path, room):
    checkpoint.save(tmp_path, small_state(3))
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(room)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()  # nothing from the threads whose writes failed as well
    assert line.startswith(f"error: {tmp_path / checkpoint.FOLDER}: cannot write step 4, ")
    assert "File too large" in line
    assert checkpoint.latest_step(tmp_path) == 3
    assert differences(checkpoint.restore(tmp_path, small_state(0)), small_state(3)) == []
