"""Timing: fair turns, samples by round, ratios within rounds, compilation apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import timing
from tests.support.benchmarking import interrupting


class Workshop:
    """Thunks that cost what they say on a clock of their own, and a diary of their calls."""

    def __init__(self, **costs: float):
        self.now = 0.0
        self.calls: list[str] = []
        self.thunks = {name: lambda name=name: self._work(name, costs[name]) for name in costs}

    def _work(self, name: str, cost: float) -> None:
        self.calls.append(name)
        self.now += cost

    def clock(self) -> float:
        return self.now


def test_interleave_takes_turns_in_mirrored_and_moving_order():
    shop = Workshop(a=1.0, b=1.0, c=1.0)
    timing.interleave(shop.thunks, rounds=4, min_seconds=0.0, clock=shop.clock)
    warm_up, turns = shop.calls[:6], shop.calls[6:]
    assert warm_up == ["a", "a", "b", "b", "c", "c"]
    assert turns[::2] == turns[1::2]  # each turn: one call not timed, one timed
    assert "".join(turns[::2]) == "abc" + "cba" + "bca" + "acb"


def test_interleave_puts_every_thunk_equally_often_in_every_place():
    shop = Workshop(a=1.0, b=1.0, c=1.0, d=1.0)
    timing.interleave(shop.thunks, rounds=8, min_seconds=0.0, clock=shop.clock)
    rounds = np.array(shop.calls[8::2]).reshape(8, 4)
    for name in shop.thunks:
        np.testing.assert_array_equal(np.sum(rounds == name, axis=0), 2)


def test_interleave_repeats_short_calls_and_keeps_one_sample_a_round():
    shop = Workshop(short=0.25, long=2.0)
    samples = timing.interleave(shop.thunks, rounds=3, min_seconds=0.9, clock=shop.clock)
    assert samples == {"short": [0.25] * 3, "long": [2.0] * 3}
    assert shop.calls.count("short") == 2 + 3 * (1 + 4)
    assert shop.calls.count("long") == 2 + 3 * (1 + 1)


def test_interleave_does_not_time_the_warm_up():
    costs = iter([100.0, 1.0, 50.0, 1.0, 50.0, 2.0])
    shop = Workshop(a=0.0)

    def thunk():
        shop.now += next(costs)

    samples = timing.interleave({"a": thunk}, rounds=2, min_seconds=0.0, clock=shop.clock)
    assert samples == {"a": [1.0, 2.0]}


@pytest.mark.parametrize(("thunks", "rounds"), [({}, 1), ({"a": lambda: None}, 0)])
def test_interleave_refuses_nothing_to_do(thunks, rounds):
    with pytest.raises(ValueError, match="interleave: expected a thunk and a round"):
        timing.interleave(thunks, rounds=rounds)


def test_interrupted_rounds_leave_the_finished_ones():
    # 2 calls warm it up, each of its turns is 2 more: the fifth turn's call does not end
    thunks = {"a": lambda: None, "b": interrupting(2 + 4 * 2 + 2), "c": lambda: None}
    with pytest.raises(timing.Interrupted) as caught:
        timing.interleave(thunks, rounds=9, min_seconds=0.0)
    assert {name: len(each) for name, each in caught.value.samples.items()} == dict.fromkeys(
        thunks, 4
    )
    assert isinstance(caught.value, KeyboardInterrupt)


def test_ratio_is_the_median_within_rounds():
    slow_hour = 10.0
    ours = [1.0, 1.0 * slow_hour, 1.0]
    baseline = [2.0, 3.0 * slow_hour, 4.0]
    assert timing.ratio(baseline, ours) == 3.0
    with pytest.raises(ValueError, match="as many rounds of both, got 2 and 3"):
        timing.ratio(baseline[:2], ours)


def test_quartiles_and_geometric_mean():
    assert timing.quartiles([5.0, 1.0, 2.0, 4.0, 3.0]) == (2.0, 3.0, 4.0)
    assert timing.geometric_mean([2.0, 0.5]) == pytest.approx(1.0)
    assert timing.geometric_mean([1.0, 8.0, 1.0]) == pytest.approx(2.0)


def test_thread_state_feeds_a_donating_step_its_own_output():
    step = timing.compile_ahead_of_time(lambda x: x + 1.0, jnp.zeros(3), donate=(0,))
    thunk = timing.thread_state(step.call, jnp.zeros(3))
    thunk()
    thunk()
    np.testing.assert_array_equal(thunk(), 3.0)


def test_compile_ahead_of_time_times_compilation_and_counts_scratch_memory():
    ticks = iter([1.0, 3.5])
    compiled = timing.compile_ahead_of_time(
        lambda x: jnp.sort(x)[::-1] @ jnp.sin(x), jnp.ones(1000), clock=lambda: next(ticks)
    )
    assert compiled.compile_seconds == 2.5
    assert compiled.temp_bytes is not None
    assert compiled.temp_bytes >= 4000  # the sorted copy has to live somewhere


def test_compile_ahead_of_time_where_the_backend_does_not_tell_its_memory(monkeypatch):
    monkeypatch.setattr(jax.stages.Compiled, "memory_analysis", lambda self: None)
    assert timing.compile_ahead_of_time(jnp.sin, jnp.ones(3)).temp_bytes is None
