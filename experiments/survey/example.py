"""A part of the American National Election Study of 1996, from statsmodels."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import statsmodels

from experiments.common.columns import Cells
from experiments.common.command import UserError
from experiments.common.table_files import Wanted, choose

SOURCE = "American National Election Study of 1996 (statsmodels)"
COLUMN, BY, FEATURES = "PID", "educ", ("selfLR", "age", "income")

PARTY = (
    "Strong Democrat",
    "Weak Democrat",
    "Independent-Democrat",
    "Independent",
    "Independent-Republican",
    "Weak Republican",
    "Strong Republican",
)
EDUCATION = (
    "1-8 grades",
    "Some high school",
    "High school",
    "Some college",
    "College degree",
    "Master's degree",
    "PhD",
)
# The codes of a column count from its first number.
LABELS = {"PID": (0, PARTY), "educ": (1, EDUCATION), "vote": (0, ("Clinton", "Dole"))}


def read(wanted: Wanted) -> list[Cells]:
    """Read columns: party, education and vote as categories, the others as numbers.

    Raises:
        UserError: there is no such column.
    """
    path = Path(statsmodels.__file__).parent / "datasets" / "anes96" / "anes96.csv"
    try:
        header, *lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot read, {error.strerror or error}") from error
    names = header.replace("'", "").split("\t")
    numbers = dict(zip(names, np.loadtxt(lines, delimiter="\t").T, strict=True))
    chosen = [choose(SOURCE, option, name, names) for option, name in wanted]
    return [_cells(name, numbers[name]) for name in chosen]


def _cells(name: str, numbers: np.ndarray) -> Cells:
    where = f"{SOURCE}, {name}"
    if name not in LABELS:
        return Cells(where, pa.array(numbers).dictionary_encode(), (), declared=False)
    first, labels = LABELS[name]
    codes = pa.array(numbers.astype(np.int32) - np.int32(first))
    return Cells(where, pa.DictionaryArray.from_arrays(codes, list(labels)), (), declared=True)
