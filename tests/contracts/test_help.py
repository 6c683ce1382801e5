"""help(), completion and signatures show what is public, in short, with every choice."""

import inspect
import re
import typing
from functools import partial

import jax.numpy as jnp
import pytest

import xentjax
from tests.support.paths import ROOT

PUBLIC = {n: v for n in xentjax.__all__ if not inspect.ismodule(v := getattr(xentjax, n))}
RESULTS = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if name not in RESULTS}
METHODS = {
    f"{name}.{method}": function
    for name, result in RESULTS.items()
    for method, function in vars(result).items()
    if inspect.isfunction(function) and not method.startswith("_")
}
CALLABLES = FUNCTIONS | METHODS

OPEN = {"axis_name", "feature_names", "class_names"}
"""Keywords that take any name."""


def documentation(value):
    """The docstring of an object, as help() shows it."""
    return inspect.getdoc(value) or ""


def groups_of_help():
    """The groups of `help(xentjax)`: by heading the names, each with what it says of them."""
    groups: dict[str, dict[str, str]] = {}
    for block in documentation(xentjax).split("\n\n")[2:]:
        heading, *lines = block.split("\n")
        entries = re.findall(r"^    ([\w.]+):\s+(.*)$", "\n".join(lines), re.MULTILINE)
        groups[heading] = dict(entries)
    return groups


def test_help_lists_the_public_names_by_group():
    groups = groups_of_help()
    assert groups.pop("Solvers").keys() == {"categorical.solvers"}
    text = (ROOT / "docs" / "api.md").read_text()
    sections = re.findall(r"^## ([\w ]+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    reference = {
        heading: re.findall(r"^   (\w+)$", body, re.MULTILINE)
        for heading, body in sections
        if "autosummary" in body
    }
    assert {heading: list(entries) for heading, entries in groups.items()} == reference


def test_help_says_of_each_what_its_own_first_line_says():
    said = {name: line for entries in groups_of_help().values() for name, line in entries.items()}
    for name, value in PUBLIC.items():
        assert said[name] == documentation(value).split("\n")[0]


def test_completion_offers_public_names_only():
    assert set(dir(xentjax)) == {*xentjax.__all__, "__doc__", "__version__"}


@pytest.mark.parametrize("name", sorted(CALLABLES | RESULTS))
def test_signatures_are_short(name):
    shown = str(inspect.signature((CALLABLES | RESULTS)[name]))
    assert not re.search(r"[a-z_]\.[A-Za-z_]", shown), shown  # no module's name
    assert "ndarray, bool" not in shown, shown  # no member of ArrayLike


def test_signatures_show_the_choices():
    shown = str(inspect.signature(xentjax.nll_loss))
    assert "logits" not in shown
    assert "log_probs: ArrayLike" in shown
    assert "reduction: Literal['none', 'sum', 'mean'] = 'none'" in shown


def choices(function):
    """The names that each keyword of a function chooses from."""
    found = {}
    for keyword, hint in typing.get_type_hints(function).items():
        for part in (hint, *typing.get_args(hint)):
            if typing.get_origin(part) is typing.Literal and keyword != "return":
                found[keyword] = typing.get_args(part)
    return found


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_keywords_with_few_choices_list_them(name):
    for keyword, hint in typing.get_type_hints(CALLABLES[name]).items():
        if keyword not in OPEN | {"return"}:
            assert hint is not str, keyword
            assert str not in typing.get_args(hint), keyword


C, Q = jnp.array([3, 1, 2]), jnp.array([0.5, 0.25, 0.25])
X, KERNEL, LABELS = jnp.ones((2, 3)), jnp.ones((3, 4)), jnp.array([0, 1])
HEAD = (X, KERNEL, LABELS)
CALLS = [
    partial(xentjax.softmax_cross_entropy_with_integer_labels, X, LABELS),
    partial(xentjax.linear_loss, lambda stats: stats.entropy, *HEAD),
    partial(xentjax.entropy, Q),
    partial(xentjax.fit_categorical, C),
    partial(xentjax.confidence_intervals, C),
    partial(xentjax.entropy_estimate, C),
    partial(xentjax.multinomial_test, C, Q),
    partial(xentjax.independence_test, jnp.array([[3, 1], [1, 3]])),
    partial(xentjax.DirichletPosterior.credible_intervals, xentjax.dirichlet_posterior(C)),
    partial(xentjax.expected_calibration_error, xentjax.softmax(X), LABELS),
]
CASES = {
    (keyword, names): call
    for call in CALLS
    for keyword, names in choices(inspect.unwrap(call.func)).items()
}


def test_every_set_of_choices_has_a_case():
    named = {case for function in CALLABLES.values() for case in choices(function).items()}
    assert named == set(CASES)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(("keyword", "names"), CASES)
def test_other_names_are_refused_with_the_choices_of_the_signature(keyword, names):
    with pytest.raises(ValueError, match=f"{keyword}: expected .*got 'nonsense'") as caught:
        CASES[keyword, names](**{keyword: "nonsense"})
    assert tuple(re.findall(r"'(\w+)'", str(caught.value).partition(", got")[0])) == names


@pytest.mark.parametrize("name", sorted(RESULTS))
def test_help_describes_every_field(name):
    _, _, section = documentation(RESULTS[name]).partition("\nAttributes:\n")
    described = re.findall(r"^    (\w+): \S", section, re.MULTILINE)
    assert tuple(described) == RESULTS[name]._fields
