"""Every test of this folder has the mark `cifar10`."""

from pathlib import Path

import pytest


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.cifar10)


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_at_once():
    """Import scikit-learn, which on a busy machine takes until a command says what it does."""
    # Not above: pytest reads this file before jaxtyping's plugin, which has to see all imports.
    from experiments.cifar10.data.load import load_digits

    load_digits()
