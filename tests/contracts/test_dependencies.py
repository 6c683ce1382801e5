"""Requirements are what is imported, with lower bounds that can be installed."""

import ast
import sys
import tomllib
from functools import cache
from itertools import chain

import pytest

from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
OURS = {"xentjax", "experiments", "benchmarks", "tests"}
DISTRIBUTIONS = {
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}
"""Packages that are not called what they are imported as."""

# jax's compiled half, which nobody imports by its own name.
JAXLIB = {"jaxlib"}
# Run or loaded by pytest or, to read exported programs, by jax.
TOOLS = {"pytest-xdist", "beartype", "flatbuffers", "ruff", "basedpyright", "pre-commit"}


def names(requirements):
    """The distributions that are required, without this project's own extras."""
    found = {requirement.partition(">=")[0] for requirement in requirements}
    return {name for name in found if not name.startswith("xentjax[")}


@cache
def imported(folder):
    """The distributions that a folder's files import, wherever in the file that stands."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                found.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
    return {DISTRIBUTIONS.get(name, name) for name in found - OURS - sys.stdlib_module_names}


LIBRARY = names(PROJECT["dependencies"])
EXPERIMENTS = names(EXTRAS["experiments"])


def test_the_library_requires_what_it_imports_and_imports_what_it_requires():
    assert imported("xentjax") == LIBRARY - JAXLIB
    assert JAXLIB <= LIBRARY


def test_experiments_and_tests_too():
    assert imported("experiments") - LIBRARY == EXPERIMENTS
    assert imported("benchmarks") <= LIBRARY | EXPERIMENTS  # rivals where they are installed
    of_tests = imported("tests")
    assert of_tests <= LIBRARY | EXPERIMENTS | names(EXTRAS["dev"])
    assert names(EXTRAS["dev"]) - of_tests == TOOLS


@pytest.mark.parametrize("package", ["jax", "optax", "flax", "chex"])
def test_each_package_that_the_project_is_built_on_is_used(package):
    assert package in set().union(*map(imported, OURS))
    assert package in LIBRARY | EXPERIMENTS | names(EXTRAS["dev"])


def test_every_requirement_has_a_lower_bound_that_the_lowest_leg_pins():
    bounds = {}
    for requirement in chain(PROJECT["dependencies"], *EXTRAS.values()):
        name, _, bound = requirement.partition(";")[0].partition(">=")
        if not name.startswith("xentjax["):
            assert bound.replace(".", "").isdigit(), requirement
            assert bounds.setdefault(name, bound) == bound, requirement
