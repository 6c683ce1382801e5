"""A categorical column from each kind of file, and one clear line for what is none."""

import codecs
import datetime
import decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from experiments.common import table_files
from experiments.common.columns import MISSING, read_column
from experiments.common.command import UserError

DAYS = [datetime.date(2024, 10, 9), None, datetime.date(2024, 1, 2)]


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def npy(folder: Path, values: Any) -> Path:
    path = folder / "data.npy"
    np.save(path, values)
    return path


def two_arrays(folder: Path) -> Path:
    path = npy(folder, [1, 2])
    path.write_bytes(path.read_bytes() * 2)
    return path


def damaged_npy(folder: Path, old: bytes, new: bytes) -> Path:
    path = npy(folder, np.arange(5))
    path.write_bytes(path.read_bytes().replace(old, new))
    return path


def parquet(folder: Path, values: Any) -> Path:
    path = folder / "data.parquet"
    pyarrow.parquet.write_table(pa.table({"x": values}), path)
    return path


def txt(folder: Path, text: str | bytes) -> Path:
    path = folder / "data.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def check(
    path: Path,
    column: str | None,
    categories: list[str],
    codes: list[int],
    left_out: int,
    **options: Any,
):
    found = read_column(path, column, 1000, **options)
    assert found.categories == tuple(categories)
    assert found.codes.dtype == np.int32
    np.testing.assert_array_equal(found.codes, codes)
    assert found.missing == left_out
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
        ("\n\ny,x\n1,b\n\n2,a\n\n", ["a", "b"], [1, 0], 0),
        ("\nx\nb\n\na\n\n", ["a", "b"], [1, 0], 2),
        ("x\n0\n-0\n-0.0\n1\n0.0\n", ["0", "0.0", "1"], [0, 0, 1, 2, 1], 0),
        ('x,y\n5" pipe,\n3" pipe,\n', ['3" pipe', '5" pipe'], [1, 0], 0),
        ("x;y\nb;1,5\na, c;2\n", ["a, c", "b"], [1, 0], 0),
        ("y\tx\n1\ta b\n", ["a b"], [0], 0),
        ("y|x\r\n1|a\r\n", ["a"], [0], 0),
        ("y,x\r1,a\r2,b", ["a", "b"], [0, 1], 0),
        ('y,"z\n1",x\n1,2,a\n', ["a"], [0], 0),
        ("x\nä\n".encode("utf-16"), ["ä"], [0], 0),
        (codecs.BOM_UTF16_BE + "x\nä\n".encode("utf-16-be"), ["ä"], [0], 0),
        ("x\nä\n".encode("utf-32"), ["ä"], [0], 0),
        ("Grün,x\nä,b\n".encode("cp1252"), ["b"], [0], 0),
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
        "empty lines between rows",
        "empty lines of one column are missing",
        "minus zero",
        "quotes within a cell",
        "semicolons",
        "tabs",
        "bars",
        "an old Mac's line ends",
        "a name of two lines",
        "utf-16",
        "utf-16, big endian",
        "utf-32",
        "another encoding in another column",
    ],
)
def test_csv(tmp_path, text, categories, codes, missing):
    check(csv(tmp_path, text), "x", categories, codes, missing)


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("quoted", ["", ',"a name\nof two lines"'], ids=["plain", "quoted"])
def test_a_header_is_as_long_as_it_is(tmp_path, delimiter, quoted):
    names = [f"column {k}" for k in range(20_000)]  # 250 KB
    lines = ",".join(names) + quoted + ",x\n", ",".join("0" * 20_000) + ",0" * bool(quoted) + ",a\n"
    check(csv(tmp_path, "".join(lines).replace(",", delimiter)), "x", ["a"], [0], 0)


def test_line_breaks_in_quoted_cells_are_part_of_them_in_every_block(tmp_path, monkeypatch):
    """However the blocks part lines and cells."""
    monkeypatch.setattr(table_files, "BLOCK_BYTES", 1 << 12)
    lines = [f'"{"-" * (k % 97)}\nred, {k % 3}",{k}\n' for k in range(20_000)]
    path = csv(tmp_path, "x,y\n" + "".join(lines))
    found = read_column(path, "x", 1000)
    k = np.arange(len(lines))
    expected = sorted({("-" * (i % 97)) + f"\nred, {i % 3}" for i in range(97 * 3)})
    assert found.categories == tuple(expected)
    np.testing.assert_array_equal([len(found.categories[code]) for code in found.codes], k % 97 + 7)
    np.testing.assert_array_equal([int(found.categories[code][-1]) for code in found.codes], k % 3)


@pytest.mark.parametrize("start", [0, 7], ids=["at once", "after other rows"])
def test_a_quote_that_is_not_closed_swallows_nothing(tmp_path, start):
    rows = [f"red,{k}\n" for k in range(200_000)]
    rows[start] = '"red,1\n'
    with pytest.raises(UserError, match=rf"the quoted cell that starts on line {start + 2} to end"):
        read_column(csv(tmp_path, "x,y\n" + "".join(rows)), "x", 1000)
    with pytest.raises(UserError, match="the quoted cell that starts on line 1 to end"):
        read_column(csv(tmp_path, '"x,y\n' + "".join(rows)), "x", 1000)


@pytest.mark.parametrize(
    ("missing", "categories", "codes", "left_out"),
    [
        ([""], ["-99", "NA", "a"], [0, 2, 1], 1),
        (["NA", "-99"], ["", "a"], [0, 1], 2),
        ([], ["", "-99", "NA", "a"], [1, 0, 3, 2], 0),
        (MISSING, ["-99", "a"], [0, 1], 2),
    ],
    ids=["NA kept", "codes", "nothing", "the usual"],
)
def test_which_texts_are_missing_can_be_said(tmp_path, missing, categories, codes, left_out):
    path = csv(tmp_path, "x,y\n-99,\n,\na,\nNA,\n")
    check(path, "x", categories, codes, left_out, missing=missing)
    if "" in missing:
        return
    path = txt(tmp_path, "-99\n\na\nNA\n")
    check(path, None, categories, codes, left_out, missing=missing)


def test_nan_kept_as_a_text_is_a_label_and_numbers_have_no_text(tmp_path):
    path = csv(tmp_path, "x\nnan\n2\n10\n")
    check(path, "x", ["10", "2", "nan"], [2, 1, 0], 0, missing=[""])
    check(parquet(tmp_path, ["NA", None, "b"]), "x", ["NA", "b"], [0, 1], 1)
    check(parquet(tmp_path, [-99, 2, -99]), "x", ["2"], [0], 2, missing=["-99"])
    check(npy(tmp_path, np.array([-99.0, 2, np.nan])), None, ["2"], [0], 2, missing=["-99"])


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16-le", "utf-8-sig", "UTF8"])
def test_an_encoding_can_be_named(tmp_path, encoding):
    text = "x\nä\nb\n"
    check(csv(tmp_path, text.encode(encoding)), "x", ["b", "ä"], [1, 0], 0, encoding=encoding)
    path = tmp_path / "data.txt"
    path.write_bytes("ä\nb\n".encode(encoding))
    check(path, None, ["b", "ä"], [1, 0], 0, encoding=encoding)


def test_a_parquet_file_alone_says_what_its_columns_are(tmp_path):
    """A folder of the name x=7 is no column, and a dot in a name leads into no other column."""
    folder = tmp_path / "x=7"
    folder.mkdir()
    table = pa.table({"x": ["a"], "a.b": ["c"], "a": [1]})
    pyarrow.parquet.write_table(table, folder / "data.parquet")
    for column, label in (("x", "a"), ("a.b", "c"), ("a", "1")):
        check(folder / "data.parquet", column, [label], [0], 0)


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
        (np.array([0.0, 1.0, -0.0]), ["0", "1"], [0, 1, 0], 0),
        (np.array([2**53 + 1, 2**53]), [str(2**53), str(2**53 + 1)], [1, 0], 0),
        (np.array(["b", "ä"]), ["b", "ä"], [0, 1], 0),
        (np.array([b"b", b"a"]), ["a", "b"], [1, 0], 0),
        (np.array([True, False]), ["false", "true"], [1, 0], 0),
        (np.array(["2024-10-09", "NaT"], "M8[D]"), ["2024-10-09"], [0], 1),
    ],
    ids=[
        "integers",
        "big endian",
        "whole floats",
        "minus zero",
        "integers that are one float",
        "strings",
        "bytes",
        "booleans",
        "dates",
    ],
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
    "two arrays": (lambda d: two_arrays(d), None, "expected one array, got more bytes after it"),
    "a name that is too long": (lambda d: d / f"{'x' * 300}.npy", None, "File name too long"),
    "npy that ends early": (
        lambda d: damaged_npy(d, b"(5,), }", b"(55,),}"),
        None,
        "expected 440 bytes got 40",
    ),
    "npy of terabytes": (
        lambda d: damaged_npy(d, b"(5,), }" + 12 * b" ", b"(5000000000000,), }"),
        None,
        "cannot read",
    ),
    "npy with a broken header": (lambda d: damaged_npy(d, b"{", b"("), None, "cannot read"),
    "npy of subarrays": (
        lambda d: damaged_npy(d, b"'<i8'", b"'5i1'"),
        None,
        "cannot read|more byt",
    ),
    "npy of subarrays of more bytes than there are": (
        lambda d: damaged_npy(d, b"'<i8'", b"'5<i8'"),
        None,
        "cannot read, EOF",
    ),
    "utf-16 without a mark": (
        lambda d: csv(d, "x\nä\n".encode("utf-16-be")),
        "x",
        r"expected text in UTF-8, got NUL bytes \(--encoding names another, such as cp1252",
    ),
    "cp1252": (
        lambda d: txt(d, "ä\n".encode("cp1252")),
        None,
        r"expected text in UTF-8, got invalid UTF8 \(--encoding names another, such as cp1252",
    ),
    "text after a quoted cell": (
        lambda d: csv(d, 'x,y\na,1\n"say ""a"" b" c,2\n'),
        "x",
        "quoted cell that starts on line 3 to end in a quote and ',' or a line's end",
    ),
    "another delimiter": (lambda d: csv(d, "a:b\n1:2\n"), "b", "to be one of a:b, got 'b'"),
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


@pytest.mark.parametrize(
    ("encoding", "line"),
    [
        ("klingon", "--encoding: expected a text encoding of Python's, such as cp1252, got 'kling"),
        ("zip", "--encoding: expected a text encoding of Python's, such as cp1252, got 'zip'"),
        ("ascii", "data.csv: cannot read, 'ascii' codec can't decode byte 0xc3"),
    ],
)
def test_an_encoding_that_does_not_fit_is_one_clear_line(tmp_path, encoding, line):
    with pytest.raises(UserError) as caught:
        read_column(csv(tmp_path, "x\nä\n"), "x", 1000, encoding=encoding)
    assert str(caught.value).removeprefix(f"{tmp_path}/").startswith(line)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected no --encoding for a binary file"):
        read_column(npy(tmp_path, [1]), None, 1000, encoding=encoding)


@pytest.mark.parametrize("kind", ["csv", "npy", "parquet"])
def test_random_damage_is_one_line_or_labels(tmp_path, kind):
    """Two hundred files of every kind with wrong bytes, most of them where files begin or end."""
    rng = np.random.default_rng(0)
    labels = ["a", "b,c", "NA", 'd "e"\nf', "ä"]
    text = "x,y\n" + "".join(f'"{label.replace(chr(34), chr(34) * 2)}",1\n' for label in labels * 5)
    makers = {
        "csv": [lambda: csv(tmp_path, text)],
        "npy": [lambda: npy(tmp_path, np.array(labels)), lambda: npy(tmp_path, np.arange(20) % 3)],
        "parquet": [lambda: parquet(tmp_path, labels * 5), lambda: parquet(tmp_path, [1, None, 3])],
    }[kind]
    sources = [make().read_bytes() for make in makers]
    path = makers[0]()
    problems = []
    for count in range(200):
        content = bytearray(sources[count % len(sources)])
        for _ in range(1 + count % 4):
            place = int(rng.integers(len(content)) if count % 3 else rng.exponential(60))
            place = min(place, len(content) - 1) * (-1) ** (count % 2)
            content[place] = (
                rng.choice(list(b'",;\n\r\t 01')) if kind == "csv" else rng.integers(256)
            )
        path.write_bytes(content)
        try:
            found = read_column(path, None if kind == "npy" else "x", 1000)
            assert 0 <= found.codes.min() <= found.codes.max() < len(found.categories)
        except UserError as error:
            problems.append(str(error))
    assert 10 < len(problems) < 200
    assert all(str(path) in problem for problem in problems)
    assert not any("\n" in problem for problem in problems)
