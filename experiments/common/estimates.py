"""Means over a few runs, and how far they can be trusted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """The mean of n values, each of a run of its own.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: their standard deviation, with n - 1 degrees of freedom; NaN for one value.
        standard_error: of the mean, sd / sqrt(n).
        lower, upper: the 95 % interval of the mean, by Student's t; of one value it is all
            there can be.
    """

    n: int
    mean: float
    sd: float
    standard_error: float
    lower: float
    upper: float

    @classmethod
    def of(
        cls, values: Sequence[float], *, least: float = -math.inf, most: float = math.inf
    ) -> Self:
        """The estimate that these values, at least one, give.

        Args:
            values: to average.
            least: no mean can be smaller, so the interval ends there.
            most: no mean can be larger.
        """
        x = np.asarray(values, np.float64)
        n, mean = len(x), float(x.mean())
        if n == 1:
            return cls(1, mean, math.nan, math.nan, least, most)
        sd = float(x.std(ddof=1))
        error = sd / math.sqrt(n)
        reach = error * float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1))
        return cls(n, mean, sd, error, max(least, mean - reach), min(most, mean + reach))

    def runs_to_see(self, difference: float) -> int:
        """How many such values show that a mean of this size is not 0, with a power of 80 %.

        The least n >= 2 whose t test, two-sided and at 5 %, has that power where the standard
        deviation is `sd`. That is itself known to about 1 / sqrt(2 n) only, and so is this number.
        """
        effect = abs(difference) / self.sd if self.sd else math.inf
        normal = stats.norm.ppf((1 + CONFIDENCE) / 2) + stats.norm.ppf(POWER)
        n = max(2, math.floor((float(normal) / effect) ** 2))  # a t test never takes fewer
        while effect < math.inf and _power(effect, n) < POWER:
            n += 1
        return n


def _power(effect: float, n: int) -> float:
    """Compute that of a t test of n values whose mean is `effect` standard deviations from 0."""
    critical = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)
    shifted = stats.nct(n - 1, effect * math.sqrt(n))
    return float(shifted.sf(critical) + shifted.cdf(-critical))
