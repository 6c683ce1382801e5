"""The linter of docstrings tells those that start with a verb or a noun from the others."""

import ast
import runpy

import pytest

from tests.support.paths import ROOT

LINTER = runpy.run_path(str(ROOT / ".ci" / "docstrings.py"))


@pytest.mark.parametrize(
    "start",
    [
        "Return the loss of each row.",
        "Seconds per call.",
        "The derivative at x, as in `score`.",
        "A table:",
        "Whether the expansion fell as the box grew.",
        "log sum_k exp(a_k).",
        "weight * x, with 0 * inf = 0.",
        "x_y is the label's logit.",
        "`x` moved to its axis.",
        "64-bit integers that JAX would truncate.",
        "jax's default device.",
    ],
)
def test_nouns_verbs_and_formulas_are_fine(start):
    assert LINTER["broken_rule"](start) is None


@pytest.mark.parametrize(
    ("start", "rule"),
    [
        ("Of a tile.", "neither"),
        ("What a run leaves.", "neither"),
        ("That of the loss.", "neither"),
        ("Those of each row.", "neither"),
        ("The same in float64.", "neither"),
        ("As `jax.nn` says it.", "neither"),
        ("How often the die is rolled.", "neither"),
        ("In float64, by NumPy.", "neither"),
        ("the rows of a block.", "small letter"),
        ("softmax of each row.", "small letter"),
        ("The rows of a block", "period"),
        ("", "period"),
    ],
)
def test_fragments_are_found(start, rule):
    assert rule in LINTER["broken_rule"](start)


def test_all_kinds_of_docstrings_are_read():
    tree = ast.parse(
        '''"""A module.

More of it.
"""
LIMIT = 3
"""The limit
of all."""
"""No docstring."""
class Row:
    """A row."""
    size: int
    """Its size."""
    def cut(self):
        """Cut."""
        return "text"
'''
    )
    found = sorted(LINTER["docstrings"](tree))
    assert [start for _, start in found] == [
        "A module.",
        "The limit of all.",
        "A row.",
        "Its size.",
        "Cut.",
    ]
    assert found[0][0] == 1
