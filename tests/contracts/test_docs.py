"""The documentation lists every public name, and its links and examples are well formed."""

import inspect
import re

import pytest

import xentjax
from tests.support.examples import blocks, promises
from tests.support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)


def test_the_reference_lists_every_public_name_once():
    listed = re.findall(r"^   ([A-Za-z_]\w*)$", (DOCS / "api.md").read_text(), re.MULTILINE)
    public = [n for n in xentjax.__all__ if not inspect.ismodule(getattr(xentjax, n))]
    assert sorted(listed) == sorted(public)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_to_pages_and_functions(path):
    text = path.read_text()
    for target in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (path.parent / target).exists(), target
    for name in re.findall(r"`~xentjax\.(\w+)`", text):
        assert hasattr(xentjax, name), name


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_every_example_prints_something_that_is_compared(path):
    """The examples themselves run where the documentation is built, with what they import."""
    for code in blocks(path):
        assert promises(code)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_no_three_screens_without_a_picture_a_table_or_code(path):
    run = longest = 0
    for line in path.read_text().splitlines():
        run = 0 if re.match(r" *(!\[|\||```|:::|\$\$)", line) else run + 1
        longest = max(longest, run)
    assert longest <= 150


def test_every_page_is_in_a_table_of_contents():
    entries = {
        str((path.parent / entry).relative_to(DOCS))
        for path in PAGES
        for entry in re.findall(r"^([\w/]+)$", path.read_text(), re.MULTILINE)
    }
    names = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES} - {"index"}
    assert names <= entries
