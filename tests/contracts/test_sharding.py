"""Losses of sharded arrays under jit: right values, and no collective of the logits' size."""

import pytest

from tests.programs.sharded_logits import CLASSES
from tests.support.virtual_devices import run_module

pytestmark = [pytest.mark.devices, pytest.mark.slow]


def test_sharded_logits_are_not_gathered():
    printed = run_module("tests.programs.sharded_logits")
    assert printed.split() == ["checked", str(4 * len(CLASSES) + 4 * len(CLASSES[::2]))]
