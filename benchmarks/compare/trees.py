"""Two source trees in temporary folders: xentjax of a revision, everything else of this tree."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.common.command import UserError

ROOT = Path(__file__).resolve().parents[2]
WORKING_TREE = "working tree"
PREFIX = "xentjax-compare-"
SHARED = ("benchmarks", "experiments")


def resolve(option: str, revision: str) -> str:
    """Return the commit of a revision.

    Raises:
        UserError: git does not know it.
    """
    done = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if done.returncode:
        raise UserError(f"{option}: expected a revision of this git repository, got {revision!r}")
    return done.stdout.strip()


@contextmanager
def trees(base: str, head: str) -> Iterator[tuple[Path, Path]]:
    """Make a folder for each of two commits or `WORKING_TREE`; remove them at the end.

    A folder has the package of its commit and the benchmarks of this tree, so that the same files
    measure both.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")).resolve()
    try:
        yield _tree(folder / "base", base), _tree(folder / "head", head)
    finally:
        for worktree in folder.glob("*.git"):
            _git("worktree", "remove", "--force", str(worktree))
        shutil.rmtree(folder, ignore_errors=True)
        _git("worktree", "prune")


def _tree(path: Path, commit: str) -> Path:
    path.mkdir()
    for name in SHARED:
        (path / name).symlink_to(ROOT / name)
    if commit == WORKING_TREE:  # a copy, so that edits do not change it during the run
        shutil.copytree(ROOT / "xentjax", path / "xentjax")
        return path
    worktree = path.with_suffix(".git")
    done = _git("worktree", "add", "--detach", str(worktree), commit)
    if done.returncode:
        raise UserError(f"git worktree: {done.stderr.strip().splitlines()[-1]}")
    (path / "xentjax").symlink_to(worktree / "xentjax")
    return path


def _git(*args: str) -> subprocess.CompletedProcess[str]:
    """Run git in a new session, so that Ctrl-C does not interrupt it."""
    return subprocess.run(
        ["git", *args], cwd=ROOT, capture_output=True, text=True, start_new_session=True
    )
