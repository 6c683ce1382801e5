"""P-values of counts by tables of as many samples, all of them or some drawn, on the host.

Each statistic is a sum over the classes of a term of c_k, and the probability of a table is, up to
a constant, the product of the Poisson probabilities of its c_k at mean N q_k. So in enumeration a
table is a beginning, of all classes but two, and an end, of as many samples as are left: a table
costs one comparison and one product, the sum and product of both parts are never stored, and
nothing cancels.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np

_BLOCK = 2**18
"""Numbers that are held at a time in each array."""
_IN_CACHE = 2**15
"""Numbers that each pass over finds in the processor's own memory."""
_MANY = 16
"""Rows of one pmf from which its tables are sorted once, not compared with each row."""
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
    sizes = _sizes(counts, q)
    alike = _alike(sizes)
    pairs = sizes[alike.ascending[alike.starts]].tolist()
    return max((math.comb(n + k - 1, min(n, k - 1, 64)) for n, k in pairs), default=0)


def _sizes(counts: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return the numbers of samples and of possible classes of each row, [B, 2]."""
    return np.stack([counts.sum(-1), (q > 0).sum(-1)], -1)


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
    return share


class _Alike(NamedTuple):
    """Rows of a matrix in an order that has equal ones together."""

    ascending: np.ndarray
    starts: np.ndarray
    """The first place of each distinct row."""
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


class _Part(NamedTuple):
    """Some of all tables: each beginning, of all classes but two, with each end."""

    score: np.ndarray
    """[A, B], of the beginnings; a table's is the sum of both."""
    weight: np.ndarray
    """[A, B]; a table's is the product of both, its probability up to a constant."""
    last_score: np.ndarray
    """[C, B], of the ends."""
    last_weight: np.ndarray


def _parts(n: int, q: np.ndarray, order: str) -> Iterator[_Part]:
    """Yield all tables of n samples and K >= 2 classes, for pmfs [B, K]."""
    amounts = np.arange(n + 1)[:, None]
    scores, surprisals = _terms(amounts, n * q.T[:, None], order)  # [K, n + 1, B]
    weights = np.exp(-surprisals)
    classes, _, batch = scores.shape
    # Class to come; samples left, score and weight of tables of the classes before it. Those of all
    # classes but two are in order of the samples left.
    stack = [(0, np.array([n]), np.zeros((1, batch)), np.ones((1, batch)))]
    while stack:
        k, left, score, weight = stack.pop()
        if k == classes - 2:
            starts = np.flatnonzero(np.diff(left, prepend=-1))
            for start, stop in pairwise([*starts, len(left)]):
                c = left[start]
                ends = slice(c + 1), slice(c, None, -1)
                (s1, s2), (w1, w2) = (
                    [x[k + i, end] for i, end in enumerate(ends)] for x in (scores, weights)
                )
                yield _Part(score[start:stop], weight[start:stop], s1 + s2, w1 * w2)
            continue
        choices = left + 1
        if len(left) > 1 and choices.sum() * batch > _BLOCK:
            half = len(left) // 2
            stack += [(k, left[p], score[p], weight[p]) for p in (slice(half), slice(half, None))]
            continue
        parent = np.repeat(np.arange(len(left)), choices)
        c = np.arange(len(parent)) - (np.cumsum(choices) - choices)[parent]
        if k == classes - 3:
            ascending = np.argsort(left[parent] - c)
            parent, c = parent[ascending], c[ascending]
        score, weight = score[parent] + scores[k][c], weight[parent] * weights[k][c]
        stack.append((k + 1, left[parent] - c, score, weight))


def _shares(least: np.ndarray, parts: Iterator[_Part]) -> np.ndarray:
    """Return the share of all tables' weight that those have whose score is `least` [B] or more."""
    share, total = np.zeros(len(least)), np.zeros(len(least))
    for part in parts:
        size = max(1, _IN_CACHE // part.last_score.size)
        for start in range(0, len(part.score), size):
            rows = slice(start, start + size)
            extreme = part.last_score >= (least - part.score[rows])[:, None]
            share += (part.weight[rows] * (extreme * part.last_weight).sum(1)).sum(0)
        total += part.weight.sum(0) * part.last_weight.sum(0)
    return share / total


def _shares_of_one_pmf(least: np.ndarray, parts: Iterator[_Part]) -> np.ndarray:
    """Return `_shares` for many `least` and one pmf: its tables, sorted, are searched for each."""
    share, total = np.zeros(len(least)), 0.0
    for score, weight in _joined(parts):
        ascending = np.argsort(score)
        tail = np.append(np.cumsum(weight[ascending[::-1]])[::-1], 0)
        share += tail[np.searchsorted(score, least, sorter=ascending)]
        total += tail[0]
    return share / total


def _joined(parts: Iterator[_Part]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield score and weight of each table, of as many parts at a time as fill a block."""
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
