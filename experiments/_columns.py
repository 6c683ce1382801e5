"""One categorical column of the user's file: its categories, and the category of each row.

Files of millions of rows are meant to work, so a column stays in Arrow, which encodes it as
integers into a dictionary of its distinct values; only that dictionary is ever looked at in Python.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from experiments._command import UserError

# A character that text does not contain: a line of a .txt file is one label, commas and all.
NO_DELIMITER = "\x1f"
SHOWN_NAMES = 20
EXPECTED = "strings, integers, booleans, dates or times"


class Column(NamedTuple):
    """A categorical column.

    Attributes:
        name: the column's name, or the file's where it has no columns.
        categories: the K distinct labels as text, in their natural order.
        codes: int32 [N], each row's index into `categories`, rows without a label left out.
        missing: the number of rows left out.
    """

    name: str
    categories: tuple[str, ...]
    codes: NDArray[np.int32]
    missing: int


def read_column(path: Path, column: str | None, max_categories: int) -> Column:
    """Read a column of labels.

    Args:
        path: a .csv or .parquet file, or a .npy (one dimension) or .txt (one label a line).
        column: which column of a .csv or .parquet file.
        max_categories: more distinct labels than this are refused: they are hardly categories.

    Raises:
        UserError: there is no such file or column, or it does not hold categories.
    """
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise UserError(
            f"{path}: expected a file ending in {', '.join(READERS)}, got '{path.suffix}'"
        )
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got {'a folder' if path.is_dir() else 'none'}")
    try:
        values = read(path, column)
    except OSError as error:
        raise UserError(f"{path}: cannot read, {error.strerror or error}") from error
    except (pa.ArrowException, ValueError) as error:
        raise UserError(f"{path}: cannot read, {str(error).splitlines()[0]}") from error
    name = path.name if column is None else column
    return _categorical(f"{path}, {name}" if column else str(path), name, values, max_categories)


def _read_csv(path: Path, column: str | None) -> pa.ChunkedArray:
    # Labels are kept as they are written: as a number, postcode 01234 would become 1234.
    with pyarrow.csv.open_csv(path) as reader:
        column = _choose(path, column, reader.schema.names)
    table = pyarrow.csv.read_csv(
        path,
        convert_options=pyarrow.csv.ConvertOptions(
            include_columns=[column],
            column_types={column: pa.dictionary(pa.int32(), pa.string())},
            strings_can_be_null=True,
        ),
    )
    return table.column(0)


def _read_parquet(path: Path, column: str | None) -> pa.ChunkedArray:
    names = pyarrow.parquet.read_schema(path).names
    column = _choose(path, column, names)
    return pyarrow.parquet.read_table(path, columns=[column]).column(column)


def _read_npy(path: Path, column: str | None) -> pa.ChunkedArray:
    _refuse_name(path, column)
    with path.open("rb") as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if array.ndim != 1:
        raise UserError(f"{path}: expected an array of one dimension, got shape {array.shape}")
    if array.dtype.kind not in "biufSUMm":
        raise UserError(f"{path}: expected {EXPECTED}, got dtype {array.dtype}")
    # Arrow sorts and casts no half floats before version 26; float32 holds each of them.
    half = array.dtype.kind == "f" and array.dtype.itemsize == 2
    values = pa.array(array.astype(np.float32 if half else array.dtype.newbyteorder("=")))
    return pa.chunked_array([values.cast(pa.string()) if array.dtype.kind == "S" else values])


def _read_txt(path: Path, column: str | None) -> pa.ChunkedArray:
    _refuse_name(path, column)
    if path.stat().st_size == 0:
        return pa.chunked_array([], pa.string())
    table = pyarrow.csv.read_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(column_names=["label"]),
        parse_options=pyarrow.csv.ParseOptions(
            delimiter=NO_DELIMITER, quote_char=False, ignore_empty_lines=False
        ),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types={"label": pa.dictionary(pa.int32(), pa.string())},
            strings_can_be_null=True,
        ),
    )
    return table.column(0)


READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npy": _read_npy, ".txt": _read_txt}


def _choose(path: Path, column: str | None, names: Sequence[str]) -> str:
    """`column`, if the file has it exactly once."""
    if column is not None and names.count(column) == 1:
        return column
    shown = ", ".join(names[:SHOWN_NAMES])
    more = f" and {len(names) - SHOWN_NAMES} more" if len(names) > SHOWN_NAMES else ""
    got = "none" if column is None else f"'{column}'"
    twice = f" ({names.count(column)} times)" if column in names else ""
    raise UserError(f"{path}: expected --column to be one of {shown}{more}, got {got}{twice}")


def _refuse_name(path: Path, column: str | None) -> None:
    if column is not None:
        raise UserError(f"{path}: expected no --column, the file has none, got '{column}'")


def _categorical(where: str, name: str, values: pa.ChunkedArray, max_categories: int) -> Column:
    """Sort the distinct values, name them, and point every row to its own."""
    if len(values) == 0:
        raise UserError(f"{where}: expected labels, got no rows")
    try:
        if pa.types.is_string_view(values.type):  # Arrow's functions lag behind this type
            values = values.cast(pa.string())
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        encoded = values.unify_dictionaries().combine_chunks()
        categories, order = _sorted_labels(where, encoded.dictionary, max_categories)
    except pa.ArrowException:
        kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
        raise UserError(f"{where}: expected {EXPECTED}, got {kind}") from None

    # A last entry for code -1, a row without a value; a value that is no label is -1 as well.
    rank = np.full(len(encoded.dictionary) + 1, -1, np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    codes = rank[encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]
    labelled = codes[codes >= 0]
    if len(labelled) == 0:
        raise UserError(f"{where}: expected labels, got {len(codes)} missing values")
    return Column(name, categories, labelled, len(codes) - len(labelled))


def _sorted_labels(
    where: str, dictionary: pa.Array, max_categories: int
) -> tuple[tuple[str, ...], list[int]]:
    """The labels in their natural order as text, and their places in `dictionary`.

    Numbers are sorted as numbers, even where they are written as text; NaN is no label.
    """
    numbers = _as_numbers(dictionary)
    if numbers is None:
        count = len(dictionary) - dictionary.null_count
    else:
        fractions = numbers[np.floor(numbers) < numbers]
        if len(fractions):
            raise UserError(
                f"{where}: expected categories ({EXPECTED}), got numbers with fractions "
                f"such as {fractions[0]:g}"
            )
        count = int(np.count_nonzero(~np.isnan(numbers)))
    if count > max_categories:
        raise UserError(
            f"{where}: expected at most {max_categories} categories (--max-categories), got {count}"
        )
    if numbers is not None and pa.types.is_floating(dictionary.type):
        labels = [f"{value:.0f}" for value in numbers]  # pandas keeps integers with gaps as floats
    else:
        labels = dictionary.cast(pa.string()).to_pylist()
    if numbers is None:
        order = sorted(range(len(labels)), key=lambda i: (labels[i] is None, labels[i]))
    else:
        order = np.argsort(numbers, kind="stable").tolist()  # NaN comes last
    return tuple(labels[i] for i in order[:count]), order[:count]


def _as_numbers(dictionary: pa.Array) -> NDArray[np.float64] | None:
    """The distinct values where they are numbers or text that spells numbers, NaN for a null."""
    try:
        numbers = dictionary.cast(pa.float64(), safe=False)
    except pa.ArrowException:
        return None
    return numbers.to_numpy(zero_copy_only=False)
