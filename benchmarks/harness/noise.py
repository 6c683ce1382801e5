"""The noise floor: intervals of ratios, and what they allow to be called faster or slower.

In the same rounds as everything else, our implementation runs once more under a second name. Both
are the same program, so the interval of that ratio shows what this machine makes of no difference.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

AGAIN = "again"
"""The second name of our implementation."""
LEVEL = 0.95
DRAWS = 2000
LEGEND = (
    f"interval: {LEVEL:.0%} bootstrap interval over the rounds; with fewer than 6 rounds it is "
    "hardly less than their whole range. noise: that of the same program under a second name, in "
    "the same rounds. tie: the interval of the multiple contains 1 or overlaps the noise, taken in "
    "both directions; all others are faster or slower beyond it"
)


class Interval(NamedTuple):
    """A median of ratios within rounds and its bootstrap interval."""

    median: float
    lower: float
    upper: float

    def text(self) -> str:
        """The ends alone."""
        return f"{self.lower:.2f}–{self.upper:.2f}"

    def judged(self, noise: "Interval | None") -> str:
        """The ends, with "tie" where the noise hides which of the two is faster."""
        return self.text() + " tie" * (noise is not None and self.ties(noise))

    def ties(self, noise: "Interval") -> bool:
        """Return whether it contains 1 or overlaps the interval of the noise, in either direction.

        A second name that came out 10 % slower could as well have come out 10 % faster.
        """
        reach = max(noise.upper, 1 / noise.lower)
        return self.lower <= reach and self.upper >= 1 / reach


NONE = Interval(1.0, 1.0, 1.0)
"""No noise at all: ties are the intervals that contain 1."""


def interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Median over rounds of numerator / denominator, with an interval that repeats exactly.

    Whole rounds are drawn with replacement, so what slows all implementations of a round down
    cancels, as it does in the median.
    """
    if len(numerator) != len(denominator):
        raise ValueError(
            f"interval: expected as many rounds of both, got {len(numerator)} and "
            f"{len(denominator)}"
        )
    ratios = np.asarray(numerator, np.float64) / np.asarray(denominator, np.float64)
    medians = np.median(ratios[_draws(len(ratios))], axis=1)
    ends = np.quantile(medians, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(np.median(ratios)), *map(float, ends))


@cache
def _draws(rounds: int) -> np.ndarray:
    return np.random.default_rng(0).integers(rounds, size=(DRAWS, rounds))
