"""The forms CIFAR-10 comes in, read as one: every batch as records of the binary form.

A record is 1 label byte, then 3072 pixel bytes (planes R, G, B of 32 x 32, row-major). A batch of
the python form is a pickle of the same labels and pixels in the same order, so both forms become
the same bytes, and one table of hashes checks whatever was read. Archives are read member by
member into memory: nothing is extracted, so a member's path cannot lead anywhere.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

import numpy as np

from experiments.common.command import UserError

PIXEL_BYTES = 3 * 32 * 32
MAX_BATCH_BYTES = 64 * 2**20  # twice the official files'
MAX_HEADER_BYTES = (
    2**20
)  # of all members of an archive together, a hundred times the official ones'
RECORD_BYTES = 1 + PIXEL_BYTES

TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
# file name -> batch: the binary form has a suffix, the python form has none
BATCH_FILES = {f"{batch}.bin": batch for batch in BATCHES} | {batch: batch for batch in BATCHES}


class DataError(UserError):
    """The data cannot be had; the message is one line, ready for the user."""


def first_line(error: BaseException) -> str:
    """What an error of another library says, short enough for a line of our own."""
    message = str(error).partition("\n")[0].rstrip(":")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def read_batches(source: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Every batch file of a folder or tar archive, of either form, in the order it is found.

    Args:
        source: an unpacked folder, or an archive (.tar.gz, .tar.xz).

    Yields:
        The batch ("data_batch_1" .. "test_batch"), its file's name for messages, and its records,
        uint8 [bytes], not yet checked.

    Raises:
        DataError: what is there cannot be read or parsed.
    """
    files = _archived_files(source) if source.is_file() else _unpacked_files(source)
    try:
        for name, content in files:
            file = f"{source}/{name}"
            if name.endswith(".bin"):
                records = np.frombuffer(content, np.uint8)
            else:
                records = _unpickle_records(content, file)
            yield BATCH_FILES[name], file, records
    except DataError:
        raise
    except Exception as error:  # a damaged archive may raise nearly anything
        raise DataError(f"{source}: expected readable data, got {first_line(error)}") from error


def _unpacked_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for name in BATCH_FILES:
        if (folder / name).is_file():
            _check_size(folder, name, (folder / name).stat().st_size)
            yield name, (folder / name).read_bytes()


def _archived_files(archive: Path) -> Iterator[tuple[str, bytes]]:
    with archive.open("rb") as file, _Archive.open(fileobj=file) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            # isfile: a link could name a member that is not there
            if name in BATCH_FILES and member.isfile() and (stream := tar.extractfile(member)):
                _check_size(archive, member.name, member.size)
                cast(_Limited, tar.fileobj).allowed += member.size
                yield name, stream.read()


def _check_size(source: Path, name: str, size: int) -> None:
    if size > MAX_BATCH_BYTES:  # a small archive may hold any amount of zeros
        raise DataError(f"{source}: expected at most {MAX_BATCH_BYTES} bytes in {name}, got {size}")


class _Limited:
    """A file that gives no more bytes than are allowed."""

    def __init__(self, file: Any, allowed: int) -> None:
        self._file = file
        self.allowed = allowed
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        self.allowed -= size
        if self.allowed < 0:
            raise ValueError(f"members with headers of more than {MAX_HEADER_BYTES} bytes")
        return self._file.read(size)


class _Archive(tarfile.TarFile):
    """An archive with limited headers: tarfile would read as many gigabytes as one of them says."""

    def __init__(self, name: Any, mode: Any, fileobj: Any, **options: Any) -> None:
        super().__init__(name, mode, cast(Any, _Limited(fileobj, MAX_HEADER_BYTES)), **options)


def _unpickle_records(content: bytes, file: str) -> np.ndarray:
    """The records of a batch of the python form: {b"labels": list of int, b"data": array, ...}."""
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        labels = np.fromiter(batch[b"labels"], np.uint8)
        # ndarray.__setstate__ gets (version, shape, dtype, is_fortran, bytes). Only the bytes are
        # used: were the rest not as in the original file, the records' hash would differ.
        pixels = np.frombuffer(batch[b"data"].state[-1], np.uint8).reshape(-1, PIXEL_BYTES)
        return np.column_stack([labels, pixels]).ravel()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(
            f"{file}: expected a pickled batch of CIFAR-10, got {first_line(error)}"
        ) from error


class _Inert:
    """Stands in for every object a batch file may name: keeps what it is given, runs nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _BatchUnpickler(pickle._Unpickler):
    """Unpickles numbers, strings, lists, dicts and the bytes of arrays; imports nothing.

    Python's own and not C's: five damaged bytes, a large index to its memo, take C's gigabytes.

    A pickle acts only through the objects it names, and here every name it may use is `_Inert`.
    This also spares the files, written in 2009, from what NumPy has since deprecated.
    """

    _NAMES = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return _Inert
