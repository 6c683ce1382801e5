"""The options of a report."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.common.columns import MISSING
from experiments.common.command import LEAST_ALPHA, UserError, pmf_option
from experiments.common.run_folder import RUNS

NAME = "survey"

# A literal rather than the list of common.methods, so that the command line shows the choices.
Intervals = Literal["goodman", "quesenberry_hurst", "sison_glaz"]


@dataclass(frozen=True)
class Config:
    """The survey, and what to report of it."""

    data: Path | None = None
    """A .csv or .parquet file with a row for each respondent; default: the survey of 1996."""
    column: str | None = None
    """Column of the answers: strings, integers, booleans, dates or times."""
    by: str | None = None
    """Column of the groups whose answers a two-way table compares."""
    features: tuple[str, ...] = ()
    """Columns by which a regression explains the answers: numbers, or categories."""
    categorical: tuple[str, ...] = ()
    """Features that are categories although they look like numbers, such as codes of regions."""
    order: tuple[str, ...] = ()
    """All answers in their order, including those that nobody gave: --order no maybe yes."""
    by_order: tuple[str, ...] = ()
    """All groups of --by in their order."""
    expected: tuple[float, ...] | None = None
    """Probabilities of the answers to test, in their order; default: all alike."""
    baseline: str | None = None
    """Answer with which the regression compares the others; default: the first one."""
    l2: float = 0.0
    """Penalty of the regression; keeps coefficients finite if a group never gives some answer."""
    intervals: Intervals = "goodman"
    """Confidence intervals of the shares, simultaneous for all answers."""
    alpha: float = 0.05
    """Probability that an interval does not cover; for the shares, that any of them does not."""
    max_categories: int = 100
    """The largest number of distinct answers, groups, or categories of a feature to accept."""
    encoding: str | None = None
    """Encoding of a .csv, such as cp1252; default: UTF-8, or its byte order mark's."""
    missing: tuple[str, ...] = MISSING
    """Texts that mean a missing answer: --missing '' keeps NA. The default is for a .csv."""
    runs_dir: Path = RUNS
    """Folder in which the new run folder is made."""

    def __post_init__(self) -> None:
        if self.expected is not None:
            pmf_option("--expected", self.expected)
        if not LEAST_ALPHA <= self.alpha < 1:
            raise UserError(f"--alpha: expected {LEAST_ALPHA} to 1, got {self.alpha}")
        if not 0 <= self.l2 < float("inf"):
            raise UserError(f"--l2: expected a finite number >= 0, got {self.l2}")
        if self.max_categories < 1:
            raise UserError(f"--max-categories: expected 1 or more, got {self.max_categories}")
        for option, values in (
            ("--features", self.features),
            ("--categorical", self.categorical),
            ("--order", self.order),
            ("--by-order", self.by_order),
        ):
            if twice := [value for place, value in enumerate(values) if value in values[:place]]:
                raise UserError(f"{option}: expected each name once, got '{twice[0]}' twice")
        self._check_companions()

    def _check_companions(self) -> None:
        """Check the options that need another one."""
        for option, given, companion, present in (
            ("--encoding", self.encoding, "--data", self.data),
            ("--missing", () if self.missing == MISSING else self.missing, "--data", self.data),
            ("--order", self.order, "--column", self.column),
            ("--by-order", self.by_order, "--by", self.by),
        ):
            if given not in ((), None) and present is None:
                raise UserError(f"{option}: expected {companion} with it, got {given!r} alone")
        if self.data is not None and self.column is None and (self.by or self.features):
            raise UserError("--column: expected the column of the answers, got none")
        for name in self.categorical:
            if name not in self.features:
                raise UserError(f"--categorical: expected one of --features, got '{name}'")
        for option, name in (("--by", self.by), *(("--features", name) for name in self.features)):
            if name is not None and name == self.column:
                raise UserError(f"{option}: expected another column than --column, got '{name}'")
