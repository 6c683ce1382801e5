"""The four forms of CIFAR-10 give the same records; what is broken or hostile gives one line."""

import gzip
import io
import lzma
import os
import pickle
import tarfile
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.cifar10.data import formats, load as data
from experiments.cifar10.data.formats import RECORD_BYTES, DataError, read_batches
from tests.support.cifar10_files import (
    ARCHIVES,
    LAYOUTS,
    PYTHON,
    SMALL,
    SMALL_RELEASE,
    binary_files,
    python2_pickle,
    python_files,
    write,
    write_archive,
    write_folder,
)


def contents(source: Path) -> dict[str, bytes]:
    return {batch: records.tobytes() for batch, _, records in read_batches(source)}


def failure(source: Path) -> str:
    with pytest.raises(DataError) as raised:
        contents(source)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_form_gives_the_same_records(tmp_path: Path, layout: str) -> None:
    assert contents(write(tmp_path, layout)) == SMALL


def test_every_file_is_named_where_it_lies(tmp_path: Path) -> None:
    folder, archive = write(tmp_path, PYTHON), write(tmp_path, "cifar-10-binary.tar.xz")
    assert [file for _, file, _ in read_batches(folder)] == [f"{folder}/{name}" for name in SMALL]
    assert [file for _, file, _ in read_batches(archive)] == [
        f"{archive}/{name}.bin" for name in SMALL
    ]


def test_the_python_form_written_here_is_what_numpy_reads() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4 deprecated how arrays were pickled in 2009
        batch = pickle.loads(python2_pickle(SMALL["test_batch"]), encoding="bytes")
    table = np.frombuffer(SMALL["test_batch"], np.uint8).reshape(-1, RECORD_BYTES)
    np.testing.assert_array_equal(batch[b"data"], table[:, 1:], strict=True)
    assert batch[b"labels"] == table[:, 0].tolist()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    others = {"data_batch_6.bin": b"", "batches.meta": b"", "readme.html": b"", "data_batch": b""}
    assert contents(write_folder(tmp_path / "folder", others | binary_files(SMALL))) == SMALL
    assert contents(write_archive(tmp_path / "a.tar.gz", others | python_files(SMALL))) == SMALL


class Payload:
    """Pickles as a call of `function`, which an ordinary unpickler makes."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("function", ["os.mkdir", "eval", "getattr", "np.fromfile"])
def test_malicious_pickle_runs_nothing(tmp_path: Path, function: str, protocol: int) -> None:
    planted = tmp_path / "planted"
    payload = {
        "os.mkdir": Payload(os.mkdir, str(planted)),
        "eval": Payload(eval, f"__import__('os').mkdir({str(planted)!r})"),
        "getattr": Payload(getattr, "", "join"),
        "np.fromfile": Payload(np.fromfile, __file__),
    }[function]
    content = pickle.dumps({b"labels": [1], b"data": payload}, protocol)
    source = write_folder(tmp_path / PYTHON, python_files(SMALL) | {"data_batch_2": content})
    message = failure(source)
    assert message.startswith(f"{source}/data_batch_2: expected a pickled batch of CIFAR-10, got")
    assert "is not part of an array" in message
    assert not planted.exists()


@pytest.mark.parametrize(
    "batch",
    [
        None,
        [],
        {b"labels": [1]},
        {b"labels": [1], b"data": b"no array"},
        {b"labels": [256], b"data": np.dtype},
        {b"labels": 10**15, b"data": np.dtype},
    ],
    ids=["None", "list", "no data", "bytes for data", "label 256", "number for labels"],
)
def test_pickle_of_something_else(tmp_path: Path, batch: object) -> None:
    source = write_folder(tmp_path / PYTHON, {"test_batch": pickle.dumps(batch, 4)})
    assert failure(source).startswith(f"{source}/test_batch: expected a pickled batch")


@pytest.mark.parametrize("length", [0, 1, 40, 200, -1])
def test_truncated_pickle(tmp_path: Path, length: int) -> None:
    content = python2_pickle(SMALL["data_batch_2"])[:length]
    source = write_folder(tmp_path / PYTHON, {"data_batch_2": content})
    assert failure(source).startswith(f"{source}/data_batch_2: expected a pickled batch")


@pytest.mark.parametrize("archive", ARCHIVES)
@pytest.mark.parametrize("kind", ["cut in half", "cut at the start", "not an archive", "empty"])
def test_unreadable_archive(tmp_path: Path, archive: str, kind: str) -> None:
    source = write(tmp_path, archive)
    whole = source.read_bytes()
    damaged = {
        "cut in half": whole[: len(whole) // 2],
        "cut at the start": whole[:20],
        "not an archive": whole[50:],
        "empty": b"",
    }
    source.write_bytes(damaged[kind])
    assert failure(source).startswith(f"{source}: expected readable data, got")


def test_archive_is_not_extracted_and_its_links_are_not_followed(tmp_path: Path) -> None:
    outside = write_folder(tmp_path / "outside", binary_files(SMALL))
    archive = tmp_path / "hostile.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in binary_files(SMALL).items():
            member = tarfile.TarInfo(f"../../{name}")
            if name == "test_batch.bin":
                member.type, member.linkname = tarfile.SYMTYPE, str(outside / name)
            else:
                member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    before = sorted(tmp_path.parent.rglob("*"))
    assert contents(archive) == {name: SMALL[name] for name in SMALL if name != "test_batch"}
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_a_member_too_large_to_be_a_batch_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path, ARCHIVES[0])
    monkeypatch.setattr(formats, "MAX_BATCH_BYTES", 10)
    message = failure(archive)
    assert str(archive) in message
    assert "at most 10 bytes" in message


@pytest.mark.parametrize("layout", [PYTHON, "cifar-10-binary.tar.gz"])
def test_a_file_too_large_to_be_a_batch_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    source = write(tmp_path, layout)
    monkeypatch.setattr(formats, "MAX_BATCH_BYTES", 10)
    assert "expected at most 10 bytes in " in failure(source)


def test_a_large_index_to_the_memo_takes_no_memory(tmp_path: Path) -> None:
    """Eight gigabytes and a minute in the unpickler that is written in C."""
    content = b"\x80\x02]r\xff\xff\xff\x1f."
    source = write_folder(tmp_path / PYTHON, {"data_batch_2": content})
    tracemalloc.start()
    try:
        assert "expected a pickled batch" in failure(source)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytearray:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return bytearray(member.tobuf(tarfile.GNU_FORMAT))


def with_checksum(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    "kind",
    [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK],
)
def test_a_header_of_gigabytes_is_not_read(tmp_path: Path, kind: bytes) -> None:
    archive = tmp_path / "hostile.tar.gz"
    with gzip.open(archive, "wb", compresslevel=1) as file:
        file.write(header("long", 3 * 2**30, kind) + bytes(50 * 2**20))
    tracemalloc.start()
    try:
        message = failure(archive)
        assert tracemalloc.get_traced_memory()[1] < 10**7
    finally:
        tracemalloc.stop()
    assert message.endswith(f"ValueError: members with headers of more than {2**20} bytes")


def test_many_headers_are_not_read_either(tmp_path: Path) -> None:
    archive = tmp_path / "hostile.tar"
    archive.write_bytes(bytes(header("x", 0)) * 3000)
    assert f"headers of more than {2**20} bytes" in failure(archive)


HEADER_DAMAGE = {
    "a negative size": (124, b"\xff" * 12),
    "a size of 2^80": (124, b"\x80\0" + b"\x7f" * 10),
    "a size that is no number": (124, b"zzzzzzzzzzz\0"),
    "a pax header of nothing": (156, b"x"),
    "a sparse file": (156, b"S"),
    "a long name of nothing": (156, b"L"),
}


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress])
@pytest.mark.parametrize(("place", "value"), HEADER_DAMAGE.values(), ids=HEADER_DAMAGE)
def test_a_damaged_header_is_one_line_or_no_batch(
    tmp_path: Path, place: int, value: bytes, compress: Callable[[bytes], bytes]
) -> None:
    block = header("cifar-10-batches-bin/data_batch_1.bin", RECORD_BYTES)
    block[place : place + len(value)] = value
    content = b"12 path=\xff\n-1 size=x\n9 GNU.sparse.map=1,2".ljust(512, b"\0")
    archive = tmp_path / "a.tar"
    archive.write_bytes(compress(with_checksum(block) + content + bytes(RECORD_BYTES)))
    message = f"{archive}: expected no error"
    try:
        assert set(contents(archive)) <= {"data_batch_1"}
    except DataError as error:
        message = str(error)
    assert message.startswith(f"{archive}: expected ")
    assert "\n" not in message


def test_random_damage_is_one_line_or_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three hundred archives with wrong bytes, of both forms, packed and not."""
    no_folder = tmp_path / "file"  # copies of unpacked archives cannot be kept
    no_folder.write_bytes(b"")
    monkeypatch.setattr(data, "cache_folder", lambda: no_folder)
    rng = np.random.default_rng(0)
    binary = write_archive(tmp_path / "a.tar.gz", binary_files(SMALL)).read_bytes()
    python = write_archive(tmp_path / "b.tar.gz", python_files(SMALL)).read_bytes()
    archive = tmp_path / "damaged"
    outcomes = {True: 0, False: 0}
    for count in range(300):
        content = bytearray(gzip.decompress((binary, python)[count % 2]))
        if count % 3 == 0:
            content = bytearray(gzip.compress(bytes(content), 1))
        heads = np.flatnonzero(
            [content[k + 257 : k + 262] == b"ustar" for k in range(0, len(content), 512)]
        )
        start = 512 * int(rng.choice(heads)) if count % 3 == 1 else 0
        for place in rng.integers(0, 512 if count % 3 == 1 else len(content), 1 + count % 4):
            content[start + place] = rng.integers(256)
        if count % 3 == 1:
            content[start : start + 512] = with_checksum(content[start : start + 512])
        archive.write_bytes(content)
        message = ""
        try:
            data._read(archive, SMALL_RELEASE)
        except DataError as error:
            message = str(error)
        outcomes[message == ""] += 1
        assert "\n" not in message
    assert min(outcomes.values()) > 20
