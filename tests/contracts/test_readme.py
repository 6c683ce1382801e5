"""The Python examples of the READMEs run and print what they say; names and links in them exist."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

import xentjax
from tests.support.paths import ROOT

READMES = (ROOT / "README.md", ROOT / "benchmarks" / "measured" / "README.md")
EXAMPLES = [
    pytest.param(code, id=f"{path.relative_to(ROOT)}-{index}")
    for path in READMES
    for index, code in enumerate(re.findall(r"```python\n(.*?)```", path.read_text(), re.DOTALL))
]
NUMBER = r"-?\d+\.?\d*(?:e[+-]?\d+)?"


def run_as_a_user(code, *flags):
    """Run code in a process without the suite's settings, and return what it prints, by line."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_prints(output, code):
    """Compare the numbers printed with those before the words of each comment.

    Fractions may differ by one in their last digit, whole numbers not at all.
    """
    promised = re.findall(r"^print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert promised, "an example prints nothing"
    assert code.count("print(") == len(promised)
    lines = output.splitlines()
    assert len(lines) == len(promised)
    for line, comment in zip(lines, promised, strict=True):
        printed = re.findall(NUMBER, line)
        expected = re.findall(NUMBER, re.split("[,a-z]", comment)[0])
        assert len(expected) == len(printed), f"{line} against {comment}"
        for found, number in zip(printed, expected, strict=True):
            digits = len(number.partition(".")[2])
            atol = 10.0**-digits if digits else 0
            np.testing.assert_allclose(float(found), float(number), rtol=0, atol=atol)


@pytest.mark.slow
@pytest.mark.parametrize("code", EXAMPLES)
def test_examples_print_what_they_say(code):
    assert_prints(run_as_a_user(code), code)


@pytest.mark.slow
@pytest.mark.devices
def test_the_example_of_several_devices_runs_on_eight():
    flag = "--xla_force_host_platform_device_count=8"
    assert flag in READMES[0].read_text()
    (code,) = (each.values[0] for each in EXAMPLES if "shard_map" in str(each.values[0]))
    assert_prints(run_as_a_user(code, flag), code)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("3.7001 [0.2 1e-09 1]", True),
        ("3.72 [0.2 0 1]", False),
        ("3.70 [0.2 0 0]", False),
        ("3.7", False),
    ],
)
def test_promises_are_compared_number_by_number(line, right):
    code = "print(x)  # 3.70 [0.2 0.0 1] nats, at 2"
    if right:
        assert_prints(line, code)
    else:
        with pytest.raises(AssertionError):
            assert_prints(line, code)


def test_functions_of_the_table_exist():
    table = READMES[0].read_text().split("## Which function for what")[1].split("\n\n")[1]
    names = {name for name in re.findall(r"`(\w+)`", table) if name.islower()}
    assert len(names) > 30
    assert [name for name in sorted(names) if not hasattr(xentjax, name)] == []


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_map_names_folders_and_files_that_exist():
    rows = [line for line in READMES[0].read_text().split("## Map")[1].splitlines() if "/`" in line]
    names = [name for row in rows for name in re.findall(r"`([\w/.]+)`", row.split("|")[1])]
    assert len(names) > 5
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_readme_is_short():
    assert len(READMES[0].read_text().splitlines()) <= 200
