"""Every public name has an example that runs, and documents name what is there."""

import doctest
import importlib
import inspect
import re
import subprocess

import pytest

import xentjax
from tests.support.paths import ROOT

PUBLIC = sorted(name for name in xentjax.__all__ if not inspect.ismodule(getattr(xentjax, name)))


def test_help_lists_every_public_name():
    """Objects of the package that a user can see, modules aside, are those of `__all__`."""
    seen = {
        name
        for name, value in vars(xentjax).items()
        if not (name.startswith("_") or inspect.ismodule(value))
    }
    assert seen == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example_that_runs(name):
    value = getattr(xentjax, name)
    assert value.__doc__, f"{name} has no docstring"
    if isinstance(value, type):  # results: their fields are documented, their functions show them
        return
    examples = doctest.DocTestFinder(recurse=False).find(
        value, name, module=importlib.import_module(value.__module__)
    )
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert sum(len(e.examples) for e in examples), f"{name} has no example"
    for example in examples:
        example.globs = {}  # it imports what it needs
        report: list[str] = []
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if " -m pytest" in line]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()


def test_ci_tests_files_that_exist():
    paths = re.findall(r"tests/\S+", (ROOT / ".ci" / "run").read_text())
    expanded = subprocess.run(
        ["bash", "-c", "printf '%s\n' " + " ".join(paths)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert len(expanded) > len(paths) > 5
    assert [path for path in expanded if not (ROOT / path).exists()] == []


def test_recipes_name_files_that_exist():
    recipes = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:xentjax|tests|experiments|benchmarks|\.ci)/[^` …]*)`", recipes)
    fixed = [path for path in paths if "NAME" not in path]
    assert len(fixed) > 15
    assert [path for path in fixed if not (ROOT / path).exists()] == []
