"""Nats, bits and hartleys."""

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from xentjax.information.units import in_units, nats_per_unit


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (None, 1.0),
        ("nats", 1.0),
        (math.e, 1.0),
        (2, math.log(2)),
        ("bits", math.log(2)),
        (np.float32(2), math.log(2)),
        (np.int64(2), math.log(2)),
        (10, math.log(10)),
        ("hartleys", math.log(10)),
        (Fraction(1, 2), -math.log(2)),
        (256.0, 8 * math.log(2)),
    ],
    ids=repr,
)
def test_size_of_the_unit_in_nats(base, size):
    assert nats_per_unit(base) == pytest.approx(size, rel=1e-15)


@pytest.mark.usefixtures("unchecked_annotations")
@pytest.mark.parametrize(
    "base",
    [0, 1, 1.0, -2, True, False, np.True_, math.nan, math.inf, "", "nat", "Bits", "2", np.ones(1)],
    ids=repr,
)
def test_any_other_base_is_refused(base):
    with pytest.raises(ValueError, match=r"base: expected None, 'nats', .* except 1, got "):
        nats_per_unit(base)


def test_conversion_keeps_the_dtype_and_infinities():
    nats = jnp.array([0.0, math.log(2), math.inf], jnp.float32)
    bits = in_units(nats, "bits")
    assert bits.dtype == jnp.float32
    np.testing.assert_array_equal(bits, [0, 1, math.inf])
