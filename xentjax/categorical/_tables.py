"""P-values from the tables with the same number of samples, all of them or a random draw.

Each statistic is a sum over the classes of a term that depends on c_k, and up to a constant the
probability of a table is the product of Poisson probabilities of the c_k with means N q_k. So a
table splits into a beginning, the counts of the first half of the classes, and an end, which shares
the remaining samples among the others. Their sums and products are never stored: each beginning is
compared with all ends or, if there are many ends, looked up among the sorted ones. Nothing cancels,
and everything runs on the host.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np

_BLOCK = 2**18
"""Largest number of elements of an array."""
_IN_CACHE = 2**15
"""Number of elements that fit into the processor's cache."""
_MANY = 16
"""Number of rows with the same pmf from which on its tables are sorted once for all rows."""
_SEARCH = 6_000, 24
"""Cost of a search in sorted ends: this many comparisons, and this many for each element."""
_TIE = 1e-7
"""Statistics that differ by less than this (relatively, above 1) count as equal."""


class _Result(NamedTuple):
    statistic: np.ndarray
    p_value: np.ndarray


class _Group(NamedTuple):
    """Rows with the same numbers of samples and of possible classes; the others are left out."""

    rows: np.ndarray
    n: int
    counts: np.ndarray
    q: np.ndarray


def number_of_tables(counts: np.ndarray, q: np.ndarray) -> int:
    """Return the largest number of tables that the samples of any row can form.

    Beyond 10^37 the result only says that there are too many.
    """
    sizes = _sizes(counts, q)
    alike = _alike(sizes)
    pairs = sizes[alike.ascending[alike.starts]].tolist()
    return max((math.comb(n + k - 1, min(n, k - 1, 64)) for n, k in pairs), default=0)


def _sizes(counts: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the numbers of samples and of possible classes of each row, [B, 2]."""
    return np.stack([counts.sum(-1), (q > 0).sum(-1)], -1)


def enumerate_tables(counts: np.ndarray, q: np.ndarray, order: str) -> _Result:
    """Return statistics and exact p-values [B] of counts [B, K] and pmfs [B, K] in float64."""
    return _by_group(counts, q, order, _largest_number, _exact)


def draw_tables(
    rng: np.random.Generator, counts: np.ndarray, q: np.ndarray, order: str, number: int
) -> _Result:
    """Return statistics and simulated p-values from `number` random tables for each row."""
    draw = partial(_drawn, rng, number=number)
    return _by_group(counts, q, order, lambda _, k: k * min(number, _BLOCK), draw)


def _by_group(
    counts: np.ndarray,
    q: np.ndarray,
    order: str,
    numbers_of: Callable[[int, int], int],
    p_value_of: Callable[..., np.ndarray],
) -> _Result:
    """Compute the results group by group, and return them in the order of the rows.

    Args:
        counts: [B, K].
        q: [B, K].
        order: of the tables.
        numbers_of: returns the elements that a row needs at a time, given n and K.
        p_value_of: returns p-values, given n, the group's q, the order and the least statistic
            that counts as extreme.
    """
    result = _Result(np.full(len(q), np.inf), np.zeros(len(q)))
    for rows, n, kept_counts, kept_q in _groups(counts, q):
        size = max(1, _BLOCK // numbers_of(n, kept_q.shape[-1]))
        for start in range(0, len(rows), size):
            part = slice(start, start + size)
            observed = _terms(kept_counts[part], n * kept_q[part], order)[0].sum(-1)
            tie = _TIE * (1 if order == "probability" else np.maximum(observed, 1))
            share = p_value_of(n, kept_q[part], order, least=observed - tie)
            constant = _remainder(np.array(n)) if order == "probability" else 0
            result.statistic[rows[part]] = observed - constant
            result.p_value[rows[part]] = share
    return result


def _groups(counts: np.ndarray, q: np.ndarray) -> Iterator[_Group]:
    """Yield the groups of rows, without rows in which an impossible class occurred."""
    possible = q > 0
    valid = np.flatnonzero(~((counts > 0) & ~possible).any(-1))
    sizes = _sizes(counts, q)[valid]
    alike = _alike(sizes)
    for start, number in zip(alike.starts, alike.numbers, strict=True):
        of_group = np.sort(alike.ascending[start : start + number])
        n, k = sizes[of_group[0]].tolist()
        rows = valid[of_group]
        kept = possible[rows]
        kept_counts, kept_q = (x[rows][kept].reshape(len(rows), k) for x in (counts, q))
        yield _Group(rows, n, kept_counts, kept_q)


def _exact(n: int, q: np.ndarray, order: str, *, least: np.ndarray) -> np.ndarray:
    if q.shape[-1] == 1:
        return np.ones(len(q))  # one table
    share, alike = np.empty(len(q)), _alike(q)
    shared = alike.numbers >= _MANY
    for start, number in zip(alike.starts[shared], alike.numbers[shared], strict=True):
        rows = alike.ascending[start : start + number]
        share[rows] = _shares_of_one_pmf(least[rows], _parts(n, q[rows[:1]], order))
    if not shared.all():
        rows = alike.ascending[~np.repeat(shared, alike.numbers)]
        share[rows] = _shares(least[rows], _parts(n, q[rows], order))
    return np.minimum(share, 1)  # the order of a sum changes its rounding


class _Alike(NamedTuple):
    """Rows of a matrix, ordered so that equal ones are neighbours."""

    ascending: np.ndarray
    starts: np.ndarray
    """Index of the first of each group of equal rows."""
    numbers: np.ndarray


def _alike(rows: np.ndarray) -> _Alike:
    ascending = np.lexsort(rows.T)
    ordered = rows[ascending]
    is_new = np.append(True, (ordered[1:] != ordered[:-1]).any(-1))[: len(rows)]
    starts = np.flatnonzero(is_new)
    return _Alike(ascending, starts, np.diff(np.append(starts, len(rows))))


def _drawn(
    rng: np.random.Generator, n: int, q: np.ndarray, order: str, *, least: np.ndarray, number: int
) -> np.ndarray:
    extreme = np.zeros(len(q))
    block = max(1, _BLOCK // q.size)
    for start in range(0, number, block):
        shape = len(q), min(block, number - start)
        tables = rng.multinomial(n, q[:, None], shape)
        scores = _terms(tables, n * q[:, None], order)[0].sum(-1)
        extreme += (scores >= least[:, None]).sum(-1)
    return (1 + extreme) / (1 + number)


def _terms(c: np.ndarray, expected: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Return each class's term of the statistic, and its Poisson surprisal."""
    difference = c - expected
    # If the mean is so small that the quotient overflows, the statistic is rightly infinite.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        logarithm = np.log1p(difference / expected)
        divergence = np.where(c == 0, expected, c * logarithm - difference)
        surprisal = divergence + _remainder(c)
        if order == "probability":
            return surprisal, surprisal
        return 2 * divergence if order == "g" else difference * (difference / expected), surprisal


# Summing the differences of log c! - (c log c - c) avoids cancellation.
_SMALL = np.arange(1.0, 1023)
_REMAINDERS = np.cumsum([0, 1, *(1 - _SMALL * np.log1p(1 / _SMALL))])


def _remainder(c: np.ndarray) -> np.ndarray:
    """Return `log c! - (c log c - c)` of whole numbers."""
    large = np.maximum(c, len(_REMAINDERS)).astype(float)
    stirling = np.log(2 * math.pi * large) / 2 + 1 / (12 * large) - 1 / (360 * large**3)
    small = _REMAINDERS[np.minimum(c, len(_REMAINDERS) - 1)]
    return np.where(c < len(_REMAINDERS), small, stirling)


class _Part(NamedTuple):
    """Some of the tables: every beginning together with every end.

    A table's score is the sum of both scores. The product of both weights is its probability, up to
    a constant.
    """

    score: np.ndarray
    """[A, B], of the beginnings."""
    weight: np.ndarray
    """[A, B]."""
    last_score: np.ndarray
    """[C, B], of the ends."""
    last_weight: np.ndarray
    """[C, B]."""


def _classes_of_ends(k: int) -> int:
    return max(2, k - k // 2)


def _largest_number(n: int, k: int) -> int:
    """Return the elements for each row in the largest array that `_parts` makes."""
    last = _classes_of_ends(k)
    return max(k * (n + 1), math.comb(n + last - 1, last - 1))


def _parts(n: int, q: np.ndarray, order: str) -> Iterator[_Part]:
    """Yield all tables of n samples and K >= 2 classes, for pmfs [B, K]."""
    amounts = np.arange(n + 1)[:, None]
    scores, surprisals = _terms(amounts, n * q.T[:, None], order)  # [K, n + 1, B]
    weights = np.exp(-surprisals)
    first = q.shape[-1] - _classes_of_ends(q.shape[-1])

    def half(classes: range, total: int) -> tuple[np.ndarray, np.ndarray]:
        amounts = _compositions(total, len(classes))
        pairs = list(zip(classes, amounts, strict=True))
        score, weight = (x[k][c] for x in (scores, weights) for k, c in pairs[:1])
        for k, c in pairs[1:]:
            score, weight = score + scores[k][c], weight * weights[k][c]
        return score, weight

    ends = range(first, q.shape[-1])
    if first == 0:
        none = np.zeros((1, len(q)))
        yield _Part(none, none + 1, *half(ends, n))
        return
    for of_first in range(n + 1):
        yield _Part(*half(range(first), of_first), *half(ends, n - of_first))


@lru_cache(maxsize=128)
def _compositions(n: int, classes: int) -> list[np.ndarray]:
    """Return the counts of all tables of n samples."""
    left, counts = np.array([n]), []
    for _ in range(classes - 1):
        choices = left + 1
        parent = np.repeat(np.arange(len(left)), choices)
        c = np.arange(len(parent)) - (np.cumsum(choices) - choices)[parent]
        counts = [*(x[parent] for x in counts), c]
        left = left[parent] - c
    return [*counts, left]


def _shares(least: np.ndarray, parts: Iterator[_Part]) -> np.ndarray:
    """Return the share of the weight in tables whose score is at least `least` [B]."""
    share, total = np.zeros(len(least)), np.zeros(len(least))
    once, each = _SEARCH
    for part in parts:
        sizes = len(part.score), len(part.last_score)
        many = math.prod(sizes) > once + each * sum(sizes)
        share += (_searched if many else _compared)(least, part)
        total += part.weight.sum(0) * part.last_weight.sum(0)
    return share / total


def _compared(least: np.ndarray, part: _Part) -> np.ndarray:
    """Return the weight [B] of a part's tables whose score is at least `least`."""
    found, size = np.zeros(len(least)), max(1, _IN_CACHE // part.last_score.size)
    for start in range(0, len(part.score), size):
        rows = slice(start, start + size)
        extreme = part.last_score >= (least - part.score[rows])[:, None]
        found += (part.weight[rows] * (extreme * part.last_weight).sum(1)).sum(0)
    return found


def _searched(least: np.ndarray, part: _Part) -> np.ndarray:
    """Return the same as `_compared`, by searching the sorted ends row by row."""
    found = np.empty(len(least))
    for row, (score, weight, last_score, last_weight) in enumerate(
        zip(*(x.T for x in part), strict=True)
    ):
        found[row] = weight @ _from(least[row] - score, last_score, last_weight)
    return found


def _from(least: np.ndarray, score: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return, for each `least`, the weight of the scores that are at least as large."""
    ascending = np.argsort(score)
    tails = np.append(np.cumsum(weight[ascending[::-1]])[::-1], 0)
    return tails[np.searchsorted(score[ascending], least)]


def _shares_of_one_pmf(least: np.ndarray, parts: Iterator[_Part]) -> np.ndarray:
    """Return `_shares` for one pmf and many `least`, by sorting its tables once."""
    share, total = np.zeros(len(least)), 0.0
    for score, weight in _joined(parts):
        share += _from(least, score, weight)
        total += weight.sum()
    return share / total


def _joined(parts: Iterator[_Part]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the scores and weights of all tables, in blocks of several parts."""
    scores, weights, held = [], [], 0
    for part in parts:
        scores.append((part.score + part.last_score.T).ravel())
        weights.append((part.weight * part.last_weight.T).ravel())
        held += scores[-1].size
        if held >= _BLOCK:
            yield np.concatenate(scores), np.concatenate(weights)
            scores, weights, held = [], [], 0
    if held:
        yield np.concatenate(scores), np.concatenate(weights)
