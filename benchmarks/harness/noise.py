"""The noise floor: intervals of ratios, and the rule for calling one faster or slower.

In the same rounds as all others, our implementation runs a second time under another name. Both are
the same program, so the interval of their ratio shows the noise of this machine.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

AGAIN = "again"
"""Second name of our implementation."""
LEVEL = 0.95
DRAWS = 2000
LEGEND = (
    f"interval: {LEVEL:.0%} bootstrap interval over the rounds; with fewer than 6 rounds it is "
    "hardly less than their whole range. noise: that of the same program under a second name, in "
    "the same rounds. tie: the interval of the multiple contains 1 or overlaps the noise, taken in "
    "both directions; all others are faster or slower beyond it"
)


class Interval(NamedTuple):
    """Median of ratios within rounds, with its bootstrap interval."""

    median: float
    lower: float
    upper: float

    def text(self) -> str:
        """Format the ends."""
        return f"{self.lower:.2f}–{self.upper:.2f}"

    def judged(self, noise: "Interval | None") -> str:
        """Format the ends, with "tie" if the noise hides which of the two is faster."""
        return self.text() + " tie" * (noise is not None and self.ties(noise))

    def ties(self, noise: "Interval") -> bool:
        """Whether the interval contains 1 or overlaps that of the noise, in either direction.

        A second run that was 10 % slower could equally have been 10 % faster.
        """
        reach = max(noise.upper, 1 / noise.lower)
        return self.lower <= reach and self.upper >= 1 / reach


NONE = Interval(1.0, 1.0, 1.0)
"""No noise: intervals tie only if they contain 1."""


def interval(numerator: Sequence[float], denominator: Sequence[float]) -> Interval:
    """Return the median over rounds of numerator / denominator, with a reproducible interval.

    Whole rounds are drawn with replacement, so that a slowdown of all implementations in a round
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
