"""P-values of counts by tables of as many samples, all of them or some drawn, on the host.

Each statistic is a sum over the classes of a term of c_k, and the probability of a table is, up to
a constant, the product of the Poisson probabilities of its c_k at mean N q_k. So in enumeration a
table costs two look-ups more than the table of the classes before, and nothing cancels.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

_BLOCK = 2**18
"""Numbers that are held at a time in each array."""
_TIE = 1e-7
"""Statistics that differ by less, relative where they exceed 1, count as equal."""


class _Result(NamedTuple):
    statistic: np.ndarray
    p_value: np.ndarray


class _Group(NamedTuple):
    """Rows of the same number of samples and of possible classes, without the other classes."""

    rows: np.ndarray
    n: int
    counts: np.ndarray
    q: np.ndarray


def number_of_tables(counts: np.ndarray, q: np.ndarray) -> int:
    """Return how many tables the samples of a row have over its possible classes, at most.

    Or some number that is as good, where there are more than 10^37.
    """
    sizes = np.stack([counts.sum(-1), (q > 0).sum(-1)], -1)
    pairs = set(map(tuple, sizes.reshape(-1, 2).tolist()))
    return max((math.comb(n + k - 1, min(n, k - 1, 64)) for n, k in pairs), default=0)


def enumerate_tables(counts: np.ndarray, q: np.ndarray, order: str) -> _Result:
    """Return statistics and exact p-values [B] of counts [B, K] and pmfs [B, K] in float64."""
    return _by_group(counts, q, order, lambda n: n + 1, _exact)


def draw_tables(
    rng: np.random.Generator, counts: np.ndarray, q: np.ndarray, order: str, number: int
) -> _Result:
    """Return statistics and p-values by `number` tables that are drawn for each row."""
    draw = partial(_drawn, rng, number=number)
    return _by_group(counts, q, order, lambda _: min(number, _BLOCK), draw)


def _by_group(
    counts: np.ndarray,
    q: np.ndarray,
    order: str,
    numbers_of: Callable[[int], int],
    p_value_of: Callable[..., np.ndarray],
) -> _Result:
    """Return the results of rows in any order, those of one group together.

    Args:
        counts: [B, K].
        q: [B, K].
        order: of the tables.
        numbers_of: how many numbers a class of a row of so many samples holds at a time.
        p_value_of: n, q of a group, the order and `least`, the statistic that is as extreme.
    """
    result = _Result(np.full(len(q), np.inf), np.zeros(len(q)))
    for rows, n, kept_counts, kept_q in _groups(counts, q):
        size = max(1, _BLOCK // (kept_q.shape[-1] * numbers_of(n)))
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
    """Yield the groups of rows; those where an impossible class occurred are in none."""
    possible = q > 0
    sizes = np.stack([counts.sum(-1), possible.sum(-1)], -1)
    valid = ~((counts > 0) & ~possible).any(-1)
    for n, k in np.unique(sizes[valid], axis=0).tolist():
        rows = np.flatnonzero(valid & (sizes == (n, k)).all(-1))
        kept = possible[rows]
        kept_counts, kept_q = (x[rows][kept].reshape(len(rows), k) for x in (counts, q))
        yield _Group(rows, n, kept_counts, kept_q)


def _exact(n: int, q: np.ndarray, order: str, *, least: np.ndarray) -> np.ndarray:
    amounts = np.arange(n + 1)[:, None]
    scores, surprisals = _terms(amounts, n * q.T[:, None], order)
    return _share_from(least, scores, np.exp(-surprisals))


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
    # A mean so small that the quotient overflows makes the statistic infinite, as it should.
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        logarithm = np.log1p(difference / expected)
        divergence = np.where(c == 0, expected, c * logarithm - difference)
        surprisal = divergence + _remainder(c)
        if order == "probability":
            return surprisal, surprisal
        return 2 * divergence if order == "g" else difference * (difference / expected), surprisal


# log c! - (c log c - c) by its differences, which do not cancel.
_SMALL = np.arange(1.0, 1023)
_REMAINDERS = np.cumsum([0, 1, *(1 - _SMALL * np.log1p(1 / _SMALL))])


def _remainder(c: np.ndarray) -> np.ndarray:
    """Return `log c! - (c log c - c)` of whole numbers."""
    large = np.maximum(c, len(_REMAINDERS)).astype(float)
    stirling = np.log(2 * math.pi * large) / 2 + 1 / (12 * large) - 1 / (360 * large**3)
    small = _REMAINDERS[np.minimum(c, len(_REMAINDERS) - 1)]
    return np.where(c < len(_REMAINDERS), small, stirling)


def _share_from(least: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the share of the weight of all tables that those have whose score is `least` or more.

    Args:
        least: [B].
        scores: [K, N + 1, B], of each class and count; a table's is their sum.
        weights: as the scores; a table's is their product.
    """
    classes, size, batch = scores.shape
    share, total = np.zeros(batch), np.zeros(batch)
    # Class to come; samples left, score and weight of tables of the classes before it.
    parts = [(0, np.array([size - 1]), np.zeros((1, batch)), np.ones((1, batch)))]
    while parts:
        k, left, score, weight = parts.pop()
        if k == classes - 1:
            weight = weight * weights[k][left]
            total += weight.sum(0)
            share += (weight * (score + scores[k][left] >= least)).sum(0)
            continue
        choices = left + 1
        if len(left) > 1 and choices.sum() * batch > _BLOCK:
            half = len(left) // 2
            parts += [(k, left[p], score[p], weight[p]) for p in (slice(half), slice(half, None))]
            continue
        parent = np.repeat(np.arange(len(left)), choices)
        c = np.arange(len(parent)) - (np.cumsum(choices) - choices)[parent]
        score, weight = score[parent] + scores[k][c], weight[parent] * weights[k][c]
        parts.append((k + 1, left[parent] - c, score, weight))
    return share / total
