"""The noise floor: intervals that repeat, ties, and a second turn for ours in every round."""

import dataclasses
import json

import numpy as np
import pytest

from benchmarks.harness import noise, output, timing
from benchmarks.harness.noise import Interval
from tests.support.benchmarking import RESULT, session

NOISY = dataclasses.replace(
    RESULT.cells[0],
    again=[0.001, 0.002, 0.0048],  # 1, 1 and 1.2 times ours
)


def test_an_interval_is_of_ratios_within_rounds_and_repeats_exactly():
    rng = np.random.default_rng(1)
    drift = np.exp(rng.normal(0, 1, 15))
    ratios = rng.uniform(1.9, 2.1, 15)
    found = noise.interval(list(ratios * drift), list(drift))
    assert found == noise.interval(list(ratios * drift), list(drift))
    assert found.median == pytest.approx(np.median(ratios))
    assert 1.9 < found.lower < found.median < found.upper < 2.1
    assert noise.interval([2.0, 4.0], [1.0, 2.0]) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="as many rounds of both, got 1 and 2"):
        noise.interval([1.0], [1.0, 2.0])


def test_intervals_of_a_true_ratio_of_one_cover_it():
    """Percentile intervals of a median are a little narrow: nominally 95 %."""
    rng = np.random.default_rng(2)
    samples = np.exp(rng.normal(0, 0.1, (400, 2, 15)))
    found = [noise.interval(list(a), list(b)) for a, b in samples]
    assert np.mean([each.lower <= 1 <= each.upper for each in found]) > 0.88


@pytest.mark.parametrize(
    ("found", "floor", "tie"),
    [
        ((1.2, 1.1, 1.3), (1.0, 0.97, 1.03), False),
        ((0.8, 0.7, 0.9), (1.0, 0.97, 1.03), False),
        ((1.0, 0.98, 1.1), (1.0, 1.0, 1.0), True),  # contains 1
        ((1.05, 1.02, 1.1), (1.0, 0.97, 1.03), True),  # overlaps the noise
        ((0.95, 0.9, 0.96), (0.9, 0.85, 0.95), True),
        ((0.95, 0.95, 0.96), (1.05, 1.04, 1.06), True),  # noise has no direction
        ((0.93, 0.93, 0.94), (1.05, 1.04, 1.06), False),
    ],
)
def test_a_tie_contains_one_or_overlaps_the_noise(found, floor, tie):
    interval, floor = Interval(*found), Interval(*floor)
    assert interval.ties(floor) == tie
    assert interval.judged(floor).endswith(" tie") == tie
    assert interval.judged(None) == interval.text()


def test_ours_runs_twice_a_round_and_not_beside_itself():
    calls = []
    names = ("ours", "a", "b", "c")
    thunks = {name: lambda name=name: calls.append(name) for name in names}
    samples = session().interleave(thunks, ours="ours", min_seconds=0.0)
    assert {*samples} == {*names, noise.AGAIN}
    assert len(samples[noise.AGAIN]) == 3
    assert calls.count("ours") == 2 * calls.count("a")
    order = calls[10:20:2]  # the first round: a call that is not timed, then one that is
    first, second = (place for place, name in enumerate(order) if name == "ours")
    assert second - first > 1


def test_rounds_end_with_the_seconds_but_not_before_the_third():
    now = [0.0]

    def tick():
        now[0] += 1.0

    def rounds(seconds):
        found = timing.interleave(
            {"a": tick}, rounds=9, seconds=seconds, min_seconds=0.0, clock=lambda: now[0]
        )
        return len(found["a"])

    # a round is two calls of a second each
    assert (rounds(10.0), rounds(11.9), rounds(0.0), rounds(100.0)) == (5, 5, 3, 9)


def test_tables_print_ties_as_ties_and_the_noise_beside_them():
    tied = dataclasses.replace(NOISY, seconds=NOISY.seconds | {"torch": [0.00105, 0.0021, 0.0042]})
    result = dataclasses.replace(RESULT, cells=(tied, RESULT.cells[1]))
    text = output.markdown(result)
    assert "| case | mode | ms | ± | GB/s | limit | noise | optax | torch | best |" in text
    assert "| 50% | 1.00–1.20 | 3.00× | 1.05× tie | 1.05× tie |" in text
    assert "| 8 × 4 | value_and_grad | 4.00 | ±0% | 5.00 | - | - | 0.50× |" in text
    assert "**95% intervals of the multiples**" in text
    assert "| 8 × 4 | forward | 3.00–3.00 | 1.05–1.05 |" in text
    assert "noise: that of the same program" in text
    by_row = output.markdown(dataclasses.replace(result, row_per_implementation=True))
    assert (
        "| 8 × 4, forward | xentjax | 2.00 | ±38% | 10.0 | 50% | 1.00× | 1.00–1.20 | 0 |" in by_row
    )
    assert "| 1.05× tie | 1.05–1.05 | unknown |" in by_row
    (first, second) = json.loads(json.dumps(result.as_json()))["cells"]
    assert first["again"]["upper"] == pytest.approx(1.2)
    assert first["implementations"]["torch"]["tie"]
    assert not first["implementations"]["optax"]["tie"]
    assert "again" not in second
    assert "tie" not in second["implementations"]["optax"]
    assert len(result.figure().axes[0].patches) == 1
