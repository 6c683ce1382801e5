"""Imports go one way, and every public name has an example that runs."""

import ast
import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import xentjax
from tests.support.paths import ROOT

PUBLIC = sorted(
    name
    for name, value in vars(xentjax).items()
    if not name.startswith("_") and getattr(value, "__module__", "").startswith("xentjax")
)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented_with_an_example_that_runs(name):
    value = getattr(xentjax, name)
    assert value.__doc__, f"{name} has no docstring"
    if isinstance(value, type):  # results: their fields are documented, their functions show them
        return
    examples = doctest.DocTestFinder(recurse=False).find(
        value, name, module=importlib.import_module(value.__module__)
    )
    globs = {**vars(importlib.import_module(value.__module__)), "jax": jax, "jnp": jnp, "np": np}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert sum(len(e.examples) for e in examples), f"{name} has no example"
    for example in examples:
        example.globs = globs
        report: list[str] = []
        assert runner.run(example, out=report.append).failed == 0, "".join(report)


def test_every_module_imports():
    for package in ("xentjax", "experiments", "benchmarks"):
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)


# A module may import those of its own layer and of the layers below it.
LAYERS = {
    "_core": 0,
    "information": 1,
    "ops": 1,
    "categorical": 2,
    "losses": 2,
    "calibration": 3,
    "softmax_regression": 3,
}


def imports_of(path):
    """Names of the modules that a file imports, wherever in the file that stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("xentjax/**/*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_imports_go_one_way(path):
    parts = path.relative_to(ROOT / "xentjax").with_suffix("").parts
    if parts == ("__init__",):
        return
    for module in imports_of(path):
        assert module.split(".")[0] not in ("experiments", "benchmarks", "tests")
        if module.startswith("xentjax."):
            target = module.split(".")[1]
            assert target == parts[0] or LAYERS[target] < LAYERS[parts[0]], module
            if "reference" in module.split("."):
                raise AssertionError("only the dispatcher names the reference implementation")


@pytest.mark.parametrize("package", ["experiments", "benchmarks"])
def test_programs_use_the_public_names(package):
    for path in sorted(ROOT.glob(f"{package}/**/*.py")):
        for module in imports_of(path):
            assert not module.startswith("xentjax."), f"{path}: {module}"
            if package == "experiments":
                assert not module.startswith("benchmarks"), f"{path}: {module}"


def test_tests_import_no_other_tests():
    """What tests share is in `support`; what they run in processes of their own, in `programs`."""
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for module in imports_of(path):
            if module.split(".")[0] == "tests":
                assert module.startswith(("tests.support", "tests.programs")), f"{path}: {module}"


def test_ci_runs_the_test_command_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    commands = [line for line in readme.splitlines() if " -m pytest" in line]
    assert len(commands) == 1
    assert commands[0] in (ROOT / ".ci" / "run").read_text().splitlines()
