"""The training benchmark: operations of a step, and cases that the presets train at."""

import pytest

from benchmarks.harness import cases
from benchmarks.training import step_flops
from experiments.cifar10.config import PRESETS, Config


@pytest.mark.parametrize(("train_whitening", "of_first"), [(False, 2), (True, 3)])
def test_operations_are_those_of_every_layer(train_whitening, of_first):
    config = Config(widths=(1, 2, 3), batch_size=5)
    # sides 11 after the whitening, then 5, 2 and 1, each halved within its group
    whitening = 11**2 * 12 * 24
    convolutions = of_first * 11**2 * 24 * 1
    convolutions += 3 * (5**2 * 1 * 1 + 5**2 * 1 * 2 + 2**2 * 2 * 2 + 2**2 * 2 * 3 + 1 * 3 * 3)
    expected = 5 * 2 * (whitening + 9 * convolutions + 3 * 3 * 10)
    assert step_flops(config, 12, train_whitening=train_whitening) == expected


def test_cases_are_presets_at_sides_and_batches_they_train_at():
    assert {case.preset for case in cases.TRAINING} == {"cpu89", "cpu92", "cpu94"}
    for case in cases.TRAINING:
        assert case.side in PRESETS[case.preset].image_sides
        assert case.batch_size == PRESETS[case.preset].batch_size
        assert not case.train_whitening or PRESETS[case.preset].whiten_bias_epochs > 0
    assert set(cases.TRAINING_QUICK) <= set(cases.TRAINING)
