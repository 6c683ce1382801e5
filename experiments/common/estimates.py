"""Means over a few runs, with their uncertainty."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

CONFIDENCE = 0.95
POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """The mean of n values, each from its own run.

    Attributes:
        n: number of values.
        mean: their mean.
        sd: their standard deviation, with n - 1 degrees of freedom; NaN for one value.
        standard_error: of the mean, sd / sqrt(n).
        lower, upper: the 95 % interval of the mean, by Student's t; for one value, the whole
            possible range.
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
        """Estimate the mean of values.

        Args:
            values: at least one.
            least: the smallest possible mean, where the interval is cut.
            most: the largest possible mean.
        """
        x = np.asarray(values, np.float64)
        n, mean = len(x), float(x.mean())
        if n == 1:
            return cls(1, mean, math.nan, math.nan, least, most)
        sd = float(x.std(ddof=1))
        error = sd / math.sqrt(n)
        half_width = error * _quantile_of_t(n)
        return cls(n, mean, sd, error, max(least, mean - half_width), min(most, mean + half_width))

    def runs_to_see(self, difference: float) -> int:
        """Compute how many values detect a mean of this size with a power of 80 %.

        This is the least n >= 2 at which the two-sided t test at level 5 % has that power, for the
        standard deviation `sd`. Since sd has a relative error of about 1 / sqrt(2 n), the number
        is itself approximate.
        """
        effect = abs(difference) / self.sd if self.sd else math.inf
        normal = special.ndtri((1 + CONFIDENCE) / 2) + special.ndtri(POWER)
        n = max(2, math.floor((float(normal) / effect) ** 2))  # a t test never needs fewer
        while effect < math.inf and _power(effect, n) < POWER:
            n += 1
        return n


def _power(effect: float, n: int) -> float:
    """Compute the power of a t test of n values whose mean is `effect` standard deviations."""
    critical, shift = _quantile_of_t(n), effect * math.sqrt(n)
    below, above = (special.nctdtr(n - 1, shift, t) for t in (-critical, critical))
    return float(below + 1 - above)


def _quantile_of_t(n: int) -> float:
    """Compute the half-width of the interval of n values, in standard errors."""
    return float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2))
