"""A file fetched whole or not at all, with a progress bar."""

from pathlib import Path
from typing import Any, cast

import pooch
import requests
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from experiments.cifar10.data.formats import DataError, first_line

_SILENCE_SECONDS = 30.0  # how long a server may send nothing
_CHUNK_BYTES = 1 << 16


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """The file at `url`, saved in `folder` under its own name.

    pooch has it written under a temporary name in the same folder and renames the file once its
    hash is right, so a partial or wrong file never has the name.

    Raises:
        DataError: the server cannot be reached, the file is another one, or it cannot be written.
    """
    name = url.rpartition("/")[-1]
    pooch.get_logger().setLevel("WARNING")  # the bar says the rest
    downloader = cast(Any, _download)  # what pooch documents; its annotation names other arguments
    try:
        path = pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # requests raises OSErrors; a wrong hash is a ValueError
        # the innermost error says what happened ("Connection refused"), the outer ones repeat it
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise DataError(f"{url}: expected to download it, got {first_line(cause)}") from error
    return Path(path)


def _download(url: str, output_file: str, _: pooch.Pooch | None) -> None:
    """What pooch's own downloader does, but the connection is closed when the transfer fails."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        requests.get(url, stream=True, timeout=_SILENCE_SECONDS) as response,
        open(output_file, "wb") as file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        response.raise_for_status()
        size = response.headers.get("Content-Length")
        bar = progress.add_task(url.rpartition("/")[-1], total=None if size is None else int(size))
        for chunk in response.iter_content(_CHUNK_BYTES):
            file.write(chunk)
            progress.update(bar, advance=len(chunk))
