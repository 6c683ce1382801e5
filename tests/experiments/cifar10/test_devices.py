"""A run on eight devices, and on those of two processes, equals one on a single device."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.cifar10 import backend
from experiments.cifar10.config import ConfigError
from experiments.cifar10.results.evaluate import Result
from experiments.cifar10.training.run import run
from experiments.common.run_folder import RunFolder
from tests.programs.cifar10_devices import CONFIG, PROCESSES
from tests.support.run_folders import only_run, read_metrics, read_summary
from tests.support.tiny_training import DATASET, STEPS
from tests.support.virtual_devices import NUM_DEVICES, run_module, run_processes

pytestmark = [pytest.mark.devices, pytest.mark.slow]

MODULE = "tests.programs.cifar10_devices"


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """Run on one device, without a stop."""
    folder = RunFolder.create("cifar10", CONFIG, tmp_path_factory.mktemp("runs"))
    return run(CONFIG, DATASET, folder, devices=jax.devices()[:1])


@pytest.fixture(scope="module", params=["eight devices", "two processes"])
def runs_dir(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    if request.param == "eight devices":
        run_module(MODULE, str(folder))
    else:
        run_processes(MODULE, str(folder), number=PROCESSES, devices=2)
    return folder


def results(runs_dir: Path) -> list[dict[str, Any]]:
    """Read the results of each process."""
    files = sorted(runs_dir.glob("*.npz"))
    loaded = [dict(np.load(file)) for file in files]
    return [arrays | {"record": json.loads(str(arrays["record"]))} for arrays in loaded]


def test_it_is_the_training_on_one_device_up_to_the_order_of_sums(runs_dir, single):
    expected = {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(single.state._asdict())
    } | {"logits": single.test.logits}
    for actual in results(runs_dir):
        assert actual["['step']"] == STEPS
        assert set(actual) == set(expected) | {"record"}
        for name, value in expected.items():
            scale = max(1e-2, np.abs(value).max())
            np.testing.assert_allclose(actual[name], value, rtol=0, atol=2e-3 * scale, err_msg=name)


def test_all_processes_end_with_the_same_bits(runs_dir):
    first, *others = results(runs_dir)
    for other in others:
        for name in set(first) - {"record"}:
            np.testing.assert_array_equal(other[name], first[name], err_msg=name)
        assert other["record"]["temperature"] == first["record"]["temperature"]
        assert other["record"]["folder"] == first["record"]["folder"]


def test_the_first_process_alone_writes_the_run(runs_dir):
    folder = only_run(runs_dir, "cifar10")
    assert [m["step"] for m in read_metrics(folder)] == [6, STEPS]
    assert read_summary(folder)["steps"] == STEPS
    first, *others = (result["record"] for result in results(runs_dir))
    assert first["folder"] == str(folder)
    assert len(first["devices"]) == (2 * PROCESSES if others else NUM_DEVICES)
    assert first["processes"] == 1 + len(others)
    assert {"metrics.jsonl", "summary.json.unfinished", "curves.png.unfinished"} <= set(
        first["written"]
    )
    for record in others:
        # each host has a part of the checkpoint to write
        assert [name for name in record["written"] if not name.startswith("checkpoint")] == []


@dataclass(frozen=True, eq=False)
class OfHost:
    """A device of a mesh."""

    process_index: int


def test_as_many_devices_as_divide_the_batch_on_one_host_unless_it_is_said(monkeypatch):
    devices = [OfHost(i // 3) for i in range(6)]
    monkeypatch.setattr(backend.jax, "devices", lambda: devices)
    assert backend.data_mesh(12).size == 6
    assert backend.data_mesh(8).size == 4
    assert backend.data_mesh(8, 2).size == 2
    with pytest.raises(ConfigError, match=r"^batch_size: expected a multiple of 3, .*, got 8$"):
        backend.data_mesh(8, 3)
    assert backend.data_mesh(7).size == 1
    assert backend.data_mesh(8, devices[2:4]).devices.tolist() == devices[2:4]
    with pytest.raises(ConfigError, match=r"^num_devices: expected at most 6, got 7$"):
        backend.data_mesh(14, 7)
    monkeypatch.setattr(backend.jax, "process_count", lambda: 2)
    assert backend.data_mesh(12).size == 6
    with pytest.raises(ConfigError, match=r"^batch_size: expected a multiple of 6, .*, got 8$"):
        backend.data_mesh(8)
    # a host without a device could not take part
    with pytest.raises(ConfigError, match=r"^num_devices: expected devices of all 2 hosts, got 2"):
        backend.data_mesh(8, 2)
    assert backend.data_mesh(8, 4).size == 4
