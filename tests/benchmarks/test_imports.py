"""Imports of benchmarks: no circles, a harness that knows no benchmark, little of experiments."""

import ast
import re
from graphlib import TopologicalSorter

import pytest

from benchmarks.__main__ import BENCHMARKS
from tests.support.paths import ROOT

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.glob("benchmarks/**/*.py"))
}
# `kernels` runs the implementations of others on an accelerator, `device` that and their errors.
MAY_IMPORT = {name: {name} for name in BENCHMARKS} | {
    "harness": set(),
    "kernels": {"losses", "linear", "heads"},
    "heads": {"heads", "linear"},
    "small": {"losses"},
    "device": {"device", "kernels", "linear", "heads", "training"},
    "compare": {"compare", "linear", "heads"},
    "render": {"render", "categorical"},
    "__main__": {*BENCHMARKS, "compare", "render"},
}


def imported_by(module):
    """Find the modules of benchmarks that a module imports, strings that name them included."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        match node:
            case ast.ImportFrom(module=str(source)):
                found |= {f"{source}.{alias.name}" for alias in node.names} | {source}
            case ast.Import():
                found |= {alias.name for alias in node.names}
            case ast.Constant(value=str(text)):
                found.add(text)
    # `from package import module` imports the module; the package itself is its parent.
    found = {name for name in found & MODULES.keys() if not _parent_of_one(name, found)}
    return found - {"benchmarks", module}


def _parent_of_one(name, names):
    return any(other.startswith(f"{name}.") and other in MODULES for other in names)


def test_there_are_no_circles():
    graph = {module: imported_by(module) for module in MODULES}
    graph["benchmarks.__main__"] |= {f"benchmarks.{name}" for name in BENCHMARKS}
    order = tuple(TopologicalSorter(graph).static_order())  # raises CycleError
    assert order[-1] == "benchmarks.__main__"


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"benchmarks"}))
def test_a_benchmark_imports_the_harness_and_its_own_modules(module):
    folder = module.split(".")[1]
    imported = {name.split(".")[1] for name in imported_by(module)}
    assert imported <= MAY_IMPORT[folder] | {"harness"}


def test_only_training_and_a_picture_import_experiments():
    """All may use the tools of `experiments.common`; `training` times the step of CIFAR-10."""
    for module, path in MODULES.items():
        lines = path.read_text().splitlines()
        imported = [line for line in lines if re.match(r"\s*(from|import) experiments", line)]
        allowed = ("from experiments.common.", "from experiments.common import ")
        if module == "benchmarks":
            allowed += ("import experiments  #",)
        if module == "benchmarks.training":
            allowed += ("from experiments.cifar10.",)
        if module == "benchmarks.render.pictures":
            allowed += ("from experiments.loss_comparison ",)
        assert [line for line in imported if not line.startswith(allowed)] == [], module


def test_every_benchmark_is_a_module_or_package_of_its_name():
    folders = {name.split(".")[1] for name in MODULES if name != "benchmarks"}
    assert folders == {*BENCHMARKS, "harness", "compare", "render", "__main__"}
