"""A release names one version and one date, and requires the same wherever it is installed from."""

import re
import tomllib

import yaml

import xentjax
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RECIPE = yaml.safe_load((ROOT / "conda" / "recipe.yaml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_the_version_stands_in_one_place_and_its_copies_agree():
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "xentjax/__init__.py"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    assert released[0] == (xentjax.__version__, str(citation["date-released"]))
    assert citation["version"] == RECIPE["context"]["version"] == xentjax.__version__


def test_the_citation_says_what_the_project_says():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert citation["license"] == project["license"]
    assert citation["keywords"] == project["keywords"]
    assert citation["authors"] == project["authors"]


def test_the_conda_recipe_requires_what_the_wheel_requires():
    project, run = PROJECT["project"], RECIPE["requirements"]["run"]
    assert run[0] == "python >=${{ python_min }}"
    assert f">={RECIPE['context']['python_min']}" == project["requires-python"]
    assert [line.replace(" ", "") for line in run[1:]] == project["dependencies"]
    assert RECIPE["about"]["license"] == project["license"]
    assert RECIPE["about"]["summary"] == project["description"]
    assert set(PROJECT["build-system"]["requires"]) < set(RECIPE["requirements"]["host"])


def test_versions_of_python_are_those_that_ci_runs():
    classifiers = PROJECT["project"]["classifiers"]
    prefix = "Programming Language :: Python :: "
    named = [c.removeprefix(prefix) for c in classifiers if re.fullmatch(prefix + r"3\.\d+", c)]
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert ci["jobs"]["checks"]["strategy"]["matrix"]["python"] == named
    install = (ROOT / "docs" / "install.md").read_text()
    assert re.findall(r"^\| (3\.\d+) \|", install, re.MULTILINE) == named


def test_actions_are_pinned_by_hash():
    used = [use for path in WORKFLOWS for use in re.findall(r"uses: (.*)", path.read_text())]
    assert used
    for use in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", use), use


def test_publishing_stores_no_password():
    release = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert release["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (ROOT / ".github" / "workflows" / "release.yml").read_text()
