"""Divergences over coins and over the triangle, against NumPy in float64; and the command."""

import numpy as np
import pytest

from experiments import divergences as experiment
from experiments.divergences import Config, main, run
from tests.support.run_folders import (
    check_figures,
    error_line,
    only_run,
    read_metrics,
    read_summary,
)

P, Q = (0.6, 0.3, 0.1), (0.2, 0.3, 0.5)
LOG_BASE = {"nats": 1.0, "bits": np.log(2), "hartleys": np.log(10)}


def oracle(p, q):
    """The measures in nats of positive p, and q that may be 0."""
    p, q = np.float64(p), np.float64(q)

    def kl(a, b):
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(a == 0, 0, a * np.log(a / b)).sum(-1)

    entropy = -(p * np.log(p)).sum(-1)
    middle = (p + q) / 2
    return {
        "H(p, q)": entropy + kl(p, q),
        "KL(p || q)": kl(p, q),
        "KL(q || p)": kl(q, p),
        "JS(p, q)": (kl(p, middle) + kl(q, middle)) / 2,
    }


@pytest.fixture(scope="module")
def result():
    return run(Config(p=P, q=Q, bernoulli=0.3))


@pytest.mark.parametrize("name", oracle(P, Q))
def test_curves(result, name):
    thetas = result.thetas.astype(np.float64)
    assert thetas[0] > 0
    assert thetas[-1] < 1
    expected = oracle([0.7, 0.3], np.stack([1 - thetas, thetas], -1))[name]
    np.testing.assert_allclose(result.curves[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", oracle(P, Q))
def test_triangle(result, name):
    assert result.models.shape == (201 * 202 / 2, 3)
    np.testing.assert_allclose(result.models.sum(-1), 1, rtol=1e-6)
    expected = oracle(P, result.models)[name]
    np.testing.assert_allclose(result.triangle[name], expected, rtol=1e-5, atol=1e-6)


def test_units_side_by_side(result):
    nats = oracle(P, Q)
    nats["H(p)"] = -np.sum(P * np.log(P))
    nats["H(q)"] = -np.sum(Q * np.log(Q))
    nats["H(q, p)"] = -np.sum(Q * np.log(P))
    assert set(result.units) == set(nats)
    for name, values in result.units.items():
        expected = [nats[name] / size for size in LOG_BASE.values()]
        np.testing.assert_allclose([values[unit] for unit in LOG_BASE], expected, rtol=1e-6)


def test_axes_of_the_curves_convert_units():
    for unit, size in LOG_BASE.items():
        forth, back = experiment._conversions(unit)
        np.testing.assert_allclose(forth(np.array([0.0, 3.0])), [0, 3 / size], rtol=1e-6)
        np.testing.assert_allclose(back(forth(np.array([5.0]))), [5.0], rtol=1e-12)


def test_command_leaves_numbers_and_figures(tmp_path, capsys):
    # This q makes H(p, q) infinite: it is said so, not hidden.
    main(["--q", "0.5", "0.5", "0", "--runs-dir", str(tmp_path)])
    assert "inf" in capsys.readouterr().out
    folder = only_run(tmp_path, "divergences")
    summary, metrics = read_summary(folder), read_metrics(folder)
    assert summary["KL(p || q)"] == {"nats": "inf", "bits": "inf", "hartleys": "inf"}
    np.testing.assert_allclose(summary["H(q)"]["bits"], 1, rtol=1e-6)
    assert len(metrics) == 199
    expected = oracle([0.7, 0.3], [1 - metrics[20]["theta"], metrics[20]["theta"]])
    np.testing.assert_allclose(metrics[20]["KL(q || p)"], expected["KL(q || p)"], rtol=1e-5)
    check_figures(folder, ["bernoulli", "simplex"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--p", "0.5", "0.5", "0"], "--p: expected probabilities > 0"),
        (["--p", "0.5", "0.5", "0.5"], "--p: expected probabilities with sum 1"),
        (["--q", "-1", "1", "1"], "--q: expected probabilities >= 0, got -1"),
        (["--bernoulli", "1"], "--bernoulli: expected between 0 and 1, got 1.0"),
        (["--bernoulli", "nan"], "--bernoulli: expected between 0 and 1, got nan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_end_in_one_line_and_leave_no_folder(arguments, line, tmp_path, capsys):
    found = error_line(main, [*arguments, "--runs-dir", str(tmp_path)], capsys)
    assert found.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_a_runs_dir_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    runs_dir = tmp_path / "file"
    runs_dir.touch()
    line = error_line(main, ["--runs-dir", str(runs_dir)], capsys)
    assert line == f"error: {runs_dir}/divergences: cannot write, Not a directory"
