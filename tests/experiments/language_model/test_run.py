"""The command in a tiny size: its files, its tables, and a run that is stopped in every stage."""

import dataclasses
import io
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from experiments.common import checkpoint
from experiments.common.command import UserError
from experiments.common.interrupt import TrainingStopped
from experiments.common.run_folder import RunFolder
from experiments.language_model.__main__ import main, parse
from experiments.language_model.config import NAME, QUICK, Config
from experiments.language_model.data import DataError, Text
from experiments.language_model.report import save, show, table
from experiments.language_model.run import Result, run
from tests.support.run_folders import check_figures, error_line, read_metrics, read_summary

CONFIG = dataclasses.replace(
    QUICK,
    vocabulary=300,
    context=16,
    blocks=1,
    batch_size=4,
    steps=4,
    student_steps=4,
    evaluate_every=3,
    test_windows=8,
    prompt=2,
    drawn=6,
    tuning_steps=4,
    rollouts=4,
)
WORDS = b"the cat sat on the mat and the dog ate the rat that sat on the hat\n"
TEXT = Text("a test", [WORDS * 20, WORDS[::-1] * 20], [WORDS * 10])
STAGES = {"teacher": 4, "student": 4, "distilled": 4, "tuned": 4}


def new_folder(root: Path, config: Config = CONFIG) -> RunFolder:
    return RunFolder.create(NAME, config, root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Result, str]:
    """A run that nothing interrupts, and what was printed."""
    folder = new_folder(tmp_path_factory.mktemp("runs"))
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    result = run(CONFIG, TEXT, folder, console=console)
    save(folder, CONFIG, result, lambda activity: None)
    show(CONFIG, result, console)
    return folder, result, console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_leaves_every_step_and_its_figures_and_texts(finished):
    folder, result, _ = finished
    metrics = read_metrics(folder.path)
    expected = [(name, step) for name in STAGES for step in (1, 2, 3, 4) if name != "tuned"]
    expected += [("tuned", 2), ("tuned", 4)]  # two updates from each rollout
    assert [(line["stage"], line["step"]) for line in metrics] == expected
    assert [line["step"] for line in metrics if "bits_per_byte" in line] == [3, 4] * 3 + [4]
    check_figures(folder.path, ("bits_per_byte", "tuning"))
    summary = read_summary(folder.path)
    assert summary["text_sha256"] == TEXT.sha256
    assert summary["models"]["student"]["parameters"] < summary["models"]["teacher"]["parameters"]
    samples = (folder.path / "samples.txt").read_text()
    assert samples.count(", teacher ==\n") == samples.count(", teacher tuned ==\n") == 4
    assert result.models["tuned"].params is not result.models["teacher"].params


def test_a_quick_run_says_so_in_the_table_the_texts_and_the_figures_and_claims_nothing(finished):
    _, result, printed = finished
    assert printed.count("QUICK (small sizes): ") == 5  # a table and four texts
    assert "95 % interval" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    full = dataclasses.replace(CONFIG, quick=False)
    console = Console(file=io.StringIO(), width=80)
    show(full, result, console)
    said = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "QUICK" not in said
    assert "Distilled less alone: " in said
    assert "QUICK" not in str(table(full, result).title)


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_stopped_in_any_stage_and_resumed_changes_no_bit(finished, tmp_path, stage):
    _, expected, _ = finished
    folder = new_folder(tmp_path)
    calls = iter(range(100))
    before = {"teacher": 3, "student": 6, "distilled": 9, "tuned": 13}[stage]
    with pytest.raises(TrainingStopped, match=f"{stage}: stopped after step [123] of 4"):
        run(CONFIG, TEXT, folder, should_stop=lambda: next(calls) >= before)
    result = run(CONFIG, TEXT, folder, resume=True)
    save(folder, CONFIG, result, lambda activity: None)
    for name, model in expected.models.items():
        jax.tree.map(np.testing.assert_array_equal, result.models[name].params, model.params)
        np.testing.assert_array_equal(result.models[name].score.bits, model.score.bits)
    for name in ("metrics.jsonl", "samples.txt", "tokenizer.json"):
        assert (folder.path / name).read_bytes() == (finished[0].path / name).read_bytes()
    found, whole = read_summary(folder.path), read_summary(finished[0].path)
    assert found.pop("seconds") is None
    assert whole.pop("seconds", 0) > 0
    assert found | {"compile_seconds": 0} == whole | {"compile_seconds": 0}


def test_a_run_that_crashes_goes_on_from_its_last_checkpoint(finished, tmp_path):
    _, expected, _ = finished
    folder = new_folder(tmp_path)
    calls = iter([False] * 4 + [True])  # the last step of the teacher is saved, none of the student

    def crash() -> bool:
        return next(calls) and 1 // 0 == 0

    with pytest.raises(ZeroDivisionError):
        run(CONFIG, TEXT, folder, should_stop=crash)
    with (folder.path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "student", "step": 1, "loss": 0.5}\n{"stage": "stud')
    result = run(CONFIG, TEXT, folder, resume=True)
    save(folder, CONFIG, result, lambda activity: None)
    for name, model in expected.models.items():
        jax.tree.map(np.testing.assert_array_equal, result.models[name].params, model.params)


def test_a_finished_run_and_another_text_are_not_resumed(finished, tmp_path):
    folder, *_ = finished
    with pytest.raises(checkpoint.CheckpointError, match="a stopped run, got a finished one"):
        run(CONFIG, TEXT, folder, resume=True)
    stopped = new_folder(tmp_path)
    with pytest.raises(TrainingStopped):
        run(CONFIG, TEXT, stopped, should_stop=lambda: True)
    other = dataclasses.replace(TEXT, train=[WORDS * 21])
    with pytest.raises(DataError, match="expected the text that the run began with, got another"):
        run(CONFIG, other, stopped, resume=True)


@pytest.mark.parametrize("content", ["", "[]", '{"merges": [[1]], "text_sha256": ""}'])
def test_a_damaged_vocabulary_is_one_line(tmp_path, content):
    folder = new_folder(tmp_path)
    (folder.path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"tokenizer\.json: expected the contents") as caught:
        run(CONFIG, TEXT, folder, resume=True)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "96"], "width: expected a multiple of 64, got 96"),
        (["--vocabulary", "256"], "vocabulary: expected 257 to 131072, got 256"),
        (["--prompt", "128"], "prompt: expected 1 to 127, got 128"),
        (["--drawn", "113"], "drawn: expected 1 to 112, got 113"),
        (["--tuning-steps", "5"], "tuning_steps: expected a multiple of --updates, got 5"),
        (["--temperature", "0"], "temperature: expected a number from 1e-30 to 1e30, got 0.0"),
        (["--learning-rate", "nan"], "learning_rate: expected a number from 1e-30 to 1e30"),
        (["--seed", "-1"], "seed: expected 0 to 4294967295, got -1"),
        (["--data", "missing"], "missing: expected a file of text, got No such file or directory"),
        (["--resume", "missing"], "missing: expected a run folder holding config.json"),
    ],
)
def test_a_wrong_value_is_one_line_and_no_run(tmp_path, capsys, arguments, message):
    assert message in error_line(main, [*arguments, "--runs-dir", str(tmp_path / "runs")], capsys)
    assert not (tmp_path / "runs").exists()


def test_a_text_that_is_too_short_is_one_line(tmp_path):
    short = Text("short", [b"one two three"], [b"four"])
    with pytest.raises(DataError, match="short: expected more than 32 tokens to train on and as"):
        run(CONFIG, short, new_folder(tmp_path))


def test_a_resumed_run_keeps_its_settings(tmp_path):
    folder = new_folder(tmp_path, dataclasses.replace(CONFIG, data=Path("a file")))
    resume = ["--resume", str(folder.path)]
    assert parse(resume).settings == dataclasses.replace(CONFIG, data=Path("a file"))
    with pytest.raises(UserError, match="got other values of quick, width"):
        parse([*resume, "--width", "128", "--no-quick"])
    record = json.loads((folder.path / "config.json").read_text())
    record["config"]["steps"] = "many"
    (folder.path / "config.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"expected a language model's run's settings: steps"):
        parse(resume)


def test_quick_is_what_the_options_start_from():
    assert parse(["--quick", "--seed", "3"]).settings == dataclasses.replace(QUICK, seed=3)
    assert parse([]).settings == Config()


def test_the_help_names_the_functions_and_every_option(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    for field in dataclasses.fields(Config):
        assert f"--{field.name.replace('_', '-')}" in printed
    for name in ("softmax_cross_entropy", "kl_divergence", "sample", "loss"):
        assert f"linear_{name}" in printed
