"""Categorical and numeric columns of the user's file.

Files of millions of rows have to work, so Arrow encodes a column as integers into a dictionary of
its distinct values; Python sees only that dictionary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv
from numpy.typing import NDArray
from pyarrow import compute

from experiments.common.command import UserError
from experiments.common.table_files import EXPECTED, TEXT_FILES, Wanted, checked_file, read_raw

# Texts that mean a missing label in a text file: "", NA, NaN, NULL, n/a and the like.
MISSING = tuple(pyarrow.csv.ConvertOptions().null_values)


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


class Cells(NamedTuple):
    """A column as it was read.

    Attributes:
        where: file and column, for messages.
        values: the distinct values, and the index of each row's value.
        missing: texts that mean a missing value.
        declared: whether the file says that the values are categories, in the dictionary's order.
    """

    where: str
    values: pa.DictionaryArray
    missing: Sequence[str]
    declared: bool


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
    (cells,) = read_cells(path, [("--column", column)], encoding=encoding, missing=missing)
    categories, codes = categories_of(cells, max_categories)
    labelled = codes[codes >= 0]
    if len(labelled) == 0:
        raise UserError(f"{cells.where}: expected labels, got {len(codes)} missing values")
    name = path.name if column is None else column
    return Column(name, categories, labelled, len(codes) - len(labelled))


def read_cells(
    path: Path, wanted: Wanted, *, encoding: str | None = None, missing: Sequence[str] = MISSING
) -> list[Cells]:
    """Read columns of one file, whose rows belong together.

    Args:
        path: as in `read_column`.
        wanted: options, for messages, and the columns that they name.
        encoding: as in `read_column`.
        missing: as in `read_column`.

    Raises:
        UserError: there is no such file or column, or a column has neither labels nor numbers.
    """
    columns = read_raw(path, wanted, encoding)
    if missing == MISSING and path.suffix.lower() not in TEXT_FILES:
        missing = ()
    cells = []
    for (_, name), values in zip(wanted, columns, strict=True):
        where = str(path) if name is None else f"{path}, {name}"
        with checked_file(path):
            declared = path.suffix.lower() not in TEXT_FILES and _has_texts(values.type)
            cells.append(Cells(where, _encoded(where, values), missing, declared))
    return cells


def categories_of(
    cells: Cells, max_categories: int, *, keep_order: bool = False
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Name the categories of a column, and encode every row by them, -1 where it has no label.

    Args:
        cells: the column.
        max_categories: the largest number of distinct labels to accept.
        keep_order: of declared categories; otherwise, as others, they have their natural order.

    Raises:
        UserError: the values are not categories, or too many.
    """
    try:
        categories, ranks = _sorted_labels(cells, max_categories, keep_order and cells.declared)
    except pa.ArrowException:
        kind = cells.values.dictionary.type
        raise UserError(f"{cells.where}: expected {EXPECTED}, got {kind}") from None
    # The last entry is for a row without a value; a missing label has code -1 too.
    return categories, np.append(ranks, np.int32(-1))[_indices(cells)]


def numbers_of(cells: Cells) -> NDArray[np.float64] | None:
    """Return the numbers of a column, NaN where one is missing; None if not all are numbers."""
    dictionary = cells.values.dictionary
    if cells.declared or pa.types.is_boolean(dictionary.type):
        return None
    try:
        text, is_missing = _texts(cells)
        is_text = pa.types.is_string(dictionary.type) or pa.types.is_large_string(dictionary.type)
        numbers = _as_numbers((text if is_text else dictionary).filter(pa.array(~is_missing)))
    except pa.ArrowException:
        return None
    if numbers is None:
        return None
    of_values = np.full(len(dictionary) + 1, np.nan)
    of_values[:-1][~is_missing] = numbers
    return of_values[_indices(cells)]


def _has_texts(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and (
        pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type)
    )


def _encoded(where: str, values: pa.ChunkedArray) -> pa.DictionaryArray:
    """Encode a column by its distinct values."""
    if len(values) == 0:
        raise UserError(f"{where}: expected labels, got no rows")
    try:
        if pa.types.is_string_view(values.type):  # Arrow's functions lag behind this type
            values = values.cast(pa.string())
        if not pa.types.is_dictionary(values.type):
            values = values.dictionary_encode()
        return values.unify_dictionaries().combine_chunks()
    except pa.ArrowException:
        raise UserError(f"{where}: expected {EXPECTED}, got {values.type}") from None


def _indices(cells: Cells) -> NDArray[np.int32]:
    """Return each row's place in the dictionary, -1 where it has no value."""
    return cells.values.indices.fill_null(-1).to_numpy(zero_copy_only=False)


def _texts(cells: Cells) -> tuple[pa.Array, NDArray[np.bool_]]:
    """Return the distinct values as text, and which of them mean a missing value."""
    dictionary = cells.values.dictionary
    text = dictionary.cast(pa.string())
    options = compute.SetLookupOptions(pa.array(cells.missing, pa.string()))
    is_missing = np.asarray(compute.call_function("is_in", [text], options))
    return text, is_missing | np.asarray(dictionary.is_null(nan_is_null=True))


def _sorted_labels(
    cells: Cells, max_categories: int, keep_order: bool
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Sort the labels in their natural order as text, and rank every value among them.

    Numbers are sorted as numbers, even if they are written as text; NaN is a missing label, and -0
    is 0. A missing label has rank -1.
    """
    dictionary, where = cells.values.dictionary, cells.where
    text, is_missing = _texts(cells)
    places = np.flatnonzero(~is_missing)
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
    categories = list(number_of)
    if not keep_order:
        categories.sort(key=lambda label: (number_of[label], label))
    rank = {label: place for place, label in enumerate(categories)}
    ranks = np.full(len(dictionary), -1, np.int32)
    ranks[places] = [rank[label] for label in labels]
    return tuple(categories), ranks


def _as_numbers(values: pa.Array) -> NDArray[np.float64] | None:
    """Convert values to numbers if all are numbers or text that spells numbers other than "nan"."""
    try:
        numbers = values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        return None
    return None if np.isnan(numbers).any() else numbers
