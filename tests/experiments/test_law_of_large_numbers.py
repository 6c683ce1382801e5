"""The law of large numbers: shares recounted with NumPy, the law itself, and the command."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from experiments import law_of_large_numbers as experiment
from experiments.law_of_large_numbers import Config, main, run
from tests.support.run_folders import (
    check_figures,
    error_line,
    only_run,
    read_metrics,
    read_summary,
)

PROBS = (0.2, 0.3, 0.5)


@pytest.fixture(scope="module")
def result():
    return run(Config(probs=PROBS, num_rolls=3000, seeds=(4, 7)))


def test_every_share_is_that_of_the_first_rolls(result):
    assert result.rolls[0] == 10
    assert result.rolls[-1] == 3000
    assert (np.diff(result.rolls) > 0).all()
    for seed, pmfs in zip((4, 7), result.pmfs, strict=True):
        faces = np.asarray(
            xentjax.sample(jax.random.key(seed), jnp.asarray(PROBS, jnp.float32), (3000,))
        )
        expected = [np.bincount(faces[:n], minlength=3) / n for n in result.rolls]
        np.testing.assert_allclose(pmfs, expected, rtol=1e-6)


def test_deviation_slope_and_band_follow_from_the_shares(result):
    distances = np.abs(result.pmfs - PROBS)
    np.testing.assert_allclose(result.deviations, distances.max(-1))
    x, y = np.log(result.rolls), np.log(distances.max(-1).mean(0))
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    np.testing.assert_allclose(result.slope, slope)
    variance = np.array(PROBS) * (1 - np.array(PROBS)) / result.rolls[:, None]
    np.testing.assert_allclose(result.inside_band, (distances**2 <= 1.96**2 * variance).mean())


def test_the_law_holds():
    # Neighbouring points share most of their rolls, so many seeds are needed for these margins.
    result = run(Config(probs=PROBS, num_rolls=3000, seeds=tuple(range(160))))
    assert abs(result.slope + 0.5) < 0.03
    assert abs(result.inside_band - 0.95) < 0.02


def test_a_share_that_hits_its_probability_exactly_leaves_the_slope_finite():
    result = run(Config(probs=(0.5, 0.5), num_rolls=100, seeds=(1,)))
    assert (result.deviations == 0).any()
    assert np.isfinite(result.slope)


def test_command_leaves_numbers_and_figures(tmp_path, capsys):
    main(["--num-rolls", "500", "--seeds", "4", "7", "--runs-dir", str(tmp_path)])
    folder = only_run(tmp_path, "law_of_large_numbers")
    assert str(folder) in capsys.readouterr().out.replace("\n", "")
    summary, metrics = read_summary(folder), read_metrics(folder)
    assert summary["pmf"] == list(Config().probs)
    assert set(summary["empirical_pmf"]) == {"4", "7"}
    counts = 500 * np.array(summary["empirical_pmf"]["7"])
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    deviations = np.abs(counts / 500 - summary["pmf"])
    np.testing.assert_allclose(summary["max_deviation"]["7"], deviations.max())
    assert metrics[0]["rolls"] == 10
    assert metrics[-1] == {"rolls": 500, "max_deviation": list(summary["max_deviation"].values())}
    check_figures(folder, ["empirical_pmf", "deviation"])


def test_of_many_faces_the_likeliest_are_drawn():
    probs = (0.05,) * 10 + (0.5,)
    figure = experiment._draw_faces(run(Config(probs=probs, num_rolls=100, seeds=(0,))))
    titles = [ax.get_title("left") for ax in figure.axes]
    assert [title.split(":")[0] for title in titles] == [f"face {k}" for k in (1, 2, 3, 4, 5, 11)]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--probs"], "--probs: expected probabilities, got none"),
        (["--probs", "0.5", "0.6"], "--probs: expected probabilities with sum 1 within 7.7e-06"),
        (["--probs", "1.5", "-0.5"], "--probs: expected probabilities >= 0, got -0.5"),
        (["--probs", "nan", "1"], "--probs: expected probabilities >= 0, got nan"),
        (
            ["--probs", "1", "0"],
            "--probs: expected at least two faces with probabilities > 0, got one",
        ),
        (["--num-rolls", "99"], "--num-rolls: expected 100 to 100000000, got 99"),
        (["--num-rolls", "100000001"], "--num-rolls: expected 100 to 100000000, got 100000001"),
        (["--seeds"], "--seeds: expected one or more, all different, got ()"),
        (["--seeds", "1", "1"], "--seeds: expected one or more, all different, got (1, 1)"),
        (["--seeds", "-1"], "--seeds: expected 0 to 4294967295, got -1"),
        (["--z", "0"], "--z: expected a number > 0, got 0.0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_end_in_one_line_and_leave_no_folder(arguments, line, tmp_path, capsys):
    found = error_line(main, [*arguments, "--runs-dir", str(tmp_path)], capsys)
    assert found.startswith(f"error: {line}")
    assert list(tmp_path.iterdir()) == []


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in (
        "--probs",
        "--num-rolls",
        "--seeds",
        "--z",
        "--runs-dir",
        "sum to 1",
        "N^(-1/2)",
    ):
        assert option in text
