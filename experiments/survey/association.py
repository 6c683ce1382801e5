"""Strength of the association of two columns: mutual information and Cramér's V, with intervals.

For associations that are not strong, X^2 of a table of N pairs follows the noncentral chi-squared
law with (R - 1) (C - 1) degrees of freedom and the noncentrality

    lambda = N min(R - 1, C - 1) V^2.

The interval contains all lambda for which both tails at the statistic are at least alpha / 2.

Source: M. Smithson, "Confidence Intervals" (2003), chapter 4.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

import xentjax


class Strength(NamedTuple):
    """A measure of association with its interval."""

    value: float
    lower: float
    upper: float


def mutual_information(test: xentjax.IndependenceTest, alpha: float) -> Strength:
    """Estimate the mutual information in nats, corrected for its bias, and at least 0.

    Args:
        test: of independence.
        alpha: probability that the interval does not cover.
    """
    lower, upper = np.asarray(test.mutual_information_interval(alpha)).tolist()
    return Strength(max(float(test.mutual_information), 0.0), lower, upper)


def cramers_v(
    test: xentjax.IndependenceTest, n: int, alpha: float, sizes: tuple[int, int]
) -> Strength:
    """Estimate Cramér's V without the part due to chance: with X^2 - dof in place of X^2.

    Args:
        test: of independence.
        n: number of pairs.
        alpha: probability that the interval does not cover.
        sizes: numbers of rows and columns that are not empty.
    """
    scale, dof = n * (min(sizes) - 1), int(test.dof)
    statistic = scale * float(test.cramers_v) ** 2
    values = max(statistic - dof, 0.0), *noncentrality(statistic, dof, alpha)
    return Strength(*(min(math.sqrt(value / scale), 1.0) for value in values))


def noncentrality(statistic: float, dof: int, alpha: float) -> tuple[float, float]:
    """Compute the interval of the noncentrality by inverting the noncentral chi-squared law."""
    return _root(statistic, dof, 1 - alpha / 2), _root(statistic, dof, alpha / 2)


def _root(statistic: float, dof: int, probability: float) -> float:
    """Find the noncentrality at which a value lies below the statistic with this probability.

    It is 0 if even under the central law this probability is lower.
    """

    def excess(noncentrality: float) -> float:
        return float(stats.ncx2.cdf(statistic, dof, noncentrality)) - probability

    if float(stats.chi2.cdf(statistic, dof)) <= probability:
        return 0.0
    # The law has mean dof + lambda and variance 2 (dof + 2 lambda).
    spread = abs(float(stats.norm.ppf(probability))) + 1
    high = statistic + dof + 4 * spread**2 + 2 * spread * math.sqrt(2 * dof + 4 * statistic)
    found = optimize.root_scalar(
        excess, bracket=(0.0, high), method="brentq", xtol=1e-9 * max(1.0, statistic)
    )
    return float(found.root)


def occurring(table: np.ndarray) -> tuple[int, int]:
    """Count the rows and the columns that are not empty."""
    return int(table.any(1).sum()), int(table.any(0).sum())
