"""Means of a few runs against scipy, and the number of runs that show a difference."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from experiments.common.estimates import Estimate


@pytest.mark.parametrize("n", [2, 3, 5, 40])
def test_an_estimate_is_scipys(n):
    values = np.random.default_rng(n).normal(0.94, 0.002, n)
    estimate = Estimate.of(values.tolist())
    assert estimate.n == n
    assert estimate.mean == pytest.approx(math.fsum(values) / n, rel=1e-14)
    assert estimate.sd == pytest.approx(stats.tstd(values), rel=1e-9)
    assert estimate.standard_error == pytest.approx(stats.sem(values), rel=1e-9)
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (estimate.lower, estimate.upper) == pytest.approx((interval.low, interval.high))


def test_one_value_has_a_mean_and_no_spread():
    estimate = Estimate.of([0.5])
    assert (estimate.n, estimate.mean) == (1, 0.5)
    assert math.isnan(estimate.sd)
    assert math.isnan(estimate.standard_error)
    assert (estimate.lower, estimate.upper) == (-math.inf, math.inf)


def test_an_interval_ends_where_no_mean_can_be():
    free = Estimate.of([0.9, 0.7])
    assert free.lower < 0 < 1 < free.upper
    held = Estimate.of([0.9, 0.7], least=0.0, most=1.0)
    assert dataclasses.replace(held, lower=free.lower, upper=free.upper) == free
    assert (held.lower, held.upper) == (0, 1)
    loose = Estimate.of([0.9, 0.7], least=-10.0, most=10.0)
    assert loose == free


def test_equal_values_are_known_exactly():
    estimate = Estimate.of([0.25] * 3)
    assert (estimate.sd, estimate.lower, estimate.upper) == (0, 0.25, 0.25)
    assert estimate.runs_to_see(0.001) == 2


def share_seen(draws: np.ndarray) -> float:
    """Compute the share of rows whose mean a t test at 5 % distinguishes from 0."""
    t = draws.mean(1) / stats.sem(draws, axis=1)
    return float(np.mean(np.abs(t) > stats.t.ppf(0.975, draws.shape[1] - 1)))


@pytest.mark.parametrize("difference", [0.001, -0.004, 0.02])
def test_so_many_runs_see_the_difference_four_times_in_five(difference):
    """Draw as many runs, and one fewer, and compare the power."""
    estimate = Estimate.of([0.001, 0.004, -0.002, 0.002, 0.0])
    n = estimate.runs_to_see(difference)
    draws = np.random.default_rng(0).normal(difference, estimate.sd, (40_000, n))
    assert share_seen(draws) > 0.79
    if n > 2:
        assert share_seen(draws[:, 1:]) < 0.81


def test_the_number_of_runs_is_that_of_the_textbook():
    # Cohen's d of 1, paired, two-sided: 10 pairs; of 0.5: 34
    sd_of_1 = Estimate.of([-math.sqrt(0.5), math.sqrt(0.5)])
    assert sd_of_1.runs_to_see(1.0) == 10
    assert sd_of_1.runs_to_see(-0.5) == 34
