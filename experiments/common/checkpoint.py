"""Checkpoints of the whole training state: a resumed run ends like an uninterrupted one."""

import gc
import hashlib
import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax import Array

from experiments.common.command import UserError
from experiments.common.run_folder import replace_file

FOLDER = "checkpoint"
_QUIET = threading.Lock()  # seeds may be trained in parallel
DIGEST = "checkpoint.sha256"  # next to the folder, which belongs to orbax


class CheckpointError(UserError):
    """A run that cannot be resumed; the message is one line with the reason."""


class State(Protocol):
    """A NamedTuple of arrays; `step` counts the steps taken so far."""

    @property
    def step(self) -> Array: ...

    def _asdict(self) -> dict[str, Any]: ...


StateType = TypeVar("StateType", bound=State)


def save(run: Path, state: State) -> None:
    """Save the state in the run's folder and remove the previous checkpoint.

    Orbax writes to a temporary folder and renames it; only then is the previous checkpoint removed.

    Raises:
        CheckpointError: the state cannot be written.
        RunError: its digest cannot be written.
    """
    step = int(state.step)
    try:
        with _quiet(), _manager(run, create=True) as manager:
            if manager.latest_step() != step:
                # orbax would split arrays over their devices, by a program for each shape
                arrays = jax.tree.map(np.asarray, state._asdict())
                manager.save(step, args=ocp.args.StandardSave(arrays))
                replace_file(
                    run / DIGEST,
                    lambda unfinished: unfinished.write_text(f"{step} {_digest(run, step)}\n"),
                )
    except (ValueError, OSError) as error:  # TensorStore's failures are ValueErrors
        raise CheckpointError(
            f"{run / FOLDER}: cannot write step {step}, {_reason(error)}"
        ) from error


def latest_step(run: Path) -> int | None:
    """Return the step of the latest state saved in the run's folder, or None.

    Raises:
        CheckpointError: the folder cannot be read.
    """
    if not os.path.isdir(run / FOLDER):
        return None
    with _reading(run), _manager(run, create=False) as manager:
        return manager.latest_step()


def restore(run: Path, like: StateType) -> StateType:
    """Restore the latest state saved in the run's folder.

    Args:
        run: the run's folder.
        like: a state of the same shapes.

    Raises:
        CheckpointError: there is none, or it is damaged or from another network.
    """
    step = latest_step(run)
    if step is None:
        raise CheckpointError(f"{run}: expected a checkpoint, got none")
    with _reading(run):
        if (kept := _read_digest(run, step)) is not None and kept != _digest(run, step):
            raise CheckpointError(f"{run / FOLDER}: damaged, step {step} is not what was saved")
    with _reading(run), _manager(run, create=False) as manager:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        values = manager.restore(step, args=ocp.args.StandardRestore(shapes))
    return type(like)(**values)


@contextmanager
def _reading(run: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # orbax has no exception type for unreadable files
        raise CheckpointError(f"{run / FOLDER}: cannot be read: {_reason(error)}") from error


@dataclass(frozen=True)
class _WithoutLateWrites:
    """A `sys.unraisablehook` that ignores writes that fail after a failed save.

    TensorStore's own threads report them at any later time; everything else goes to the earlier
    hook.
    """

    earlier: Callable[[Any], object]

    def __call__(self, error: Any) -> None:
        late = str(error.exc_value) == "Event loop is closed"
        if not late or threading.current_thread() is threading.main_thread():
            self.earlier(error)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep orbax's threads from printing errors that are also raised here.

    If one write fails, concurrent ones fail too: in TensorStore's own threads, which call
    sys.unraisablehook, and as tasks that asyncio finds unfinished when they are collected.
    """
    with _QUIET:
        hook, disabled = sys.unraisablehook, logging.root.manager.disable

        def hook_of_main(error: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                hook(error)

        logging.disable()
        sys.unraisablehook = hook_of_main
        after = hook
        try:
            yield
        except BaseException as error:
            _collect_tasks(error)
            if not isinstance(hook, _WithoutLateWrites):
                after = _WithoutLateWrites(hook)
            raise
        finally:
            sys.unraisablehook = after
            logging.disable(disabled)


def _collect_tasks(error: BaseException) -> None:
    """Free the unfinished tasks that the error's frames refer to."""
    reason: BaseException | None = error
    while reason is not None:
        traceback.clear_frames(reason.__traceback__)
        reason = reason.__context__
    with warnings.catch_warnings(action="ignore"):  # warnings of coroutines that were never awaited
        gc.collect()


def _digest(run: Path, step: int) -> str:
    """Hash all files of the step: orbax detects only some damage, and reports it in many lines."""
    digest = hashlib.sha256()
    folder = run / FOLDER / str(step)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _read_digest(run: Path, step: int) -> str | None:
    """Read the digest of the step's files; None if the process was killed before saving it."""
    try:
        of_step, digest = (run / DIGEST).read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        return None
    return digest if of_step == str(step) else None


def _manager(run: Path, *, create: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=create,
        cleanup_tmp_directories=create,  # left by a killed process
        enable_async_checkpointing=False,  # its failures leave threads that wait for minutes
    )
    return ocp.CheckpointManager((run / FOLDER).resolve(), options=options)


def _reason(error: Exception) -> str:
    """Return the first line of an error, without the path that an OSError repeats."""
    reason = getattr(error, "strerror", None) or str(error).strip() or repr(error)
    return reason.splitlines()[0]
