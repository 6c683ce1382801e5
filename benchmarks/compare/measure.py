"""Rounds of three processes: base, control and head, which are new in every generation."""

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
"""Time for the rounds of a case in one generation, and the number of rounds that always run."""


class Sample(NamedTuple):
    """One case in one generation, with an entry for each side.

    Attributes:
        seconds: time of a call, [rounds][sides].
        compile: time of tracing, lowering and compilation.
        first: time of the first call.
        scratch: bytes that XLA allocates besides inputs and outputs.
    """

    seconds: list[list[float]]
    compile: list[float]
    first: list[float]
    scratch: list[int | None]


class Measured(NamedTuple):
    """Samples of each case, one per finished generation, and the reasons why cases failed."""

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
    """Run every case in every generation; after Ctrl-C, return the finished samples.

    Every run draws new orders, so that each of the three processes is equally likely to be first.
    """
    base, head = folders
    seed = int(np.random.SeedSequence().entropy % 2**63)  # pyright: ignore[reportOperatorIssue]
    rng = np.random.default_rng(seed)
    planned: dict[str, int] = {}  # rounds of a case, the same in all generations
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
    """Check that each worker has imported the package of its tree."""
    for worker, folder in zip(workers, folders, strict=True):
        found = Path(worker.ask(do="hello")["package"]).resolve()
        if found != (folder / "xentjax").resolve():
            raise RuntimeError(f"worker: expected xentjax of {folder}, got {found}")


class _Loaded(NamedTuple):
    """Answers of the three sides, and the median seconds of a call."""

    answers: list[dict[str, Any]]
    call: float

    @property
    def repeats(self) -> int:
        """Number of calls per turn, the same for all three sides."""
        return _repeats(self.call)


def _repeats(call: float) -> int:
    return max(1, math.ceil(MIN_SECONDS / max(call, 1e-9)))


def _fitting_rounds(call: float) -> int:
    """Return the number of rounds that fit: three turns each, with an untimed call in each."""
    return max(LEAST_ROUNDS, int(SECONDS / (3 * (1 + _repeats(call)) * max(call, 1e-9))))


def _load(workers: Sequence[Worker], name: str, rng: np.random.Generator) -> _Loaded | str:
    """Load a case in all three, or return the reason why one of them cannot."""
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
    """Draw random orders, each followed by its mirror image, so that a steady drift cancels."""
    pairs = (rng.permutation(3) for _ in range((rounds + 1) // 2))
    return [order for one in pairs for order in (one, one[::-1])][:rounds]
