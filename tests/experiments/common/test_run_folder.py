"""Run folders: never reused, never half-written, and one clear line where the disk refuses."""

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import environment, plots, run_folder
from experiments.common.run_folder import RunError, RunFolder
from tests.support.full_disk import FULL_DISK, needs_full_disk
from tests.support.paths import ROOT


@dataclasses.dataclass(frozen=True)
class Config:
    probs: tuple[float, ...] = (0.25, 0.75)
    seed: int = 3
    data: Path = Path("some/file.csv")


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create("dice", Config(), tmp_path / "runs")


def test_config_json_holds_what_is_needed_to_repeat_the_run(folder):
    record = json.loads((folder.path / "config.json").read_text())
    assert record["config"] == {"probs": [0.25, 0.75], "seed": 3, "data": "some/file.csv"}
    assert record["versions"]["jax"] == jax.__version__
    assert record["versions"]["numpy"] == np.__version__
    assert record["experiment"] == "dice"
    assert set(record["versions"]) == {"python", *environment.PACKAGES}
    assert record["device"]["platform"] == jax.devices()[0].platform
    assert Path(sys.orig_argv[0]).name in record["command"]
    assert record["started"].startswith(folder.path.name[:10])
    assert record["revision"] is None or len(record["revision"].removesuffix("-dirty")) == 40


def test_open_reads_the_config_back(folder):
    assert RunFolder.open(folder.path).config() == folder.config()


def test_folders_of_the_same_second_are_different(tmp_path):
    paths = {RunFolder.create("dice", Config(), tmp_path).path for _ in range(5)}
    assert len(paths) == 5
    assert all(path.parent == tmp_path / "dice" for path in paths)


def test_log_appends_one_line_for_each_call(folder):
    folder.log(step=1, loss=jnp.float32(0.5))
    folder.log(step=np.int64(2), loss=np.float32(0.25))
    text = (folder.path / "metrics.jsonl").read_text()
    assert text == '{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n'
    assert folder.metrics() == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]


def test_numbers_that_json_lacks_are_strings_that_float_reads(folder):
    folder.log(values=[float("inf"), float("-inf"), float("nan")])
    values = [float(value) for value in folder.metrics()[0]["values"]]
    np.testing.assert_equal(values, [np.inf, -np.inf, np.nan])


def test_summary_replaces_an_earlier_one(folder):
    folder.summary({"accuracy": np.float32(0.5)})
    folder.summary({"accuracy": jnp.array([0.25, 0.75]), "confusion": np.eye(2, dtype=int)})
    summary = json.loads((folder.path / "summary.json").read_text())
    assert summary == {"accuracy": [0.25, 0.75], "confusion": [[1, 0], [0, 1]]}


def test_figure_is_saved(folder):
    path = folder.figure("curve", plots.subplots()[0])
    assert path == folder.path / "curve.png"
    assert path.read_bytes().startswith(b"\x89PNG")


def test_no_unfinished_file_stays(folder):
    folder.summary({"a": 1})
    folder.figure("empty", plots.subplots()[0])
    assert {path.name for path in folder.path.iterdir()} == {
        "config.json",
        "summary.json",
        "empty.png",
    }


def test_a_figure_that_fails_leaves_the_earlier_one(folder):
    path = folder.figure("curve", plots.subplots()[0])
    before = path.read_bytes()
    broken, axes = plots.subplots()
    axes[0, 0].set_title("$\\nonsense$")
    with pytest.raises(ValueError, match="nonsense"):
        folder.figure("curve", broken)
    assert path.read_bytes() == before
    assert {entry.name for entry in folder.path.iterdir()} == {"config.json", "curve.png"}


def test_a_root_that_is_a_file_is_one_clear_line(tmp_path):
    root = tmp_path / "runs"
    root.write_text("not a folder")
    with pytest.raises(RunError, match="cannot write, Not a directory") as caught:
        RunFolder.create("dice", Config(), root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


@needs_full_disk
def test_a_full_disk_is_one_clear_line_and_keeps_the_earlier_file(folder):
    folder.summary({"a": 1})
    (folder.path / "summary.json.unfinished").symlink_to(FULL_DISK)
    with pytest.raises(RunError, match=r"summary\.json: cannot write, No space left on device"):
        folder.summary({"a": 2})
    assert json.loads((folder.path / "summary.json").read_text()) == {"a": 1}
    (folder.path / "metrics.jsonl").symlink_to(FULL_DISK)
    with pytest.raises(RunError, match=r"metrics\.jsonl: cannot write, No space left on device"):
        folder.log(a=1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_line_that_does_not_fit_is_taken_back(folder):
    import resource

    folder.log(step=1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    room = os.path.getsize(folder.path / "metrics.jsonl") + 5
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(RunError, match="no room for the whole line"):
            folder.log(step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder.log(step=3)
    assert folder.metrics() == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "expected a run folder holding config.json, got a folder without it"),
        ("{", "expected JSON with an entry 'config'"),
        ("[]", "expected JSON with an entry 'config'"),
        ("{}", "expected JSON with an entry 'config'"),
        ('{"config": null}', "expected JSON with an entry 'config'"),
    ],
    ids=["no file", "half a file", "a list", "another file", "null"],
)
def test_open_refuses_what_is_not_a_run(tmp_path, text, message):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        RunFolder.open(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_revision_is_none_where_there_is_no_git(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert environment.revision() is None


def test_a_part_is_a_run_inside_a_run_and_opened_when_it_is_there(folder):
    part = folder.part("seed-1", "dice", Config(seed=1))
    assert part.path == folder.path / "seed-1"
    assert part.config() == {"probs": [0.25, 0.75], "seed": 1, "data": "some/file.csv"}
    part.log(step=1)
    again = folder.part("seed-1", "dice", Config(seed=1))
    assert again == part
    assert again.metrics() == [{"step": 1}]


def test_a_part_with_other_settings_is_one_clear_line(folder):
    folder.part("seed-1", "dice", Config(seed=1))
    with pytest.raises(RunError, match=r"seed-1: expected a run with the requested settings, got"):
        folder.part("seed-1", "dice", Config(seed=2))


def test_a_run_of_another_experiment_is_one_clear_line(folder):
    assert RunFolder.open(folder.path, "coins", "dice") == folder
    with pytest.raises(RunError, match=r": expected a run of coins or cards, got one of dice$"):
        RunFolder.open(folder.path, "coins", "cards")


def test_a_part_that_was_stopped_before_its_config_is_made_again(folder):
    (folder.path / "seed-1").mkdir()
    assert folder.part("seed-1", "dice", Config(seed=1)).config()["seed"] == 1


def test_a_part_in_the_place_of_a_file_is_one_clear_line(folder):
    (folder.path / "seed-1").write_text("no folder")
    with pytest.raises(RunError, match=r"seed-1: cannot write, File exists$"):
        folder.part("seed-1", "dice", Config())


def test_the_summary_is_none_until_the_run_has_come_to_its_end(folder):
    assert folder.read_summary() is None
    folder.summary({"accuracy": 0.5})
    assert folder.read_summary() == {"accuracy": 0.5}


def test_hosts_but_the_first_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(run_folder, "is_writer", lambda: False)
    folder = RunFolder(tmp_path)
    folder.log(step=1)
    folder.summary({"accuracy": 0.5})
    folder.figure("empty", plots.subplots()[0])
    assert folder.part("seed-1", "dice", Config()).path == tmp_path / "seed-1"
    assert list(tmp_path.iterdir()) == []


def test_differences_are_what_has_changed_since_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "revision", lambda: "0a1b")
    folder = RunFolder.create("dice", Config(), tmp_path)
    assert folder.differences() == []
    path = folder.path / "config.json"
    record = json.loads(path.read_text())
    record["versions"]["jax"] = "0.0.1"
    path.write_text(json.dumps(record))
    (line,) = folder.differences()
    assert line.startswith("versions was {")
    assert "'jax': '0.0.1'" in line


def test_an_edited_tree_may_differ_from_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "revision", lambda: "0a1b-dirty")
    folder = RunFolder.create("dice", Config(), tmp_path)
    assert folder.differences() == ["revision was 0a1b-dirty, is 0a1b-dirty"]


@pytest.mark.parametrize("torn", [b'{"step": 2, "lo', b"\0" * 40, b"\xff\n\n"])
def test_a_torn_line_is_left_out_and_dropped_before_the_next(folder, torn):
    folder.log(step=1)
    with (folder.path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert folder.metrics()[0] == {"step": 1}
    assert folder.drop_torn_lines() == len(torn.splitlines())
    folder.log(step=3)
    assert folder.metrics() == [{"step": 1}, {"step": 3}]
    assert folder.drop_torn_lines() == 0


def test_a_line_that_lacks_only_its_end_is_kept(folder):
    (folder.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2}')
    assert folder.metrics() == [{"step": 1}, {"step": 2}]
    assert folder.drop_torn_lines() == 0
    folder.log(step=3)
    assert folder.metrics() == [{"step": 1}, {"step": 2}, {"step": 3}]


def test_a_run_without_metrics_has_none(folder):
    assert (folder.metrics(), folder.drop_torn_lines()) == ([], 0)


@pytest.mark.parametrize("text", ["", '{"accuracy": 0.', "\0\0\0", "null"])
def test_a_torn_summary_is_that_of_a_run_that_has_not_ended(folder, text):
    (folder.path / "summary.json").write_text(text)
    assert folder.read_summary() is None


@pytest.mark.parametrize("error", [RunError, KeyboardInterrupt, RuntimeError])
def test_a_folder_that_cannot_be_recorded_is_not_left_behind(tmp_path, monkeypatch, error):
    def refuse(*arguments):
        raise error("no room")

    monkeypatch.setattr(run_folder, "replace_file", refuse)
    with pytest.raises(error, match="no room"):
        RunFolder.create("dice", Config(), tmp_path)
    assert list((tmp_path / "dice").iterdir()) == []


def test_a_host_that_does_not_write_removes_no_folder(tmp_path, monkeypatch):
    """Fail after the folder is made, here in the question for the devices."""

    def refuse(*arguments):
        raise RunError("no devices")

    (tmp_path / "dice").mkdir()
    monkeypatch.setattr(run_folder, "is_writer", lambda: False)
    monkeypatch.setattr(run_folder, "environment", refuse)
    monkeypatch.setattr(run_folder, "text_of_writer", lambda text: f"{tmp_path}/dice/now")
    with suppress(RunError):
        RunFolder.create("dice", Config(), tmp_path)
    assert (tmp_path / "dice").is_dir()


HOLDER = """
import os, sys, pathlib, time, experiments.common.run_folder as r
with r.RunFolder(pathlib.Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs locks of files")
def test_a_run_is_of_one_process_until_that_ends_however_it_does(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match="no other process to use it, got process") as caught,
            folder.locked(),
        ):
            pass
        assert f"process {holder.pid} of" in str(caught.value)
    finally:
        holder.kill()
        holder.communicate()
    with folder.locked():
        pass
    with folder.locked():
        pass
