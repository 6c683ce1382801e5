"""Columns of the user's file as they are: cells of a .csv keep their text.

Files of millions of rows have to work, so columns stay in Arrow.
"""

import codecs
import csv
import mmap
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from experiments.common.command import UserError, printable

# A character that text does not contain: a line of a .txt file is one label, commas included.
NO_DELIMITER = "\x1f"
# Delimiters of a .csv: the first with which the header has the requested column.
DELIMITERS = (",", ";", "\t", "|")
# Bytes that are read at a time; a line may have twice as many.
BLOCK_BYTES = 1 << 24
# Limit of the bytes that a quoted name in the header may take on further lines.
QUOTED_BYTES = 1 << 16
# The whole header is one cell if it does not contain the delimiter.
csv.field_size_limit(2 * BLOCK_BYTES)
LINE = re.compile(rb"[^\r\n]*+(?:\r\n?|\n)|[^\r\n]++")
# Longest first, since a mark of UTF-32 begins with one of UTF-16.
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
TEXT_FILES = (".csv", ".txt")
SHOWN_NAMES = 20
SHOWN_CHARACTERS = 40
EXPECTED = "strings, integers, booleans, dates or times"

Wanted = Sequence[tuple[str, str | None]]
"""Options, for messages, and the column that each of them names."""


@contextmanager
def checked_file(path: Path) -> Iterator[None]:
    """Report problems with a file in one line.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    try:
        if not path.is_file():
            got = "a folder" if path.is_dir() else "none"
            raise UserError(f"{path}: expected a file, got {got}")
        yield
    except UserError:
        raise
    except Exception as error:  # readers of a damaged file may raise nearly anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UserError(f"{path}: cannot read, {reason.splitlines()[0]}") from error


def read_raw(path: Path, wanted: Wanted, encoding: str | None) -> list[pa.ChunkedArray]:
    """Read columns of a .csv, .parquet, .npy (one dimension) or .txt (one label a line) file.

    Args:
        path: the file.
        wanted: options and the columns that they name; None for files that have no names.
        encoding: of a .csv or .txt, by Python's name for it. None is UTF-8, or the encoding of the
            file's byte order mark.

    Raises:
        UserError: the file has another ending, or not these columns.
    """
    suffix = path.suffix.lower()
    read = READERS.get(suffix)
    if read is None:
        raise UserError(
            f"{path}: expected a file ending in {', '.join(READERS)}, got '{path.suffix}'"
        )
    if encoding is not None and suffix not in TEXT_FILES:
        raise UserError(f"{path}: expected no --encoding for a binary file, got '{encoding}'")
    with checked_file(path):
        return read(path, wanted, encoding)


def _read_csv(path: Path, wanted: Wanted, encoding: str | None) -> list[pa.ChunkedArray]:
    data = _utf8(path, encoding)
    headers = {delimiter: _header(data, delimiter) for delimiter in DELIMITERS}
    delimiter = next(
        (
            delimiter
            for delimiter, (names, _) in headers.items()
            if all(column in names for _, column in wanted)
        ),
        max(headers, key=lambda delimiter: len(headers[delimiter][0])),
    )
    names, start = headers[delimiter]
    if not names:
        raise UserError(f"{path}: cannot read, Empty CSV file")
    is_quoted = re.search(b'"', data) is not None
    if is_quoted:
        _check_quotes(path, data, delimiter)
    columns = [choose(path, option, column, names) for option, column in wanted]
    options = pyarrow.csv.ParseOptions(
        delimiter=delimiter,
        newlines_in_values=is_quoted,
        # An empty line separates blocks of rows, but in a single column it is an empty cell.
        ignore_empty_lines=len(names) > 1,
    )
    indices = [names.index(column) for column in columns]
    return _cells(path, data.slice(start), options, len(names), indices)


def _read_txt(path: Path, wanted: Wanted, encoding: str | None) -> list[pa.ChunkedArray]:
    _refuse_names(path, wanted)
    options = pyarrow.csv.ParseOptions(
        delimiter=NO_DELIMITER, quote_char=False, ignore_empty_lines=False
    )
    return _cells(path, _utf8(path, encoding), options, 1, [0])


def _read_parquet(path: Path, wanted: Wanted, encoding: None) -> list[pa.ChunkedArray]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        columns = [choose(path, option, column, names) for option, column in wanted]
        table = file.read(columns=list(dict.fromkeys(columns)))
    for values in table.columns:
        values.validate(full=True)  # indices of a damaged file may be outside its dictionary
    return [table.column(column) for column in columns]


def _read_npy(path: Path, wanted: Wanted, encoding: None) -> list[pa.ChunkedArray]:
    _refuse_names(path, wanted)
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
    # Arrow before version 26 cannot sort or cast half floats; float32 represents them exactly.
    half = array.dtype.kind == "f" and array.dtype.itemsize == 2
    values = pa.array(array.astype(np.float32 if half else array.dtype.newbyteorder("=")))
    return [pa.chunked_array([values.cast(pa.string()) if array.dtype.kind == "S" else values])]


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
    """Parse the names in the first non-empty line; return where the next line starts, too."""
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
    """Reject a quoted cell whose closing quote does not end a cell: it would contain other cells.

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
    path: Path,
    data: pa.Buffer,
    options: pyarrow.csv.ParseOptions,
    num_columns: int,
    indices: Sequence[int],
) -> list[pa.ChunkedArray]:
    """Read columns of lines without a header; the cells keep their text."""
    if len(data) == 0:
        return [pa.chunked_array([], pa.string())] * len(indices)
    names = [str(number) for number in range(num_columns)]
    try:
        table = pyarrow.csv.read_csv(
            pa.BufferReader(data),
            read_options=pyarrow.csv.ReadOptions(column_names=names, block_size=BLOCK_BYTES),
            parse_options=options,
            # Labels keep their text: as a number, postcode 01234 would become 1234.
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=[names[index] for index in sorted(set(indices))],
                column_types={
                    names[index]: pa.dictionary(pa.int32(), pa.string()) for index in indices
                },
            ),
        )
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise _wrong_encoding(path, "invalid UTF8") from None
        raise
    return [table.column(names[index]) for index in indices]


def choose(path: Path | str, option: str, column: str | None, names: Sequence[str]) -> str:
    """Return the column's name if the file has it exactly once."""
    if column is not None and names.count(column) == 1:
        return column
    shown = ", ".join(printable(name[:SHOWN_CHARACTERS]) for name in names[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    got = "none" if column is None else f"'{column}'"
    twice = f" ({names.count(column)} times)" if column in names else ""
    raise UserError(f"{path}: expected {option} to be one of {shown}{more}, got {got}{twice}")


def _refuse_names(path: Path, wanted: Wanted) -> None:
    for option, column in wanted:
        if column is not None:
            raise UserError(f"{path}: expected no {option}, the file has none, got '{column}'")
