"""Imports go one way, without circles."""

import ast
import importlib
import pkgutil
from typing import get_args

import pytest

from tests.support.imports import circles, graph, imports_of
from tests.support.paths import ROOT
from xentjax.ops import Implementation


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
    "heads": 3,
    "softmax_regression": 3,
}


LAYERS_OF_OPS = {
    "rows": 0,
    "blocks": 0,
    "derivative": 1,
    "layer": 1,
    "merge": 1,
    "backends": 2,
    "registry": 3,
    "dispatch": 4,
    "sharded": 5,
    "linear": 6,
    "__init__": 7,
}


@pytest.mark.parametrize("name", sorted(name for name in graph() if name.startswith("xentjax.")))
def test_imports_go_one_way(name):
    _, layer, *inner = name.split(".")
    for target in graph()[name]:
        package, *path = target.split(".")
        assert package == "xentjax", target
        assert path, "the public names are for users"
        if path[0] != layer:
            assert LAYERS[path[0]] < LAYERS[layer], target
        elif layer == "ops":
            assert path[1:], "the package's names are for those above it"
            source = inner[0] if inner else "__init__"
            if path[1] != source:
                assert LAYERS_OF_OPS[path[1]] < LAYERS_OF_OPS[source], target


def test_no_module_imports_itself_through_others():
    assert circles() == []


def test_only_the_registry_imports_the_reference():
    by = {name for name, targets in graph().items() if "xentjax.ops.backends.reference" in targets}
    assert by == {"xentjax.ops.registry"}


def test_only_ops_names_backends():
    """Outside of it names are for users, in docstrings."""
    for path in sorted(set(ROOT.glob("xentjax/**/*.py")) - set(ROOT.glob("xentjax/ops/**/*.py"))):
        tree = ast.parse(path.read_text())
        named = {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in get_args(Implementation)
        }
        assert not named, f"{path}: {named}"


@pytest.mark.parametrize("package", ["experiments", "benchmarks"])
def test_programs_use_the_public_names(package):
    for path in sorted(ROOT.glob(f"{package}/**/*.py")):
        for module in imports_of(path):
            assert not module.startswith("xentjax."), f"{path}: {module}"
            if package == "experiments":
                assert not module.startswith("benchmarks"), f"{path}: {module}"


def test_tests_import_no_other_tests():
    """Shared code is in `support`; programs that run in processes of their own, in `programs`."""
    for path in sorted(ROOT.glob("tests/**/*.py")):
        for module in imports_of(path):
            if module.split(".")[0] == "tests":
                assert module.startswith(("tests.support", "tests.programs")), f"{path}: {module}"
