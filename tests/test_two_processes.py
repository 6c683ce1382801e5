"""Losses and counts over the devices of two processes, as on two hosts, against the oracle."""

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests import oracles
from tests.test_cross_entropy import assert_close
from tests.tolerances import GRADIENT, VALUE
from tests.two_processes import DEVICES, HELD, KEYWORDS, PROCESSES, K, problem

TIMEOUT = 120  # seconds; a few on an idle machine


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def results():
    """What each process printed. Once one of them fails, or time is up, both are killed."""
    # Behind a proxy, the processes would not find each other.
    environment = {name: v for name, v in os.environ.items() if "proxy" not in name.lower()}
    environment |= {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES // PROCESSES}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-m", "tests.two_processes", str(free_port())]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(i)],
                    env=environment,
                    cwd=Path(__file__).parent.parent,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for i in range(PROCESSES)
        ]
        try:
            deadline = time.monotonic() + TIMEOUT
            while time.monotonic() < deadline:
                codes = [process.poll() for process in processes]
                if None not in codes or any(codes):
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                process.kill()
        printed, errors = zip(*(process.communicate() for process in processes), strict=True)
    assert [process.returncode for process in processes] == [0] * PROCESSES, "\n".join(errors)
    return [json.loads(lines.splitlines()[-1]) for lines in printed]


@pytest.fixture(params=range(PROCESSES))
def result(results, request):
    return results[request.param]


@pytest.fixture(scope="module")
def expected():
    x, kernel, bias, labels = (a.astype(np.float64) for a in problem().values())
    labels = labels.astype(int)
    return {
        "without bias": oracles.cross_entropy(x @ kernel, labels, **KEYWORDS),
        "with bias": oracles.cross_entropy(x @ kernel + bias, labels, **KEYWORDS),
    }


def d_mean(loss: oracles.CrossEntropy) -> np.ndarray:
    return loss.gradient / loss.denominator


def check(value_and_gradients, loss: oracles.CrossEntropy, *gradients: np.ndarray) -> None:
    value, got = value_and_gradients
    assert_close(value, loss.mean, VALUE["float32"])
    for d_array, wanted in zip(got, gradients, strict=True):
        assert_close(d_array, wanted, GRADIENT["float32"])


def test_rows_split(result, expected):
    value, d_kernel = result["rows split"]
    loss = expected["without bias"]
    check((value, [d_kernel]), loss, problem()["x"].T @ d_mean(loss))


def with_padding(x: np.ndarray) -> np.ndarray:
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, HELD - K)])


def test_classes_split(result, expected):
    value, d_logits = result["classes split"]
    loss = expected["without bias"]
    check((value, [d_logits]), loss, with_padding(d_mean(loss)))


def test_kernel_split(result, expected):
    loss = expected["with bias"]
    d_logits, layer = d_mean(loss), problem()
    check(
        result["kernel split"],
        loss,
        d_logits @ layer["kernel"].T,
        with_padding(layer["x"].T @ d_logits),
        with_padding(d_logits.sum(0)),
    )


def test_counts(result):
    wanted = (problem()["labels"][:, None] == np.arange(K)).sum(0)
    np.testing.assert_array_equal(result["counts"], wanted)
