"""The Python examples of the READMEs run and print what they say; names and links in them exist."""

import os
import re
import subprocess
import sys

import pytest

from tests.support.examples import blocks, kept
from tests.support.paths import ROOT

READMES = (ROOT / "README.md", ROOT / "benchmarks" / "measured" / "README.md")
SEVERAL_DEVICES = ROOT / "docs" / "guides" / "several_devices.md"
FLAG = "--xla_force_host_platform_device_count=8"


def run_as_a_user(*arguments, flags=""):
    """Run examples in a process without the suite's settings; a promise that is broken fails."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    command = [sys.executable, "-W", "error", "-m", "tests.support.examples", *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_print_what_they_say(path):
    run_as_a_user(path)


@pytest.mark.slow
@pytest.mark.devices
def test_the_examples_of_several_devices_run_on_eight():
    assert FLAG in SEVERAL_DEVICES.read_text()
    assert sum("shard_map" in code for code in blocks(SEVERAL_DEVICES)) == 1
    run_as_a_user(SEVERAL_DEVICES, flags=FLAG)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ("3.7001 [0.2 1e-09 1] nan True", True),
        ("3.72 [0.2 0 1] nan True", False),
        ("3.70 [0.2 0 0] nan True", False),
        ("3.70 [0.2 0 1] 0.0 True", False),
        ("3.70 [0.2 0 1] nan False", False),
        ("3.7", False),
    ],
)
def test_promises_are_compared_number_by_number(line, right):
    assert kept(line, "3.70 [0.2 0.0 1] nan True nats, at 2") == right


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_the_map_names_folders_and_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = [line for line in text.split("## Map")[1].split("## ")[0].splitlines() if "/`" in line]
    names = [name for row in rows for name in re.findall(r"`([\w/.]+)`", row.split("|")[1])]
    assert len(names) > 5
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_the_readme_is_short():
    assert len(READMES[0].read_text().splitlines()) <= 150
