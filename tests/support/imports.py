"""The imports between the project's files, read from their source."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.paths import ROOT

PACKAGES = ("xentjax", "experiments", "benchmarks")


@cache
def modules() -> dict[str, Path]:
    """Every module of the packages by its name; a package is its `__init__`."""
    found = {}
    for package in PACKAGES:
        for path in sorted(ROOT.glob(f"{package}/**/*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> Iterator[str]:
    """Names of the modules that a file imports, wherever in the file that stands.

    A string that is the name of one of the project's modules counts as its import, and one that
    begins like it and is completed at run time as the import of all that it may become.
    """
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=module, names=names):
                assert node.level == 0, f"{path}: expected an absolute import"
                submodules = [f"{module}.{alias.name}" for alias in names]
                inside = [name for name in submodules if name in modules()]
                yield from inside
                if len(inside) < len(names):
                    yield module or ""
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.Constant(value=str(text)) if "." in text and text in modules():
                yield text
            case ast.JoinedStr(values=[ast.Constant(value=str(start)), *_]):
                package = start.rpartition(".")[0]
                if package in modules():
                    yield from (name for name in modules() if name.startswith(f"{package}."))


@cache
def graph() -> dict[str, frozenset[str]]:
    """The project's modules that each module imports."""
    return {
        name: frozenset(modules().keys() & set(imports_of(path)) - {name})
        for name, path in modules().items()
    }


def circles() -> list[list[str]]:
    """Sets of modules each of which imports, in steps, every other one of its set."""

    @cache
    def reached(name: str) -> frozenset[str]:
        seen, waiting = set(), [name]
        while waiting:
            for target in graph()[waiting.pop()] - seen:
                seen.add(target)
                waiting.append(target)
        return frozenset(seen)

    found = {
        frozenset(other for other in reached(name) if name in reached(other)) for name in graph()
    }
    return sorted(sorted(circle) for circle in found if circle)
