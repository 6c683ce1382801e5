"""Configuration of the documentation: `sphinx-build -W docs docs/_build`."""

import re
from typing import Any

import xentjax

project = "xentjax"
author = "The xentjax authors"
project_copyright = author
version = release = xentjax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
default_role = "py:obj"
smartquotes = False  # examples and shapes are code

html_theme = "sphinx_book_theme"
html_title = "xentjax"
html_theme_options = {"show_toc_level": 2, "show_navbar_depth": 1}

# Examples are copied without their prompts and results.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# Links to the pages of others need the network: `sphinx-build -t offline` goes without.
intersphinx_mapping = (
    {}
    if tags.has("offline")  # defined by Sphinx  # pyright: ignore[reportUndefinedVariable]
    else {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
        "flax": ("https://flax.readthedocs.io/en/latest", None),
    }
)

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature has the types


def without_links(app: Any, path: Any, parent: str, content: list[str]) -> None:
    """Name the files that an included page links to and that have no page, without a link."""
    content[0] = re.sub(r"\[([^]]+)\]\((?:CODE_OF_CONDUCT|SECURITY)\.md\)", r"\1", content[0])


def as_restructured_text(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Show the indented formulas of a docstring as they stand, and absolute values as bars."""
    plain, section, formula = list(lines), False, False
    lines.clear()
    for before, line in zip(["", *plain], plain, strict=False):
        indented = line.startswith("    ")
        if line and not indented:
            section, formula = re.fullmatch(r"[A-Z]\w+:", line) is not None, False
        elif indented and not section and not formula and not before:
            lines.extend(["::", ""])
            formula = True
        if not formula and ">>>" not in line:
            line = re.sub(r"(`[^`]*`)|([|*])", lambda m: m[1] or "\\" + m[2], line)
        lines.append(line)


def without_fields(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Leave the fields of results out of the members: the docstring of the class has them."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Any) -> None:
    """Connect what is above to Sphinx's events."""
    app.connect("include-read", without_links)
    app.connect("autodoc-skip-member", without_fields)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", as_restructured_text, priority=100)
