"""Categorical maximum likelihood of dice and of files: NumPy recounts, the command, its errors."""

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.stats
from statsmodels.stats.proportion import multinomial_proportions_confint

import xentjax
from experiments.categorical_mle import __main__ as experiment, samples, solver_rates
from experiments.categorical_mle.__main__ import Config, main, run, summarize
from tests.support.paths import ROOT
from tests.support.run_folders import (
    check_figures,
    error_line,
    only_run,
    read_metrics,
    read_summary,
)

PROBS = (0.1, 0.2, 0.3, 0.4)  # most tests have four categories, as each number compiles anew
LOG_BASE = {"nats": 1.0, "bits": np.log(2), "hartleys": np.log(10)}


def kl(p, q):
    """Compute KL in float64 with a q that sums to 1: float32 misses that by more than small KLs."""
    p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
    q = q / q.sum()
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


@pytest.fixture(scope="module")
def die():
    return run(Config(probs=PROBS, num_rolls=400, seed=3))


def test_the_die_is_rolled_and_counted(die):
    probs = jnp.array(PROBS, jnp.float32)
    faces = np.asarray(xentjax.sample(jax.random.key(3), probs, (400,)))
    np.testing.assert_array_equal(die.sample.counts, np.bincount(faces, minlength=4))
    assert die.sample.categories == ("1", "2", "3", "4")
    np.testing.assert_array_equal(die.sample.reference, probs)


def test_summary_of_the_die(die):
    counts = np.asarray(die.sample.counts, np.float64)
    p = counts / counts.sum()
    summary = summarize(die)
    np.testing.assert_allclose(summary["pmf"], p, rtol=1e-6)
    np.testing.assert_allclose(summary["perplexity"], np.exp(-np.sum(p * np.log(p))), rtol=1e-6)
    for unit, size in LOG_BASE.items():
        nats = {
            "log_likelihood": np.sum(counts * np.log(p)),
            "entropy": -np.sum(p * np.log(p)),
            "reference_entropy": -np.sum(PROBS * np.log(PROBS)),
            "cross_entropy_to_reference": -np.sum(p * np.log(PROBS)),
            "kl_to_reference": kl(p, PROBS),
        }
        for name, value in nats.items():
            np.testing.assert_allclose(summary[name][unit], value / size, rtol=1e-5, err_msg=name)


def test_intervals_test_and_entropies_of_the_die(die):
    counts = np.asarray(die.sample.counts)
    summary = summarize(die)
    assert summary["intervals"]["method"] == "goodman"
    ends = multinomial_proportions_confint(counts, 0.05, "goodman")
    np.testing.assert_allclose(summary["intervals"]["ends"], ends, rtol=1e-5)
    test = scipy.stats.power_divergence(counts, 400 * np.array(PROBS), lambda_="log-likelihood")
    np.testing.assert_allclose(summary["g_test"]["statistic"], test.statistic, rtol=1e-4)
    np.testing.assert_allclose(summary["g_test"]["p_value"], test.pvalue, rtol=1e-4)
    estimates = summary["entropy_estimates"]
    plug_in = scipy.stats.entropy(counts)
    for unit, size in LOG_BASE.items():
        np.testing.assert_allclose(estimates["plug_in"][unit], plug_in / size, rtol=1e-6)
        corrected = (plug_in + 3 / 800) / size
        np.testing.assert_allclose(estimates["miller_madow"][unit], corrected, rtol=1e-6)
        np.testing.assert_allclose(estimates["nsb"][unit], corrected, rtol=3e-3)
        # the spread of the plug-in estimate, to first order in 1 / N
        p = counts / 400
        spread = np.sqrt((p @ np.log(p) ** 2 - plug_in**2) / 400) / size
        found = estimates[experiment.NSB_DEVIATION][unit]
        np.testing.assert_allclose(found, spread, rtol=0.05)


@pytest.mark.parametrize("solver", ["closed form", *solver_rates.SOLVERS])
def test_every_fit_agrees_with_the_closed_form(die, solver):
    counts = np.asarray(die.sample.counts)
    fit = experiment._fits(die)[solver]
    assert kl(counts / 400, fit.pmf) < 1e-7
    assert fit.converged
    assert summarize(die)["fits"][solver]["kl_from_closed_form"] < 1e-7
    certificate = fit.certificate
    assert certificate.multiplier == 400
    np.testing.assert_allclose(certificate.duality_gap, 400 * kl(counts / 400, fit.pmf), atol=1e-5)
    residual = np.abs(-counts / np.float64(fit.pmf) + 400).max()
    np.testing.assert_allclose(certificate.stationarity, residual, atol=1e-3)


def test_a_category_that_never_occurs_gets_probability_0(tmp_path):
    labels = pa.array([1, 1, 2, 3], pa.int8())
    declared = pa.DictionaryArray.from_arrays(labels, ["w", "x", "y", "z"])
    path = tmp_path / "data.parquet"
    pyarrow.parquet.write_table(pa.table({"label": declared}), path)
    result = run(Config(data=path, column="label"))
    assert result.sample.categories == ("w", "x", "y", "z")
    np.testing.assert_array_equal(result.closed_form.pmf, [0, 0.5, 0.25, 0.25])
    multipliers = result.closed_form.certificate.inequality_multipliers
    np.testing.assert_array_equal(multipliers, [4, 0, 0, 0])
    assert result.by_steps["Rprop"].converged
    descent = result.by_steps["gradient descent"]
    assert not descent.converged
    # sublinear: KL of 1000 steps is about 1 / (eta t (1 + 1 / m)), and the factor goes to 1
    np.testing.assert_allclose(descent.history[-1], 1 / (1000 * (1 + 1 / 3)), rtol=0.02)
    rates = {
        "natural gradient": 0.5,
        "exponentiated gradient": np.exp(-0.2),
        "Newton": np.exp(-1),
    }
    theory = solver_rates.theory(result.sample.counts)
    assert theory == pytest.approx(rates | {"gradient descent": 1})
    for name, rate in rates.items():
        assert solver_rates.measured(result.by_steps[name]) == pytest.approx(rate, rel=1e-3)
    assert 0.99 < solver_rates.measured(descent) < 1


def test_rates_of_the_die_are_those_of_theory(die):
    theory = solver_rates.theory(die.sample.counts)
    p = np.asarray(die.sample.counts) / 400
    least = np.linalg.eigvalsh(np.diag(p) - np.outer(p, p))[1]
    assert theory == pytest.approx(
        {
            "gradient descent": (1 - least) ** 2,
            "natural gradient": 0.25,
            "exponentiated gradient": 0.64,
            "Newton": 0,
        }
    )
    for name in ("gradient descent", "natural gradient", "exponentiated gradient"):
        found = solver_rates.measured(die.by_steps[name])
        assert found == pytest.approx(theory[name], rel=1e-3)
    assert solver_rates.measured(die.by_steps["Newton"]) < 1e-2


@pytest.mark.parametrize("weights", [[1, 2], [1, 1, 5], [2, 9, 4, 1, 7], [3, 1, 3, 1, 1, 8]])
def test_least_curvature_is_an_eigenvalue(weights):
    p = np.array(weights) / np.sum(weights)
    # A basis of the steps that treat classes of equal probability alike.
    alike = np.equal.outer(p, np.unique(p)).astype(float)
    alike /= np.linalg.norm(alike, axis=0)
    expected = np.linalg.eigvalsh(alike.T @ (np.diag(p) - np.outer(p, p)) @ alike)[1]
    np.testing.assert_allclose(solver_rates.least_curvature(p), expected, rtol=1e-10)


def test_least_frequent_classes_that_tie_are_no_slower():
    counts = jnp.array([1, 1, 2, 3])
    fit = solver_rates.fit_by_steps(counts)["gradient descent"]
    expected = solver_rates.theory(counts)["gradient descent"]
    assert solver_rates.measured(fit) == pytest.approx(expected, rel=1e-2)


@pytest.mark.parametrize("num_classes", [1, 6])
def test_uniform_counts_have_no_rate(num_classes):
    assert np.isnan(solver_rates.least_curvature(np.full(num_classes, 1 / num_classes)))


def test_command_rolls_a_die(tmp_path, capsys):
    arguments = ["--probs", "0.1", "0.2", "0.3", "0.4", "--num-rolls", "50", "--seed", "2"]
    main([*arguments, "--intervals", "wilson", "--alpha", "0.1", "--runs-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    assert "90 % intervals (wilson)" in shown
    assert "3 degrees of freedom" in shown
    folder = only_run(tmp_path, "categorical_mle")
    summary, metrics = read_summary(folder), read_metrics(folder)
    assert summary["samples"] == sum(summary["counts"]) == 50
    assert summary["missing"] == 0
    assert summary["intervals"]["method"] == "wilson"
    assert summary["intervals"]["alpha"] == 0.1
    for solver in solver_rates.SOLVERS:
        path = [line for line in metrics if line["solver"] == solver]
        assert [line["step"] for line in path] == list(range(1, len(path) + 1))
        assert len(path) == summary["fits"][solver]["steps"]
        assert path[-1]["kl_from_closed_form"] <= 1e-8
    check_figures(folder, ["pmf", "solvers"])


def test_command_fits_a_column_whatever_its_labels_look_like(tmp_path, capsys):
    labels = ["[red]", "[/red]", "$a_b", "NA", "[red]", '"two\nlines"', "[red]"]
    path = tmp_path / "data.csv"
    path.write_text("n,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(labels)))
    main(["--data", str(path), "--column", "label", "--runs-dir", str(tmp_path / "runs")])
    shown = capsys.readouterr().out
    for text in ("[red]", "[/red]", "$a_b", "two lines", "N = 6", "left out: 1"):
        assert text in shown
    folder = only_run(tmp_path / "runs", "categorical_mle")
    summary = read_summary(folder)
    assert summary["categories"] == ["$a_b", "[/red]", "[red]", "two\nlines"]
    assert summary["counts"] == [1, 1, 3, 1]
    assert summary["missing"] == 1
    np.testing.assert_allclose(summary["pmf"], np.array([1, 1, 3, 1]) / 6, rtol=1e-6)
    np.testing.assert_allclose(
        summary["kl_to_reference"]["bits"],
        kl(np.array([1, 1, 3, 1]) / 6, [0.25] * 4) / np.log(2),
        rtol=1e-5,
    )
    check_figures(folder, ["pmf", "solvers"])


@pytest.mark.filterwarnings("error:Glyph")
def test_no_label_moves_the_cursor_or_lacks_a_glyph(tmp_path, capsys):
    """One that the figures' font cannot draw, one of nothing, one that would redden the screen."""
    path = tmp_path / "data\x1b[31m.csv"
    path.write_text("label\n你好\n\n\x1b]0;title\x07\n\x9b31m\x7f\n", encoding="utf-8")
    arguments = ["--data", str(path), "--column", "label", "--runs-dir", str(tmp_path / "runs")]
    main([*arguments, "--missing", "NA"])
    shown = capsys.readouterr().out
    assert not any(control in shown for control in "\x1b\x9b\x07\x7f")
    for text in (r"data\x1b[31m.csv", "你好", "''", r"\x1b]0;title\x07", r"\x9b31m\x7f", "N = 4"):
        assert "".join(text.split()) in "".join(shown.split())  # wherever the title is broken
    folder = only_run(tmp_path / "runs", "categorical_mle")
    assert read_summary(folder)["categories"] == ["", "\x1b]0;title\x07", "\x9b31m\x7f", "你好"]
    check_figures(folder, ["pmf", "solvers"])


def test_of_many_categories_the_most_frequent_are_shown():
    sample = samples.Sample(
        source="words",
        categories=tuple(f"w{k}" for k in range(30)),
        counts=jnp.arange(30, dtype=jnp.int32),
        missing=0,
        reference=jnp.full(30, 1 / 30, jnp.float32),
    )
    assert samples.shown(sample).tolist() == list(range(29, 9, -1))
    assert samples.title(sample) == "words: the 20 most frequent of 30"


def test_one_category_only(tmp_path, monkeypatch):
    # All that takes seconds to compile has tests of one category of its own.
    monkeypatch.setattr(experiment, "_estimate_entropies", lambda counts: {})
    newton = {"Newton": solver_rates.SOLVERS["Newton"]}
    monkeypatch.setattr(solver_rates, "SOLVERS", newton)
    path = tmp_path / "data.txt"
    path.write_text("yes\nyes\n")
    main(["--data", str(path), "--runs-dir", str(tmp_path / "runs")])
    summary = read_summary(only_run(tmp_path / "runs", "categorical_mle"))
    assert summary["pmf"] == [1.0]
    assert summary["kl_to_reference"]["nats"] == 0
    assert summary["intervals"]["ends"][0][1] == 1
    assert summary["g_test"] == {"statistic": 0, "p_value": 1, "dof": 0}
    assert all(fit["steps"] == 0 for fit in summary["fits"].values())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--probs", "0.5", "0.6"], "--probs: expected probabilities with sum 1"),
        (["--num-rolls", "0"], "--num-rolls: expected 1 to 100000000, got 0"),
        (["--seed", "4294967296"], "--seed: expected 0 to 4294967295, got 4294967296"),
        (["--alpha", "0"], "--alpha: expected between 0 and 1, got 0.0"),
        (["--max-categories", "0"], "--max-categories: expected 1 or more, got 0"),
        (["--column", "x"], "--column: expected --data with it, got 'x' alone"),
        (["--encoding", "cp1252"], "--encoding: expected --data with it, got 'cp1252' alone"),
        (["--missing", ""], "--missing: expected --data with it, got ('',) alone"),
        (["--data", "none\x1b.csv"], r"none\x1b.csv: expected a file, got none"),
        (["--reference", "0.5"], "--reference: expected probabilities with sum 1"),
        (["--reference", "0.5", "0.5"], "--reference: expected 6 probabilities, one for each"),
        (["--data", "none.csv"], "none.csv: expected a file, got none"),
        (
            ["--data", "data.xlsx"],
            "data.xlsx: expected a file ending in .csv, .parquet, .npy, .txt",
        ),
        (["--data", "d.csv"], "d.csv: expected --column to be one of label, x, got none"),
        (["--data", "d.csv", "--column", "y"], "d.csv: expected --column to be one of label, x"),
        (["--data", "d.csv", "--column", "x"], "d.csv, x: expected categories (strings, integers"),
        (["--data", "empty.csv", "--column", "x"], "empty.csv: cannot read, Empty CSV file"),
        (
            ["--data", "d.csv", "--column", "label", "--max-categories", "1"],
            "d.csv, label: expected at most 1 categories (--max-categories), got 2",
        ),
        (
            ["--data", "d.csv", "--column", "label", "--reference", "1"],
            "--reference: expected 2 probabilities, one for each category, got 1",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_end_in_one_line_and_leave_no_folder(
    arguments, line, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("label,x\na,1.5\nb,2\n")
    Path("empty.csv").touch()
    assert error_line(main, arguments, capsys).startswith(f"error: {line}")
    assert not Path("runs").exists()


def test_a_mistake_shows_no_traceback_in_a_shell():
    done = subprocess.run(
        [sys.executable, "-m", "experiments.categorical_mle", "--data", "none.csv"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: none.csv: expected a file, got none\n"
