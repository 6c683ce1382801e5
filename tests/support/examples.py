"""Python examples of Markdown pages: run as a user would, what they print compared with comments.

    python -m tests.support.examples [--containing TEXT] PAGE.md ...

runs every block of the pages (that has the text) in a namespace of its own. The comment of
`print(...)  # 3.70 [0.2 1], words` promises numbers to their digits and True, False, nan, inf as
they are; the words after them are free.
"""

import argparse
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NUMBER = r"-?\d+\.?\d*(?:e[+-]?\d+)?"
VALUE = re.compile(rf"{NUMBER}|-?\b(?:nan|inf)\b|\b(?:True|False)\b")
WORDS = re.compile(r"[,:]? (?!nan|inf)[a-z]")


def blocks(path: Path) -> list[str]:
    """Return the Python blocks of a page, in their order."""
    return re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL)


def promises(code: str) -> list[str]:
    """Return the comments of the prints of a block; each print has one."""
    found = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert len(found) == code.count("print(") > 0, f"a print without a comment, or none:\n{code}"
    return found


def values(text: str) -> list[str]:
    """Return the numbers, truth values, nan and inf of a text."""
    return VALUE.findall(text)


def kept(printed: str, comment: str) -> bool:
    """Return whether what was printed is what the comment says.

    Fractions may differ by one in their last digit, whole numbers and words not at all.
    """
    found, promised = values(printed), values(WORDS.split(comment)[0])
    return len(found) == len(promised) > 0 and all(map(_same, found, promised))


def _same(found: str, promised: str) -> bool:
    if not re.fullmatch(NUMBER, promised) or not re.fullmatch(NUMBER, found):
        return found == promised
    mantissa, _, exponent = promised.partition("e")
    digits = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - digits) if digits else 0.0
    return abs(float(found) - float(promised)) <= unit * (1 + 1e-6)


def missing_packages(code: str) -> list[str]:
    """Return the packages that a block imports and that are not installed."""
    names = re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    return [name for name in names if find_spec(name) is None]


def run(code: str) -> list[str]:
    """Run a block and return what is wrong with what it prints."""
    printed: list[str] = []

    def record(*args: Any) -> None:
        printed.append(" ".join(map(str, args)))

    exec(compile(code, "example", "exec"), {"__name__": "__main__", "print": record})
    promised = promises(code)
    if len(printed) != len(promised):
        return [f"{len(printed)} prints, {len(promised)} comments"]
    pairs = zip(printed, promised, strict=True)
    return [f"{line} against {comment}" for line, comment in pairs if not kept(line, comment)]


def main() -> None:
    """Run the pages that the command line names; exit with 1 if one breaks a promise."""
    parser = argparse.ArgumentParser(description="Run the Python examples of pages.")
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--containing", default="", help="run only blocks with this text")
    options = parser.parse_args()
    wrong = 0
    for page in options.pages:
        for index, code in enumerate(blocks(page)):
            if options.containing not in code:
                continue
            missing = missing_packages(code)
            if missing:
                print(f"{page}, block {index}: skipped, not installed: {', '.join(missing)}")
                continue
            for line in run(code):
                wrong += 1
                print(f"{page}, block {index}: {line}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
