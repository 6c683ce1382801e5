"""Sizes of tests (rejections of a true hypothesis), and coverage of information intervals."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

import xentjax
from experiments.asymptotics.dice import Mean, roll

MOST_TABLES = 10**6
"""Largest number of possible tables of a die's rolls to enumerate."""
SIMULATED_DICE, SIMULATED_TABLES = 2_000, 999
"""Number of dice that are tested by simulated tables, and number of tables for each."""
DICE_OF_A_GROUP = 10
"""Number of dice that are tested together for overdispersion."""


class Sizes(NamedTuple):
    """Shares of the dice, or of tables made from dice.

    Attributes:
        rejected: test -> share of those that it rejects although its hypothesis is true.
        held: "independent" and "associated" -> share of tables of two rows and as many columns as
            faces whose interval holds the mutual information.
    """

    rejected: dict[str, Mean]
    held: dict[str, Mean]


def measure_sizes(key: jax.Array, counts: jax.Array, pmf: jax.Array, *, alpha: float) -> Sizes:
    """Test dice by their true pmf, groups of them for a common one, and tables for independence.

    Args:
        key: random key of the tables and of the simulations of a test.
        counts: int32 [D, K], the dice.
        pmf: float32 [K], the pmf of the dice.
        alpha: level of the tests, and probability that an interval does not hold.
    """
    keys = jax.random.split(key, 3)
    num_dice, num_rolls = len(counts), int(counts[0].sum())
    halves = {"independent": (pmf / 2, pmf / 2), "associated": (pmf / 2, pmf[::-1] / 2)}
    tables = {
        name: roll(each, jnp.concatenate(joint), num_rolls=num_rolls, num_dice=num_dice).reshape(
            num_dice, 2, -1
        )
        for each, (name, joint) in zip(keys[:2], halves.items(), strict=True)
    }
    groups = num_dice // DICE_OF_A_GROUP
    grouped = counts[: groups * DICE_OF_A_GROUP].reshape(groups, DICE_OF_A_GROUP, -1)

    def share(p_values: jax.Array) -> Mean:  # NaN where there was nothing to test
        return Mean.of(np.asarray(p_values) <= alpha)

    rejected = {
        "g_test": share(xentjax.g_test(counts, pmf).p_value),
        "chi_squared_test": share(xentjax.chi_squared_test(counts, pmf).p_value),
        "multinomial_test": share(_multinomial(keys[2], counts, pmf)),
        "independence_test, g": share(_independence_g(tables["independent"])),
        "independence_test, chi_squared": share(_independence_x2(tables["independent"])),
        "overdispersion_test": share(_overdispersion(grouped)),
    }
    held = {
        name: _held(tables[name], np.stack([np.asarray(row, np.float64) for row in joint]), alpha)
        for name, joint in halves.items()
    }
    return Sizes(rejected, held)


def _multinomial(key: jax.Array, counts: jax.Array, pmf: jax.Array) -> jax.Array:
    """Return exact p-values of all dice, or for many rolls, simulated ones of the first dice."""
    num_rolls, faces = int(counts[0].sum()), len(pmf)
    if math.comb(num_rolls + faces - 1, faces - 1) <= MOST_TABLES:
        return xentjax.multinomial_test(counts, pmf, method="exact").p_value
    return xentjax.multinomial_test(
        counts[:SIMULATED_DICE],
        pmf,
        method="monte_carlo",
        key=key,
        num_samples=SIMULATED_TABLES,
    ).p_value


def _p_values(test: Callable[[jax.Array], xentjax.TestResult | xentjax.IndependenceTest]):
    """Compile the p-values of a test; under jit it also accepts tables without two columns."""
    return jax.jit(lambda tables: test(tables).p_value)


_independence_g = _p_values(xentjax.independence_test)
_independence_x2 = _p_values(
    lambda tables: xentjax.independence_test(tables, statistic="chi_squared")
)
_overdispersion = _p_values(xentjax.overdispersion_test)


@jax.jit
def _information_intervals(tables: jax.Array, alpha: jax.Array) -> jax.Array:
    return xentjax.independence_test(tables).mutual_information_interval(alpha)


def _held(tables: jax.Array, joint: NDArray[np.float64], alpha: float) -> Mean:
    """Return the share of the tables whose interval holds the information of `joint`."""
    joint = joint / joint.sum()
    ratio = joint / (joint.sum(0) * joint.sum(1, keepdims=True))
    # Exactly 0 for independent rows, without rounding errors.
    information = 0.0 if (joint[0] == joint[1]).all() else (joint * np.log(ratio)).sum()
    lower, upper = np.asarray(_information_intervals(tables, alpha), np.float64).T
    return Mean.of((lower <= information) & (information <= upper))
