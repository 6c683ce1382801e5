"""Very many dice of one pmf, each rolled N times: measurements beside the theory for that N."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from numpy.typing import ArrayLike, NDArray

import xentjax
from experiments.common.methods import (
    CLASSWISE_INTERVALS,
    ENTROPY_ESTIMATORS,
    SIMULTANEOUS_INTERVALS,
)

ROLLS_AT_ONCE = 2**21  # in memory
NSB_DICE = 5_000  # NSB integrates numerically for each die, 100 times slower than the others
CREDIBLE_INTERVALS = {
    "equal tails, flat prior": "equal_tailed",
    "highest density, flat prior": "highest_density",
}
COINS_AT_ONCE = 1024  # in one call of the intervals; one shape for all N compiles once


class Mean(NamedTuple):
    """A mean over independent dice, and its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: ArrayLike) -> Self:
        """Average one value for each die."""
        values = np.asarray(values, np.float64)
        return cls(float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))))


class Theory(NamedTuple):
    """Expectations for the counts c of N rolls of K faces, in nats.

    Attributes:
        first_order: (K - 1) / (2N).
        second_order: that plus (sum_k 1 / p_k - 1) / (12 N^2).
        kl: E KL(c / N || p), exactly.
        bias: entropy estimator -> its exact bias, for the two with a closed form.
        coverage: interval method -> the exact probability that it covers p_k, mean over the faces;
            without the simultaneous methods.
    """

    first_order: float
    second_order: float
    kl: float
    bias: Mapping[str, float]
    coverage: Mapping[str, float]


class Measurement(NamedTuple):
    """Measurements of D dice, each rolled N times, in nats.

    Attributes:
        num_rolls: N.
        theory: the expectations.
        statistics: float32 [D], G = 2 N KL(c / N || p) of each die, in ascending order.
        kl: KL(c / N || p).
        variance: of G, the mean squared deviation from its mean.
        bias: entropy estimator -> error of its estimate.
        rmse: entropy estimator -> root mean squared error.
        coverage: interval method -> share of the faces that its intervals cover; for a simultaneous
            method, share of the dice all of whose faces are covered.
    """

    num_rolls: int
    theory: Theory
    statistics: NDArray[np.float32]
    kl: Mean
    variance: Mean
    bias: Mapping[str, Mean]
    rmse: Mapping[str, float]
    coverage: Mapping[str, Mean]


def measure(counts: jax.Array, pmf: jax.Array, *, num_rolls: int, alpha: float) -> Measurement:
    """Compare dice with the theory.

    Args:
        counts: int32 [D, K], their rolls.
        pmf: float32 [K], K >= 2 probabilities > 0.
        num_rolls: N.
        alpha: probability that an interval does not cover.
    """
    statistics = np.asarray(xentjax.g_test(counts, pmf).statistic)
    errors = _entropy_errors(counts, pmf)
    expected, classwise = _classwise_coverage(counts, pmf, num_rolls, alpha)
    return Measurement(
        num_rolls=num_rolls,
        theory=_theory(pmf, num_rolls, expected),
        statistics=np.sort(statistics),
        kl=Mean.of(statistics / (2 * num_rolls)),
        variance=Mean.of((statistics - statistics.mean(dtype=np.float64)) ** 2),
        bias={name: Mean.of(error) for name, error in errors.items()},
        rmse={name: float(np.sqrt(np.mean(error**2))) for name, error in errors.items()},
        coverage=classwise | _simultaneous_coverage(counts, pmf, alpha),
    )


@partial(jax.jit, static_argnames=("num_rolls", "num_dice"))
def roll(key: jax.Array, pmf: jax.Array, *, num_rolls: int, num_dice: int) -> jax.Array:
    """Count the faces of every die, int32 [D, K]."""

    def one_die(die_key: jax.Array) -> jax.Array:
        return xentjax.counts(xentjax.sample(die_key, pmf, (num_rolls,)), len(pmf))

    dice_at_once = min(num_dice, max(1, ROLLS_AT_ONCE // num_rolls))
    return jax.lax.map(one_die, jax.random.split(key, num_dice), batch_size=dice_at_once)


def _entropy_errors(counts: jax.Array, pmf: jax.Array) -> dict[str, NDArray[np.float64]]:
    """Compute estimate - H(p) for each die in nats, by estimator."""
    p = np.asarray(pmf, np.float64)
    truth = -(p * np.log(p)).sum()
    errors = {}
    for name in ENTROPY_ESTIMATORS:
        dice = counts[:NSB_DICE] if name == "nsb" else counts
        errors[name] = np.asarray(xentjax.entropy_estimate(dice, method=name), np.float64) - truth
    return errors


def _classwise_coverage(
    counts: jax.Array, pmf: jax.Array, num_rolls: int, alpha: float
) -> tuple[dict[str, float], dict[str, Mean]]:
    """Compute the exact and the measured coverage of a face, each by method.

    An interval for one face depends on the face's count alone, so there are only N + 1 of them.
    """
    p = np.asarray(pmf)
    every_count = np.arange(num_rolls + 1)[:, None]
    chance = scipy.stats.binom.pmf(every_count, num_rolls, p.astype(np.float64))
    seen, faces = np.asarray(counts), np.arange(len(p))
    expected, measured = {}, {}
    for method in (*CLASSWISE_INTERVALS, *CREDIBLE_INTERVALS):
        ends = _every_interval(num_rolls, method, alpha, len(p))
        covers = (ends[:, :1] <= p) & (p <= ends[:, 1:])  # [N + 1, K]
        expected[method] = float((chance * covers).sum(0).mean())
        measured[method] = Mean.of(covers[seen, faces].mean(-1))
    return expected, measured


def _every_interval(
    num_rolls: int, method: Any, alpha: float, num_faces: int
) -> NDArray[np.float32]:
    """Compute the interval of a face that was rolled 0, 1, ..., N times, [N + 1, 2].

    A credible interval has a flat prior: 1 for the face, K - 1 for all others together.
    """

    def intervals(block: jax.Array) -> jax.Array:
        if method not in CREDIBLE_INTERVALS:
            return xentjax.confidence_intervals(block, method=method, alpha=alpha)
        posterior = xentjax.dirichlet_posterior(block, np.array([1.0, num_faces - 1]))
        kind: Any = CREDIBLE_INTERVALS[method]
        return posterior.credible_intervals(alpha, kind)

    blocks = num_rolls // COINS_AT_ONCE + 1
    heads = np.minimum(np.arange(blocks * COINS_AT_ONCE, dtype=np.int32), num_rolls)
    coins = jnp.asarray(np.stack([heads, num_rolls - heads], -1))
    ends = [intervals(block)[:, 0] for block in jnp.split(coins, blocks)]
    return np.concatenate(ends)[: num_rolls + 1]


def _simultaneous_coverage(counts: jax.Array, pmf: jax.Array, alpha: float) -> dict[str, Mean]:
    """Compute the share of the dice all of whose faces are covered, by method."""
    p = np.asarray(pmf)
    measured = {}
    for method in SIMULTANEOUS_INTERVALS:
        ends = np.asarray(xentjax.confidence_intervals(counts, method=method, alpha=alpha))
        covers = (ends[..., 0] <= p) & (p <= ends[..., 1])
        measured[method] = Mean.of(covers.all(-1))
    return measured


def expansion(p: NDArray[np.float64], num_rolls: ArrayLike) -> tuple[NDArray, NDArray]:
    """Compute the first two terms of E KL(c / N || p) in powers of 1 / N, in the shape of N."""
    n = np.asarray(num_rolls, np.float64)
    return (len(p) - 1) / (2 * n), ((1 / p).sum() - 1) / (12 * n**2)


def _theory(pmf: jax.Array, num_rolls: int, coverage: Mapping[str, float]) -> Theory:
    p = np.asarray(pmf, np.float64)
    first, second = expansion(p, num_rolls)
    kl = float(xentjax.expected_kl(pmf, num_rolls))
    expected_faces_seen = len(p) - ((1 - p) ** num_rolls).sum()
    return Theory(
        first_order=float(first),
        second_order=float(first + second),
        kl=kl,
        bias={"plug_in": -kl, "miller_madow": -kl + (expected_faces_seen - 1) / (2 * num_rolls)},
        coverage=coverage,
    )
