"""Rounds of three processes: base, control and head, in new processes every generation."""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.compare.rule import SIDES
from benchmarks.compare.worker import MIN_SECONDS, Worker

Say = Callable[[str], None]

SECONDS, LEAST_ROUNDS = 3.0, 6
"""The time for the rounds of a case in one generation, and the rounds that are run however long."""


class Sample(NamedTuple):
    """One case in one generation; each entry by side.

    Attributes:
        seconds: a call, [rounds][sides].
        compile: tracing, lowering and compilation.
        first: the first call after it.
        scratch: bytes that XLA allocates beside inputs and outputs.
    """

    seconds: list[list[float]]
    compile: list[float]
    first: list[float]
    scratch: list[int | None]


class Measured(NamedTuple):
    """Samples of each case, one a finished generation, and why others have none."""

    samples: dict[str, list[Sample]]
    reasons: dict[str, str]
    seed: int
    interrupted: bool = False


def measure(
    folders: tuple[Path, Path],
    names: Sequence[str],
    *,
    generations: int,
    rounds: int,
    quick: bool,
    say: Say,
) -> Measured:
    """Run every case in every generation; Ctrl-C leaves what was finished.

    Orders are drawn anew in every run: only then is any of the three as likely to come first.
    """
    base, head = folders
    seed = int(np.random.SeedSequence().entropy % 2**63)  # pyright: ignore[reportOperatorIssue]
    rng = np.random.default_rng(seed)
    planned: dict[str, int] = {}  # the rounds of a case, the same in all generations
    samples: dict[str, list[Sample]] = {name: [] for name in names}
    reasons: dict[str, str] = {}
    try:
        for generation in range(1, generations + 1):
            with ExitStack() as stack:
                workers = [
                    stack.enter_context(Worker(folder, quick=quick))
                    for folder in (base, base, head)
                ]
                _check_packages(workers, (base, base, head))
                for number, name in enumerate(names, 1):
                    if name in reasons:
                        continue
                    say(
                        f"processes {generation} of {generations}, case {number} of {len(names)}, "
                        f"{name}"
                    )
                    loaded = _load(workers, name, rng)
                    if isinstance(loaded, str):
                        reasons[name] = loaded
                        continue
                    if name not in planned:
                        planned[name] = min(rounds, _fitting_rounds(loaded.call))
                    samples[name].append(_sample(workers, loaded, planned[name], rng))
    except KeyboardInterrupt:
        return Measured(samples, reasons, seed, interrupted=True)
    return Measured(samples, reasons, seed)


def _check_packages(workers: Sequence[Worker], folders: Sequence[Path]) -> None:
    """Require each worker to have imported the package of its tree."""
    for worker, folder in zip(workers, folders, strict=True):
        found = Path(worker.ask(do="hello")["package"]).resolve()
        if found != (folder / "xentjax").resolve():
            raise RuntimeError(f"worker: expected xentjax of {folder}, got {found}")


class _Loaded(NamedTuple):
    """The answers of the three sides, and the median seconds of a call."""

    answers: list[dict[str, Any]]
    call: float

    @property
    def repeats(self) -> int:
        """Number of calls of a turn, the same for all three."""
        return _repeats(self.call)


def _repeats(call: float) -> int:
    return max(1, math.ceil(MIN_SECONDS / max(call, 1e-9)))


def _fitting_rounds(call: float) -> int:
    """The number of rounds, each of three turns that begin with a call that is not timed."""
    return max(LEAST_ROUNDS, int(SECONDS / (3 * (1 + _repeats(call)) * max(call, 1e-9))))


def _load(workers: Sequence[Worker], name: str, rng: np.random.Generator) -> _Loaded | str:
    """Load a case in all three; or the reason why one of them cannot."""
    loaded: list[dict[str, Any]] = [{}, {}, {}]
    for side in rng.permutation(3):
        loaded[side] = workers[side].ask(do="load", name=name)
    for side in (0, 2):
        if "reason" in loaded[side]:
            return f"{SIDES[side]}: {loaded[side]['reason']}"
    return _Loaded(loaded, float(np.median([each["call"] for each in loaded])))


def _sample(
    workers: Sequence[Worker], loaded: _Loaded, rounds: int, rng: np.random.Generator
) -> Sample:
    """Run a loaded case in turns."""
    seconds = []
    for order in _orders(rounds, rng):
        turn = [0.0, 0.0, 0.0]
        for side in order:
            turn[side] = workers[side].ask(do="run", repeats=loaded.repeats)["seconds"]
        seconds.append(turn)
    return Sample(
        seconds,
        [each["compile"] for each in loaded.answers],
        [each["first"] for each in loaded.answers],
        [each["scratch"] for each in loaded.answers],
    )


def _orders(rounds: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Random orders, each followed by its mirror image, in which a steady drift cancels."""
    pairs = (rng.permutation(3) for _ in range((rounds + 1) // 2))
    return [order for one in pairs for order in (one, one[::-1])][:rounds]
