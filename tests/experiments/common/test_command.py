"""Output of commands: nothing is cut, broken or refused, whatever the terminal and the paths."""

import importlib
import io
import os
import re
import shutil
import subprocess
import sys

import jax
import pytest
from rich.console import Console

from experiments import divergences, law_of_large_numbers
from experiments.__main__ import EXPERIMENTS, _adding_up, main
from experiments.asymptotics.__main__ import main as asymptotics
from experiments.categorical_mle.__main__ import main as categorical_mle
from experiments.common import tables
from experiments.common.command import UserError, one_line_errors, printable, say
from tests.support.paths import ROOT
from tests.support.run_folders import error_line


@pytest.mark.parametrize("width", [40, 60, 80, 120])
@pytest.mark.parametrize("name", ["", *EXPERIMENTS])
def test_help_is_wrapped_between_words(monkeypatch, capsys, name, width):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    shown = capsys.readouterr().out
    description = importlib.import_module(EXPERIMENTS[name] if name else main.__module__).__doc__
    assert description is not None
    words = description.split()
    assert max(map(len, shown.splitlines())) <= max(width, *map(len, words))
    assert "\n\n\n" not in shown
    start = shown.index(f"\n{words[0]} ")
    assert shown[start:].split()[: len(words)] == words
    examples = [line for line in description.splitlines() if line.startswith("    ")]
    if width == 120:
        assert set(examples) <= set(shown.splitlines())


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize("name", ["", *EXPERIMENTS])
def test_a_completion_script_is_one_that_bash_reads(capsys, name):
    with pytest.raises(SystemExit):
        main([*name.split(), "--tyro-print-completion", "bash"])
    script = capsys.readouterr().out
    assert "--runs-dir" in script
    assert len(script.splitlines()) > 20
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize(
    "command",
    [
        lambda runs: categorical_mle(["--probs", "0.5", "0.5", "--num-rolls", "50", *runs]),
        lambda runs: law_of_large_numbers.main(["--num-rolls", "100", "--seeds", "1", *runs]),
        lambda runs: divergences.main(runs),
    ],
    ids=["categorical_mle", "law_of_large_numbers", "divergences"],
)
def test_output_of_any_encoding(tmp_path, monkeypatch, encoding, command):
    output = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(output, encoding=encoding))
    command(["--runs-dir", str(tmp_path / "\u4f60 \udcff")])
    sys.stdout.flush()
    assert b"Plots and numbers: " in output.getvalue()


@pytest.mark.parametrize("platform", ["nonsense", "cuda"])
def test_a_platform_that_is_not_there_is_one_line(tmp_path, platform):
    if platform == jax.default_backend() or "gpu" in jax.default_backend():
        pytest.skip("it is there")
    done = subprocess.run(
        [sys.executable, "-m", "experiments.divergences", "--runs-dir", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
    )
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: JAX_PLATFORMS={platform}: expected an available platform, got")
    assert done.returncode == 2


def test_a_path_is_printed_as_it_is_on_one_line():
    path = "/runs/[bold]a[/] [red/" + "long name/" * 20
    output = io.StringIO()
    say(Console(file=output, width=40), f"Numbers: {path}")
    assert output.getvalue() == f"Numbers: {path}\n"


def test_control_characters_of_a_user_do_not_reach_the_terminal(capsys):
    assert printable("a\x1b[31m\nb\u2028\udcffé你") == "a\\x1b[31m\\nb\\u2028\\udcffé你"
    with pytest.raises(SystemExit), one_line_errors():
        raise UserError("\x1b]0;title\x07: expected\nsomething")
    assert capsys.readouterr().err == "error: \\x1b]0;title\\x07: expected\\nsomething\n"


@pytest.mark.parametrize("width", [20, 40, 60, 80])
def test_no_number_of_a_table_is_cut(width):
    table = tables.new_table("numbers", ["name of a row", "a", "two\nlines", "c"])
    rows = {"short": ("1234.5678", "0.12345", "7"), "a long name": ("9", "-1.5e-300", "123456789")}
    for name, cells in rows.items():
        table.add_row(name, *cells)
    output = io.StringIO()
    tables.show(Console(file=output, width=width), table)
    shown = re.split(r"[│\s]+", output.getvalue())
    for cells in rows.values():
        assert set(cells) <= set(shown)


def test_sums_add_up_in_print():
    assert _adding_up(1.396169, 0.897946, 0.498223) == ["1.39617", "0.89795", "0.49822"]
    assert _adding_up(0.3, 0.1, 0.2) == ["0.3000", "0.1000", "0.2000"]


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (categorical_mle, ["--alpha", "1e-40"], "--alpha: expected at least 1e-30, got 1e-40"),
        (asymptotics, ["--alpha", "1e-40"], "--alpha: expected at least 1e-30, got 1e-40"),
        (asymptotics, ["--probs", "1", "1e-300"], "--probs: expected at least 1e-15 each, got"),
        (law_of_large_numbers.main, ["--z", "1e308"], "--z: expected at most 1000, got 1e+308"),
    ],
)
def test_numbers_that_float32_does_not_hold_are_one_line(
    tmp_path, capsys, command, arguments, message
):
    line = error_line(command, [*arguments, "--runs-dir", str(tmp_path / "runs")], capsys)
    assert line.startswith(f"error: {message}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("package", ["experiments", "benchmarks"])
def test_what_is_not_installed_is_named_in_one_line(package):
    code = f"import sys, runpy; sys.modules['rich'] = None; runpy.run_module('{package}')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr == (
        "experiments and benchmarks: expected rich to be installed, got none; "
        "pip install -e '.[experiments]' installs all they need\n"
    )
