"""Copies of unpacked archives in the user's cache: unpacking takes ten seconds, reading them one.

A copy contains the batch files of the binary format. Their hashes are checked as in any folder.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np


def copy_of(archive: Path, cache: Path) -> Path:
    """Return the folder for the copy of an archive, as it is now; it may not exist."""
    found = archive.stat()
    identity = f"{archive.resolve()} {found.st_size} {found.st_mtime_ns}"
    return cache / "unpacked" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def keep(copy: Path, batches: Mapping[str, np.ndarray]) -> None:
    """Write a copy, and remove those of other archives; do without a copy if that is impossible.

    Args:
        copy: its folder.
        batches: batch -> its records, uint8 [bytes].
    """
    with suppress(OSError):
        copy.parent.mkdir(parents=True, exist_ok=True)
        others = [path for path in copy.parent.iterdir() if path != copy]
        unfinished = Path(tempfile.mkdtemp(dir=copy.parent))
        try:
            for batch, records in batches.items():
                (unfinished / f"{batch}.bin").write_bytes(records.data)
            shutil.rmtree(copy, ignore_errors=True)  # if its contents were damaged
            os.replace(unfinished, copy)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
