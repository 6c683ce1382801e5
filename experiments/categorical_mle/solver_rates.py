"""How fast each solver of the categorical maximum likelihood comes down to the closed form.

In the end a step multiplies KL(p || q), p = counts / N, by

    solver                  every class occurs    one never does
    gradient descent        (1 - eta lambda)^2    1: KL falls as 1 / t
    natural gradient        (1 - eta)^2           1 - eta
    exponentiated gradient  (1 - eta)^2           exp(-eta)
    Newton                  0: quadratic          exp(-1)

with the least positive eigenvalue lambda of diag p - p p^T, of those that a path from the uniform
pmf meets. Adam and Rprop, which adapt their steps, have no such law.
"""

import math

import jax
import numpy as np
import optax
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.table import Table

import xentjax
from experiments.common import plots
from experiments.common.tables import new_table

solvers = xentjax.categorical.solvers

ETA = {"gradient descent": 1.0, "natural gradient": 0.5, "exponentiated gradient": 0.2}
SOLVERS = {
    "gradient descent": solvers.gradient_descent(optax.sgd(ETA["gradient descent"])),
    "Adam": solvers.gradient_descent(optax.adam(0.1)),
    "Rprop": solvers.gradient_descent(optax.rprop(0.1)),
    "exponentiated gradient": solvers.exponentiated_gradient(ETA["exponentiated gradient"]),
    "natural gradient": solvers.natural_gradient(ETA["natural gradient"]),
    "Newton": solvers.newton(),
}
STYLES = ("-", "--", "-.", "-", "--", "-")
MAX_STEPS = 1000
TOLERANCE = 1e-8  # duality gap in nats a sample
END = 10.0  # the rate is that of the steps in which KL falls by this factor to its last value

Fits = dict[str, xentjax.CategoricalFit]


def fit_by_steps(counts: jax.Array) -> Fits:
    """Solver -> its fit."""
    return {
        name: xentjax.fit_categorical(counts, solver=solver, max_steps=MAX_STEPS, tol=TOLERANCE)
        for name, solver in SOLVERS.items()
    }


def path(fit: xentjax.CategoricalFit) -> NDArray[np.float32]:
    """KL(p || q) after each step that was taken, in nats."""
    return np.asarray(fit.history[: int(fit.steps)])


def theory(counts: jax.Array) -> dict[str, float]:
    """Solver -> the factor of KL a step in the end, for the solvers that have a law."""
    p = np.asarray(counts, np.float64)
    p /= p.sum()
    if p.min() > 0:
        curvature = dict.fromkeys(ETA, 1.0) | {"gradient descent": least_curvature(p)}
        return {name: (1 - eta * curvature[name]) ** 2 for name, eta in ETA.items()} | {
            "Newton": 0.0
        }
    return {
        "gradient descent": 1.0,
        "natural gradient": 1 - ETA["natural gradient"],
        "exponentiated gradient": math.exp(-ETA["exponentiated gradient"]),
        "Newton": math.exp(-1),
    }


def least_curvature(p: NDArray[np.float64]) -> float:
    """The least positive eigenvalue of diag p - p p^T that matters, for p > 0; NaN of a uniform p.

    From the uniform pmf classes of equal p_k stay equal, so their differences do not matter. Then
    it lies between the two smallest p_k that differ, where sum_k p_k^2 / (p_k - lambda) = 1, and
    that sum grows with lambda.
    """
    distinct = np.unique(p)
    if len(distinct) == 1:
        return math.nan
    low, high = distinct[:2]
    while low < (middle := (low + high) / 2) < high:
        if (p**2 / (p - middle)).sum() < 1:
            low = middle
        else:
            high = middle
    return float(middle)


def measured(fit: xentjax.CategoricalFit) -> float:
    """The factor of KL a step towards the end of the path, a geometric mean; NaN of one step."""
    kl = path(fit).astype(np.float64)
    if len(kl) < 2:
        return math.nan
    start = min(int(np.argmax(kl <= END * kl[-1])), len(kl) - 2)
    return float((kl[-1] / kl[start]) ** (1 / (len(kl) - 1 - start)))


def table(counts: jax.Array, fits: Fits) -> Table:
    """The rates in print, theory beside measurement."""
    expected = theory(counts)
    headings = ("solver", "eta", "theory", "measured", "steps", "KL, nats", "done")
    table = new_table("What a step multiplies KL(p || q) by in the end", headings)
    for name, fit in fits.items():
        table.add_row(
            name,
            f"{ETA[name]:g}" if name in ETA else "",
            _factor(expected.get(name, math.nan)),
            _factor(measured(fit)),
            str(fit.steps),
            f"{path(fit)[-1]:.1e}" if int(fit.steps) else "0",
            "yes" if fit.converged else "no",
        )
    return table


def _factor(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4g}"


def draw(counts: jax.Array, fits: Fits) -> Figure:
    """Each solver's way down to the closed form, beside the rate that theory promises."""
    expected = theory(counts)
    figure, axes = plots.subplots(height=4.8)
    ax = axes[0, 0]
    lowest = TOLERANCE
    for (name, fit), style in zip(fits.items(), STYLES, strict=False):
        kl = path(fit)
        steps = np.arange(1, len(kl) + 1)
        label = f"{name}, η = {ETA[name]:g}" if name in ETA else name
        (line,) = ax.plot(steps, kl, style, linewidth=2, label=label)
        lowest = min([lowest, *kl[kl > 0]])
        factor = expected.get(name, 0.0)
        if 0 < factor < 1 and len(kl):
            law = kl[-1] * factor ** (steps - len(kl))
            ax.plot(steps, law, ":", color=line.get_color(), linewidth=1.2)
    ax.plot([], [], ":", color="0.3", linewidth=1.2, label="rate in theory")
    ax.axhline(TOLERANCE, color=plots.GREY, linewidth=1)
    ax.annotate(
        f"stops here: {TOLERANCE:.0e}",
        (1, TOLERANCE),
        (4, 4),
        textcoords="offset points",
        color="0.3",
    )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(1, max(10, *(1.3 * int(fit.steps) for fit in fits.values())))
    ax.set_ylim(lowest / 3, 1)
    ax.set_xlabel("steps from the uniform pmf")
    ax.set_ylabel("KL(counts / N || q), nats")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure
