"""The asymptotics of dice: theory by enumeration of all outcomes, measurement by SciPy's tests."""

import itertools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from statsmodels.stats.proportion import proportion_confint

import xentjax
from experiments.asymptotics import __main__ as asymptotics, dice, sizes
from experiments.asymptotics.__main__ import Config, main, run
from experiments.common import methods
from tests.support.run_folders import (
    check_figures,
    error_line,
    only_run,
    read_metrics,
    read_summary,
)

PROBS = np.array([0.5, 0.3, 0.2])
FEW, MANY, DICE = 6, 40, 1000
OUTCOMES = np.array([c for c in itertools.product(range(FEW + 1), repeat=3) if sum(c) == FEW])
CHANCES = scipy.stats.multinomial.pmf(OUTCOMES, FEW, PROBS)
STATSMODELS = {"wald": "normal", "wilson": "wilson", "agresti_coull": "agresti_coull"}


def g_statistics(counts):
    return 2 * scipy.special.rel_entr(counts, counts.sum(-1, keepdims=True) * PROBS).sum(-1)


def plug_in(counts):
    return scipy.stats.entropy(counts, axis=-1)


def miller_madow(counts):
    return plug_in(counts) + ((counts > 0).sum(-1) - 1) / (2 * counts.sum(-1))


def held_classwise(counts, method, alpha=0.05):
    """[..., K], whether each face's interval holds its probability."""
    n = counts.sum(-1, keepdims=True)
    lower, upper = proportion_confint(counts, n, alpha, STATSMODELS[method])
    return (lower <= PROBS) & (upper >= PROBS)


@pytest.fixture(scope="module", autouse=True)
def few_methods():
    """Use the methods that compile fast; the values of all have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dice, "ENTROPY_ESTIMATORS", ("plug_in", "miller_madow", "perks"))
        patch.setattr(dice, "CLASSWISE_INTERVALS", tuple(STATSMODELS))
        patch.setattr(dice, "SIMULTANEOUS_INTERVALS", ("goodman", "quesenberry_hurst"))
        patch.setattr(dice, "CREDIBLE_INTERVALS", {"equal": "equal_tailed"})
        patch.setattr(sizes, "MOST_TABLES", math.comb(FEW + 2, 2))
        patch.setattr(sizes, "SIMULATED_DICE", 100)
        yield


@pytest.fixture(scope="module")
def config():
    return Config(probs=tuple(PROBS), num_rolls=(FEW, MANY), num_dice=DICE, seed=3)


@pytest.fixture(scope="module")
def result(config):
    return run(config)


@pytest.fixture(scope="module")
def counts(config):
    """The counts that the measurements of N = MANY are of."""
    key = jax.random.fold_in(jax.random.key(config.seed), MANY)
    pmf = PROBS.astype(np.float32)
    return np.asarray(dice.roll(key, pmf, num_rolls=MANY, num_dice=DICE))


def test_dice_are_rolled_independently(counts):
    assert counts.shape == (DICE, 3)
    assert (counts.sum(-1) == MANY).all()
    correlation = np.corrcoef(counts[:-1, 0], counts[1:, 0])[0, 1]
    assert abs(correlation) < 5 / math.sqrt(DICE)
    spread = np.cov(counts.T) / MANY
    expected = np.diag(PROBS) - np.outer(PROBS, PROBS)
    np.testing.assert_allclose(spread, expected, atol=5 * math.sqrt(2 / DICE) * 0.25)


def test_measurements_are_those_of_the_counts(result, counts):
    measured = result.measurements[1]
    g = g_statistics(counts)
    np.testing.assert_allclose(measured.statistics, np.sort(g), rtol=1e-4, atol=1e-4)
    error = g.std(ddof=1) / math.sqrt(DICE)
    np.testing.assert_allclose(measured.kl, np.array([g.mean(), error]) / (2 * MANY), rtol=1e-5)
    np.testing.assert_allclose(measured.variance.value, g.var(), rtol=1e-5)
    rejected = scipy.stats.chi2.sf(g, 2) < 0.05
    assert result.sizes[1].rejected["g_test"].value == rejected.mean()
    for name, estimate in (("plug_in", plug_in), ("miller_madow", miller_madow)):
        errors = estimate(counts) - scipy.stats.entropy(PROBS)
        np.testing.assert_allclose(measured.bias[name].value, errors.mean(), atol=1e-6)
        np.testing.assert_allclose(measured.rmse[name], np.sqrt((errors**2).mean()), rtol=1e-5)
    for method in STATSMODELS:
        held = held_classwise(counts, method)
        np.testing.assert_allclose(measured.coverage[method].value, held.mean(), rtol=1e-12)
    held = held_classwise(counts, "wilson", 0.05 / 3)  # Goodman's are these: Bonferroni's bound
    assert measured.coverage["goodman"].value == np.all(held, axis=-1).mean()


def test_theory_is_the_mean_over_all_outcomes(result):
    theory = result.measurements[0].theory
    np.testing.assert_allclose(theory.kl, CHANCES @ g_statistics(OUTCOMES) / (2 * FEW), rtol=1e-6)
    truth = scipy.stats.entropy(PROBS)
    for name, estimate in (("plug_in", plug_in), ("miller_madow", miller_madow)):
        bias = CHANCES @ estimate(OUTCOMES) - truth
        np.testing.assert_allclose(theory.bias[name], bias, atol=1e-6)
    for method in STATSMODELS:
        coverage = (CHANCES @ held_classwise(OUTCOMES, method)).mean()
        np.testing.assert_allclose(theory.coverage[method], coverage, rtol=1e-6)
    lower, upper = scipy.stats.beta.interval(0.95, OUTCOMES + 1, FEW - OUTCOMES + 2)
    coverage = (CHANCES @ ((lower <= PROBS) & (upper >= PROBS))).mean()
    np.testing.assert_allclose(theory.coverage["equal"], coverage, rtol=1e-6)


def test_the_two_terms_of_the_expansion():
    p = np.array([0.3, 0.2, 0.15, 0.1, 0.08, 0.06, 0.05, 0.03, 0.02, 0.01])
    first, second = dice.expansion(p, [100, 1000])
    np.testing.assert_allclose(first, [0.045, 0.0045])
    np.testing.assert_allclose(first + second, [0.0471375, 0.004521375], rtol=1e-9)


def test_measurement_agrees_with_theory_within_its_standard_error(result):
    for measured in result.measurements:
        theory = measured.theory
        pairs = [(measured.kl, theory.kl)]
        pairs += [(measured.bias[name], bias) for name, bias in theory.bias.items()]
        pairs += [(measured.coverage[m], theory.coverage[m]) for m in STATSMODELS]
        for mean, expected in pairs:
            assert abs(mean.value - expected) < 4 * mean.error
    few = result.measurements[0]
    g = g_statistics(OUTCOMES)
    variance = CHANCES @ g**2 - (CHANCES @ g) ** 2
    assert abs(few.variance.value - variance) < 4 * few.variance.error
    assert few.coverage["goodman"].value > 0.9
    rejected = CHANCES @ (scipy.stats.chi2.sf(g, 2) < 0.05)
    measured = result.sizes[0].rejected["g_test"]
    assert abs(measured.value - rejected) < 4 * measured.error


def test_sizes_are_those_of_all_outcomes(result):
    """Sizes by enumeration; a table of two rows is a die of twice as many faces."""
    measured = result.sizes[0].rejected
    expected = FEW * PROBS
    x2 = ((OUTCOMES - expected) ** 2 / expected).sum(-1)
    exact = np.array([CHANCES[chance * (1 + 1e-7) >= CHANCES].sum() for chance in CHANCES])
    rejected = {
        "chi_squared_test": CHANCES @ (scipy.stats.chi2.sf(x2, 2) < 0.05),
        "multinomial_test": CHANCES @ (exact <= 0.05),
    }
    for name, size in rejected.items():
        assert abs(measured[name].value - size) < 4 * measured[name].error
    counts = range(FEW + 1)
    tables = [c for c in itertools.product(counts, repeat=6) if sum(c) == FEW]
    chances = scipy.stats.multinomial.pmf(tables, FEW, np.tile(PROBS, 2) / 2)
    tables = np.array(tables).reshape(-1, 2, 3)
    rows, columns = tables.sum(-1, keepdims=True), tables.sum(-2, keepdims=True)
    g = 2 * scipy.special.rel_entr(tables, rows * columns / FEW).sum((-2, -1))
    dof = (np.sum(rows > 0, (-2, -1)) - 1) * (np.sum(columns > 0, (-2, -1)) - 1)
    size = chances @ (scipy.stats.chi2.sf(g, np.maximum(dof, 1)) * (dof > 0) + (dof == 0) <= 0.05)
    found = measured["independence_test, g"]
    assert abs(found.value - size) < 4 * found.error


def test_sizes_of_many_rolls_are_near_the_level(result):
    found = result.sizes[1]
    for size in found.rejected.values():
        assert abs(size.value - 0.05) < 0.025 + 4 * max(size.error, 0.01)
    for share in found.held.values():
        assert 0.9 < share.value < 0.99
    assert len(found.rejected) == 6
    assert list(found.held) == ["independent", "associated"]


@pytest.mark.usefixtures("unchecked_annotations")
def test_the_methods_are_all_that_there_are():
    counts = jnp.ones(3, jnp.int32)
    for function, names in (
        (xentjax.entropy_estimate, methods.ENTROPY_ESTIMATORS),
        (
            xentjax.confidence_intervals,
            (*methods.CLASSWISE_INTERVALS, *methods.SIMULTANEOUS_INTERVALS),
        ),
    ):
        with pytest.raises(ValueError, match="method: expected") as caught:
            function(counts, method="none")  # pyright: ignore[reportArgumentType]
        expected, _ = str(caught.value).split(", got")
        assert sorted(re.findall(r"[a-z_]+", expected.split("one of")[1])) == sorted(names)


def test_intervals_of_more_counts_than_a_block_holds():
    counts = np.arange(1101)
    expected = np.stack(proportion_confint(counts, 1100, 0.05, "wilson"), -1)
    np.testing.assert_allclose(dice._every_interval(1100, "wilson", 0.05, 2), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("mean", "text"),
    [
        (dice.Mean(0.024812, 0.000123), "0.02481(12)"),
        (dice.Mean(0.024812, 0.00045), "0.0248(4)"),
        (dice.Mean(-286.4, 3.4), "-286(3)"),
        (dice.Mean(1.0, 0.0), "1(0)"),
    ],
)
def test_a_mean_is_printed_with_its_standard_error(mean, text):
    assert asymptotics._text(mean) == text


def test_command_leaves_numbers_and_figures(result, tmp_path, capsys):
    probs = [str(p) for p in PROBS]
    sizes = ["--num-rolls", str(FEW), str(MANY), "--num-dice", str(DICE)]
    main(["--probs", *probs, *sizes, "--seed", "3", "--runs-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    for text in ("E KL(c / N || p)", "Wilks", "Bias of the entropy", "Coverage of intervals"):
        assert text in shown
    for measured in result.measurements:
        assert asymptotics._text(measured.kl) in shown
    for of_tests in result.sizes:
        for mean in (*of_tests.rejected.values(), *of_tests.held.values()):
            scaled = dice.Mean(100 * mean.value, 100 * mean.error)
            assert asymptotics._text(scaled) in shown
    folder = only_run(tmp_path, "asymptotics")
    lines = read_metrics(folder)
    assert read_summary(folder)["measurements"] == lines
    assert [line["num_rolls"] for line in lines] == [FEW, MANY]
    assert lines[0]["kl"] == list(result.measurements[0].kl)
    assert lines[1]["theory"]["second_order"] == result.measurements[1].theory.second_order
    assert lines[1]["coverage"]["quesenberry_hurst"] == list(
        result.measurements[1].coverage["quesenberry_hurst"]
    )
    assert lines[0]["rejected"]["g_test"] == list(result.sizes[0].rejected["g_test"])
    check_figures(folder, ["expected_kl", "entropy", "wilks", "coverage", "sizes"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--probs", "0.5", "0.6"], "--probs: expected probabilities with sum 1"),
        (["--probs", "1"], "--probs: expected two probabilities or more, all > 0, got (1.0,)"),
        (["--probs", "1", "0"], "--probs: expected two probabilities or more, all > 0"),
        (["--num-rolls"], "--num-rolls: expected one or more, ascending, got ()"),
        (["--num-rolls", "10", "10"], "--num-rolls: expected one or more, ascending"),
        (["--num-rolls", "0", "10"], "--num-rolls: expected 1 to 100000, got 0"),
        (["--num-rolls", "100001"], "--num-rolls: expected 1 to 100000, got 100001"),
        (["--num-dice", "99"], "--num-dice: expected 100 to 1000000, got 99"),
        (["--alpha", "1"], "--alpha: expected between 0 and 1, got 1.0"),
        (["--seed", "-1"], "--seed: expected 0 to 4294967295, got -1"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_end_in_one_line_and_leave_no_folder(arguments, line, tmp_path, capsys):
    found = error_line(main, [*arguments, "--runs-dir", str(tmp_path)], capsys)
    assert found.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []
