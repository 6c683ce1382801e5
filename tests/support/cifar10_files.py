"""Small files in the official forms of CIFAR-10, written for the tests that read them."""

import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

from experiments.cifar10.data.formats import BATCHES, RECORD_BYTES
from experiments.cifar10.data.load import Release

Files = dict[str, bytes]

RECORDS_PER_BATCH = 3
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
ARCHIVES = [f"cifar-10-{form}.tar.{c}" for form in ("binary", "python") for c in ("gz", "xz")]
LAYOUTS = [BINARY, PYTHON, *ARCHIVES]


def _random_batches() -> Files:
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (len(BATCHES), RECORDS_PER_BATCH, RECORD_BYTES), np.uint8)
    records[:, :, 0] = rng.integers(0, 10, records.shape[:2])
    return {batch: content.tobytes() for batch, content in zip(BATCHES, records, strict=True)}


SMALL = _random_batches()
SMALL_RELEASE = Release(
    RECORDS_PER_BATCH,
    {batch: hashlib.sha256(content).hexdigest() for batch, content in SMALL.items()},
)


def binary_files(batches: Files) -> Files:
    """File name -> content of the binary form."""
    return {f"{batch}.bin": content for batch, content in batches.items()}


def python_files(batches: Files) -> Files:
    """File name -> content of the python form."""
    return {batch: python2_pickle(content) for batch, content in batches.items()}


def python2_pickle(records: bytes) -> bytes:
    """A batch in the opcodes in which Python 2 wrote the original files (protocol 2)."""
    table = np.frombuffer(records, np.uint8).reshape(-1, RECORD_BYTES)
    labels = b"".join(b"K" + bytes([label]) for label in table[:, 0].tolist())
    shape = b"(K\x01K" + bytes([len(table)]) + b"M\x00\x0c\x86"
    state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    pixels = table[:, 1:].tobytes()
    return (
        b"\x80\x02}(U\x0bbatch_labelU\x14testing batch 1 of 1"
        b"U\x06labels](" + labels + b"e"
        b"U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + shape
        + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"
        + state
        + b"\x89T"
        + struct.pack("<i", len(pixels))
        + pixels
        + b"tbu."
    )


def write(folder: Path, layout: str, batches: Files = SMALL) -> Path:
    """The batches inside `folder`, as the folder or archive named `layout`."""
    is_binary = layout == BINARY or "binary" in layout
    files = binary_files(batches) if is_binary else python_files(batches)
    return (write_archive if ".tar." in layout else write_folder)(folder / layout, files)


def write_folder(folder: Path, files: Files) -> Path:
    """`folder` with these files."""
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(archive: Path, files: Files) -> Path:
    """`archive` with these files, in a folder as in the official ones."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:xz" if archive.suffix == ".xz" else "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive
