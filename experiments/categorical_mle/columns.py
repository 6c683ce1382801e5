"""A categorical column of the user's file: its categories, and the category of each row.

Files of millions of rows have to work, so a column stays in Arrow, which encodes it as integers
into a dictionary of its distinct values; Python sees only that dictionary.
"""

import codecs
import csv
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray
from pyarrow import compute

from experiments.common.command import UserError, printable

# A character that text does not contain: a line of a .txt file is one label, commas included.
NO_DELIMITER = "\x1f"
# Delimiters of a .csv: the first with which the header has the requested column.
DELIMITERS = (",", ";", "\t", "|")
# A line may be as long as two of the blocks in which a file is read.
BLOCK_BYTES = 1 << 24
# Limit of the bytes that a quoted name in the header may take on further lines.
QUOTED_BYTES = 1 << 16
# With a delimiter that is not in the header, all of it is one cell.
csv.field_size_limit(2 * BLOCK_BYTES)
LINE = re.compile(rb"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")
# The longest first: one for 32 bits begins with one for 16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
TEXT_FILES = (".csv", ".txt")
# Texts that mean a missing label in a text file: "", NA, NaN, NULL, n/a and the like.
MISSING = tuple(pyarrow.csv.ConvertOptions().null_values)
SHOWN_NAMES = 20
SHOWN_CHARACTERS = 40
EXPECTED = "strings, integers, booleans, dates or times"


class Column(NamedTuple):
    """A categorical column.

    Attributes:
        name: the column's name, or the file's if it has no columns.
        categories: the K distinct labels as text, in their natural order.
        codes: int32 [N], each row's index into `categories`, without rows that have no label.
        missing: the number of rows left out.
    """

    name: str
    categories: tuple[str, ...]
    codes: NDArray[np.int32]
    missing: int


def read_column(
    path: Path,
    column: str | None,
    max_categories: int,
    *,
    encoding: str | None = None,
    missing: Sequence[str] = MISSING,
) -> Column:
    """Read a column of labels.

    Args:
        path: a .csv, .parquet, .npy (one dimension) or .txt (one label a line) file.
        column: which column of a .csv or .parquet file.
        max_categories: the largest number of distinct labels to accept.
        encoding: of a .csv or .txt, by Python's name for it. None is UTF-8, or the encoding of the
            file's byte order mark.
        missing: texts that mean a missing label. MISSING applies to text files only: other formats
            distinguish missing values from texts.

    Raises:
        UserError: there is no such file or column, or its values are not categories.
    """
    suffix = path.suffix.lower()
    read = READERS.get(suffix)
    if read is None:
        raise UserError(
            f"{path}: expected a file ending in {', '.join(READERS)}, got '{path.suffix}'"
        )
    if encoding is not None and suffix not in TEXT_FILES:
        raise UserError(f"{path}: expected no --encoding for a binary file, got '{encoding}'")
    if missing == MISSING and suffix not in TEXT_FILES:
        missing = ()
    name = path.name if column is None else column
    where = str(path) if column is None else f"{path}, {name}"
    try:
        if not path.is_file():
            got = "a folder" if path.is_dir() else "none"
            raise UserError(f"{path}: expected a file, got {got}")
        values = read(path, column, encoding)
        return _categorical(where, name, values, missing, max_categories)
    except UserError:
        raise
    except Exception as error:  # readers of a damaged file may raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot read, {reason.splitlines()[0]}") from error


def _read_csv(path: Path, column: str | None, encoding: str | None) -> pa.ChunkedArray:
    data = _utf8(path, encoding)
    headers = {delimiter: _header(data, delimiter) for delimiter in DELIMITERS}
    delimiter = next(
        (delimiter for delimiter, (names, _) in headers.items() if column in names),
        max(headers, key=lambda delimiter: len(headers[delimiter][0])),
    )
    names, start = headers[delimiter]
    if not names:
        raise UserError(f"{path}: cannot read, Empty CSV file")
    is_quoted = re.search(b'"', data) is not None
    if is_quoted:
        _check_quotes(path, data, delimiter)
    column = _choose(path, column, names)
    options = pyarrow.csv.ParseOptions(
        delimiter=delimiter,
        newlines_in_values=is_quoted,
        # An empty line separates blocks of rows, but in a single column it is an empty cell.
        ignore_empty_lines=len(names) > 1,
    )
    return _cells(path, data.slice(start), options, len(names), names.index(column))


def _read_txt(path: Path, column: str | None, encoding: str | None) -> pa.ChunkedArray:
    _refuse_name(path, column)
    options = pyarrow.csv.ParseOptions(
        delimiter=NO_DELIMITER, quote_char=False, ignore_empty_lines=False
    )
    return _cells(path, _utf8(path, encoding), options, 1, 0)


def _read_parquet(path: Path, column: str | None, encoding: None) -> pa.ChunkedArray:
    with pyarrow.parquet.ParquetFile(path) as file:
        column = _choose(path, column, file.schema_arrow.names)
        values = file.read(columns=[column]).column(column)
    values.validate(full=True)  # indices of a damaged file may be outside its dictionary
    return values


def _read_npy(path: Path, column: str | None, encoding: None) -> pa.ChunkedArray:
    _refuse_name(path, column)
    # NumPy warns of headers written by Python 2, though it reads them. Of a file it would take the
    # first numbers where the dtype is of arrays, "5<i8"; of anything else it counts the bytes.
    with path.open("rb") as opened, warnings.catch_warnings(action="ignore"):
        file = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.lib.format.read_array(file, allow_pickle=False)
        if file.read(1):
            raise UserError(f"{path}: expected one array, got more bytes after it")
    if array.ndim != 1:
        raise UserError(f"{path}: expected an array of one dimension, got shape {array.shape}")
    if array.dtype.kind not in "biufSUMm":
        raise UserError(f"{path}: expected {EXPECTED}, got dtype {array.dtype}")
    # Arrow before version 26 cannot sort or cast half floats; float32 holds each of them.
    half = array.dtype.kind == "f" and array.dtype.itemsize == 2
    values = pa.array(array.astype(np.float32 if half else array.dtype.newbyteorder("=")))
    return pa.chunked_array([values.cast(pa.string()) if array.dtype.kind == "S" else values])


READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy, ".txt": _read_txt}


def _utf8(path: Path, encoding: str | None) -> pa.Buffer:
    """Return the text of a file as UTF-8 without byte order mark, not copied if it is UTF-8."""
    if path.stat().st_size == 0:
        return pa.py_buffer(b"")
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if encoding is None:
        marks = (name for mark, name in BYTE_ORDER_MARKS.items() if data[:4].startswith(mark))
        encoding = next(marks, "utf-8")
    try:
        if codecs.lookup(encoding).name != "utf-8":
            return pa.py_buffer(str(data, encoding).removeprefix("\ufeff").encode())
    except LookupError:
        raise UserError(
            f"--encoding: expected a text encoding of Python's, such as cp1252, got '{encoding}'"
        ) from None
    if data.find(b"\0") >= 0:
        raise _wrong_encoding(path, "NUL bytes")
    return pa.py_buffer(data).slice(len(codecs.BOM_UTF8) * (data[:3] == codecs.BOM_UTF8))


def _wrong_encoding(path: Path, got: str) -> UserError:
    return UserError(
        f"{path}: expected text in UTF-8, got {got} (--encoding names another, such as cp1252 or "
        "utf-16-le)"
    )


def _header(data: pa.Buffer, delimiter: str) -> tuple[list[str], int]:
    """Parse the names in the first line that is not empty; return where the next one starts."""
    end = 0

    def lines() -> Iterator[str]:
        nonlocal end
        last = None
        for line in LINE.finditer(data):
            if last is not None and end > last:  # a quote is not closed
                return
            end = line.end()
            if last is None and line[0].strip(b"\r\n"):
                last = end + QUOTED_BYTES
            yield line[0].decode(errors="replace")

    names = next(filter(None, csv.reader(lines(), delimiter=delimiter)), [])
    return names, end


def _check_quotes(path: Path, data: pa.Buffer, delimiter: str) -> None:
    """Reject a quoted cell that does not end where a cell ends: it would swallow others.

    A quote opens a quoted cell only at the start of a cell; inside, two quotes stand for one.
    """
    within = rf"[^{delimiter}\r\n]"
    quoted = rf'(?<!{within})"[^"]*+(?:""[^"]*+)*+"(?!{within})'
    well_formed = re.compile(rf'(?:[^"]*+(?:{quoted}|(?<={within})"))*+[^"]*+'.encode())
    found = well_formed.match(data)
    if found is not None and found.end() < len(data):
        line = len(data[: found.end() + 1].to_pybytes().splitlines())
        raise UserError(
            f"{path}: expected the quoted cell that starts on line {line} to end in a quote and "
            f"'{delimiter}' or a line's end, got none"
        )


def _cells(
    path: Path, data: pa.Buffer, options: pyarrow.csv.ParseOptions, num_columns: int, index: int
) -> pa.ChunkedArray:
    """Read one column of lines without a header; the cells keep their text."""
    if len(data) == 0:
        return pa.chunked_array([], pa.string())
    names = [str(number) for number in range(num_columns)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
            parse_options=options,
            # Labels keep their text: as a number, postcode 01234 would become 1234.
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[names[index]],
                column_types={names[index]: pa.dictionary(pa.int32(), pa.string())},
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _wrong_encoding(path, "invalid UTF8") from None
        raise
    return table.column(0)


def _choose(path: Path, column: str | None, names: Sequence[str]) -> str:
    """Return the column's name if the file has it exactly once."""
    if column is not None and names.count(column) == 1:
        return column
    shown = ", ".join(printable(name[:SHOWN_CHARACTERS]) for name in names[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    got = "none" if column is None else f"'{column}'"
    twice = f" ({names.count(column)} times)" if column in names else ""
    raise UserError(f"{path}: expected --column to be one of {shown}{more}, got {got}{twice}")


def _refuse_name(path: Path, column: str | None) -> None:
    if column is not None:
        raise UserError(f"{path}: expected no --column, the file has none, got '{column}'")


def _categorical(
    where: str, name: str, values: pa.ChunkedArray, missing: Sequence[str], max_categories: int
) -> Column:
    """Sort and name the distinct values, and encode every row by them."""
    if len(values) == 0:
        raise UserError(f"{where}: expected labels, got no rows")
    try:
        if pa.types.is_string_view(values.type):  # Arrow's functions lag behind this type
            values = values.cast(pa.string())
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        encoded = values.unify_dictionaries().combine_chunks()
        categories, ranks = _sorted_labels(where, encoded.dictionary, missing, max_categories)
    except pa.ArrowException:
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        raise UserError(f"{where}: expected {EXPECTED}, got {kind}") from None

    # The last entry is for code -1, a row without a value; a missing label has code -1 too.
    codes = np.append(ranks, np.int32(-1))[
        encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    ]
    labelled = codes[codes >= 0]
    if len(labelled) == 0:
        raise UserError(f"{where}: expected labels, got {len(codes)} missing values")
    return Column(name, categories, labelled, len(codes) - len(labelled))


def _sorted_labels(
    where: str, dictionary: pa.Array, missing: Sequence[str], max_categories: int
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Sort the labels in their natural order as text, and rank every value among them.

    Numbers are sorted as numbers, even if they are written as text; NaN is a missing label, and -0
    is 0. A missing label has rank -1.
    """
    text = dictionary.cast(pa.string())
    options = compute.SetLookupOptions(pa.array(missing, pa.string()))
    is_missing = np.asarray(compute.call_function("is_in", [text], options))
    places = np.flatnonzero(~(is_missing | np.asarray(dictionary.is_null(nan_is_null=True))))
    is_float = pa.types.is_floating(dictionary.type)
    numbers = _as_numbers((dictionary if is_float else text).take(pa.array(places)))
    if numbers is not None and len(fractions := numbers[np.floor(numbers) < numbers]):
        raise UserError(
            f"{where}: expected categories ({EXPECTED}), got numbers with fractions "
            f"such as {fractions[0]:g}"
        )
    if len(places) > max_categories:
        raise UserError(
            f"{where}: expected at most {max_categories} categories (--max-categories), "
            f"got {len(places)}"
        )
    labels = text.take(pa.array(places)).to_pylist()
    number_of = dict.fromkeys(labels, 0.0)
    if numbers is not None:
        if is_float:  # pandas keeps integers with gaps as floats
            labels = [f"{number:.0f}" for number in numbers]
        labels = [  # -0 becomes 0
            label.removeprefix("-") if number == 0 else label
            for label, number in zip(labels, numbers, strict=True)
        ]
        number_of = dict(zip(labels, numbers.tolist(), strict=True))
    categories = sorted(number_of, key=lambda label: (number_of[label], label))
    rank = {label: place for place, label in enumerate(categories)}
    ranks = np.full(len(dictionary), -1, np.int32)
    ranks[places] = [rank[label] for label in labels]
    return tuple(categories), ranks


def _as_numbers(values: pa.Array) -> NDArray[np.float64] | None:
    """Convert values to numbers if all are numbers or text that spells numbers, "nan" not."""
    try:
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    return None if np.isnan(numbers).any() else numbers
