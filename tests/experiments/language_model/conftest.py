"""Standard promotion for this folder: optax's Adam raises floats to the power of integers."""

import jax
import pytest


@pytest.fixture(scope="package", autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield
