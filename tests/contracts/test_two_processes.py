"""Losses and counts over the devices of two processes, as on two hosts, against the oracle."""

import json

import numpy as np
import pytest

from tests.programs.two_processes import DEVICES, HELD, KEYWORDS, PROCESSES, K, problem
from tests.support.closeness import assert_close
from tests.support.oracles import cross_entropy as oracles
from tests.support.tolerances import GRADIENT, VALUE
from tests.support.virtual_devices import run_processes

pytestmark = [pytest.mark.devices, pytest.mark.slow]


@pytest.fixture(scope="module")
def results():
    """Output of each process."""
    printed = run_processes(
        "tests.programs.two_processes", number=PROCESSES, devices=DEVICES // PROCESSES
    )
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
