"""A file fetched whole or not at all, with a progress bar."""

from pathlib import Path
from typing import Any, cast

import pooch
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from experiments.cifar10.formats import DataError, first_line


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """The file at `url`, saved in `folder` under its own name.

    pooch writes to a temporary name in the same folder and renames the file once its hash is
    right, so a partial or wrong file never has the name.

    Raises:
        DataError: the server cannot be reached, the file is another one, or it cannot be written.
    """
    name = url.rpartition("/")[-1]
    pooch.get_logger().setLevel("WARNING")  # the bar says the rest
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            # pooch documents such bars; its annotation says bool
            bar = cast(Any, _Bar(progress, progress.add_task(name, total=None)))
            path = pooch.retrieve(url, f"sha256:{sha256}", name, folder, progressbar=bar)
    except (OSError, ValueError) as error:  # requests raises OSErrors; a wrong hash is a ValueError
        # the innermost error says what happened ("Connection refused"), the outer ones repeat it
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise DataError(f"{url}: expected to download it, got {first_line(cause)}") from error
    return Path(path)


class _Bar:
    """What pooch expects of a progress bar, drawn by rich."""

    total = 0  # bytes; pooch sets it once the server has told

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._completed = 0

    def update(self, size: int) -> None:
        # pooch counts the last chunk as a full one, and at the end the whole file once more
        completed = self._completed + size
        self._completed = min(completed, self.total) if self.total else completed
        self._progress.update(self._task, completed=self._completed, total=self.total or None)

    def reset(self) -> None:
        pass

    def close(self) -> None:
        pass
