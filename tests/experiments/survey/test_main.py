"""The command: its files, its tables at every width, and its one-line errors."""

import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from experiments.survey import report
from experiments.survey.__main__ import main
from experiments.survey.config import Config
from experiments.survey.run import run
from tests.experiments.survey.files import ANSWERS, write_survey
from tests.support.run_folders import check_figures, error_line, only_run, read_summary

FIGURES = ["shares", "mosaic", "coefficients", "odds_ratios"]
STRANGE = ["[red] |a|", "$x_1$ <b>", "你好", "", "Supercalifragilisticexpialidocious and more"]


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    """A .csv of 120 respondents."""
    rng = np.random.default_rng(0)
    answer, region = rng.integers(0, 3, 120), rng.integers(0, 3, 120)
    age = np.where(np.arange(120) < 4, np.nan, rng.integers(18, 90, 120))
    path = tmp_path_factory.mktemp("survey") / "survey.csv"
    return write_survey(path, answer, region, rng.integers(0, 2, 120), age)


def test_command_writes_a_page_with_its_pictures(survey, tmp_path, capsys):
    arguments = ["--data", str(survey), "--column", "the answer", "--by", "region"]
    arguments += ["--features", "age", "region", "--order", *ANSWERS]
    main([*arguments, "--runs-dir", str(tmp_path)])
    shown = capsys.readouterr().out
    text = " ".join(shown.split())  # wherever a title is broken
    folder = only_run(tmp_path, "survey")
    check_figures(folder, FIGURES)
    page = (folder / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"!\[.+\]\((\w+)\.png\)", page) == FIGURES
    summary = read_summary(folder)
    assert summary["answers"] == list(ANSWERS)
    assert summary["regression"]["n"] == 116
    assert np.shape(summary["regression"]["coefficients"]) == (4, 2)
    titles = ["shares of the answers", "counts", "standardised residuals", "shares in each group"]
    titles += ["Likelihood-ratio test of each feature", "Regression of the answer, against"]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)  # the most specific last
    assert all(title in page for title in titles)
    count = summary["counts"][0]
    assert f"| no, never | {count} |" in page
    assert re.search(rf"│ no, never │ +{count} │", shown)
    assert "missing answer or feature: 4" in text
    assert shown.rstrip().endswith(str(folder))
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count(" |") for line in rows if "odds" in line or "age" in line}) <= 2


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A report of names that have a meaning elsewhere, with cells that are 0."""
    path = tmp_path_factory.mktemp("strange") / "data.csv"
    pairs = [(i % 5, i % 7 % 5) for i in range(60)]
    lines = [f'"{STRANGE[i]}","{STRANGE[j]}"' for i, j in pairs]
    path.write_text("\n".join(["*answer*,where | from", *lines]) + "\n", encoding="utf-8")
    config = Config(data=path, column="*answer*", by="where | from", missing=("none",))
    return run(config)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_tables_fit_the_terminal(strange, width, capsys):
    report.show(strange, Console(width=width))
    shown = capsys.readouterr().out
    source, *lines = shown.splitlines()
    assert source.startswith(str(strange.survey.source))
    wide = [line for line in lines if len(line) > width]
    assert not wide
    assert "…" not in shown
    compact = re.sub(r"\W", "", shown)
    for name in STRANGE:
        assert re.sub(r"\W", "", name)[:10] in compact
    for share in strange.shares.counts / 60:
        assert f"{100 * share:.1f} %" in shown
    for cell in strange.two_way.test.residuals.flat:
        assert f"{cell:+.1f}".replace("-0.0", "+0.0") in shown


@pytest.mark.filterwarnings("error:Glyph")
def test_names_are_no_markup(strange):
    page = report.markdown(strange)
    assert r"\[red\] \|a\|" in page
    assert r"\$x\_1\$ \<b\>" in page
    assert page.startswith("# \\*answer\\*\n")
    for line in page.splitlines():
        if line.startswith("| "):
            assert len(re.findall(r"(?<!\\)\|", line)) in (7, 8)
    for make in report._figures(strange).values():
        make().draw_without_rendering()


def test_of_many_categories_the_terminal_shows_the_most_frequent(tmp_path, capsys):
    path = tmp_path / "many.csv"
    path.write_text("x\n" + "".join(f"answer {k}\n" * (k + 1) for k in range(45)))
    result = run(Config(data=path, column="x"))
    report.show(result, Console(width=80))
    shown = capsys.readouterr().out
    assert "the most frequent 20 of 45 answers" in " ".join(shown.split())
    assert "answer 44 " in shown
    assert "answer 24 " not in shown
    assert "| answer 0 | 1 |" in report.markdown(result)
    make = report._figures(result)["shares"]
    assert len(make().axes[0].patches) == 40


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--column", "x"], "American National Election Study of 1996"),
        (["--data", "none.csv", "--column", "x"], "none.csv: expected a file, got none"),
        (["--data", "d.txt", "--column", "x"], "d.txt: expected a file ending in .csv, .parquet"),
        (["--data", "d.csv"], "d.csv: expected --column to be one of x, y, got none"),
        (["--data", "d.csv", "--by", "y"], "--column: expected the column of the answers, got no"),
        (["--data", "d.csv", "--column", "z"], "d.csv: expected --column to be one of x, y, got"),
        (["--data", "d.csv", "--column", "x", "--by", "x"], "--by: expected another column than"),
        (["--data", "d.csv", "--column", "y"], "d.csv, y: expected categories (strings, integ"),
        (
            ["--data", "d.csv", "--column", "x", "--expected", "0.5", "0.5"],
            "--expected: expected 3 probabilities, one for each answer, got 2",
        ),
        (["--expected", "0.5", "0.6"], "--expected: expected probabilities with sum 1"),
        (
            ["--data", "d.csv", "--column", "x", "--features", "y", "--baseline", "d"],
            "--baseline: expected one of a, b, c, got 'd'",
        ),
        (
            ["--data", "d.csv", "--column", "x", "--features", "y", "--categorical", "z"],
            "--categorical: expected one of --features, got 'z'",
        ),
        (["--order", "a"], "--order: expected --column with it, got ('a',) alone"),
        (["--encoding", "cp1252"], "--encoding: expected --data with it, got 'cp1252' alone"),
        (["--features", "age", "age"], "--features: expected each name once, got 'age' twice"),
        (["--alpha", "1"], "--alpha: expected"),
        (["--l2", "-1"], "--l2: expected a finite number >= 0, got -1.0"),
        (["--max-categories", "0"], "--max-categories: expected 1 or more, got 0"),
        (
            ["--data", "same.csv", "--column", "x", "--features", "y"],
            "--features: expected y to differ between respondents, got one value for all 2",
        ),
        (
            ["--data", "wide.csv", "--column", "x", "--features", "y"],
            "--features: expected at most 1000 coefficients, got 1,560: 39 answers, each with 40",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_end_in_one_line_and_leave_no_folder(
    arguments, line, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("d.csv").write_text("x,y\na,1.5\nb,2\nc,3\n")
    Path("d.txt").write_text("a\n")
    Path("same.csv").write_text("x,y\na,1\nb,1\n")
    Path("wide.csv").write_text("x,y\n" + "".join(f"a{k},b{k}\n" for k in range(40)))
    assert error_line(main, arguments, capsys).startswith(f"error: {line}")
    assert not Path("runs").exists()
