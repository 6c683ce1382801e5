"""The run of an accelerator, rehearsed on CPU in interpret mode at sizes that show nothing."""

import json

import pytest

from benchmarks import kernels, training
from benchmarks.device import accuracy, benchmark as device
from benchmarks.harness import cases, machine
from benchmarks.harness.session import Choice
from tests.support import tolerances
from tests.support.benchmarking import MACHINE, exit_code, session
from xentjax.ops.backends.contexts import interpret_for_tpu


@pytest.fixture
def interpreted(monkeypatch):
    monkeypatch.setattr(kernels, "KERNELS", {"cpu": "mosaic_tpu"})
    monkeypatch.setattr(machine, "measure", lambda **_: MACHINE)
    monkeypatch.setattr(training, "find_cifar10", lambda: None)
    with interpret_for_tpu(True):
        yield


@pytest.mark.kernels
def test_everything_is_measured_in_one_command(interpreted, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cases, "KERNELS_QUICK", cases.KERNELS_QUICK[-1:])
    monkeypatch.setattr(accuracy, "DTYPES", ("float32",))  # the timed cases are bfloat16
    args = ["device", "--quick", "--rounds", "1", "--markdown", "--output", str(tmp_path)]
    assert exit_code(args) == 0
    out = capsys.readouterr().out
    assert "airbench94: skipped, CIFAR-10 is not on this machine" in out
    assert "failed" not in out
    (stored,) = (json.loads(path.read_text()) for path in tmp_path.rglob("device.json"))
    assert [table["title"].split(":")[0] for table in stored["tables"]] == [
        "Relative errors against float64",
        "Limits of this device",
        "Linear layers",
        "Functions of a head",
        "Which default",
    ]
    errors, limits, *_ = (table["rows"] for table in stored["tables"])
    ours = [row for row in errors if row["implementation"].startswith(kernels.OURS)]
    assert len(ours) == 1 + 2 + 2  # logits, a layer both ways, two functions of a head
    for row in ours:
        gradient = row["first gradient"]
        assert row["value"] < 5 * tolerances.VALUE["float32"]
        assert gradient == "-" or gradient < tolerances.GRADIENT["float32"]
    assert [row["what"] for row in limits][-2:] == ["float32", "bfloat16"]
    assert "fingerprint" in stored


def test_a_kernel_that_fails_is_a_note(interpreted, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such instruction\nand much more")

    monkeypatch.setattr(accuracy, "of_logits", fail)
    monkeypatch.setattr(kernels, "measure", fail)
    ours = session(choice=Choice(text="logits 8"))
    result = device.run(ours)
    assert result.cells == ()
    assert [note.partition("failed, ")[2] for note in ours.notes[:2]] == [
        "ValueError: no such instruction"
    ] * 2  # a dtype each
    assert [note for note in result.notes if "skipped" in note]
    assert result.sheets() == []
    assert "no case" in result.figure().get_suptitle()


def test_a_preset_is_trained_with_each_seed(monkeypatch):
    monkeypatch.setattr(training, "find_cifar10", lambda: "somewhere")
    monkeypatch.setattr(training, "load_cifar10", lambda download: "data")
    monkeypatch.setattr(
        training, "_train", lambda preset, seed, *_: (preset, str(seed), 94.0, 3.0, 20.0, 1e5)
    )
    ours = session()
    table = training.accuracies("airbench94", (0, 1, 2), ours)
    assert [row[1] for row in table.rows] == ["0", "1", "2"]
    assert ours.notes == []
