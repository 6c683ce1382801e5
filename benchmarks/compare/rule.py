"""The rule that calls a case slower or faster, with a known rate of false alarms.

In every generation three new processes run the same cases in turns: two processes of the base, one
of them the control, and one of the head. If head and base are the same code, any of the three could
equally have been called the head: all 3^G choices of one process in each of G generations are as
likely as the actual choice. A case is called slower or faster if its statistic exceeds the largest
statistic of all cases under all but a share `LEVEL` of these choices (Westfall and Young 1993,
step-down). This holds for any noise, even if one process is a little slower than another for its
whole life, and for any number of cases.
"""

from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np

LEVEL = 1 / 200
"""Probability of any false alarm among the cases of a family."""
NEEDED = 5
"""Smallest number G of generations for which 1 / 3^G is at most `LEVEL`."""
SIDES = ("base", "control", "head")
HEAD = 2
FLOOR = 1e-4
"""Standard deviation below which differences of logarithms are rounding, not noise."""


class Verdict(NamedTuple):
    """The change of one case.

    Attributes:
        change: head over base, 1.1 for 10 % slower.
        control: control over base, which are the same code.
        least: the smallest change that would have been called slower or faster; None with too few
            generations.
        p: probability of a statistic as large in any case if nothing has changed.
        word: "slower", "faster" or "tie"; "" with too few generations.
    """

    change: float
    control: float
    least: float | None
    p: float
    word: str


def verdicts(times: np.ndarray, least: float) -> list[Verdict]:
    """Judge the cases of one family.

    Args:
        times: seconds [cases, generations, rounds, sides]; rounds are paired.
        least: smallest factor of a change that matters, for example 1.02.
    """
    contrast, spread = _contrasts(np.log(times))
    cases, generations, _ = contrast.shape
    statistic, scale = _statistics(contrast, spread)
    observed = int(np.flatnonzero(np.all(_choices(generations) == HEAD, axis=1))[0])
    p, critical = _adjusted(np.abs(statistic), observed)
    log_change = np.mean(contrast[:, :, HEAD], axis=1)
    log_control = np.mean(np.median(np.log(times[..., 1] / times[..., 0]), axis=2), axis=1)
    log_least = np.maximum(critical * scale[observed], np.log(least))
    return [
        Verdict(
            float(np.exp(log_change[i])),
            float(np.exp(log_control[i])),
            float(np.exp(log_least[i])) if generations >= NEEDED else None,
            float(p[i]),
            _word(log_change[i], p[i], least, generations),
        )
        for i in range(cases)
    ]


def _word(log_change: float, p: float, least: float, generations: int) -> str:
    if generations < NEEDED:
        return ""
    if p > LEVEL or abs(log_change) < np.log(least):
        return "tie"
    return "slower" if log_change > 0 else "faster"


def _contrasts(log_times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two medians over rounds, [cases, generations, sides].

    The first is the median of a side minus the mean of the two others, the second is the median of
    the difference of these two.
    """
    others = [(1, 2), (0, 2), (0, 1)]
    contrast = [
        np.median(log_times[..., k] - (log_times[..., a] + log_times[..., b]) / 2, axis=2)
        for k, (a, b) in enumerate(others)
    ]
    spread = [np.median(log_times[..., a] - log_times[..., b], axis=2) for a, b in others]
    return np.stack(contrast, -1), np.stack(spread, -1)


@cache
def _choices(generations: int) -> np.ndarray:
    """Return all choices of a side as the head, [3^G, G]."""
    return np.array(list(product(range(3), repeat=generations)))


def _statistics(contrast: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the studentised mean of the contrast and its standard error, [choices, cases].

    The variance of a case has few degrees of freedom, so it is averaged with the median of all
    cases.
    """
    generations = contrast.shape[1]
    choices = _choices(generations)
    which = np.arange(generations)
    of_head = contrast[:, which, choices].transpose(1, 0, 2)  # [choices, cases, generations]
    of_others = spread[:, which, choices].transpose(1, 0, 2)
    mean = np.mean(of_head, axis=2)
    # A contrast has 3/4 of the variance of a difference.
    squares = np.sum((of_head - mean[..., None]) ** 2, 2) + 0.75 * np.sum(of_others**2, 2)
    variance = squares / (2 * generations - 1)
    variance = (variance + np.median(variance, axis=1, keepdims=True)) / 2 + FLOOR**2
    error = np.sqrt(variance / generations)
    return mean / error, error


def _adjusted(size: np.ndarray, observed: int) -> tuple[np.ndarray, float]:
    """Return step-down adjusted p-values, and the statistic that the next case would need."""
    order = np.argsort(-size[observed])
    # The largest statistic of this case and those with smaller observed ones, for every choice.
    suffix = np.maximum.accumulate(size[:, order[::-1]], axis=1)[:, ::-1]
    ranked = np.mean(suffix >= size[observed, order] * (1 - 1e-9), axis=0)
    p = np.empty(len(order))
    p[order] = np.maximum.accumulate(ranked)
    called = min(int(np.sum(p <= LEVEL)), len(order) - 1)
    others = np.delete(suffix[:, called], observed)
    allowed = max(0, int(LEVEL * len(size)) - 1)
    critical = np.sort(others)[::-1][allowed] if len(others) > allowed else np.inf
    return p, float(critical)
