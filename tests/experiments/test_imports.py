"""Imports of the experiments: no circles, public names of xentjax only, nothing of benchmarks.

The other direction is allowed: benchmarks use `experiments.common`, and `benchmarks/training.py`
measures a step of `experiments.cifar10`.
"""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import xentjax
from tests.support.paths import ROOT

FILES = sorted(ROOT.glob("experiments/**/*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): ast.parse(path.read_text()) for path in FILES}


def imported(tree: ast.Module) -> Iterator[str]:
    """Dotted names that are imported, wherever in the file, and those that strings spell."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and node.value in MODULES:
            yield node.value


GRAPH = {module: set(imported(tree)) for module, tree in MODULES.items()}


def folder_of(module: str) -> str:
    """The folder that a module lies in; a file beside folders counts by itself."""
    parts = module.split(".")
    depth = 3 if parts[1:2] == ["cifar10"] else 2
    return ".".join(parts[:depth])


def test_the_graph_has_the_imports_that_are_known():
    assert "experiments.cifar10.training.run" in GRAPH["experiments.cifar10.commands.seeds"]
    assert "experiments.loss_comparison" in GRAPH["experiments.__main__"]  # a string


@pytest.mark.parametrize("unit", [str, folder_of], ids=["files", "folders"])
def test_there_are_no_circles(unit):
    graph: dict[str, set[str]] = {}
    for module, targets in GRAPH.items():
        own = {unit(target) for target in targets if target in MODULES}
        graph.setdefault(unit(module), set()).update(own - {unit(module)})
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", MODULES)
def test_xentjax_is_used_by_its_public_names_and_benchmarks_not_at_all(module):
    for target in GRAPH[module]:
        assert target.split(".")[0] != "benchmarks"
        assert not target.startswith("xentjax.")
    used = {
        alias.name
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.ImportFrom) and node.module == "xentjax"
        for alias in node.names
    } | {
        node.attr
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "xentjax"
    }
    assert used <= {name for name in vars(xentjax) if not name.startswith("_")}
