"""The machine: limits from the timed thunks, and versions."""

import platform

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.harness import machine, timing
from experiments.common.environment import versions


def test_machine_limits_count_every_byte_and_operation(monkeypatch):
    seconds = {"read": [0.5, 1.0, 9.0], "update": [2.0], "fresh": [4.0], "gemm": [0.5]}
    monkeypatch.setattr(timing, "interleave", lambda thunks, rounds: seconds)
    found = machine.measure(quick=True)
    gigabytes = 2**20 * 4 / 1e9
    assert found.read_bandwidth == pytest.approx(gigabytes / 1.0)
    assert found.update_bandwidth == pytest.approx(2 * gigabytes / 2.0)
    assert found.fresh_bandwidth == pytest.approx(2 * gigabytes / 4.0)
    assert found.gemm == pytest.approx(2 * 256**3 / 0.5 / 1e9)
    assert found.backend == jax.default_backend()
    assert found.versions["jax"] == jax.__version__
    assert found.processor
    assert found.cores >= 1


@pytest.mark.parametrize("shape", [(8, 16), (3, 5)], ids=["in pieces", "whole"])
def test_machine_traffic_moves_what_it_says(shape):
    thunks = machine.traffic(shape)
    assert float(jnp.sum(thunks["read"]())) == np.prod(shape)
    for name, values in {"update": (2.0, 3.0), "fresh": (2.0, 2.0)}.items():
        for value in values:
            np.testing.assert_array_equal(thunks[name](), np.full(shape, value))


def test_versions_name_what_is_not_installed():
    found = versions(["no-such-package"])
    assert found == {"python": platform.python_version(), "no-such-package": "not installed"}
