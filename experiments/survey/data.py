"""The columns of a survey that a report is about, row by row."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from experiments.common.columns import Cells, categories_of, numbers_of, read_cells
from experiments.common.command import UserError
from experiments.survey import example
from experiments.survey.config import Config


class Variable(NamedTuple):
    """A column of categories.

    Attributes:
        name: of the column.
        categories: the labels, in their order.
        codes: int32 [N], each respondent's index into `categories`, -1 where it is missing.
    """

    name: str
    categories: tuple[str, ...]
    codes: NDArray[np.int32]


class Number(NamedTuple):
    """A column of numbers.

    Attributes:
        name: of the column.
        values: float64 [N], NaN where it is missing.
    """

    name: str
    values: NDArray[np.float64]


class Survey(NamedTuple):
    """The respondents.

    Attributes:
        source: description for titles.
        answers: the answers.
        groups: the groups to compare, if any.
        features: what the answers may depend on.
    """

    source: str
    answers: Variable
    groups: Variable | None
    features: tuple[Variable | Number, ...]


def read(config: Config) -> Survey:
    """Read the columns that the configuration names.

    Raises:
        UserError: there is no such file or column, or a column is not what its option asks for.
    """
    column, by, features = config.column, config.by, config.features
    if config.data is None:
        if column is None and by is None and not features:
            by, features = example.BY, example.FEATURES
        wanted = _wanted(column or example.COLUMN, by, features)
        source, cells = example.SOURCE, example.read(wanted)
    else:
        if config.data.suffix.lower() not in (".csv", ".parquet"):
            raise UserError(
                f"{config.data}: expected a file ending in .csv, .parquet, "
                f"got '{config.data.suffix}'"
            )
        wanted = _wanted(column, by, features)
        source = str(config.data)
        cells = read_cells(config.data, wanted, encoding=config.encoding, missing=config.missing)
    read_columns = [(name or "", found) for (_, name), found in zip(wanted, cells, strict=True)]
    answers = _variable(*read_columns[0], config, "--order", config.order)
    if (answers.codes < 0).all():
        raise UserError(
            f"{cells[0].where}: expected answers, got {len(answers.codes)} missing values"
        )
    groups = None
    if by is not None:
        groups = _variable(*read_columns[1], config, "--by-order", config.by_order)
    return Survey(
        source=source,
        answers=answers,
        groups=groups,
        features=tuple(
            _feature(name, found, config) for name, found in read_columns[1 + (by is not None) :]
        ),
    )


def _wanted(
    column: str | None, by: str | None, features: tuple[str, ...]
) -> list[tuple[str, str | None]]:
    groups = [] if by is None else [("--by", by)]
    return [("--column", column), *groups, *(("--features", name) for name in features)]


def _variable(
    name: str, cells: Cells, config: Config, option: str, order: tuple[str, ...]
) -> Variable:
    """Encode a column in the given order, the file's, or the natural one."""
    categories, codes = categories_of(cells, config.max_categories, keep_order=True)
    if not order:
        return Variable(name, categories, codes)
    place = {label: index for index, label in enumerate(order)}
    occurring = np.bincount(codes[codes >= 0], minlength=len(categories)) > 0
    for label, occurs in zip(categories, occurring, strict=True):
        if occurs and label not in place:
            raise UserError(
                f"{option}: expected all categories of {name}, got none that is '{label}'"
            )
    places = np.array([*(place.get(label, -1) for label in categories), -1], np.int32)
    return Variable(name, order, places[codes])


def _feature(name: str, cells: Cells, config: Config) -> Variable | Number:
    """Read a feature: numbers as they are, anything else as categories."""
    values = None if name in config.categorical else numbers_of(cells)
    if values is None:
        return _variable(name, cells, config, "", ())
    if np.isinf(values).any():
        raise UserError(
            f"{cells.where}: expected finite numbers, got {values[np.isinf(values)][0]}"
        )
    return Number(name, values)
