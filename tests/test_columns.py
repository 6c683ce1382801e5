"""A categorical column from each kind of file, and one clear line for what is none."""

import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments._columns import read_column
from experiments._command import UserError

DAYS = [datetime.date(2024, 10, 9), None, datetime.date(2024, 1, 2)]


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def npy(folder: Path, values: Any) -> Path:
    path = folder / "data.npy"
    np.save(path, values)
    return path


def parquet(folder: Path, values: Any) -> Path:
    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pa.table({"x": values}), path)
    return path


def txt(folder: Path, text: str) -> Path:
    path = folder / "data.txt"
    path.write_bytes(text.encode())
    return path


def check(path: Path, column: str | None, categories: list[str], codes: list[int], missing: int):
    found = read_column(path, column, 1000)
    assert found.categories == tuple(categories)
    assert found.codes.dtype == np.int32
    np.testing.assert_array_equal(found.codes, codes)
    assert found.missing == missing
    assert found.name == (column or path.name)


@pytest.mark.parametrize(
    ("text", "categories", "codes", "missing"),
    [
        ("x,y\nb,1.5\na,2\nb,3\n", ["a", "b"], [1, 0, 1], 0),
        ("y,x\n1,b\n2,\n3,NA\n4,a\n", ["a", "b"], [1, 0], 2),
        ("x\n10\n9\n01\n1\n", ["01", "1", "9", "10"], [3, 2, 0, 1], 0),
        ("x\nTrue\nFalse\n", ["False", "True"], [1, 0], 0),
        ("x\n2024-10-09\n2024-01-02\n", ["2024-01-02", "2024-10-09"], [1, 0], 0),
        ("x\n1.0\n2.0\n", ["1.0", "2.0"], [0, 1], 0),
        ("x\n1.5\nabout 2\n", ["1.5", "about 2"], [0, 1], 0),
        ('\ufeffx,y\n"a, ""b""",1\nä,2\n', ['a, "b"', "ä"], [0, 1], 0),
    ],
    ids=[
        "strings",
        "missing",
        "numbers in their order, as written",
        "booleans",
        "dates",
        "whole floats",
        "text among numbers",
        "quotes, umlauts and a byte order mark",
    ],
)
def test_csv(tmp_path, text, categories, codes, missing):
    check(csv(tmp_path, text), "x", categories, codes, missing)


@pytest.mark.parametrize(
    ("values", "categories", "codes", "missing"),
    [
        (pa.array(["b", None, "a"]), ["a", "b"], [1, 0], 1),
        (pa.array(["b", None, "a"], pa.string_view()), ["a", "b"], [1, 0], 1),
        (pa.array([10, None, -9]), ["-9", "10"], [1, 0], 1),
        (pa.array([10.0, None, 9.0, float("nan")]), ["9", "10"], [1, 0], 2),
        (pa.array([True, None, False]), ["false", "true"], [1, 0], 1),
        (pa.array(DAYS), ["2024-01-02", "2024-10-09"], [1, 0], 1),
        (pa.array([decimal.Decimal("10.0"), decimal.Decimal("9.0")]), ["9.0", "10.0"], [1, 0], 0),
        (
            pa.DictionaryArray.from_arrays(pa.array([1, None, 1], pa.int8()), ["never", "b"]),
            ["b", "never"],
            [0, 0],
            1,
        ),
        (
            pa.chunked_array([pa.array([value]).dictionary_encode() for value in "bca"]),
            ["a", "b", "c"],
            [1, 2, 0],
            0,
        ),
    ],
    ids=[
        "strings",
        "string views",
        "integers",
        "whole floats",
        "booleans",
        "dates",
        "decimals",
        "a declared category that never occurs",
        "a dictionary for each chunk",
    ],
)
def test_parquet(tmp_path, values, categories, codes, missing):
    check(parquet(tmp_path, values), "x", categories, codes, missing)


@pytest.mark.parametrize(
    ("values", "categories", "codes", "missing"),
    [
        (np.array([10, 9, 10]), ["9", "10"], [1, 0, 1], 0),
        (np.array([2, 1], ">i4"), ["1", "2"], [1, 0], 0),
        (np.array([2.0, np.nan, 1.0], np.float16), ["1", "2"], [1, 0], 1),
        (np.array(["b", "ä"]), ["b", "ä"], [0, 1], 0),
        (np.array([b"b", b"a"]), ["a", "b"], [1, 0], 0),
        (np.array([True, False]), ["false", "true"], [1, 0], 0),
        (np.array(["2024-10-09", "NaT"], "M8[D]"), ["2024-10-09"], [0], 1),
    ],
    ids=["integers", "big endian", "whole floats", "strings", "bytes", "booleans", "dates"],
)
def test_npy(tmp_path, values, categories, codes, missing):
    check(npy(tmp_path, values), None, categories, codes, missing)


def test_a_line_of_text_is_one_label(tmp_path):
    text = 'rock, "n" roll\r\n\r\njazz\r\nrock, "n" roll\r\n'
    check(txt(tmp_path, text), None, ["jazz", 'rock, "n" roll'], [1, 0, 1], 1)


MANY = "x\n" + "\n".join(str(number) for number in range(1001))
BAD = {
    "no file": (lambda d: d / "none.csv", "x", r"none\.csv: expected a file, got none"),
    "a folder": (lambda d: (d / "d.csv").mkdir() or d / "d.csv", "x", "expected a file, got a fol"),
    "unknown kind": (lambda d: d / "data.json", "x", r"ending in \.csv, .*, got '\.json'"),
    "empty csv": (lambda d: csv(d, ""), "x", "cannot read, Empty CSV file"),
    "csv with a header only": (lambda d: csv(d, "x,y\n"), "x", "expected labels, got no rows"),
    "empty txt": (lambda d: txt(d, ""), None, "expected labels, got no rows"),
    "empty npy": (lambda d: npy(d, np.zeros(0, int)), None, "expected labels, got no rows"),
    "all missing": (lambda d: csv(d, "x,y\n,1\n,2\n"), "x", "got 2 missing values"),
    "no such column": (
        lambda d: csv(d, "colour,size\nred,1\n"),
        "color",
        "expected --column to be one of colour, size, got 'color'",
    ),
    "no such column of many": (
        lambda d: csv(d, ",".join(f"c{i}" for i in range(30)) + "\n"),
        "x",
        "c18, c19 and 10 more, got 'x'",
    ),
    "no column named": (lambda d: parquet(d, [1, 2]), None, "to be one of x, got none"),
    "a column twice": (lambda d: csv(d, "x,x\n1,2\n"), "x", r"got 'x' \(2 times\)"),
    "a column of a npy": (lambda d: npy(d, np.arange(2)), "x", "expected no --column"),
    "floats as text": (lambda d: csv(d, "x\n1\n2.5\n"), "x", "fractions such as 2.5"),
    "floats": (lambda d: parquet(d, [1.0, 0.25]), "x", "fractions such as 0.25"),
    "too many": (lambda d: csv(d, MANY), "x", r"at most 1000 .*\(--max-categories\), got 1001"),
    "lists": (lambda d: parquet(d, [[1], [2]]), "x", "expected strings, integers, .*, got list"),
    "a matrix": (lambda d: npy(d, np.zeros((2, 2), int)), None, r"got shape \(2, 2\)"),
    "complex numbers": (lambda d: npy(d, np.array([1j])), None, "got dtype complex128"),
    "pickled objects": (lambda d: npy(d, np.array([None])), None, "allow_pickle=False"),
    "not utf-8": (lambda d: csv(d, b"x\n\xff\n"), "x", "invalid UTF8"),
    "a ragged csv": (lambda d: csv(d, "x,y\n1,2\n3\n"), "x", "Expected 2 columns, got 1"),
    "another format": (
        lambda d: csv(d, "x\n1\n").rename(d / "data.parquet"),
        "x",
        r"data\.parquet: cannot read",
    ),
}


@pytest.mark.parametrize(("make", "column", "message"), BAD.values(), ids=BAD)
def test_what_is_no_column_of_labels_is_one_clear_line(tmp_path, make, column, message):
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        read_column(path, column, 1000)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
