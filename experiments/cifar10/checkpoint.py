"""Checkpoints of the whole training state, so that a resumed run ends as an uninterrupted one."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from experiments._command import UserError
from experiments.cifar10.step import TrainState

FOLDER = "checkpoint"


class CheckpointError(UserError):
    """A run that cannot be resumed; its text is one line that says why."""


def save(run: Path, state: TrainState) -> None:
    """Save the state in the run's folder and drop the checkpoint before it.

    Orbax writes to a temporary folder and renames it, and the earlier checkpoint goes only then.
    """
    with _manager(run, create=True) as manager:
        step = int(state.step)
        if manager.latest_step() != step:
            manager.save(step, args=ocp.args.StandardSave(state._asdict()))
            manager.wait_until_finished()


def latest_step(run: Path) -> int | None:
    """The step of the latest state saved in the run's folder, or None."""
    if not (run / FOLDER).is_dir():
        return None
    with _manager(run, create=False) as manager:
        return manager.latest_step()


def restore(run: Path, like: TrainState) -> TrainState:
    """The latest state saved in the run's folder.

    Args:
        run: the run's folder.
        like: a state of the same shapes.

    Raises:
        CheckpointError: there is none, or it is of another network.
    """
    step = latest_step(run)
    if step is None:
        raise CheckpointError(f"{run}: expected a checkpoint to resume from, got none")
    with _manager(run, create=False) as manager:
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like._asdict())
        try:
            values = manager.restore(step, args=ocp.args.StandardRestore(shapes))
        except (ValueError, KeyError, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise CheckpointError(f"{run / FOLDER}: cannot be read: {reason}") from error
    return TrainState(**values)


def _manager(run: Path, *, create: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=create)
    return ocp.CheckpointManager((run / FOLDER).resolve(), options=options)
