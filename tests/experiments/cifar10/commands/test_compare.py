"""Comparisons: by pairs of equal seeds, and one line for every mistake."""

import json
import shutil
from pathlib import Path

import pytest
from scipy import stats

from experiments.cifar10.commands import compare as module
from experiments.cifar10.commands.compare import check_common_seeds, compare, main
from experiments.cifar10.commands.seeds import Sweep, run_seeds
from experiments.cifar10.commands.settings import parse_settings
from experiments.cifar10.config import PRESETS
from experiments.common.command import UserError
from experiments.common.run_folder import RunFolder
from tests.support.run_folders import check_figures, error_line, only_run, read_summary
from tests.support.tiny_training import CONFIG, DATASET

# seeds whose accuracies differ by more than the settings' do
PLAIN = {0: 0.90, 1: 0.93, 2: 0.88, 9: 0.1}
BETTER = {2: 0.89, 0: 0.912, 1: 0.938, 8: 0.2}


def test_differences_are_those_of_equal_seeds():
    first, second = compare({"plain": PLAIN, "better": BETTER})
    assert first.difference is None
    assert (first.accuracy.n, second.accuracy.n) == (4, 3)
    assert second.accuracy.mean == pytest.approx((0.89 + 0.912 + 0.938) / 3)
    pairs = [0, 1, 2]
    test = stats.ttest_rel([BETTER[s] for s in pairs], [PLAIN[s] for s in pairs])
    interval = test.confidence_interval(0.95)
    assert second.difference is not None
    assert second.difference.n == 3
    assert second.difference.mean == pytest.approx((0.012 + 0.008 + 0.01) / 3)
    assert second.difference.lower == pytest.approx(interval.low)
    assert second.difference.upper == pytest.approx(interval.high)


@pytest.mark.parametrize("other", [{5: 0.9, 6: 0.9}, {0: 0.9, 6: 0.9}], ids=["no seed", "one seed"])
def test_fewer_than_two_seeds_in_common_are_one_line(other):
    with pytest.raises(UserError, match=r"^b: expected at least 2 seeds in common, got [01]$"):
        check_common_seeds({"a": PLAIN, "b": other})


def test_settings_are_a_preset_and_what_changes_it():
    changed = parse_settings("cpu89 --no-whiten --epochs 8", "compare")
    assert PRESETS["cpu89"].changes(changed) == ["whiten", "epochs"]
    assert parse_settings("tour", "compare") == PRESETS["tour"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "settings: expected at least 2 different ones, got 0"),
        (["cpu89", "cpu89"], "settings: expected at least 2 different ones, got 1"),
        (["cpu89", "huge " * 100], "settings: expected a folder or one of cpu89, cpu92, "),
        (["cpu89", "huge"], "settings: expected a folder or one of cpu89, cpu92, "),
        (["cpu89", "cpu89 --epochs 0"], "epochs: expected a positive number, got 0.0"),
        (["cpu89", "cpu89 '"], "settings: expected options as in a shell, got"),
        (["cpu89", "cpu92", "--seeds", "1"], "cpu89: expected at least 2 seeds in common, got 1"),
        (["cpu89", "cpu92", "--seeds", "3:1"], "--seeds: expected FIRST"),
        (["cpu89", "digits"], "settings: expected one dataset for all, got "),
        (["digits", "digits", "--no-whiten"], 'inside its quotes, as in "cpu89 --no-whiten"'),
        (
            ["digits", "digits --seed 3"],
            "settings: expected --seeds for all of them, got --seed in",
        ),
        (["digits", "digits --held-out 1437"], "held_out: expected less than 1437, the number"),
        (["--resume", "no/such/run"], "no/such/run: expected a run folder holding config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_no_run(tmp_path, capsys, arguments, message):
    runs = tmp_path / "runs"
    line = error_line(main, [*arguments, "--runs-dir", str(runs)], capsys)
    assert message in line
    assert not runs.exists()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with seeds."""
    sweep = Sweep(CONFIG, (0, 1))
    folder = RunFolder.create("cifar10-seeds", sweep, tmp_path_factory.mktemp("runs"))
    run_seeds(sweep, DATASET, folder)
    return folder.path


@pytest.fixture
def cpu89(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load", lambda *place: DATASET)
    monkeypatch.setitem(PRESETS, "cpu89", CONFIG)


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that ends with exit code 2."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "kind",
    [
        "an empty folder",
        "one training",
        "an unfinished sweep",
        "a torn summary",
        "no seeds",
        "null",
    ],
)
def test_a_folder_that_is_no_finished_sweep_is_one_line(swept, tmp_path, capsys, kind):
    given = tmp_path / "given"
    if kind == "an empty folder":
        given.mkdir()
    else:
        shutil.copytree(swept / "seed-0" if kind == "one training" else swept, given)
    if kind == "an unfinished sweep":
        (given / "summary.json").unlink()
    if kind == "a torn summary":
        (given / "summary.json").write_bytes(b"\0" * 20)
    if kind == "no seeds":
        (given / "summary.json").write_text('{"seeds": null}')
    if kind == "null":
        config = json.loads((given / "config.json").read_text())
        config["config"]["settings"]["epochs"] = None
        (given / "config.json").write_text(json.dumps(config))
    runs = tmp_path / "runs"
    place = {"no seeds": f"{given}/summary.json", "null": f"{given}/config.json"}.get(
        kind, str(given)
    )
    assert f"{place}: expected " in error_of(
        [str(given), str(swept), "--runs-dir", str(runs)], capsys
    )
    assert not runs.exists()


@pytest.mark.usefixtures("cpu89")
def test_presets_are_compared_with_folders_and_nothing_is_trained_twice(
    swept, tmp_path, capsys, monkeypatch
):
    # an option that changes nothing, so all three give the same runs
    settings = [str(swept), "cpu89", "cpu89 --seed 0"]
    main([*settings, "--seeds", "0:2", "--runs-dir", str(tmp_path)])
    folder = only_run(tmp_path, "cifar10-compare")
    summary = read_summary(folder)
    assert list(summary) == settings
    accuracies = [run["test_accuracy"] for run in read_summary(swept)["seeds"]]
    assert len(set(accuracies)) == 2
    for name in settings:
        assert summary[name]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 2)
    for name in settings[1:]:
        difference = summary[name]["difference"]
        assert (difference["n"], difference["mean"], difference["sd"]) == (2, 0, 0)
    check_figures(folder, ("differences",))
    printed = capsys.readouterr().out
    assert printed.count("+0.00 [+0.00") == 2

    (folder / "summary.json").unlink()
    monkeypatch.setattr("experiments.cifar10.commands.seeds.run", None)  # must not be called
    main(["--resume", str(folder)])
    assert read_summary(folder) == summary
    for beside in (["--seeds", "0:2"], ["cpu89", "cpu92"]):
        line = error_of(["--resume", str(folder), *beside], capsys)
        assert "--resume: expected no settings and no --seeds with it" in line
    assert f"{swept}: expected a run of cifar10-compare" in error_of(
        ["--resume", str(swept)], capsys
    )


@pytest.mark.usefixtures("cpu89")
def test_folders_that_do_not_suit_the_settings_are_found_before_any_training(
    swept, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("experiments.cifar10.commands.seeds.run", None)  # must not be called
    runs = ["--runs-dir", str(tmp_path / "runs")]
    line = error_of([str(swept), "cpu89", "--seeds", "7:9", *runs], capsys)
    assert "cpu89: expected at least 2 seeds in common, got 0" in line
    line = error_of([str(swept), "digits", "--seeds", "0:2", *runs], capsys)
    assert "settings: expected one dataset for all, got " in line
    assert not (tmp_path / "runs").exists()
