"""An accelerator in one run: accuracy, limits, kernels compared with rivals, and a training.

The most important cases run first. When the session's time is over, no further case begins, and the
finished ones are reported.
"""

from functools import partial

from benchmarks import kernels, training
from benchmarks.device import accuracy
from benchmarks.harness import machine, timing
from benchmarks.harness.report import Result
from benchmarks.harness.session import Session
from benchmarks.harness.tables import Table

PRESET, SEEDS = "airbench94", (0, 1, 2)


def run(session: Session) -> Result:
    """Measure everything; failures leave a note.

    Raises:
        NotImplementedError: this backend has no kernel.
    """
    kernel = kernels.kernel_of_backend()
    implementations = {kernels.OURS: kernel, kernels.XLA: "xla"}
    quick = session.quick
    parts = [
        *(
            (f"logits {shape[0]} × {shape[1]} {dtype}", partial(accuracy.of_logits, shape, dtype))
            for shape in (accuracy.SHAPES_QUICK if quick else accuracy.SHAPES)
            for dtype in accuracy.DTYPES
        ),
        *(
            (f"{name} {dtype}", partial(of, dtype, quick=quick))
            for name, of in (("layer", accuracy.of_layer), ("head", accuracy.of_head))
            for dtype in accuracy.DTYPES
        ),
    ]
    found = session.collect(
        "accuracy",
        parts,
        lambda part: session.attempt("accuracy", lambda: part(implementations=implementations)),
    )
    errors = accuracy.table_of([row for rows in found if rows is not None for row in rows])
    limits = machine.measure(quick=quick, packages=tuple(kernels.PACKAGES.values()))
    rates = session.collect("limits", [("", None)], lambda _: _rates(limits, session))
    measured = kernels.measure_parts(kernel, session)
    trained = training.accuracies(PRESET, SEEDS, session)
    return kernels.report("device", measured, limits, session, errors, *rates, trained)


def _rates(limits: machine.Machine, session: Session) -> Table:
    """Measure copies and large matrix products, the limits to which all else is compared."""
    rows: list[tuple[str | float | None, ...]] = [
        ("copy", "x + 1 into a fresh buffer", limits.fresh_bandwidth, "GB/s, read + write"),
        ("copy", "x + 1 in its own buffer", limits.update_bandwidth, "GB/s, read + write"),
        ("read", "sum", limits.read_bandwidth, "GB/s"),
    ]
    for dtype in ("float32", "bfloat16"):
        product, flops = machine.product(dtype, quick=session.quick)
        (samples,) = session.interleave({dtype: product}).values()
        rate = flops / timing.quartiles(samples).median / 1e12
        rows.append(("matrix product", dtype, rate, "TFLOP/s"))
    return Table("Limits of this device", ("limit", "what", "rate", "unit"), tuple(rows))
