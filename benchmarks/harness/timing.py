"""Timing: implementations interleaved in one process and compared round by round.

Shared machines drift: the same call can take three times as long an hour later. Every
implementation therefore runs once in every round, and a ratio is the median of the ratios *within*
the rounds, which a slow minute does not change.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

Thunk = Callable[[], Any]
Samples = dict[str, list[float]]  # seconds per call, one entry per round
LEAST_ROUNDS = 3


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during `interleave`; `samples` are those of the finished rounds."""

    def __init__(self, samples: Samples) -> None:
        super().__init__()
        self.samples = samples


class Quartiles(NamedTuple):
    """Lower quartile, median and upper quartile of the samples."""

    lower: float
    median: float
    upper: float


def interleave(
    thunks: Mapping[str, Thunk],
    *,
    rounds: int = 15,
    seconds: float = math.inf,
    min_seconds: float = 0.01,
    settle: bool = True,
    on_turn: Callable[[int, str], None] = lambda number, name: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Samples:
    """Time every thunk once per round and return its seconds per call, round by round.

    A call ends when its result is ready. Calls shorter than `min_seconds` are repeated within one
    sample until they fill it. Every turn begins with a call that is not timed, which restores the
    caches and thread pools that the previous thunk used. Two calls of each thunk at the very start,
    not recorded either, warm it up and choose the number of repeats.

    Args:
        thunks: the calls to time, by name; each returns arrays (or nothing) and may keep state.
        rounds: number of samples of each thunk; fewer if `seconds` ends them.
        seconds: begin no round that would end later than this, warm-up excluded; at least
            `LEAST_ROUNDS` are run.
        min_seconds: the shortest sample, in seconds.
        settle: begin every turn with an untimed call; calls of seconds do not need it.
        on_turn: called before each turn with the round, from 1, and the name; round 0 is the
            warm-up.
        clock: the time in seconds.

    Raises:
        Interrupted: Ctrl-C; it holds the samples of the rounds that were finished.
    """
    if not thunks or rounds < 1:
        raise ValueError(
            f"interleave: expected a thunk and a round, got {len(thunks)} and {rounds}"
        )
    repeats = {}
    samples: Samples = {name: [] for name in thunks}
    try:
        for name, thunk in thunks.items():
            on_turn(0, name)
            seconds_per_call(thunk, 1, clock)
            one_call = seconds_per_call(thunk, 1, clock)
            repeats[name] = max(1, math.ceil(min_seconds / one_call)) if one_call > 0 else 1
        begin = clock() if seconds < math.inf else 0.0
        for number, order in enumerate(_orders(list(thunks), rounds), 1):
            done = number - 1
            if done >= LEAST_ROUNDS and seconds < math.inf:
                passed = clock() - begin
                if passed + passed / done > seconds:
                    break
            for name in order:
                on_turn(number, name)
                if settle:
                    jax.block_until_ready(thunks[name]())
                samples[name].append(seconds_per_call(thunks[name], repeats[name], clock))
    except KeyboardInterrupt:
        finished = min(map(len, samples.values()))
        raise Interrupted({name: each[:finished] for name, each in samples.items()}) from None
    return samples


def _orders(names: Sequence[str], rounds: int) -> Iterator[Sequence[str]]:
    """Yield each order and then its mirror image; every pair starts one name later.

    A steady drift within a round cancels between an order and its mirror, and after 2 * len(names)
    rounds every name has had every position equally often.
    """
    for index in range(rounds):
        start = (index // 2) % len(names)
        order = [*names[start:], *names[:start]]
        yield order[::-1] if index % 2 else order


def once(thunk: Thunk, *, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds of the first call, for calls that take too long to repeat."""
    return seconds_per_call(thunk, 1, clock)


def seconds_per_call(
    thunk: Thunk, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Return the mean time of `repeats` calls, which includes releasing the results."""
    begin = clock()
    for _ in range(repeats):
        jax.block_until_ready(thunk())
    return (clock() - begin) / repeats


def thread_state(step: Callable[[Any], Any], state: Any) -> Thunk:
    """Make a thunk that feeds `step` its own last output; steps with a donated input need it."""

    def thunk() -> Any:
        nonlocal state
        state = step(state)
        return state

    return thunk


@dataclass(frozen=True)
class Compiled:
    """A compiled function, the time of its compilation and the memory it allocates.

    `temp_bytes` is XLA's scratch memory without outputs; None if the backend does not report it.
    """

    call: Callable[..., Any]
    compile_seconds: float
    temp_bytes: int | None


def compile_ahead_of_time(
    function: Callable[..., Any],
    *args: Any,
    donate: tuple[int, ...] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Compiled:
    """Trace, lower and compile `function` for these arguments, and time it."""
    begin = clock()
    call = jax.jit(function, donate_argnums=donate).lower(*args).compile()
    seconds = clock() - begin
    memory = call.memory_analysis()
    return Compiled(call, seconds, None if memory is None else memory.temp_size_in_bytes)


def quartiles(samples: Sequence[float]) -> Quartiles:
    """Return the lower quartile, median and upper quartile."""
    return Quartiles(*(float(value) for value in np.quantile(samples, (0.25, 0.5, 0.75))))


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median over rounds of numerator / denominator within the round."""
    if len(numerator) != len(denominator):
        raise ValueError(
            f"ratio: expected as many rounds of both, got {len(numerator)} and {len(denominator)}"
        )
    return float(np.median(np.asarray(numerator) / np.asarray(denominator)))


def geometric_mean(ratios: Sequence[float]) -> float:
    """Return the mean for ratios, in which 2 and 1/2 cancel."""
    return math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
