"""The tour runs through all experiments with what data there is; a NAME runs one of them."""

import dataclasses
import importlib

import numpy as np
import pytest

from experiments import divergences, law_of_large_numbers
from experiments.categorical_mle import __main__ as categorical_mle
from experiments.cifar10 import config as cifar10_config
from experiments.cifar10.data.load import load_digits
from tests.support.run_folders import check_figures, error_line, only_run, read_summary

tour = importlib.import_module("experiments.__main__")


def small_digits():
    digits = load_digits()
    return dataclasses.replace(
        digits,
        train_images=digits.train_images[:64],
        train_labels=digits.train_labels[:64],
        test_images=digits.test_images[:40],
        test_labels=digits.test_labels[:40],
    )


@pytest.fixture
def no_cifar10(monkeypatch, tmp_path):
    """A machine without CIFAR-10, and with little time."""
    settings = dataclasses.replace(
        cifar10_config.PRESETS["digits"], epochs=1.0, batch_size=16, held_out=20, widths=(4, 4, 4)
    )
    monkeypatch.setattr(tour, "find_cifar10", lambda data_dir: None)
    monkeypatch.setattr(tour, "load_digits", small_digits)
    monkeypatch.setattr(tour, "PRESETS", {"digits": settings})
    monkeypatch.setattr(law_of_large_numbers, "NUM_POINTS", 20)
    monkeypatch.setattr(categorical_mle, "_estimate_entropies", lambda counts: {})


@pytest.mark.slow
def test_tour_of_a_machine_without_cifar10(no_cifar10, tmp_path, capsys):
    tour.main(["--runs-dir", str(tmp_path)])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    folders = {
        name: only_run(tmp_path, name)
        for name in ("law_of_large_numbers", "categorical_mle", "divergences", "cifar10")
    }
    summaries = {name: read_summary(folder) for name, folder in folders.items()}

    law, fit, charge = (
        summaries[m.NAME] for m in (law_of_large_numbers, categorical_mle, divergences)
    )
    assert f"N^({law['slope']:.2f})" in shown
    assert f"{fit['log_likelihood']['bits']:,.1f} bits" in shown
    assert f"{charge['KL(q || p)']['nats']:.4f} nats" in shown
    classifier = summaries["cifar10"]
    assert classifier["dataset"] == "digits"
    assert "CIFAR-10 was not found on this machine" in shown
    assert f"{classifier['test_accuracy']:.2%} of 40 test images are classified correctly" in shown
    assert f"{classifier['test_nll']:.3f} nats an image" in shown

    check_figures(folders["law_of_large_numbers"], ["empirical_pmf", "deviation"])
    check_figures(folders["categorical_mle"], ["pmf", "solvers"])
    check_figures(folders["divergences"], ["bernoulli", "simplex"])
    figures = [path.name for folder in folders.values() for path in folder.glob("*.png")]
    assert len(figures) > 6
    assert all(name in shown for name in figures)


def test_cifar10_is_read_where_it_is_found(monkeypatch, tmp_path):
    cifar10 = object()
    monkeypatch.setattr(tour, "find_cifar10", lambda data_dir: data_dir)
    monkeypatch.setattr(
        tour, "load_cifar10", lambda data_dir, download: cifar10 if not download else None
    )
    assert tour._images(tmp_path) is cifar10


def test_a_name_runs_one_experiment(tmp_path, capsys):
    tour.main(["divergences", "--p", "0.2", "0.3", "0.5", "--runs-dir", str(tmp_path)])
    assert "p = (0.2, 0.3, 0.5)" in capsys.readouterr().out
    np.testing.assert_allclose(
        read_summary(only_run(tmp_path, "divergences"))["H(p)"]["bits"], 1.485475, rtol=1e-6
    )


@pytest.mark.parametrize("name", tour.EXPERIMENTS)
def test_every_name_has_help(name, capsys):
    with pytest.raises(SystemExit) as caught:
        tour.main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: python -m experiments.{name}" in capsys.readouterr().out


def test_help_of_the_tour_lists_the_experiments(capsys):
    with pytest.raises(SystemExit) as caught:
        tour.main(["--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*tour.EXPERIMENTS, "--data-dir", "--runs-dir"))


def test_an_unknown_name_is_one_line_that_lists_the_known(capsys):
    line = error_line(tour.main, ["divergence"], capsys)
    assert line == (
        "error: NAME: expected one of law_of_large_numbers, categorical_mle, asymptotics, "
        "divergences, survey, cifar10, loss_comparison, language_model, got 'divergence'"
    )


def test_a_data_dir_without_cifar10_is_one_line_before_anything_runs(tmp_path, capsys):
    arguments = ["--data-dir", str(tmp_path / "none"), "--runs-dir", str(tmp_path / "runs")]
    assert f"{tmp_path / 'none'}: expected CIFAR-10" in error_line(tour.main, arguments, capsys)
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_ends_in_one_line(monkeypatch, capsys):
    def interrupt(config, console):
        raise KeyboardInterrupt

    monkeypatch.setattr(tour, "tour", interrupt)
    with pytest.raises(SystemExit) as caught:
        tour.main([])
    assert caught.value.code == 130
    assert capsys.readouterr().err == "stopped\n"
