"""The data sets: CIFAR-10, and scikit-learn's digits, which need no download.

CIFAR-10 is searched for in --data-dir, $XENTJAX_DATA_DIR and the user's cache, and downloaded to
the cache if it is not found. The SHA-256 of every batch is checked, wherever it comes from.
"""

import hashlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from experiments.cifar10.config import DatasetName
from experiments.cifar10.data.download import fetch
from experiments.cifar10.data.formats import (
    BATCH_FILES,
    BATCHES,
    PIXEL_BYTES,
    RECORD_BYTES,
    TEST_BATCH,
    TRAIN_BATCHES,
    DataError as DataError,
    read_batches,
)
from experiments.cifar10.data.unpacked import copy_of, keep
from experiments.common.command import printable
from experiments.common.user_cache import cache_folder

Doing = Callable[[str], None]  # is told the current activity

ENVIRONMENT_VARIABLE = "XENTJAX_DATA_DIR"
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
URL_SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"

# where in a data folder the data may be; "." is the folder itself
LAYOUTS = (
    ".",
    "cifar-10-batches-bin",
    "cifar-10-batches-py",
    "cifar-10-binary.tar.gz",
    "cifar-10-binary.tar.xz",
    "cifar-10-python.tar.gz",
    "cifar-10-python.tar.xz",
)
CLASS_NAMES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


@dataclass(frozen=True)
class Dataset:
    """Labelled images with a fixed split.

    Attributes:
        name: "CIFAR-10" or "digits".
        train_images: uint8 [N, H, W, C]; the jitted step normalises them.
        train_labels: int32 [N], each in 0..K-1.
        test_images: uint8 [M, H, W, C].
        test_labels: int32 [M].
        class_names: K names.
        source: where the data were read from, for the run's record.
        sha256: batch -> hash of its records as read; empty for digits.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    source: str
    sha256: dict[str, str]


@dataclass(frozen=True)
class Release:
    """The expected batches of a release, as records of the binary format."""

    records_per_batch: int
    sha256: Mapping[str, str]


OFFICIAL = Release(
    records_per_batch=10_000,
    sha256={
        "data_batch_1": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
)


def find_cifar10(data_dir: Path | None = None) -> Path | None:
    """Find the folder or archive from which CIFAR-10 would be read; nothing is downloaded.

    Args:
        data_dir: a folder or the archive itself. None: $XENTJAX_DATA_DIR, then the cache.

    Returns:
        The first place that contains batches or an archive, or None.

    Raises:
        DataError: `data_dir` was given and contains neither; no other place is tried.
    """
    if data_dir is None:
        return next(filter(None, map(_look_in, _default_places())), None)
    found = _look_in(data_dir)
    if found is None:
        got = "neither" if os.path.exists(_expanded(data_dir)) else "no such path"
        raise _explained(f"{data_dir}: expected CIFAR-10 (a folder or an archive), got {got}")
    return found


def _silently(activity: str) -> None:
    """Show nothing."""


def load_cifar10(
    data_dir: Path | None = None, *, download: bool = True, doing: Doing = _silently
) -> Dataset:
    """Load CIFAR-10: 50,000 and 10,000 images of 32 x 32 x 3, checked by their SHA-256.

    Args:
        data_dir: where it is, see `find_cifar10`.
        download: download the official archive to the cache if the data are not found, or if the
            archive downloaded earlier is damaged. It is replaced once the new one is complete.
        doing: called with the current activity.

    Raises:
        DataError: the data are missing, truncated or corrupt, or cannot be downloaded.
    """
    source = find_cifar10(data_dir)
    try:
        if source is not None:
            return _read(source, OFFICIAL, doing)
        places = ", ".join(map(str, _default_places()))
        if not download:
            raise DataError(f"CIFAR-10: expected in {places}, got nothing")
        # printed because $XENTJAX_DATA_DIR may name the wrong folder
        return _download(f"No CIFAR-10 in {places}: downloading it to {cache_folder()}", doing)
    except DataError as error:
        fetched = cache_folder() / URL.rpartition("/")[-1]
        if not download or data_dir is not None or source != fetched:
            raise _explained(str(error), source) from error
        damage = str(error)
    try:
        return _download(f"{damage}: downloading it again to {cache_folder()}", doing)
    except DataError as error:
        raise _explained(str(error)) from error


def _download(notice: str, doing: Doing) -> Dataset:
    print(printable(notice), file=sys.stderr)
    return _read(fetch(URL, URL_SHA256, cache_folder()), OFFICIAL, doing)


def load_digits() -> Dataset:
    """Load scikit-learn's 1797 handwritten digits in CIFAR-10's shape, without a download.

    The 8 x 8 grey images become 32 x 32 x 3 by bilinear interpolation (pixel centres aligned,
    edges extended). Every fifth image of each class, in the file's order, is a test image: 360 for
    testing and 1437 for training, without randomness. Digits of one writer may be in both parts.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    # imported here: it takes longer to import than CIFAR-10 takes to load
    import sklearn
    from sklearn import datasets

    digits = cast(Any, datasets.load_digits())  # not the tuple that its annotation allows
    labels = digits.target.astype(np.int32)
    # row i of `weights` has the weights of the 8 pixels in output pixel i. They are multiples of
    # 1/8, so all products are exact and the rounding is the same on every machine.
    centres = (np.arange(32) + 0.5) / 4 - 0.5
    weights = np.stack([np.interp(centres, np.arange(8), unit) for unit in np.eye(8)], axis=1)
    grey = np.rint(weights @ digits.images @ weights.T * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)

    is_test = np.zeros(len(labels), bool)
    is_test[np.argsort(labels, kind="stable")[::5]] = True
    return Dataset(
        name="digits",
        train_images=images[~is_test],
        train_labels=labels[~is_test],
        test_images=images[is_test],
        test_labels=labels[is_test],
        class_names=tuple(map(str, digits.target_names)),
        source=f"scikit-learn {sklearn.__version__}, load_digits",
        sha256={},
    )


def load(name: DatasetName, data_dir: Path | None = None, doing: Doing = _silently) -> Dataset:
    """Load a data set by its name; `data_dir` is where CIFAR-10 is, see `find_cifar10`."""
    return load_digits() if name == "digits" else load_cifar10(data_dir, doing=doing)


def _default_places() -> list[Path]:
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return [Path(named), cache_folder()] if named else [cache_folder()]


def _look_in(place: Path) -> Path | None:
    candidates = (_expanded(place) / layout for layout in LAYOUTS)
    return next(filter(_holds_data, candidates), None)


def _expanded(place: Path) -> Path:
    # os.path.expanduser leaves ~nobody as it is, where Path.expanduser raises RuntimeError
    return Path(os.path.expanduser(place))


def _holds_data(candidate: Path) -> bool:
    # os.path.isfile is False where Path.is_file raises PermissionError
    return os.path.isfile(candidate) or any(
        os.path.isfile(candidate / name) for name in BATCH_FILES
    )


def _explained(problem: str, source: Path | None = None) -> DataError:
    """Add to a problem, which may be at `source`, the ways to supply the data."""
    is_in_cache = source is not None and cache_folder() in (source, *source.parents)
    return DataError(
        f"{problem}. Give CIFAR-10 by --data-dir PATH or {ENVIRONMENT_VARIABLE}=PATH, or "
        f"{f'remove {source}' if is_in_cache else 'give neither'} and connect to the network: "
        f"it is then downloaded to {cache_folder()}"
    )


def _read(source: Path, release: Release, doing: Doing = _silently) -> Dataset:
    """Read the batches at `source`, and check each against `release`.

    Those of an archive are kept unpacked in the user's cache, and read from there the next time.
    """
    if not source.is_file():
        return _dataset(source, *_records(source, release, doing, "reading"))
    copy = copy_of(source, cache_folder())
    with suppress(DataError):  # no copy, or a damaged one
        return _dataset(source, *_records(copy, release, doing, "reading"))
    batches, sha256 = _records(source, release, doing, "unpacking")
    keep(copy, batches)
    return _dataset(source, batches, sha256)


def _records(
    source: Path, release: Release, doing: Doing, activity: str
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read the records of every batch, and their hashes."""
    batches: dict[str, np.ndarray] = {}
    sha256: dict[str, str] = {}
    doing(f"{activity} CIFAR-10, part 1 of {len(BATCHES)}")
    for batch, file, records in read_batches(source):
        sha256[batch] = _check(file, records, release.records_per_batch, release.sha256[batch])
        batches[batch] = records
        part = min(len(batches) + 1, len(BATCHES))
        doing(f"{activity} CIFAR-10, part {part} of {len(BATCHES)}")
    missing = [batch for batch in BATCHES if batch not in batches]
    if missing:
        raise DataError(f"{source}: expected 6 batch files, got none for {', '.join(missing)}")
    return batches, sha256


def _dataset(source: Path, batches: Mapping[str, np.ndarray], sha256: dict[str, str]) -> Dataset:
    train_images, train_labels = _decode([batches[name] for name in TRAIN_BATCHES])
    test_images, test_labels = _decode([batches[TEST_BATCH]])
    return Dataset(
        name="CIFAR-10",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=CLASS_NAMES,
        source=str(source),
        sha256=sha256,
    )


def _check(file: str, records: np.ndarray, number: int, sha256: str) -> str:
    """Check the records, and return their SHA-256."""
    if records.size != number * RECORD_BYTES:
        raise DataError(
            f"{file}: expected {number} records of {RECORD_BYTES} bytes "
            f"({number * RECORD_BYTES} bytes), got {records.size} bytes"
        )
    # the hash covers the labels too, but "label 200" is more informative than two hashes
    highest = records[::RECORD_BYTES].max()
    if highest >= len(CLASS_NAMES):
        raise DataError(f"{file}: expected labels 0 to {len(CLASS_NAMES) - 1}, got {highest}")
    got = hashlib.sha256(records.data).hexdigest()
    if got != sha256:
        raise DataError(f"{file}: expected SHA-256 {sha256}, got {got}")
    return got


def _decode(batches: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Convert records of 3073 bytes to images uint8 [N, 32, 32, 3] and labels int32 [N]."""
    records = [batch.reshape(-1, RECORD_BYTES) for batch in batches]
    images = np.empty((sum(map(len, records)), 32 * 32, 3), np.uint8)
    start = 0
    for batch in records:
        end = start + len(batch)
        planes = batch[:, -PIXEL_BYTES:].reshape(-1, 3, 32 * 32)
        for channel in range(3):  # three times as fast as transposing the axes
            images[start:end, :, channel] = planes[:, channel]
        start = end
    labels = np.concatenate([batch[:, 0] for batch in records]).astype(np.int32)
    return images.reshape(-1, 32, 32, 3), labels
