"""The report of `compare`: tables of changes, and one line that says what is slower."""

from typing import Any, NamedTuple

import numpy as np

from benchmarks.compare.measure import Measured, Sample
from benchmarks.compare.rule import HEAD, LEVEL, NEEDED, Verdict, verdicts
from benchmarks.harness.tables import Sheet

LEAST_RUN, LEAST_COMPILE, LEAST_FIRST = 1.02, 1.1, 1.25
"""Smallest factors of change that matter, for a call, its compilation and the first call."""
LEGEND = (
    "change: head over base, median over the rounds within a generation of processes, mean over "
    "the generations; above 1× head is slower. control: the same of a second process of base",
    "least: the change that would have been called slower or faster here; tie: a smaller one. If "
    f"nothing has changed, {3 * LEVEL:.1%} of runs call anything slower or faster",
)
LEGEND_OF_START = (
    "compile: tracing, lowering and compilation; first: the first call after it; scratch: MB that "
    "XLA allocates beside inputs and outputs, the same in every run, so any change is one",
)


class Row(NamedTuple):
    """One case: its verdicts, medians in seconds by side, and scratch bytes."""

    name: str
    run: Verdict
    compile: Verdict
    first: Verdict
    medians: dict[str, list[float]]
    scratch: list[int | None]


class Comparison(NamedTuple):
    """Rows of all cases with samples, and the data needed to judge them."""

    base: str
    head: str
    rows: list[Row]
    measured: Measured
    generations: int

    def changed(self, word: str) -> list[str]:
        """Return the names of cases that are slower or faster, with their changes."""
        found = []
        for row in self.rows:
            of = {"": row.run, "compilation of ": row.compile, "first call of ": row.first}
            found += [
                f"{what}{row.name} {verdict.change:.2f}×"
                for what, verdict in of.items()
                if verdict.word == word
            ]
        return found

    def summary(self) -> str:
        """Write a line that names what got slower and what got faster."""
        if self.generations < NEEDED:
            return f"no verdict: it takes {NEEDED} generations of processes, got {self.generations}"
        slower, faster = self.changed("slower"), self.changed("faster")
        line = f"slower: {', '.join(slower)}" if slower else "nothing slower beyond the noise"
        return line + (f"; faster: {', '.join(faster)}" if faster else "")

    def sheets(self) -> list[Sheet]:
        """Make a table of starts and memory, and one of calls."""
        calls, starts = [], []
        for row in self.rows:
            base, head = (1e3 * row.medians["seconds"][side] for side in (0, HEAD))
            run = row.run
            figures = [f"{base:.3g}", f"{head:.3g}", f"{run.change:.3f}×", f"{run.control:.3f}×"]
            calls.append([row.name, "call", *figures, _times(run.least), run.word])
            old, new = (_megabytes(row.scratch[side]) for side in (0, HEAD))
            starts.append(
                [
                    row.name,
                    "start",
                    *(f"{row.medians['compile'][side]:.2f}" for side in (0, HEAD)),
                    *(f"{row.compile.change:.2f}×", row.compile.word),
                    *(f"{row.first.change:.2f}×", row.first.word),
                    *(old, new, "" if old == new else "changed"),
                ]
            )
        calls += [[name, "n/a", *[""] * 5, "n/a"] for name in self.measured.reasons]
        reasons = tuple(f"n/a, {name}: {why}" for name, why in self.measured.reasons.items())
        header = ["case", "", "base ms", "head ms", "change", "control", "least", "verdict"]
        header_of_start = [
            *("case", "", "base s", "head s", "compile", "verdict"),
            *("first call", "verdict", "base MB", "head MB", "scratch"),
        ]
        sheets = [
            Sheet("Compilation, first calls and memory", header_of_start, starts, LEGEND_OF_START),
            Sheet(f"Calls: {self.head} beside {self.base}", header, calls, (*LEGEND, *reasons)),
        ]
        return [sheet for sheet in sheets if sheet.rows]

    def as_json(self) -> dict[str, Any]:
        """Return all samples and verdicts."""
        return {
            "name": "compare",
            "base": self.base,
            "head": self.head,
            "generations": self.generations,
            "interrupted": self.measured.interrupted,
            "seed": self.measured.seed,
            "summary": self.summary(),
            "n/a": self.measured.reasons,
            "cases": [
                {
                    "name": row.name,
                    "run": row.run._asdict(),
                    "compile": row.compile._asdict(),
                    "first": row.first._asdict(),
                    "samples": [each._asdict() for each in self.measured.samples[row.name]],
                }
                for row in self.rows
            ],
        }


def comparison(base: str, head: str, measured: Measured, planned: int) -> Comparison:
    """Judge the samples; after Ctrl-C, only of generations that all cases have finished."""
    named = {name: each for name, each in measured.samples.items() if name not in measured.reasons}
    finished = min((len(each) for each in named.values()), default=0)
    if finished == 0:  # Ctrl-C in the first generation: only cases with a sample
        named = {name: each for name, each in named.items() if each}
        finished = min(1, len(named))
    if not named:
        return Comparison(base, head, [], measured, planned if not measured.interrupted else 0)
    samples = {name: each[:finished] for name, each in named.items()}
    run = np.array([[each.seconds for each in several] for several in samples.values()])
    compile_, first = (
        np.array([[[getattr(each, part)] for each in several] for several in samples.values()])
        for part in ("compile", "first")
    )
    families = (
        verdicts(run, LEAST_RUN),
        verdicts(compile_, LEAST_COMPILE),
        verdicts(first, LEAST_FIRST),
    )
    rows = [
        Row(name, *of_case, _medians(several), several[0].scratch)
        for (name, several), of_case in zip(
            samples.items(), zip(*families, strict=True), strict=True
        )
    ]
    return Comparison(base, head, rows, measured, finished)


def _medians(several: list[Sample]) -> dict[str, list[float]]:
    seconds = np.concatenate([np.array(each.seconds) for each in several])
    starts = {
        part: np.array([getattr(each, part) for each in several]) for part in ("compile", "first")
    }
    return {
        name: [float(x) for x in np.median(values, axis=0)]
        for name, values in ({"seconds": seconds} | starts).items()
    }


def _times(factor: float | None) -> str:
    return "unknown" if factor is None else f"{factor:.3f}×"


def _megabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:.3g}"
