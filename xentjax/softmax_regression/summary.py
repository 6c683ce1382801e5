"""A fit as a table: text as statsmodels prints it, or Markdown."""

import warnings
from typing import Any

import jax
import numpy as np

_WIDTH = 78


def summary(fit: Any, alpha: float, *, markdown: bool) -> str:
    """Return the table of a fit whose values are known."""
    with warnings.catch_warnings(), jax.enable_x64(True):
        warnings.simplefilter("ignore", UserWarning)  # the notes repeat them
        fit = jax.tree.map(np.asarray, fit)
        # In float64, numbers are printed with the digits of the fit and p-values do not underflow.
        wide = jax.tree.map(_double, fit._replace(data=None))._replace(data=fit.data)
        facts, tables = _facts(wide), [] if wide.covariance is None else _rows(wide, alpha)
    headers = ["coef", "std err", "z", "P>|z|", f"[{alpha / 2:g}", f"{1 - alpha / 2:g}]"]
    write = _markdown if markdown else _text
    return write(facts, headers, tables, _notes(fit))


def _double(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64) if np.issubdtype(x.dtype, np.floating) else x


def _facts(fit: Any) -> list[tuple[str, str]]:
    """Return names and values, first of the text's left column and then of its right column."""
    test, names = fit.likelihood_ratio_test(), fit.names
    n, dof = float(fit.num_samples), int(fit.dof)
    return [
        ("Dep. Variable:", names.label),
        ("Model:", "Softmax regression"),
        ("Baseline:", f"{names.label}={names.classes[names.baseline]}"),
        ("Method:", "MLE" if fit.l2 == 0 else f"MAP, l2={float(fit.l2):g}"),
        ("Converged:", str(bool(fit.converged))),
        ("AIC:", f"{float(fit.aic):#8.5g}"),
        ("BIC:", f"{float(fit.bic):#8.5g}"),
        ("No. Observations:", f"{n:.10g}"),
        ("Df Residuals:", f"{n - dof:.10g}"),
        ("Df Model:", str(int(test.dof))),
        ("Pseudo R-squ.:", f"{float(fit.mcfadden_r2):#6.4g}"),
        ("Log-Likelihood:", f"{float(fit.log_likelihood):#8.5g}"),
        ("LL-Null:", f"{float(fit.null_log_likelihood):#8.5g}"),
        ("LLR p-value:", f"{float(test.p_value):#6.4g}"),
    ]


def _rows(fit: Any, alpha: float) -> list[tuple[str, list[list[str]]]]:
    """Return the name of each class and its rows: a name, and six numbers."""
    names, k = fit.names, len(fit.names.classes)
    stacked = [fit.coefficients, fit.standard_errors, fit.z, fit.p_values]
    numbers = np.concatenate([np.stack(stacked, -1), fit.confidence_intervals(alpha)], -1)
    others = [name for i, name in enumerate(names.classes) if i != names.baseline]
    rows = [*names.features, "const"]
    assert numbers.shape[:2] == (len(rows), k - 1)
    return [
        (
            f"{names.label}={others[j]}",
            [[name, *_row(numbers[i, j])] for i, name in enumerate(rows)],
        )
        for j in range(k - 1)
    ]


def _row(numbers: np.ndarray) -> list[str]:
    coefficient, error, z, p_value, lower, upper = map(float, numbers)
    return [
        *(_fixed(coefficient, 4), _fixed(error, 3), _fixed(z, 3), f"{p_value:.3f}"),
        *(_fixed(lower, 3), _fixed(upper, 3)),
    ]


def _fixed(x: float, digits: int) -> str:
    """Format a number with fixed decimals, or with significant digits if it is large or tiny."""
    if abs(x) >= 1e4 or abs(x) < 1e-4:
        return f"{x:.{digits}g}"
    return f"{x:.{digits}f}"


def _notes(fit: Any) -> list[str]:
    notes = []
    if fit.covariance is None:
        notes.append(
            "There is no covariance, and no standard error, of more than 1000 coefficients."
        )
    if (fit.l2 > 0).any():
        notes.append(
            "The fit has a penalty: its standard errors are deviations of a posterior, not of the "
            "estimates, which are biased; z, P>|z|, intervals and the information criteria do not "
            "mean what they say, and there is no likelihood-ratio test."
        )
    if fit.separated:
        notes.append(
            "The classes are separated by a hyperplane: the likelihood has no maximum, the "
            "coefficients are where the search ended, and there are no standard errors."
        )
    elif fit.identified is not None and not fit.identified:
        notes.append(
            "The features, with the constant, are linearly dependent: many coefficients fit "
            "equally well, and there are no standard errors."
        )
    if not (fit.converged or fit.separated):
        notes.append(f"The optimum was not reached in {int(fit.steps)} steps.")
    absent = np.asarray(fit.names.classes)[fit.bias == -np.inf]
    if absent.size:
        notes.append(f"Never occurs: {', '.join(absent)}.")
    return notes


def _text(
    facts: list[tuple[str, str]],
    headers: list[str],
    tables: list[tuple[str, list[list[str]]]],
    notes: list[str],
) -> str:
    half = len(facts) // 2
    double, single = "=" * _WIDTH, "-" * _WIDTH
    lines = ["Softmax Regression Results".center(_WIDTH).rstrip(), double]
    for (name, value), (other, number) in zip(facts[:half], facts[half:], strict=True):
        room = 38 - len(name) - 1
        lines.append(f"{name} {value[:room]:>{room}}   {other} {number:>{36 - len(other)}}")
    lines.append(double)
    stub = max([13, *(len(row[0]) + 1 for _, rows in tables for row in rows)])
    widths = [stub, 10, 10, 11, 11, 11, 12]
    for i, (title, rows) in enumerate(tables):
        header = [title, *headers]
        lines += [] if i == 0 else [single]
        for row in [header, *rows]:
            cells = [f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True)]
            first = f"{row[0]:>{stub}}" if row is header else f"{row[0]:<{stub}}"
            lines.append(first + "".join(cells))
            lines += [single] if row is header else []
    return "\n".join([*lines, double, *(f"Note: {note}" for note in notes)])


def _markdown(
    facts: list[tuple[str, str]],
    headers: list[str],
    tables: list[tuple[str, list[list[str]]]],
    notes: list[str],
) -> str:
    lines = ["| | |", "| --- | ---: |"]
    lines += [f"| {_escaped(name.rstrip(':'))} | {_escaped(value)} |" for name, value in facts]
    for title, rows in tables:
        cells = [_escaped(cell) for cell in (title, *headers)]
        lines += ["", f"| {' | '.join(cells)} |", f"| --- |{' ---: |' * len(headers)}"]
        lines += [f"| {' | '.join(map(_escaped, row))} |" for row in rows]
    for note in notes:
        lines += ["", f"Note: {note}"]
    return "\n".join(lines)


def _escaped(cell: str) -> str:
    return cell.strip().replace("|", "\\|").replace("\n", " ")
