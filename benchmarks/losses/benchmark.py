"""Softmax cross-entropy with integer labels, mean over rows: ours, optax, jax.nn and torch.

Each implementation is compiled for one mode: forward, loss and gradient, or an SGD step on the
logits that reuses their buffer.
"""

from types import ModuleType

import jax.numpy as jnp

from benchmarks.harness import cases, machine, noise, timing
from benchmarks.harness.baselines import NO_TORCH, OURS, TORCH, load_torch
from benchmarks.harness.modes import jax_function
from benchmarks.harness.report import Cell, Result
from benchmarks.harness.session import Session
from benchmarks.losses import keywords
from benchmarks.losses.implementations import JAX_LOSSES, problem, torch_thunk

NOTES = (
    "float32 logits, integer labels, mean over rows; all interleaved in one process",
    "naive: -sum(one_hot * log_softmax) by hand; jax.nn: log_softmax + take_along_axis; "
    "SGD step: logits - 0.1 * gradient in the donated buffer of the logits (torch: in place)",
)
LEGEND = (
    "GB/s: bytes a second; forward reads the logits once; value_and_grad and the SGD step read "
    "them twice (statistics, then gradient) and write them once",
    "limit: the time this machine needs to move those bytes and do nothing else, as a share of "
    "xentjax's time; measured in the same rounds on an array of the same shape (its sum; x + 1 "
    "into a fresh buffer for the gradient, into the donated one for the SGD step). The second read "
    "of a row that is still in the cache is free, so a share above 100% is possible",
)


def measure(case: cases.LossCase, torch: ModuleType | None, session: Session) -> Cell:
    """Compile and time all implementations of one case, interleaved with the machine's limits."""
    logits, labels = problem(case)
    donated = case.mode == "SGD step"
    x, y = jnp.asarray(logits), jnp.asarray(labels)
    thunks: dict[str, timing.Thunk] = {}
    compiled: dict[str, timing.Compiled] = {}
    for name, loss in JAX_LOSSES.items():
        if name != OURS and not session.choice.has_rival(name):
            continue
        session.say(f"compiling {name}", log=False)
        function = jax_function(loss, case.mode)
        compiled[name] = timing.compile_ahead_of_time(
            function, x, y, donate=(0,) if donated else ()
        )
        call = compiled[name].call
        if donated:
            thunks[name] = timing.thread_state(lambda x, call=call: call(x, y), jnp.array(x))
        else:
            thunks[name] = lambda call=call: call(x, y)
    if torch is not None:
        thunks[TORCH] = torch_thunk(torch, logits, labels, case.mode)

    floor = machine.traffic(case.shape)
    passes = {
        "forward": ("read",),
        "value_and_grad": ("read", "fresh"),
        "SGD step": ("read", "update"),
    }[case.mode]
    seconds = session.interleave(thunks | {name: floor[name] for name in passes}, ours=OURS)
    limits = [seconds.pop(name) for name in passes]
    return Cell(
        case=case.name,
        mode=case.mode,
        again=seconds.pop(noise.AGAIN, None),
        seconds=seconds,
        work=(1 if case.mode == "forward" else 3) * logits.nbytes / 1e9,
        limit_seconds=[sum(parts) for parts in zip(*limits, strict=True)],
        temp_bytes={name: c.temp_bytes for name, c in compiled.items()},
        compile_seconds={name: c.compile_seconds for name, c in compiled.items()},
    )


def run(session: Session) -> Result:
    """Measure every case, then the cost of keywords."""
    limits = machine.measure(quick=session.quick)
    rivals = [
        name for name in (*JAX_LOSSES, TORCH) if name != OURS and session.choice.has_rival(name)
    ]
    torch = load_torch() if TORCH in rivals else None
    table = cases.LOSSES_QUICK if session.quick else cases.LOSSES
    cells = session.collect(
        "cross-entropy",
        [(f"{case.name} {case.mode}", case) for case in table],
        lambda case: measure(case, torch, session),
    )
    costs = keywords.measure(cases.KEYWORDS_QUICK if session.quick else cases.KEYWORDS, session)
    return Result(
        name="losses",
        ours=OURS,
        baselines=tuple(rivals),
        unit="GB/s",
        cells=tuple(cells),
        machine=limits,
        notes=(*NOTES, *([NO_TORCH] if TORCH in rivals and torch is None else [])),
        legend=LEGEND,
        extent=session.extent,
        tables=(costs,) if costs.rows else (),
    )
