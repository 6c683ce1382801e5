"""Losses and counts over eight virtual devices, in a process of their own, against the oracle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parallel_devices import CHECKS, NUM_DEVICES


@pytest.fixture(scope="module")
def failures():
    """The traceback of each check that failed."""
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={NUM_DEVICES}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.parallel_devices"],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CHECKS)
def test_eight_devices(failures, name):
    assert not failures[name], failures[name]
