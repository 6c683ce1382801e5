"""Losses and counts over eight virtual devices, in a process of their own, against the oracle."""

import json

import pytest

from tests.parallel_devices import CHECKS
from tests.virtual_devices import run_module


@pytest.fixture(scope="module")
def failures():
    """The traceback of each check that failed."""
    return json.loads(run_module("tests.parallel_devices"))


@pytest.mark.parametrize("name", CHECKS)
def test_eight_devices(failures, name):
    assert not failures[name], failures[name]
