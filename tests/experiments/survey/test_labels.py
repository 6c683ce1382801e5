"""Names that fit, and places that keep their distance."""

import numpy as np
import pytest
from scipy.optimize import minimize

from experiments.survey.forest import ticks
from experiments.survey.labels import spread, wrapped


@pytest.mark.parametrize("seed", range(4))
def test_places_are_moved_apart_as_little_as_possible(seed):
    rng = np.random.default_rng(seed)
    places = np.sort(rng.random(6)) ** 2
    moved = spread(list(places), 0.12, 0.0, 1.0)
    assert (np.diff(moved) > 0.12 - 1e-9).all()
    assert moved[0] >= 0
    assert moved[-1] <= 1
    constraints = [
        {"type": "ineq", "fun": lambda x: np.diff(x) - 0.12},
        {"type": "ineq", "fun": lambda x: x},
        {"type": "ineq", "fun": lambda x: 1 - x},
    ]
    best = minimize(
        lambda x: np.square(x - places).sum(),
        np.linspace(0, 1, 6),
        constraints=constraints,
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(moved, best.x, atol=1e-4)


def test_places_with_room_stay_and_without_room_share_it():
    np.testing.assert_array_equal(spread([0.1, 0.5], 0.2, 0.0, 1.0), [0.1, 0.5])
    np.testing.assert_allclose(spread([0.5] * 5, 0.9, 0.0, 1.0), [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(spread([0.7], 0.5, 0.0, 1.0), [0.7])


def test_a_name_is_broken_and_then_cut():
    assert wrapped("neither agree\nnor disagree", 14) == "neither agree\nnor disagree"
    assert wrapped("a b c d e f", 3) == "a b\nc…"
    assert wrapped("x" * 20, 8, 1) == "x" * 7 + "…"
    assert wrapped("  ") == "''"


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ((0.97, 1.04), [0.98, 1.0, 1.02, 1.04]),
        ((0.3, 12), [0.5, 1, 2, 5, 10]),
        ((0.002, 900), [0.01, 0.1, 1, 10, 100]),
        ((1e-26, 2), [1e-24, 1e-20, 1e-16, 1e-12, 1e-8, 1e-4, 1]),
    ],
)
def test_ticks_of_odds_ratios_are_round_and_few(ends, expected):
    np.testing.assert_allclose(ticks(*ends), expected)
