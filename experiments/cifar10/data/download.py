"""Download of a file, complete or not at all, with a progress bar."""

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

_TIMEOUT_SECONDS = 30.0  # without data from the server
_CHUNK_BYTES = 1 << 16


def fetch(url: str, sha256: str, folder: Path) -> Path:
    """Download the file at `url` to `folder`, under its own name.

    pooch writes it under a temporary name in the same folder and renames it once its hash is
    correct, so a partial or wrong file never has the final name.

    Raises:
        DataError: the server cannot be reached, the file is another one, or it cannot be written.
    """
    name = url.rpartition("/")[-1]
    pooch.get_logger().setLevel("WARNING")  # the progress bar shows the rest
    downloader = cast(Any, _download)  # as pooch documents; its annotation has other arguments
    try:
        path = pooch.retrieve(url, f"sha256:{sha256}", name, folder, downloader=downloader)
    except (OSError, ValueError) as error:  # requests raises OSErrors; a wrong hash is a ValueError
        # the innermost error has the reason ("Connection refused"), the outer ones repeat it
        cause: BaseException = error
        while cause.__context__ is not None:
            cause = cause.__context__
        raise DataError(f"{url}: expected to download it, got {first_line(cause)}") from error
    return Path(path)


def _download(url: str, output_file: str, _: pooch.Pooch | None) -> None:
    """Do what pooch's own downloader does, but close the connection if the transfer fails."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with (
        requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS) as response,
        open(output_file, "wb") as file,
        Progress(*columns, console=Console(stderr=True)) as progress,
    ):
        response.raise_for_status()
        size = response.headers.get("Content-Length")
        bar = progress.add_task(url.rpartition("/")[-1], total=None if size is None else int(size))
        for chunk in response.iter_content(_CHUNK_BYTES):
            file.write(chunk)
            progress.update(bar, advance=len(chunk))
