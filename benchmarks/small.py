"""Small calls: overhead of a loss under jit and eager, and of an import.

With 8 rows of 10 classes, arithmetic takes almost no time compared with Python, checks of arguments
and dispatch.
"""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import OURS
from benchmarks.harness.modes import jax_function
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table
from benchmarks.losses.implementations import JAX_LOSSES, problem

BASELINES = ("optax integer", "jax.nn")
PACKAGES = ("xentjax", "optax")
NOTES = (
    "mean loss of integer labels, float32; jit: a call of the jitted function, dispatch included; "
    "eager: the same without jit, which checks values as well",
    "compilation: of the jitted function, once",
)
LEGEND = ("calls/s: of xentjax",)
MIN_SECONDS = 0.02


def measure(case: cases.LossCase, session: Session) -> Cell:
    """Time calls of ours, of optax and of jax.nn, interleaved."""
    x, y = map(jnp.asarray, problem(case))
    how, _, mode = case.mode.partition(" ")
    thunks, compiled = {}, {}
    for name in (OURS, *filter(session.choice.has_rival, BASELINES)):
        function = jax_function(JAX_LOSSES[name], mode)
        if how == "jit":
            compiled[name] = timing.compile_ahead_of_time(function, x, y)
            function = jax.jit(function)
        thunks[name] = partial(function, x, y)
    seconds = session.interleave(thunks, ours=OURS, min_seconds=MIN_SECONDS)
    return Cell(
        case=case.name,
        mode=case.mode,
        again=seconds.pop(noise.AGAIN, None),
        seconds=seconds,
        work=1.0,
        compile_seconds={name: each.compile_seconds for name, each in compiled.items()},
        temp_bytes={name: each.temp_bytes for name, each in compiled.items()},
    )


def imports(session: Session) -> Table:
    """Time imports of packages in new processes that have already imported jax."""
    rows = []
    thunks = {package: partial(_import, package) for package in PACKAGES}
    found: dict[str, list[float]] = {package: [] for package in PACKAGES}
    for _ in range(min(session.rounds, 5)):
        for package, thunk in thunks.items():
            found[package].append(thunk())
    for package, samples in found.items():
        lower, median, upper = timing.quartiles(samples)
        ratio = noise.interval(samples, found[PACKAGES[0]])
        spread = f"±{(upper - lower) / 2 / median:.0%}"
        rows.append(("import", package, 1e3 * median, spread, ratio.median, ratio.text()))
    return Table(
        "Imports after jax",
        ("what", "package", "ms", "spread", f"time / {PACKAGES[0]}", "interval"),
        tuple(rows),
    )


def _import(package: str) -> float:
    code = (
        "import time, jax; begin = time.perf_counter(); "
        f"import {package}; print(time.perf_counter() - begin)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def run(session: Session) -> Result:
    """Measure every size and mode, then the imports."""
    limits = machine.measure(quick=session.quick)
    table = cases.SMALL_QUICK if session.quick else cases.SMALL
    cells = session.collect(
        "small calls",
        [(f"{case.name} {case.mode}", case) for case in table],
        lambda case: measure(case, session),
    )
    tables = session.collect("imports", [("imports", None)], lambda _: imports(session))
    return Result(
        name="small",
        ours=OURS,
        baselines=tuple(filter(session.choice.has_rival, BASELINES)),
        unit="calls/s",
        cells=tuple(cells),
        machine=limits,
        notes=NOTES,
        legend=LEGEND,
        extent=session.extent,
        tables=tuple(tables),
    )
