"""CIFAR-10 is found, checked and decoded; the digits are a substitute for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from scipy import ndimage
from sklearn import datasets

from experiments.cifar10.data import load as data
from experiments.cifar10.data.formats import BATCHES, RECORD_BYTES
from experiments.cifar10.data.load import (
    OFFICIAL,
    DataError,
    Dataset,
    find_cifar10,
    load_cifar10,
    load_digits,
)
from tests.support.cifar10_files import (
    BINARY,
    LAYOUTS,
    PYTHON,
    SMALL,
    SMALL_RELEASE,
    write,
    write_folder,
)

REAL = find_cifar10()  # before the fixture hides it


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No data on this machine but what a test writes, and the small release for the official."""
    folder = tmp_path / "cache"
    monkeypatch.delenv("XENTJAX_DATA_DIR", raising=False)
    monkeypatch.setattr(data, "cache_folder", lambda: folder)
    monkeypatch.setattr(data, "OFFICIAL", SMALL_RELEASE)
    return folder


def assert_is_small(dataset: Dataset) -> None:
    """Every pixel is where the definition of the format puts it."""
    train = b"".join(SMALL[batch] for batch in BATCHES[:-1])
    for content, images, labels in (
        (train, dataset.train_images, dataset.train_labels),
        (SMALL["test_batch"], dataset.test_images, dataset.test_labels),
    ):
        raw = np.frombuffer(content, np.uint8)
        record, row, column, channel = np.indices((raw.size // RECORD_BYTES, 32, 32, 3))
        position = record * RECORD_BYTES + 1 + channel * 1024 + row * 32 + column
        np.testing.assert_array_equal(images, raw[position], strict=True)
        np.testing.assert_array_equal(labels, raw[::RECORD_BYTES].astype(np.int32), strict=True)
    assert dataset.name == "CIFAR-10"
    assert len(dataset.class_names) == 10
    assert dataset.sha256 == SMALL_RELEASE.sha256


def failure(call: Callable[..., object], *arguments: object, **keywords: object) -> str:
    """The error's message: one line that ends with the three ways to supply the data."""
    with pytest.raises(DataError) as raised:
        call(*arguments, **keywords)
    message = str(raised.value)
    assert "\n" not in message
    for way in ("--data-dir", "XENTJAX_DATA_DIR", f"downloaded to {data.cache_folder()}"):
        assert message.count(way) == 1
    return message


@pytest.mark.parametrize("inside", [True, False], ids=["in a folder", "path itself"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_found_and_gives_the_same_arrays(
    tmp_path: Path, layout: str, inside: bool
) -> None:
    source = write(tmp_path / "given", layout)
    place = source.parent if inside else source
    assert find_cifar10(place) == source
    dataset = load_cifar10(place)
    assert dataset.source == str(source)
    assert_is_small(dataset)


def test_search_order(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_cifar10() is None
    in_cache = write(cache, "cifar-10-binary.tar.gz")
    assert find_cifar10() == in_cache
    monkeypatch.setenv("XENTJAX_DATA_DIR", str(tmp_path / "named"))
    assert find_cifar10() == in_cache
    named = write(tmp_path / "named", PYTHON)
    assert find_cifar10() == named
    assert load_cifar10().source == str(named)
    given = write(tmp_path / "given", BINARY)
    assert find_cifar10(tmp_path / "given") == given


def test_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XENTJAX_DATA_DIR", "~/named")
    source = write(tmp_path / "named", BINARY)
    assert find_cifar10() == source
    assert find_cifar10(Path("~/named")) == source


@pytest.mark.parametrize("call", [find_cifar10, load_cifar10])
@pytest.mark.parametrize("kind", ["empty folder", "no such path", "unrelated files"])
def test_given_path_without_data_is_an_error(
    tmp_path: Path, cache: Path, call: Callable[..., object], kind: str
) -> None:
    write(cache, BINARY)  # must not be used instead
    given = tmp_path / "given"
    if kind != "no such path":
        write_folder(given, {"readme.html": b""} if kind == "unrelated files" else {})
    assert failure(call, given).startswith(f"{given}: expected CIFAR-10")


def test_download_only_when_it_is_nowhere(
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked: list[tuple[str, str]] = []

    def fetch(url: str, sha256: str, folder: Path) -> Path:
        asked.append((url, sha256))
        return write(folder, "cifar-10-binary.tar.gz")

    monkeypatch.setattr(data, "fetch", fetch)
    monkeypatch.setenv("XENTJAX_DATA_DIR", str(tmp_path / "wrong"))
    assert_is_small(load_cifar10())
    assert asked == [(data.URL, data.URL_SHA256)]
    # a wrong variable does not go unnoticed
    assert capsys.readouterr().err == (
        f"No CIFAR-10 in {tmp_path / 'wrong'}, {cache}: downloading it to {cache}\n"
    )
    assert_is_small(load_cifar10())
    assert len(asked) == 1


def test_download_can_be_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "fetch", None)
    message = failure(load_cifar10, download=False)
    assert message.startswith(f"CIFAR-10: expected in {cache}, got nothing. ")
    assert not cache.exists()


def test_failed_download_names_the_other_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data, "URL", "http://127.0.0.1:1/cifar-10-binary.tar.gz")
    message = failure(load_cifar10)
    assert message.startswith("http://127.0.0.1:1/cifar-10-binary.tar.gz: expected to download it")


def test_a_damaged_download_is_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = data.URL.rpartition("/")[-1]
    damaged = write(cache, name, SMALL | {"data_batch_3": SMALL["data_batch_2"]})

    def fetch(url: str, sha256: str, folder: Path) -> Path:
        assert folder / name == damaged
        damaged.unlink()
        return write(folder, name)

    monkeypatch.setattr(data, "fetch", fetch)
    # the tour downloads nothing, and a folder that was named is nobody's to write to
    assert f"{damaged}/data_batch_3.bin: expected SHA-256" in failure(load_cifar10, download=False)
    assert f"{damaged}/data_batch_3.bin: expected SHA-256" in failure(load_cifar10, cache)
    assert capsys.readouterr().err == ""
    assert_is_small(load_cifar10())
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{damaged}/data_batch_3.bin: expected SHA-256 ")
    assert line.endswith(f": downloading it again to {cache}")
    monkeypatch.setattr(data, "fetch", None)
    assert_is_small(load_cifar10())


def test_a_damaged_download_stays_until_a_whole_one_is_there(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data, "URL", "http://127.0.0.1:1/cifar-10-binary.tar.gz")
    damaged = write_folder(cache, {"cifar-10-binary.tar.gz": b"503"}) / "cifar-10-binary.tar.gz"
    assert failure(load_cifar10).startswith(f"{data.URL}: expected to download it")
    assert damaged.read_bytes() == b"503"


def test_what_the_user_put_in_the_cache_is_never_replaced(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "fetch", None)
    own = write(cache, PYTHON, SMALL | {"test_batch": b""})
    assert f"or remove {own} and connect to the network" in failure(load_cifar10)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/x", "x" * 300, "a\0b"])
def test_names_that_no_folder_has_are_one_line(name: str) -> None:
    assert "expected CIFAR-10 (a folder or an archive), got no such path" in failure(
        find_cifar10, Path(name)
    )


DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "one byte short": (lambda content: content[:-1], "(9219 bytes), got 9218 bytes"),
    "one record short": (lambda content: content[RECORD_BYTES:], "(9219 bytes), got 6146 bytes"),
    "one record more": (lambda content: content + bytes(RECORD_BYTES), "got 12292 bytes"),
    "empty": (lambda content: b"", "(9219 bytes), got 0 bytes"),
    "flipped bit": (
        lambda content: content[:1000] + bytes([content[1000] ^ 1]) + content[1001:],
        f"expected SHA-256 {SMALL_RELEASE.sha256['data_batch_3']}, got ",
    ),
    "label 10": (lambda content: b"\x0a" + content[1:], "expected labels 0 to 9, got 10"),
    "another batch": (lambda content: SMALL["data_batch_2"], "expected SHA-256 "),
}


@pytest.mark.parametrize(
    ("layout", "damage"),
    [
        (layout, damage)
        for layout in (BINARY, PYTHON, "cifar-10-binary.tar.xz")
        for damage in DAMAGE
        if layout != PYTHON or damage != "one byte short"  # the python form has whole records
    ],
)
def test_damaged_batch_is_named(tmp_path: Path, layout: str, damage: str) -> None:
    spoil, expected = DAMAGE[damage]
    batches = SMALL | {"data_batch_3": spoil(SMALL["data_batch_3"])}
    source = write(tmp_path, layout, batches)
    message = failure(load_cifar10, tmp_path)
    file = "data_batch_3" if layout == PYTHON else "data_batch_3.bin"
    assert message.startswith(f"{source}/{file}: expected")
    assert expected in message


@pytest.mark.parametrize("layout", [BINARY, PYTHON, "cifar-10-binary.tar.gz"])
def test_missing_batches_are_named(tmp_path: Path, layout: str) -> None:
    batches = {b: SMALL[b] for b in BATCHES if b not in ("data_batch_4", "test_batch")}
    source = write(tmp_path, layout, batches)
    message = failure(load_cifar10, tmp_path)
    assert message.startswith(
        f"{source}: expected 6 batch files, got none for data_batch_4, test_batch. "
    )


def test_unreadable_archive_names_the_three_ways(tmp_path: Path) -> None:
    archive = tmp_path / "cifar-10-python.tar.xz"
    archive.write_bytes(b"503 Service Unavailable")
    assert failure(load_cifar10, tmp_path).startswith(f"{archive}: expected readable data")


def test_digits() -> None:
    raw = cast(Any, datasets.load_digits())
    digits = load_digits()
    assert digits.train_images.shape == (1437, 32, 32, 3)
    assert digits.test_images.shape == (360, 32, 32, 3)
    assert digits.train_images.dtype == digits.test_images.dtype == np.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == np.int32
    assert digits.class_names == tuple("0123456789")

    # stratified: a fifth of each class
    train, test = np.bincount(digits.train_labels), np.bincount(digits.test_labels)
    assert np.abs(test - (train + test) / 5).max() < 1

    # every image of the source once, grey, upscaled bilinearly, with its label
    centres = (np.arange(32) + 0.5) / 4 - 0.5
    grid = np.stack(np.meshgrid(centres, centres, indexing="ij"))
    expected = np.stack(
        [ndimage.map_coordinates(image, grid, order=1, mode="nearest") for image in raw.images]
    ) * (255 / 16)
    images = np.concatenate([digits.train_images, digits.test_images])
    labels = np.concatenate([digits.train_labels, digits.test_labels])
    assert np.ptp(images, axis=-1).max() == 0
    grey = images[..., 0].astype(np.float64)
    overlap = grey.reshape(len(grey), -1) @ expected.reshape(len(expected), -1).T
    nearest = np.argmin(np.square(expected).sum((1, 2)) - 2 * overlap, axis=1)
    assert len(set(nearest.tolist())) == 1797
    np.testing.assert_allclose(grey, expected[nearest], rtol=0, atol=0.5 + 1e-9)
    np.testing.assert_array_equal(labels, raw.target[nearest])


@pytest.mark.skipif(REAL is None, reason="no CIFAR-10 in $XENTJAX_DATA_DIR or the user's cache")
def test_the_real_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "OFFICIAL", OFFICIAL)
    dataset = load_cifar10(REAL)
    assert dataset.train_images.shape == (50_000, 32, 32, 3)
    assert dataset.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(dataset.train_labels).tolist() == [5000] * 10
    assert np.bincount(dataset.test_labels).tolist() == [1000] * 10
    # the published channel means of the training images
    means = dataset.train_images.mean((0, 1, 2)) / 255
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], rtol=0, atol=1e-4)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if ".tar." in name])
def test_an_archive_is_unpacked_once(
    tmp_path: Path, cache: Path, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write(tmp_path / "given", layout)
    activities: list[str] = []
    assert_is_small(load_cifar10(source, doing=activities.append))
    assert activities[-1] == "unpacking CIFAR-10, part 6 of 6"
    activities.clear()
    with monkeypatch.context() as patched:
        patched.setattr("tarfile.TarFile.extractfile", None)  # must not be called
        dataset = load_cifar10(source, doing=activities.append)
    assert_is_small(dataset)
    assert dataset.source == str(source)
    assert {activity[:7] for activity in activities} == {"reading"}


def test_a_damaged_copy_of_an_archive_is_replaced(tmp_path: Path, cache: Path) -> None:
    source = write(tmp_path / "given", LAYOUTS[-1])
    load_cifar10(source)
    (copy,) = (cache / "unpacked").iterdir()
    content = (copy / "test_batch.bin").read_bytes()
    (copy / "test_batch.bin").write_bytes(content[::-1])
    assert_is_small(load_cifar10(source))
    assert (copy / "test_batch.bin").read_bytes() == content


def test_one_copy_is_kept_and_none_of_a_changed_or_wrong_archive(
    tmp_path: Path, cache: Path
) -> None:
    first, second = (write(tmp_path / name, LAYOUTS[-1]) for name in ("a", "b"))
    load_cifar10(first)
    load_cifar10(second)
    assert len(list((cache / "unpacked").iterdir())) == 1
    second.write_bytes(b"no archive")
    assert "expected readable data" in failure(load_cifar10, second)


def test_without_room_for_a_copy_the_archive_is_read(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder would be")
    assert_is_small(load_cifar10(write(tmp_path / "given", LAYOUTS[-1])))
