"""Check that every docstring starts with a verb or a noun, and that its first line is a sentence.

    python .ci/docstrings.py [FOLDER ...]

It prints `file:line: rule: start` for each docstring that breaks a rule, and exits with 1 if there
is one.

A docstring must not start with a preposition, a pronoun, an adverb or "What" and "How" ("Of each
row", "What a run leaves", "The same in float64"): it names the thing or says what is done. It may
start with "Whether" or "Which". It starts with a capital letter, a formula or a name that is
written small, and its first line ends with a period. The strings below fields and constants are
docstrings as well; their first paragraph may take several lines.
"""

import ast
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

FOLDERS = ("xentjax", "experiments", "benchmarks", "tests", ".ci")
OPENERS = """
    about above across after against along among as at before below beneath beside between beyond by
    down during for from in inside into like of off on onto out over through to toward towards under
    until up upon with within without

    he how it its me my she that their them there these they this those we what whatever when
    whenever where wherever who whoever whom whose why you

    again also and because but else here if or since so such than then though too unless while yet
"""
SMALL = (
    "airbench chex exp flax jax jaxlib log max min numpy optax scipy statsmodels sum torch xentjax"
)
OPERATORS = "= + - − * / < > <= >= == ~"

DEFINITIONS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def broken_rule(start: str) -> str | None:
    """The rule that the start of a docstring breaks, or None."""
    word, _, rest = start.partition(" ")
    plain = word.rstrip(",;:.").removesuffix("'s")
    if plain.lower() in OPENERS.split() or start.lower().startswith("the same "):
        return "starts with neither verb nor noun"
    operator = rest.partition(" ")[0] in OPERATORS.split()
    formula = not plain.isalpha() or len(plain) == 1 or operator
    if plain[:1].islower() and not formula and plain not in SMALL.split():
        return "starts with a small letter"
    if not start.endswith((".", ":", "?", "!")):
        return "first line does not end with a period"
    return None


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the start of each docstring: a line, below assignments a paragraph."""
    for node in ast.walk(tree):
        body = getattr(node, "body", [])
        for before, after in pairwise([node, *body] if isinstance(body, list) else []):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    if before is node and isinstance(node, DEFINITIONS):
                        yield after.lineno, text.strip().partition("\n")[0]
                    elif isinstance(before, ast.Assign | ast.AnnAssign):
                        yield after.lineno, " ".join(text.partition("\n\n")[0].split())


def main() -> None:
    """Check the folders named on the command line, or all of the project's."""
    found = 0
    for folder in sys.argv[1:] or FOLDERS:
        for path in sorted(Path(folder).rglob("*.py")):
            for line, start in docstrings(ast.parse(path.read_text())):
                if (rule := broken_rule(start)) is not None:
                    found += 1
                    print(f"{path}:{line}: {rule}: {start}")
    sys.exit(found > 0)


if __name__ == "__main__":
    main()
