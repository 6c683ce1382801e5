"""The formats of CIFAR-10; every batch is read as records of the binary format.

A record is 1 label byte, then 3072 pixel bytes (planes R, G, B of 32 x 32, row-major). A batch of
the Python format is a pickle of the same labels and pixels in the same order, so both formats give
the same bytes, and one table of hashes checks them all. Archives are read member by member into
memory: nothing is extracted, so the path of a member does no harm.

Source: https://www.cs.toronto.edu/~kriz/cifar.html
"""

import io
import pickle
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

import numpy as np

from experiments.cifar10.data.xz import unpack_xz
from experiments.common.command import UserError

PIXEL_BYTES = 3 * 32 * 32
MAX_BATCH_BYTES = 64 * 2**20  # twice the size of the official files
MAX_HEADER_BYTES = 2**20  # of all members of an archive, 100 times those of the official one
MAX_ARCHIVE_BYTES = 2**28  # of an archive that is unpacked at once, 1.5 times the official one
RECORD_BYTES = 1 + PIXEL_BYTES

TRAIN_BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
TEST_BATCH = "test_batch"
BATCHES = (*TRAIN_BATCHES, TEST_BATCH)
# file name -> batch: the binary format has a suffix, the Python format has none
BATCH_FILES = {f"{batch}.bin": batch for batch in BATCHES} | {batch: batch for batch in BATCHES}


class DataError(UserError):
    """Data that are missing or damaged; the message is one line."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error of another library."""
    message = str(error).partition("\n")[0].rstrip(":")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def read_batches(source: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Read every batch file of a folder or tar archive, of either format, in order of appearance.

    Args:
        source: an unpacked folder, or an archive (.tar.gz, .tar.xz).

    Yields:
        The batch ("data_batch_1" .. "test_batch"), its file's name for messages, and its records,
        uint8 [bytes], still unchecked.

    Raises:
        DataError: the files cannot be read or parsed.
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
    with _opened(archive) as file, _Archive.open(fileobj=file) as tar:
        for member in tar:
            name = PurePosixPath(member.name).name
            # isfile: a link could name a missing member
            if name in BATCH_FILES and member.isfile() and (stream := tar.extractfile(member)):
                _check_size(archive, member.name, member.size)
                cast(_Limited, tar.fileobj).allowed += member.size
                yield name, stream.read()


def _opened(archive: Path) -> BinaryIO:
    """Open an archive; decode an .xz one first if its blocks can be decoded in parallel."""
    unpacked = unpack_xz(archive, MAX_ARCHIVE_BYTES) if archive.suffix == ".xz" else None
    return archive.open("rb") if unpacked is None else io.BytesIO(unpacked)


def _check_size(source: Path, name: str, size: int) -> None:
    if size > MAX_BATCH_BYTES:  # a small archive may expand to any number of zeros
        raise DataError(f"{source}: expected at most {MAX_BATCH_BYTES} bytes in {name}, got {size}")


class _Limited:
    """A file from which only the allowed number of bytes can be read."""

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
    """An archive with limited headers: tarfile would read headers of any size that they claim."""

    def __init__(self, name: Any, mode: Any, fileobj: Any, **options: Any) -> None:
        super().__init__(name, mode, cast(Any, _Limited(fileobj, MAX_HEADER_BYTES)), **options)


def _unpickle_records(content: bytes, file: str) -> np.ndarray:
    """Read a batch of the Python format: {b"labels": list of int, b"data": array, ...}."""
    try:
        batch = _BatchUnpickler(io.BytesIO(content), encoding="bytes").load()
        labels = np.fromiter(batch[b"labels"], np.uint8)
        # ndarray.__setstate__ gets (version, shape, dtype, is_fortran, bytes). Only the bytes are
        # used: if the rest differed from the original file, so would the records' hash.
        pixels = np.frombuffer(batch[b"data"].state[-1], np.uint8).reshape(-1, PIXEL_BYTES)
        return np.column_stack([labels, pixels]).ravel()
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise DataError(
            f"{file}: expected a pickled batch of CIFAR-10, got {first_line(error)}"
        ) from error


class _Inert:
    """A substitute for every object that a batch file may name: keeps its state, runs nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _BatchUnpickler(pickle._Unpickler):
    """An unpickler of numbers, strings, lists, dicts and the bytes of arrays; imports nothing.

    It is Python's implementation, since C's allocates gigabytes for a large memo index, which may
    come from five damaged bytes.

    A pickle acts only through the objects that it names, and here every allowed name is `_Inert`.
    This also avoids NumPy's deprecation warnings for the files, which were written in 2009.
    """

    _NAMES = frozenset(
        {("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype")}
    )

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self._NAMES:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of an array")
        return _Inert
