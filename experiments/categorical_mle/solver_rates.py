"""The rate at which each solver of the categorical MLE converges to the closed form.

Asymptotically a step multiplies KL(p || q), p = counts / N, by

    solver                  all classes occur     one does not
    gradient descent        (1 - eta lambda)^2    1: KL falls as 1 / t
    natural gradient        (1 - eta)^2           1 - eta
    exponentiated gradient  (1 - eta)^2           exp(-eta)
    Newton                  0: quadratic          exp(-1)

where lambda is the least positive eigenvalue of diag p - p p^T that matters to a path from the
uniform pmf. Adam and Rprop, which adapt their steps, follow no such law.
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
END = 10.0  # the rate is measured while KL falls by this factor to its last value

Fits = dict[str, xentjax.CategoricalFit]


def fit_by_steps(counts: jax.Array) -> Fits:
    """Fit the counts with every solver."""
    return {
        name: xentjax.fit_categorical(counts, solver=solver, max_steps=MAX_STEPS, tol=TOLERANCE)
        for name, solver in SOLVERS.items()
    }


def path(fit: xentjax.CategoricalFit) -> NDArray[np.float32]:
    """Return KL(p || q) after each step, in nats."""
    return np.asarray(fit.history[: int(fit.steps)])


def theory(counts: jax.Array) -> dict[str, float]:
    """Compute the asymptotic factor of KL a step, for the solvers with a known rate."""
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
    """Compute the least positive eigenvalue of diag p - p p^T that matters, for p > 0.

    From the uniform pmf, classes of equal p_k stay equal, so their differences do not matter. The
    eigenvalue then lies between the two smallest distinct p_k and solves
    sum_k p_k^2 / (p_k - lambda) = 1, whose left side grows with lambda. NaN for a uniform p.
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
    """Measure the geometric mean factor of KL a step at the end of the path; NaN for one step."""
    kl = path(fit).astype(np.float64)
    if len(kl) < 2:
        return math.nan
    start = min(int(np.argmax(kl <= END * kl[-1])), len(kl) - 2)
    return float((kl[-1] / kl[start]) ** (1 / (len(kl) - 1 - start)))


def table(counts: jax.Array, fits: Fits) -> Table:
    """Make a table of the rates, theory beside measurement."""
    expected = theory(counts)
    headings = ("solver", "eta", "theory", "measured", "steps", "KL, nats", "done")
    table = new_table("Asymptotic factor of KL(p || q) per step", headings)
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
    """Plot the convergence of each solver, and the rate that theory predicts."""
    expected = theory(counts)
    title = "Distance of each solver from the maximum, by steps"
    figure, axes = plots.subplots(height=5.0, title=title)
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
    ax.plot([], [], ":", color="0.3", linewidth=1.2, label="predicted rate")
    ax.axhline(TOLERANCE, color=plots.GREY, linewidth=1)
    ax.annotate(
        f"tolerance: {TOLERANCE:.0e}",
        (1, TOLERANCE),
        (4, 4),
        textcoords="offset points",
        color="0.3",
    )
    ax.set_yscale("log")
    ax.set_xlim(1, max(10, *(1.3 * int(fit.steps) for fit in fits.values())))
    ax.set_ylim(lowest / 3, 1)
    ax.set_xlabel("steps from the uniform pmf")
    ax.set_ylabel("KL(counts / N || q), nats")
    plots.add_legend(figure)
    return figure
